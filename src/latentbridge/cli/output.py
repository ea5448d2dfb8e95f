"""Output of the commands: JSON, scores and warnings on the terminal, and pictures as files."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from latentbridge.errors import UserError

if TYPE_CHECKING:
    from latentbridge.types import Picture

LEFT_OUT = 3
"""The exit code of a command that did its work without items that could not be used."""


def print_json(document: Any) -> None:
    """Print the one document of a command called with --json."""
    print(json.dumps(document, indent=2, default=str))


def print_scores(rows: Sequence[Mapping[str, Any]]) -> None:
    """Print a line per score: skill, metric, value, 95 % interval, number of items, note."""
    from latentbridge.evaluation.metrics import format_score

    for row in rows:
        value, low, high = (format_score(row[name], row["unit"]) for name in ("value", "low", "high"))
        line = f"{row['skill']:<24}{row['metric']:<48}{value:>9}  {f'{low} to {high}':<18}  n = {row['n']:<5}"
        print(f"{line} {row['note']}".rstrip())


def print_warnings(warnings: Sequence[str]) -> None:
    """Print a line per warning on stderr."""
    for warning in warnings:
        print(f"warning: {warning}", file=sys.stderr)


def print_left_out(sentence: str) -> None:
    """Print on stderr what a command goes on without."""
    print(f"left out: {sentence.removesuffix('.')}", file=sys.stderr)


def leave_out_lines(sources: Sequence[str], strict: bool = False) -> int:
    """Print which lines of manifests cannot be used, and return their number; if `strict`, raise UserError instead.

    Other sources are skipped: shards know what they left out when they were written.
    """
    from latentbridge.data.own.manifest import describe_faults, is_manifest, left_out_lines

    count = 0
    for source in filter(is_manifest, sources):
        faults = left_out_lines(Path(source))
        if faults and strict:
            raise UserError(f"{describe_faults(Path(source), faults)}; mend them, or go on without --strict.")
        if faults and os.environ.get("RANK", "0") == "0":
            sentence = describe_faults(Path(source), faults)
            print_left_out(f"{sentence}; `latentbridge data check` lists all" if len(faults) > 3 else sentence)
        count += len(faults)
    return count


def exit_if_left_out(count: int) -> None:
    """End a finished command with the exit code that says that items were left out, if any were.

    Not under `torchrun`, which ends all processes when the first of them reports anything but success.
    """
    if count and os.environ.get("WORLD_SIZE", "1") == "1":
        raise typer.Exit(LEFT_OUT)


def output_scores(document: Mapping[str, Any], out: Path | None, as_json: bool) -> None:
    """Write a document of scores to a file, if one is given, and print it as JSON or as lines."""
    from latentbridge.files import write_json

    if out:
        write_json(out, document)
    if as_json:
        print_json(document)
    else:
        print_scores(document["rows"])


def save_picture(picture: Picture, path: Path) -> None:
    """Write a picture atomically, in the format of the suffix."""
    from PIL import Image

    from latentbridge.files import atomic_write

    with atomic_write(path) as temporary:
        Image.fromarray(picture).save(temporary)


def make_grid(pictures: Sequence[Picture], columns: int, scale: int = 2, gap_px: int = 8) -> Picture:
    """Return pictures of equal size in rows on white, each pixel repeated `scale` times."""
    import numpy as np

    height, width = (side * scale + gap_px for side in pictures[0].shape[:2])
    rows = -(-len(pictures) // columns)
    grid = np.full((rows * height + gap_px, min(columns, len(pictures)) * width + gap_px, 3), 255, dtype=np.uint8)
    for index, picture in enumerate(pictures):
        top, left = (index // columns) * height + gap_px, (index % columns) * width + gap_px
        grid[top : top + height - gap_px, left : left + width - gap_px] = picture.repeat(scale, 0).repeat(scale, 1)
    return grid
