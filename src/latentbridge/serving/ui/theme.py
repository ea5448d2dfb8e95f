"""Theme, styles and icon of the page."""

from __future__ import annotations

import gradio as gr

_SANS = ("ui-sans-serif", "system-ui", "sans-serif")
_MONO = ("ui-monospace", "Consolas", "monospace")

CSS = """
.gradio-container { width: 100%; max-width: 1100px !important; margin-inline: auto !important; }
.pixels img { image-rendering: pixelated; }
.picture img { width: 100%; height: 100%; padding-top: 2rem; object-fit: contain; }
.pictures .grid-wrap { min-height: 0; max-height: none; }
.pictures .grid-container { grid-template-columns: repeat(auto-fill, minmax(8rem, 1fr)); }
.empty::after { content: "Nothing here yet"; margin-left: .5em; }
.pictures .gallery-item { align-self: start; }
.pictures .thumbnail-item { height: auto; aspect-ratio: auto; overflow: visible; }
.pictures .caption-label { position: static; max-width: none; border: none; text-align: left; white-space: normal; }
.note { border-inline-start: 3px solid var(--color-accent); padding-inline-start: .75em; }
.talk .message img { width: 160px; height: auto; object-fit: contain; }
@media (max-width: 480px) { .tab-container button { padding-inline: 8px !important; } }
.talk button[aria-label="Share"] { display: none; }
"""
"""Pictures of the shipped model have 64 px, so they are scaled with sharp edges, and captions are shown in full; visitors'
pictures may be photographs and are scaled smoothly. The Share button is hidden, since it sends a picture to another site."""
ICON_PATH = "/favicon.ico"
"""The path at which browsers look for an icon by default."""
ICON = """<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 16 16">
<circle cx="5" cy="8" r="5" fill="#4f46e5"/><circle cx="11" cy="8" r="5" fill="#f59e0b" fill-opacity=".8"/>
</svg>"""
HEAD = f'<link rel="icon" type="image/svg+xml" href="{ICON_PATH}">'


def theme() -> gr.themes.Base:
    """Return Gradio's default theme with system fonts, so that none is loaded, and a text contrast of at least 4.5 to 1."""
    base = gr.themes.Default(primary_hue="indigo", font=_SANS, font_mono=_MONO)
    return base.set(
        body_text_color_subdued="*neutral_500",
        body_text_color_subdued_dark="*neutral_400",
        input_placeholder_color="*neutral_500",
        input_placeholder_color_dark="*neutral_400",
        button_primary_background_fill_hover="*primary_700",
    )
