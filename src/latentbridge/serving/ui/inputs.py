"""What a visitor fills in, alike on every tab."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import gradio as gr

from latentbridge.serving.settings import Settings


def picture_input(label: str = "Picture") -> gr.Image:
    """A place to drop a picture; it hands over the path of the file as it came, for `open_picture` is stricter than Gradio."""
    image = gr.Image(
        label=label, type="filepath", sources=["upload", "clipboard"], height=260, buttons=[], elem_classes="picture"
    )
    image.preprocess = _path  # a subclass would do, but for each Gradio writes a file beside its module
    return image


def words_input(label: str, placeholder: str, settings: Settings, **props: Any) -> gr.Textbox:
    """A line of words."""
    return gr.Textbox("", label=label, placeholder=placeholder, max_length=settings.max_characters, **props)


def seed_input() -> gr.Number:
    """A seed, or none, which Gradio cannot leave open in a field of numbers."""
    return gr.Number(-1, label="Seed", info="Same seed, same picture; -1: a new one.", precision=0, minimum=-1)


def chosen_seed(seed: int | None) -> int | None:
    """The seed in a `seed_input`; None asks for a new one."""
    return None if seed is None or seed < 0 else seed


def steps_input(settings: Settings) -> gr.Slider:
    """Denoising steps."""
    return gr.Slider(1, settings.max_steps, 20, step=1, label="Steps", info="More is slower and finer.")


def guidance_input() -> gr.Slider:
    """Classifier-free guidance."""
    return gr.Slider(0, 10, 2.5, step=0.1, label="Guidance", info="How strictly the words are followed.")


def note_output() -> gr.Markdown:
    """A place beside a result for what to doubt about it; unseen while there is nothing."""
    return gr.Markdown(visible=False, elem_classes="note")


def note(warnings: Sequence[str]) -> gr.Markdown:
    """What to show in a `note_output`."""
    lines = [f"- {each[0].upper()}{each[1:]}" for each in warnings]
    return gr.Markdown("\n".join(lines), visible=bool(lines))


def _path(payload: Any) -> str | None:
    return payload.path if payload else None
