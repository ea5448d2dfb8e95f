"""The tab for loopback: pictures and descriptions in turn, with a plot of their drift."""

from __future__ import annotations

from typing import Any

import gradio as gr
import pandas as pd

from latentbridge.serving.extension_schemas import LoopbackRequest
from latentbridge.serving.routes.loopback import loopback
from latentbridge.serving.ui.api_bridge import ApiBridge, decode_image
from latentbridge.serving.ui.inputs import (
    chosen_seed,
    gallery_output,
    picture_input,
    seed_input,
    show_warnings,
    warnings_output,
)

_PATH = "/v1/loopback"
_ORIGIN, _PREVIOUS = "to the first picture", "to the one before"
"""Names of the two curves."""


def tab(api: ApiBridge) -> None:
    """Build the tab."""
    max_rounds = api.service.settings.max_rounds
    with gr.Row():
        with gr.Column(scale=2, min_width=280):
            picture = picture_input("First picture")
            rounds = gr.Slider(1, max_rounds, min(4, max_rounds), step=1, label="Rounds")
            seed = seed_input()
            go = gr.Button("Start", variant="primary")
        with gr.Column(scale=3, min_width=280):
            gallery = gallery_output("The chain", "pixels", can_download=False)
            plot = gr.LinePlot(
                x="round",
                y="likeness",
                color="to",
                sort=[str(number) for number in range(max_rounds + 1)],
                y_lim=[0, 1],
                x_title="Round",
                y_title="Likeness (cosine)",
                color_title="Likeness",
                label="Drift",
                show_label=False,
                height=340,
                buttons=[],
            )
            warnings = warnings_output()

    async def answer(file: str | None, rounds: int, seed: int | None, visit: gr.Request) -> tuple[Any, ...]:
        async with api.show_errors():
            url = await api.data_url(file)
            body = LoopbackRequest(image=url, rounds=rounds, seed=chosen_seed(seed))
            response = await loopback(body, api.request(visit, _PATH), api.service)
        pictures = [(decode_image(url), "The first picture")]
        rows = [("0", _ORIGIN, 1.0), ("0", _PREVIOUS, 1.0)]
        for number, each in enumerate(response.rounds, 1):
            pictures.append((decode_image(each.b64_json), f"{number}. {each.words}"))
            rows += [(str(number), _ORIGIN, each.to_origin), (str(number), _PREVIOUS, each.to_previous)]
        return pictures, pd.DataFrame(rows, columns=["round", "to", "likeness"]), show_warnings(response.warnings)

    go.click(answer, [picture, rounds, seed], [gallery, plot, warnings])
