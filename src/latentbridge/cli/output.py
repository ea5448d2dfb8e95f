"""What verbs share on their way out: JSON on stdout, pictures written whole or not at all."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from latentbridge.evaluation.metrics import format_score
from latentbridge.files import atomic_write, write_json
from latentbridge.types import Picture


def print_json(document: Any) -> None:
    """The one JSON document of a verb called with --json."""
    print(json.dumps(document, indent=2, default=str))


def print_scores(rows: Sequence[Mapping[str, Any]]) -> None:
    """A line for each score: skill, measure, value, 95 % interval, number of items, note."""
    for row in rows:
        value, low, high = (format_score(row[name], row["unit"]) for name in ("value", "low", "high"))
        line = f"{row['skill']:<24}{row['metric']:<48}{value:>9}  {f'{low} to {high}':<18}  n = {row['n']:<5}"
        print(f"{line} {row['note']}".rstrip())


def print_warnings(warnings: Sequence[str]) -> None:
    """What to doubt about a result, a line each, on stderr."""
    for warning in warnings:
        print(f"warning: {warning}", file=sys.stderr)


def hand_over(document: Mapping[str, Any], out: Path | None, as_json: bool) -> None:
    """A document of scores: written where it should be, and shown as JSON or as lines."""
    if out:
        write_json(out, document)
    if as_json:
        print_json(document)
    else:
        print_scores(document["rows"])


def save_picture(picture: Picture, path: Path) -> None:
    """The picture as a file of the kind its suffix names."""
    with atomic_write(path) as temporary:
        Image.fromarray(picture).save(temporary)


def lay_out(pictures: Sequence[Picture], columns: int, scale: int = 2, gap_px: int = 8) -> Picture:
    """A sheet of equally large pictures on white, row by row, each pixel repeated `scale` times."""
    height, width = (side * scale + gap_px for side in pictures[0].shape[:2])
    rows = -(-len(pictures) // columns)
    sheet = np.full((rows * height + gap_px, min(columns, len(pictures)) * width + gap_px, 3), 255, dtype=np.uint8)
    for index, picture in enumerate(pictures):
        top, left = (index // columns) * height + gap_px, (index % columns) * width + gap_px
        large = picture.repeat(scale, axis=0).repeat(scale, axis=1)
        sheet[top : top + large.shape[0], left : left + large.shape[1]] = large
    return sheet
