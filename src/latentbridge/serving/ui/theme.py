"""How the page looks."""

from __future__ import annotations

import gradio as gr

_SANS = ("ui-sans-serif", "system-ui", "sans-serif")
_MONO = ("ui-monospace", "Consolas", "monospace")

CSS = """
.gradio-container { max-width: 1100px !important; }
.pictures img { image-rendering: pixelated; }
"""
"""Pictures of the shipped model have 64 px; they are shown larger, with clean edges."""


def theme() -> gr.themes.Base:
    """Gradio's own look, with the visitor's fonts: none is loaded."""
    return gr.themes.Default(primary_hue="indigo", font=_SANS, font_mono=_MONO)
