"""The tab for drawings of a prompt, with a gallery that keeps earlier ones."""

from __future__ import annotations

from typing import Any

import gradio as gr

from latentbridge.serving.routes.images import draw
from latentbridge.serving.schemas import ImageGenerationRequest
from latentbridge.serving.ui.api_bridge import ApiBridge, decode_image
from latentbridge.serving.ui.inputs import (
    chosen_seed,
    gallery_output,
    sampling_inputs,
    show_warnings,
    warnings_output,
    words_input,
)

_PATH = "/v1/images/generations"
_MAX_KEPT = 32
"""Pictures in the gallery."""


def tab(api: ApiBridge) -> None:
    """Build the tab."""
    settings = api.service.settings
    kept = gr.State([], time_to_live=3600)
    with gr.Row():
        with gr.Column(scale=2, min_width=280):
            prompt = words_input("What to draw", "a red circle left of a blue star", settings, lines=2)
            count = gr.Slider(1, settings.max_pictures, min(4, settings.max_pictures), step=1, label="Pictures")
            sampling = sampling_inputs(api.service)
            go = gr.Button("Draw", variant="primary")
        with gr.Column(scale=3, min_width=280):
            gallery = gallery_output("Drawn", "pixels")
            warnings = warnings_output()

    async def answer(
        prompt: str, count: int, seed: int | None, steps: int, guidance: float, earlier: list[Any], visit: gr.Request
    ) -> tuple[Any, ...]:
        async with api.show_errors():
            body = ImageGenerationRequest(
                prompt=prompt, n=count, seed=chosen_seed(seed), steps=steps, guidance=guidance
            )
            response = await draw(body, api.request(visit, _PATH), api.service)
        new = [(decode_image(each.b64_json), f"{each.revised_prompt} (seed {each.seed})") for each in response.data]
        pictures = [*new, *earlier][:_MAX_KEPT]
        return pictures, pictures, show_warnings(response.warnings)

    inputs, outputs = [prompt, count, *sampling, kept], [gallery, kept, warnings]
    gr.on([go.click, prompt.submit], answer, inputs, outputs)
