"""How the page looks."""

from __future__ import annotations

import gradio as gr

_SANS = ("ui-sans-serif", "system-ui", "sans-serif")
_MONO = ("ui-monospace", "Consolas", "monospace")

CSS = """
.gradio-container { width: 100%; max-width: 1100px !important; margin-inline: auto !important; }
.pictures img, .talk img { image-rendering: pixelated; }
.pictures .gallery-item { align-self: start; }
.pictures .thumbnail-item { height: auto; aspect-ratio: auto; overflow: visible; }
.pictures .caption-label { position: static; max-width: none; border: none; text-align: left; white-space: normal; }
.talk .message img { width: 160px; height: auto; object-fit: contain; }
@media (max-width: 480px) { .tab-container button { padding-inline: 8px !important; } }
.talk button[aria-label="Share"] { display: none; }
"""
"""Pictures of the shipped model have 64 px; they are shown larger, with clean edges, and what they show is told in full.
Sharing would send a picture to a site elsewhere."""
HEAD = """<link rel="icon" href="data:image/svg+xml,%3Csvg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 16 16'%3E%3Ccircle cx='5' cy='8' r='5' fill='%234f46e5'/%3E%3Ccircle cx='11' cy='8' r='5' fill='%23f59e0b' fill-opacity='.8'/%3E%3C/svg%3E">"""


def theme() -> gr.themes.Base:
    """Gradio's own look, with the visitor's fonts: none is loaded."""
    return gr.themes.Default(primary_hue="indigo", font=_SANS, font_mono=_MONO)
