"""Contact sheets of loopback chains and of generated pictures."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from latentbridge.images import fit_square
from latentbridge.types import Picture

_SIDE_PX = 192
_GAP_PX = 12
_TEXT_PX = 11
_LINES = 5
_GRID_SIDE_PX, _GRID_GAP_PX = 128, 4


@dataclass(frozen=True)
class Cell:
    """A picture with a note and its prompt."""

    picture: Picture
    words: str
    note: str


def draw_sheet(rows: Sequence[Sequence[Cell]]) -> Image.Image:
    """Return rows of cells as one image; small pictures are enlarged pixel by pixel, words are cut to five lines."""
    font = ImageFont.load_default(_TEXT_PX)
    line_px = _TEXT_PX + 3
    cell_width, cell_height = _SIDE_PX + _GAP_PX, _SIDE_PX + _GAP_PX + (_LINES + 1) * line_px
    columns = max(map(len, rows))
    sheet = Image.new("RGB", (columns * cell_width + _GAP_PX, len(rows) * cell_height + _GAP_PX), "white")
    draw = ImageDraw.Draw(sheet)
    for row, cells in enumerate(rows):
        for column, cell in enumerate(cells):
            x, y = column * cell_width + _GAP_PX, row * cell_height + _GAP_PX
            sheet.paste(Image.fromarray(np.ascontiguousarray(_enlarge(cell.picture))), (x, y))
            draw.text((x, y + _SIDE_PX + 2), cell.note, font=font, fill="#666666")
            for number, line in enumerate(_wrap(cell.words, font)[:_LINES], start=1):
                draw.text((x, y + _SIDE_PX + 2 + number * line_px), line, font=font, fill="black")
    return sheet


def draw_grid(pictures: Sequence[Picture], columns: int) -> Image.Image:
    """Return pictures as a dense grid, row by row; small ones are enlarged pixel by pixel."""
    step_px = _GRID_SIDE_PX + _GRID_GAP_PX
    rows = -(-len(pictures) // columns)
    grid = Image.new("RGB", (columns * step_px - _GRID_GAP_PX, rows * step_px - _GRID_GAP_PX), "white")
    for index, picture in enumerate(pictures):
        position = index % columns * step_px, index // columns * step_px
        grid.paste(Image.fromarray(np.ascontiguousarray(_enlarge(picture, _GRID_SIDE_PX))), position)
    return grid


def _enlarge(picture: Picture, side_px: int = _SIDE_PX) -> Picture:
    times = max(1, side_px // max(picture.shape[:2]))
    return fit_square(picture.repeat(times, axis=0).repeat(times, axis=1), side_px)


def _wrap(text: str, font: ImageFont.FreeTypeFont | ImageFont.ImageFont) -> list[str]:
    lines = [""]
    for word in text.split():
        longer = f"{lines[-1]} {word}".strip()
        if font.getlength(longer) <= _SIDE_PX or not lines[-1]:
            lines[-1] = longer
        else:
            lines.append(word)
    return lines
