"""Edits of pictures of any size and shape by a decoder that draws one square.

The model sees a square window of the picture, and what it changes is scaled up and put into the picture. So the result has
the picture's size, and its own pixels wherever nothing changes.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from PIL import Image

from latentbridge.types import EditResult, Picture

_SAME_COLOUR = 12
"""Largest difference of a channel between pixels of one background."""
_MARGIN = 1.15
"""Side of a window in sides of what it has to hold."""


@dataclass(frozen=True)
class Frame:
    """A square window of a picture; where it exceeds the picture, the pixels of the edge go on.

    White bands there would make a small drawing on white of any picture on a coloured background.
    """

    top: int
    left: int
    side: int

    @classmethod
    def of(cls, picture: Picture) -> Frame:
        """Return a window as small as the picture's shorter side allows that holds all that is not plain background."""
        height, width = picture.shape[:2]
        short, long = sorted((height, width))
        if short == long:
            return cls(0, 0, long)
        (top, bottom), (left, right) = _extent(picture)
        side = min(max(short, round(max(bottom - top, right - left) * _MARGIN)), long)
        return cls(_start(top, bottom, side, height), _start(left, right, side, width), side)

    def crop(self, picture: Picture, size_px: int) -> Picture:
        """Return the window at another size."""
        if picture.shape[:2] == (size_px, size_px):
            return picture
        rows, columns = self._visible(picture)
        left, top, right, bottom = self._box(picture, size_px)
        seen = Image.fromarray(picture[rows, columns]).resize((right - left, bottom - top), Image.Resampling.LANCZOS)
        return np.pad(np.asarray(seen), ((top, size_px - bottom), (left, size_px - right), (0, 0)), mode="edge")

    def restore(self, picture: Picture, result: EditResult) -> EditResult:
        """Return an edit of `crop(picture, ...)` as an edit of the picture, whose mask is True wherever pixels may differ.

        The mask grows by a pixel of the window, since the pixels at its rim show a mixture, and fades out over another.
        """
        assert result.mask is not None
        drawn, size_px = result.picture, len(result.picture)
        if picture.shape == drawn.shape:
            return result
        rows, columns = self._visible(picture)
        changed, mask = picture.copy(), np.zeros(picture.shape[:2], bool)
        region, box = changed[rows, columns], self._box(picture, size_px)
        size = region.shape[1::-1]
        scaled = np.asarray(Image.fromarray(drawn).resize(size, Image.Resampling.BICUBIC, box=box), np.uint16)
        levels = Image.fromarray(_grown(result.mask).astype(np.uint8) * 255)
        weight = np.asarray(levels.resize(size, Image.Resampling.BILINEAR, box=box), np.uint16)[..., None]
        region[:] = (scaled * weight + region * (255 - weight) + 127) // 255
        if (shift := self._background_shift(picture, result)) is not None:
            outside = np.ones_like(mask)
            outside[rows, columns] = False
            changed[outside] = (picture[outside] + shift).clip(0, 255)
            mask[outside] = True
        mask[rows, columns] = weight[..., 0] > 0
        return EditResult(changed, result.before, result.after, mask)

    def _background_shift(self, picture: Picture, result: EditResult) -> np.ndarray | None:
        """Return the change of the background's colour, if it changed: all that is outside of the window has that colour."""
        (height, width), size_px = picture.shape[:2], len(result.picture)
        border = np.zeros((size_px, size_px), bool)
        border[0], border[-1] = self.top > 0, self.top + self.side < height
        border[:, 0] |= self.left > 0
        border[:, -1] |= self.left + self.side < width
        assert result.mask is not None
        if not border.any() or result.mask[border].mean() <= 0.5:
            return None
        at = border & result.mask
        return (
            np.median(result.picture[at].astype(int) - self.crop(picture, size_px)[at], axis=0).round().astype(np.int16)
        )

    def _visible(self, picture: Picture) -> tuple[slice, slice]:
        """Return the rows and columns of the picture inside the window."""
        ends = zip((self.top, self.left), picture.shape[:2], strict=True)
        rows, columns = (slice(max(start, 0), min(start + self.side, length)) for start, length in ends)
        return rows, columns

    def _box(self, picture: Picture, size_px: int) -> tuple[int, int, int, int]:
        """Return left, top, right and bottom of the picture's pixels in the window at a size."""
        spans: list[tuple[int, int]] = []
        for start, part in zip((self.top, self.left), self._visible(picture), strict=True):
            length = min(size_px, max(1, round((part.stop - part.start) * size_px / self.side)))
            first = min(round((part.start - start) * size_px / self.side), size_px - length)
            spans.append((first, first + length))
        (top, bottom), (left, right) = spans
        return left, top, right, bottom


def _extent(picture: Picture) -> tuple[tuple[int, int], tuple[int, int]]:
    """Return the rows and the columns, from first to beyond the last, of all pixels unlike the median of the frame's."""
    rim = np.concatenate([picture[0], picture[-1], picture[:, 0], picture[:, -1]])
    background = np.median(rim, axis=0).astype(np.int16)
    unlike = (np.abs(picture - background) > _SAME_COLOUR).any(axis=-1)
    if not unlike.any():
        return (0, picture.shape[0]), (0, picture.shape[1])
    rows, columns = (np.flatnonzero(lines.any(axis=-1)) for lines in (unlike, unlike.T))
    return (int(rows[0]), int(rows[-1]) + 1), (int(columns[0]), int(columns[-1]) + 1)


def _start(first: int, last: int, side: int, length: int) -> int:
    """Return where a window begins: around `first` to `last` and inside the picture, or centred if it exceeds it."""
    if side > length:
        return (length - side) // 2
    return min(max((first + last - side) // 2, 0), length - side)


def _grown(mask: np.ndarray) -> np.ndarray:
    """Return a mask bool [h w] with the four neighbours of its pixels."""
    padded = np.pad(mask, 1)
    return mask | padded[:-2, 1:-1] | padded[2:, 1:-1] | padded[1:-1, :-2] | padded[1:-1, 2:]
