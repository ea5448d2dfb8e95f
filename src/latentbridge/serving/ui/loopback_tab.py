"""A picture told in words, drawn from them, and again: the chain, and how far it drifts."""

from __future__ import annotations

from typing import Any

import gradio as gr
import pandas as pd

from latentbridge.serving.extension_schemas import LoopbackRequest
from latentbridge.serving.routes.loopback import loopback
from latentbridge.serving.ui.api_bridge import ApiBridge, shown
from latentbridge.serving.ui.inputs import chosen_seed, note, note_output, picture_input, seed_input

_PATH = "/v1/loopback"
_FIRST, _BEFORE = "to the first picture", "to the one before"
"""What a picture is held against."""


def tab(api: ApiBridge) -> None:
    """A picture and how often to go round; the strip and its curve."""
    most = api.service.settings.max_rounds
    with gr.Row():
        with gr.Column(scale=2, min_width=280):
            picture = picture_input("First picture")
            rounds = gr.Slider(1, most, min(4, most), step=1, label="Rounds")
            seed = seed_input()
            go = gr.Button("Go round", variant="primary")
        with gr.Column(scale=3, min_width=280):
            strip = gr.Gallery(
                label="The chain",
                show_label=False,
                columns=4,
                height="auto",
                format="png",
                buttons=[],
                elem_classes=["pictures", "pixels"],
            )
            curve = gr.LinePlot(
                x="round",
                y="likeness",
                color="to",
                sort=[str(number) for number in range(most + 1)],
                y_lim=[0, 1],
                x_title="Round",
                y_title="Likeness (cosine)",
                color_title="Likeness",
                label="Drift",
                show_label=False,
                height=340,
                buttons=[],
            )
            doubts = note_output()

    async def answer(file: str | None, rounds: int, seed: int | None, visit: gr.Request) -> tuple[Any, ...]:
        async with api.telling():
            start = await api.data_url(file)
            asked = LoopbackRequest(image=start, rounds=rounds, seed=chosen_seed(seed))
            answered = await loopback(asked, api.request(visit, _PATH), api.service)
        walked = answered.rounds
        chain = [(shown(start), "The first picture")]
        chain += [(shown(each.b64_json), f"{n}. {each.words}") for n, each in enumerate(walked, 1)]
        likeness = [("0", _FIRST, 1.0), ("0", _BEFORE, 1.0)]
        likeness += [(str(n), _FIRST, each.to_origin) for n, each in enumerate(walked, 1)]
        likeness += [(str(n), _BEFORE, each.to_previous) for n, each in enumerate(walked, 1)]
        return chain, pd.DataFrame(likeness, columns=["round", "to", "likeness"]), note(answered.warnings)

    go.click(answer, [picture, rounds, seed], [strip, curve, doubts])
