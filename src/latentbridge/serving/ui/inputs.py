"""Inputs that several tabs share."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import gradio as gr

from latentbridge.serving.service import Service
from latentbridge.serving.settings import Settings


def picture_input(label: str = "Picture") -> gr.Image:
    """Return an image input whose value is the path of the file as uploaded; `open_picture` is stricter than Gradio."""
    image = gr.Image(
        label=label, type="filepath", sources=["upload", "clipboard"], height=260, buttons=[], elem_classes="picture"
    )
    image.preprocess = _path  # not a subclass, since Gradio writes a file beside the module of each
    return image


def words_input(label: str, placeholder: str, settings: Settings, **props: Any) -> gr.Textbox:
    """Return a text input."""
    return gr.Textbox("", label=label, placeholder=placeholder, max_length=settings.max_characters, **props)


def seed_input() -> gr.Number:
    """Return an input for a seed; -1 stands for none, since Gradio's numbers cannot be empty."""
    return gr.Number(-1, label="Seed", info="Same seed, same picture; -1: a new one.", precision=0, minimum=-1)


def chosen_seed(seed: int | None) -> int | None:
    """Return the seed of a `seed_input`, or None for a random one."""
    return None if seed is None or seed < 0 else seed


def sampling_inputs(service: Service) -> list[gr.Component]:
    """Return inputs for seed, steps and guidance."""
    model, limit = service.engine.model, service.settings.max_steps
    steps = min(model.drawing_options.steps, limit)
    return [
        seed_input(),
        gr.Slider(1, limit, steps, step=1, label="Steps", info="More is slower and finer."),
        gr.Slider(
            0,
            10,
            model.drawing_options.guidance,
            step=0.1,
            label="Guidance",
            info="How strictly the words are followed.",
        ),
    ]


def gallery_output(label: str, *classes: str, can_download: bool = True) -> gr.Gallery:
    """Return an output for pictures with captions."""
    return gr.Gallery(
        label=label,
        show_label=False,
        columns=4,
        height="auto",
        format="png",
        buttons=["download"] if can_download else [],
        elem_classes=["pictures", *classes],
    )


def warnings_output() -> gr.Markdown:
    """Return an output for warnings about a result, hidden while there are none."""
    return gr.Markdown(visible=False, elem_classes="note")


def show_warnings(warnings: Sequence[str]) -> gr.Markdown:
    """Return the update of a `warnings_output`."""
    lines = [f"- {warning[0].upper()}{warning[1:]}" for warning in warnings]
    return gr.Markdown("\n".join(lines), visible=bool(lines))


def _path(payload: Any) -> str | None:
    return payload.path if payload else None
