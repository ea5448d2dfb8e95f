"""Self-contained HTML page: inline pictures, no script, light and dark mode. Texts are plain and escaped here."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from importlib.resources import files
from pathlib import Path

import numpy as np
from PIL import Image

from latentbridge.files import atomic_write
from latentbridge.types import Picture


@dataclass(frozen=True)
class Section:
    """A section of a page."""

    anchor: str
    title: str
    lead: str
    """One plain paragraph."""
    body: str
    """HTML, already escaped."""


def write_page(path: Path, title: str, lead: str, sections: Sequence[Section], foot: str = "") -> Path:
    """Write the page atomically as one file and return its path; `title`, `lead` and `foot` are plain text."""
    links = "".join(f'<a href="#{escape(s.anchor)}">{escape(s.title)}</a>' for s in sections)
    blocks = "\n".join(
        f'<section id="{escape(s.anchor)}"><h2>{escape(s.title)}</h2><p class="lead">{escape(s.lead)}</p>{s.body}</section>'
        for s in sections
    )
    style = files("latentbridge").joinpath("assets/report.css").read_text(encoding="utf-8")
    with atomic_write(path) as temporary:
        temporary.write_text(
            f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>{escape(title)}</title>
<style>
{style}</style></head><body>
<header><h1>{escape(title)}</h1><p class="lead">{escape(lead)}</p><nav>{links}</nav></header>
<main>
{blocks}
</main>
<footer>{escape(foot)}</footer>
</body></html>
""",
            encoding="utf-8",
        )
    return path


def picture_html(picture: Picture, alt: str) -> str:
    """Return a uint8 [h, w, 3] picture as an `<img>` with an inline PNG, enlarged without smoothing."""
    stream = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(picture)).save(stream, "png", optimize=True)
    data = base64.b64encode(stream.getvalue()).decode()
    height, width = picture.shape[:2]
    return f'<img class="picture" width="{width}" height="{height}" alt="{escape(alt)}" src="data:image/png;base64,{data}">'


def figure_html(picture: Picture, caption: str, alt: str = "", right: bool | None = None) -> str:
    """Return a picture with a caption below; framed if `right`."""
    state = " is-right" if right else ""
    return f'<figure class="hit{state}">{picture_html(picture, alt or caption)}<figcaption>{escape(caption)}</figcaption></figure>'


def mark_html(right: bool | None) -> str:
    """Return a tick or a cross with a label for screen readers; "" for None."""
    if right is None:
        return ""
    name = "right" if right else "wrong"
    return f'<span class="mark is-{name}" role="img" aria-label="{name}">{"✓" if right else "✗"}</span>'


def meter_html(value: float) -> str:
    """Return a thin bar from 0 to 1."""
    return f'<span class="meter"><i style="width:{100 * min(max(value, 0.0), 1.0):.0f}%"></i></span>'


def interval_html(value: float, low: float, high: float, aim: float | None) -> str:
    """Return a dot with its interval, and the aim as a tick, on a track from 0 to 1."""
    scale = [3 + 122 * min(max(x, 0.0), 1.0) for x in (low, high, value, aim or 0.0)]
    tick = f'<line class="aim" x1="{scale[3]:.1f}" x2="{scale[3]:.1f}" y1="2" y2="14"/>' if aim is not None else ""
    return (
        '<svg class="interval" viewBox="0 0 128 16" aria-hidden="true"><line class="track" x1="3" x2="125" y1="8" y2="8"/>'
        f'<line class="range" x1="{scale[0]:.1f}" x2="{scale[1]:.1f}" y1="8" y2="8"/>{tick}'
        f'<circle class="value" cx="{scale[2]:.1f}" cy="8" r="3.2"/></svg>'
    )
