"""Change a picture as told, and look at both under a slider."""

from __future__ import annotations

import base64
from io import BytesIO
from typing import Any

import gradio as gr
from fastapi import UploadFile

from latentbridge.serving.routes.images import edit
from latentbridge.serving.ui.api_bridge import ApiBridge, shown
from latentbridge.serving.ui.inputs import (
    chosen_seed,
    guidance_input,
    note,
    note_output,
    picture_input,
    seed_input,
    steps_input,
    words_input,
)

_PATH = "/v1/images/edits"
_MOVE = "(share) => ({slider_position: share, __type__: 'update'})"
"""Gradio's before and after obeys the mouse alone; a slider beside it obeys keys and screen readers too."""


def tab(api: ApiBridge) -> None:
    """A picture and what to change; before and after."""
    settings = api.service.settings
    with gr.Row():
        with gr.Column(scale=2, min_width=280):
            picture = picture_input()
            change = words_input("What to change", "make the circle green", settings)
            with gr.Accordion("More", open=False):
                seed = seed_input()
                steps = steps_input(settings)
                guidance = guidance_input()
            go = gr.Button("EditJob", variant="primary")
        with gr.Column(scale=3, min_width=280):
            both = gr.ImageSlider(
                label="Before and after",
                show_label=False,
                format="png",
                elem_classes=["pixels", "both"],
                max_height=420,
            )
            share = gr.Slider(0, 100, 50, step=1, label="Before | after")
            after = gr.Textbox(label="What was drawn", interactive=False)
            doubts = note_output()

    async def answer(
        file: str | None, change: str, seed: int | None, steps: int, guidance: float, visit: gr.Request
    ) -> tuple[Any, ...]:
        async with api.telling():
            before = await api.data_url(file)
            upload = UploadFile(BytesIO(base64.b64decode(before.partition(",")[2])))
            edited = await edit(
                api.request(visit, _PATH),
                api.service,
                change,
                upload,
                n=1,
                seed=chosen_seed(seed),
                steps=steps,
                guidance=guidance,
            )
        drawn = edited.data[0]
        told = f"{drawn.revised_prompt} (seed {drawn.seed})"
        return (shown(before), shown(drawn.b64_json)), told, note(edited.warnings)

    inputs = [picture, change, seed, steps, guidance]
    gr.on([go.click, change.submit], answer, inputs, [both, after, doubts])
    share.input(None, share, both, js=_MOVE)
