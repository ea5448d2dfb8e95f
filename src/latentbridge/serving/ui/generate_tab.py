"""Draw what words say; what was drawn before stays on the wall."""

from __future__ import annotations

from typing import Any

import gradio as gr

from latentbridge.serving.routes.images import draw
from latentbridge.serving.schemas import DrawRequest
from latentbridge.serving.ui.api_bridge import ApiBridge, shown
from latentbridge.serving.ui.inputs import (
    chosen_seed,
    guidance_input,
    note,
    note_output,
    seed_input,
    steps_input,
    words_input,
)

_PATH = "/v1/images/generations"
_MOST_KEPT = 32
"""Pictures on the wall; older ones make room."""


def tab(api: ApiBridge) -> None:
    """Words, how to draw them, and the wall."""
    settings = api.service.settings
    wall = gr.State([], time_to_live=3600)
    with gr.Row():
        with gr.Column(scale=2, min_width=280):
            prompt = words_input("What to draw", "a red circle left of a blue star", settings, lines=2)
            count = gr.Slider(1, settings.max_pictures, min(4, settings.max_pictures), step=1, label="Pictures")
            seed = seed_input()
            steps = steps_input(settings)
            guidance = guidance_input()
            go = gr.Button("Draw", variant="primary")
        with gr.Column(scale=3, min_width=280):
            gallery = gr.Gallery(
                label="Drawn",
                show_label=False,
                columns=4,
                height="auto",
                format="png",
                buttons=["download"],
                elem_classes=["pictures", "pixels"],
            )
            doubts = note_output()

    async def answer(
        prompt: str, count: int, seed: int | None, steps: int, guidance: float, earlier: list[Any], visit: gr.Request
    ) -> tuple[Any, ...]:
        async with api.telling():
            asked = DrawRequest(prompt=prompt, n=count, seed=chosen_seed(seed), steps=steps, guidance=guidance)
            drawn = await draw(asked, api.request(visit, _PATH), api.service)
        new = [(shown(each.b64_json), f"{each.revised_prompt} (seed {each.seed})") for each in drawn.data]
        kept = [*new, *earlier][:_MOST_KEPT]
        return kept, kept, note(drawn.warnings)

    inputs, outputs = [prompt, count, seed, steps, guidance, wall], [gallery, wall, doubts]
    gr.on([go.click, prompt.submit], answer, inputs, outputs)
