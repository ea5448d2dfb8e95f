"""The tab for edits, with a slider between the picture before and after."""

from __future__ import annotations

from io import BytesIO
from typing import Any

import gradio as gr
from fastapi import UploadFile
from PIL import Image

from latentbridge.serving.routes.images import edit
from latentbridge.serving.schemas import ImageEditRequest
from latentbridge.serving.ui.api_bridge import ApiBridge, decode_image
from latentbridge.serving.ui.inputs import (
    chosen_seed,
    picture_input,
    sampling_inputs,
    show_warnings,
    warnings_output,
    words_input,
)

_PATH = "/v1/images/edits"
_MOVE = "(share) => ({slider_position: share, __type__: 'update'})"
"""Gradio's image slider obeys the mouse only; the plain slider beside it is for keyboards and screen readers."""


def tab(api: ApiBridge) -> None:
    """Build the tab."""
    settings = api.service.settings
    with gr.Row():
        with gr.Column(scale=2, min_width=280):
            picture = picture_input()
            instruction = words_input("What to change", "make the circle green", settings)
            with gr.Accordion("More", open=False):
                sampling = sampling_inputs(api.service)
            go = gr.Button("Edit", variant="primary")
        with gr.Column(scale=3, min_width=280):
            comparison = gr.ImageSlider(
                label="Before and after",
                show_label=False,
                format="png",
                elem_classes=["pixels", "both"],
                max_height=420,
            )
            position = gr.Slider(0, 100, 50, step=1, label="Before | after")
            description = gr.Textbox(label="What was drawn", interactive=False)
            warnings = warnings_output()

    async def answer(
        file: str | None, instruction: str, seed: int | None, steps: int, guidance: float, visit: gr.Request
    ) -> tuple[Any, ...]:
        async with api.show_errors():
            before = await api.uploaded(file)
            upload = UploadFile(BytesIO(before))
            body = ImageEditRequest(
                prompt=instruction, image=upload, seed=chosen_seed(seed), steps=steps, guidance=guidance
            )
            response = await edit(body, api.request(visit, _PATH), api.service)
        after = response.data[0]
        caption = f"{after.revised_prompt} (seed {after.seed})"
        shown = Image.fromarray(await api.service.decode_full_size(before))
        return (shown, decode_image(after.b64_json)), caption, show_warnings(response.warnings)

    inputs = [picture, instruction, *sampling]
    gr.on([go.click, instruction.submit], answer, inputs, [comparison, description, warnings])
    position.input(None, position, comparison, js=_MOVE)
