"""What a visitor fills in, alike on every tab."""

from __future__ import annotations

from typing import Any

import gradio as gr

from latentbridge.serving.settings import Settings

class PictureInput(gr.Image):
    """A place to drop a picture; it hands over the path of the file as it came, since `open_picture` is stricter than Gradio."""

    is_template = True

    def __init__(self, label: str = "Picture", **props: Any):
        super().__init__(label=label, type="filepath", sources=["upload", "clipboard"], height=260, buttons=[], **props)

    def get_config(self, cls: Any = None) -> dict[str, Any]:
        """What the browser is told: all that Gradio's own picture is."""
        return super().get_config(gr.Image)

    def preprocess(self, payload: Any) -> str | None:
        """The path, of a file that was uploaded to this page."""
        return payload.path if payload else None
    from typing import Callable, Literal, Sequence, Any, TYPE_CHECKING
    from gradio.blocks import Block
    if TYPE_CHECKING:
        from gradio.components import Timer
        from gradio.components.base import Component

def words_input(label: str, placeholder: str, settings: Settings, **props: Any) -> gr.Textbox:
    """A line of words."""
    return gr.Textbox(label=label, placeholder=placeholder, max_length=settings.max_characters, **props)

def seed_input() -> gr.Number:
    """A seed, or none."""
    return gr.Number(None, label="Seed", info="Same seed, same picture; empty: a new one.", precision=0, minimum=0)

def steps_input(settings: Settings) -> gr.Slider:
    """Denoising steps."""
    return gr.Slider(1, settings.max_steps, 20, step=1, label="Steps", info="More is slower and finer.")

def guidance_input() -> gr.Slider:
    """Classifier-free guidance."""
    return gr.Slider(0, 10, 2.5, step=0.1, label="Guidance", info="How strictly the words are followed.")
