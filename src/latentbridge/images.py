"""Readers of untrusted images: RGB, upright, fitted to the model's square."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from latentbridge.errors import UserError
from latentbridge.types import Picture

ImageLike = str | Path | bytes | np.ndarray | Image.Image
"""A path, encoded bytes, a uint8 array [h, w, 3], [h, w, 4] or [h, w], or a PIL image."""

MAX_MEGAPIXELS = 50
MAX_SIDE_PX = 16_384
"""Largest side; 30,000 x 1 pixels are few, but break resizing."""
FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "PPM")
"""Formats that are read; of Pillow's others, some start programs (EPS) and most are rare."""
_DEEP_MODES = ("I", "I;16", "I;16L", "I;16B")


def open_picture(source: Any, max_megapixels: float = MAX_MEGAPIXELS) -> Picture:
    """Return uint8 [h, w, 3] RGB, upright by its EXIF orientation, on white if transparent.

    16-bit greys are scaled to 8 bits. Only the first frame of an animation is decoded. Raise UserError if the source
    cannot be read, and before decoding if it has more than `max_megapixels` or a side above `MAX_SIDE_PX`. Decoding keeps
    several copies of the pixels; servers limit memory with `max_megapixels`.
    """
    name = str(source) if isinstance(source, (str, Path)) else "The picture"
    with _translate_errors(name, max_megapixels):
        if isinstance(source, np.ndarray):
            _check_array(source)
            return _from_image(Image.fromarray(source), name, max_megapixels)
        if isinstance(source, Image.Image):
            return _from_image(source, name, max_megapixels)
        if isinstance(source, (str, Path)):
            _check_path(Path(source))
        elif not isinstance(source, bytes):
            raise UserError(f"A picture is a path, bytes, a uint8 array or a PIL image, not {type(source).__name__}.")
        with Image.open(BytesIO(source) if isinstance(source, bytes) else source, formats=FORMATS) as image:
            return _from_image(image, name, max_megapixels)


def resize(picture: Picture, size: tuple[int, int], filter: Image.Resampling) -> Picture:
    """Return the picture at `size` (width, height) in two passes, in the order of Pillow 13 whatever Pillow is installed.

    Levels are rounded after the first pass, so that the order shows. Up to Pillow 12 the horizontal pass always came first;
    now the vertical does where the height shrinks by more than twice as many pixels as the width (python-pillow pull 9549).
    """
    image = Image.fromarray(picture)
    lost_width, lost_height = image.width - size[0], image.height - size[1]
    is_vertical_first = lost_height > max(0, 2 * lost_width)
    first = (image.width, size[1]) if is_vertical_first else (size[0], image.height)
    return np.asarray(image.resize(first, filter).resize(size, filter))


def fit_square(picture: Picture, size_px: int) -> Picture:
    """Return the picture scaled to fit a square, centred on white; unchanged if it has that size."""
    height, width = picture.shape[:2]
    if (height, width) == (size_px, size_px):
        return picture
    scale = size_px / max(height, width)
    size = max(1, round(width * scale)), max(1, round(height * scale))
    image = Image.fromarray(picture).resize(size, Image.Resampling.LANCZOS)
    canvas = Image.new("RGB", (size_px, size_px), "white")
    canvas.paste(image, ((size_px - image.width) // 2, (size_px - image.height) // 2))
    return np.asarray(canvas)


def _check_path(path: Path) -> None:
    if path.is_dir():
        raise UserError(f"{path} is a folder; give the path of one picture.")
    if not path.is_file():
        raise UserError(f"There is no picture {path}; check the path.")


def _check_array(array: np.ndarray) -> None:
    if array.dtype != np.uint8:
        raise UserError(f"A picture array holds uint8 from 0 to 255, not {array.dtype}; scale and convert it first.")
    if array.ndim != 2 and not (array.ndim == 3 and array.shape[2] in (3, 4)):
        raise UserError(f"A picture array has the shape [h, w, 3], [h, w, 4] or [h, w], not {list(array.shape)}.")
    if array.size == 0:
        raise UserError(f"The picture array is empty (shape {list(array.shape)}); give at least one pixel.")


@contextmanager
def _translate_errors(name: str, max_megapixels: float) -> Iterator[None]:
    """Turn Pillow's errors into UserError."""
    try:
        yield
    except (UserError, MemoryError):
        raise
    except UnidentifiedImageError:
        kinds = f"{', '.join(FORMATS[:-1])} or {FORMATS[-1]}"
        raise UserError(f"{name} is not a picture that can be read; use {kinds}.") from None
    except Image.DecompressionBombError:
        raise _too_large(name, max_megapixels) from None
    except PermissionError:
        raise UserError(f"{name} cannot be read (permission denied); change its permissions or copy it.") from None
    except Exception as error:  # Pillow's decoders raise many types
        raise UserError(f"{name} is broken or cut short ({error}); save it again as PNG or JPEG.") from error


def _from_image(image: Image.Image, name: str, max_megapixels: float) -> Picture:
    if image.width * image.height > max_megapixels * 1_000_000:
        raise _too_large(name, max_megapixels)
    if max(image.size) > MAX_SIDE_PX:
        raise UserError(
            f"{name} is {image.width:,} x {image.height:,} pixels; scale it down to {MAX_SIDE_PX:,} a side."
        )
    if image.width * image.height == 0:
        raise UserError(f"{name} is empty ({image.width} x {image.height}); give at least one pixel.")
    upright = ImageOps.exif_transpose(image)
    if upright.mode == "F":
        raise UserError(f"{name} holds floating-point pixels; save it with 8 or 16 bits.")
    if upright.mode in _DEEP_MODES:
        return _to_eight_bits(np.asarray(upright), name)
    if upright.has_transparency_data:
        layer = upright.convert("RGBA")
        upright = Image.alpha_composite(Image.new("RGBA", layer.size, "white"), layer)
    return np.array(upright.convert("RGB"))


def _to_eight_bits(deep: np.ndarray, name: str) -> Picture:
    """Return a 16-bit grey picture as RGB; 65535 becomes 255."""
    if deep.min() < 0 or deep.max() > 65_535:
        raise UserError(f"{name} holds 32-bit pixels; save it with 8 or 16 bits.")
    grey = ((deep.astype(np.uint32) + 128) // 257).astype(np.uint8)
    return np.repeat(grey[..., None], 3, axis=2)


def _too_large(name: str, max_megapixels: float) -> UserError:
    return UserError(f"{name} has more than {max_megapixels:g} megapixels; scale it down first.")
