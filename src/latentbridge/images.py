"""Pictures from outside: opened with care, made RGB, fitted to the model's square."""

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
"""A longer side is no photograph; a server meets it as 30,000 x 1 pixels, which are few and break what resizes them."""
FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "PPM")
"""What is read; Pillow's other readers are left out, because some start programs (EPS) and few pictures need them."""
_DEEP_MODES = ("I", "I;16", "I;16L", "I;16B")


def open_picture(source: Any, max_megapixels: float = MAX_MEGAPIXELS) -> Picture:
    """The picture as uint8 [h, w, 3] RGB, upright by its EXIF orientation; transparency is laid on white.

    16-bit greys are scaled to 8 bits. An animation gives its first frame, and the others are never decoded. Raises
    UserError, in one sentence, for whatever cannot be read, and before decoding for more than `max_megapixels` or a side
    above `MAX_SIDE_PX`. Decoding keeps several copies of the pixels at once; a server bounds them with `max_megapixels`.
    """
    if isinstance(source, np.ndarray):
        return _from_image(Image.fromarray(_checked(source)), "The picture", max_megapixels)
    if isinstance(source, Image.Image):
        with _one_sentence("The picture", max_megapixels):
            return _from_image(source, "The picture", max_megapixels)
    if isinstance(source, bytes):
        return _from_file(BytesIO(source), "The picture", max_megapixels)
    if isinstance(source, (str, Path)):
        return _from_file(_existing(Path(source)), str(source), max_megapixels)
    raise UserError(f"A picture is a path, bytes, a uint8 array or a PIL image, not {type(source).__name__}.")


def fit_square(picture: Picture, size_px: int) -> Picture:
    """The picture scaled to fit a square of `size_px`, centred on white; a picture of that size comes back as it is."""
    height, width = picture.shape[:2]
    if (height, width) == (size_px, size_px):
        return picture
    scale = size_px / max(height, width)
    size = max(1, round(width * scale)), max(1, round(height * scale))
    image = Image.fromarray(picture).resize(size, Image.Resampling.LANCZOS)
    canvas = Image.new("RGB", (size_px, size_px), "white")
    canvas.paste(image, ((size_px - image.width) // 2, (size_px - image.height) // 2))
    return np.asarray(canvas)


def _existing(path: Path) -> Path:
    if path.is_dir():
        raise UserError(f"{path} is a folder; give the path of one picture.")
    if not path.is_file():
        raise UserError(f"There is no picture {path}; check the path.")
    return path


def _checked(array: np.ndarray) -> np.ndarray:
    if array.dtype != np.uint8:
        raise UserError(f"A picture array holds uint8 from 0 to 255, not {array.dtype}; scale and convert it first.")
    if array.ndim != 2 and not (array.ndim == 3 and array.shape[2] in (3, 4)):
        raise UserError(f"A picture array has the shape [h, w, 3], [h, w, 4] or [h, w], not {list(array.shape)}.")
    if array.size == 0:
        raise UserError(f"The picture array is empty (shape {list(array.shape)}); give at least one pixel.")
    return array


def _from_file(file: Path | BytesIO, name: str, max_megapixels: float) -> Picture:
    with _one_sentence(name, max_megapixels), Image.open(file, formats=FORMATS) as image:
        return _from_image(image, name, max_megapixels)


@contextmanager
def _one_sentence(name: str, max_megapixels: float) -> Iterator[None]:
    """Whatever Pillow raises inside, as a UserError about `name`."""
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
        raise UserError(f"{name} may not be read (permission denied); change its permissions or copy it.") from None
    except Exception as error:  # a broken file trips Pillow's decoders in every way there is
        raise UserError(f"{name} is broken or cut short ({error}); save it again as PNG or JPEG.") from error


def _from_image(image: Image.Image, name: str, max_megapixels: float) -> Picture:
    if image.width * image.height > max_megapixels * 1_000_000:
        raise _too_large(name, max_megapixels)
    if max(image.size) > MAX_SIDE_PX:
        raise UserError(
            f"{name} is {image.width:,} x {image.height:,} pixels; {MAX_SIDE_PX:,} are the most for a side, so scale it down."
        )
    if image.width * image.height == 0:
        raise UserError(f"{name} is empty ({image.width} x {image.height}); give at least one pixel.")
    upright = ImageOps.exif_transpose(image)
    if upright.mode == "F":
        raise UserError(f"{name} holds floating-point pixels; save it with 8 or 16 bits.")
    if upright.mode in _DEEP_MODES:
        return _eight_bits(np.asarray(upright), name)
    if upright.has_transparency_data:
        layer = upright.convert("RGBA")
        upright = Image.alpha_composite(Image.new("RGBA", layer.size, "white"), layer)
    return np.array(upright.convert("RGB"))


def _eight_bits(deep: np.ndarray, name: str) -> Picture:
    """A 16-bit grey picture as RGB: 0 stays 0 and 65535 becomes 255."""
    if deep.min() < 0 or deep.max() > 65_535:
        raise UserError(f"{name} holds 32-bit pixels; save it with 8 or 16 bits.")
    grey = ((deep.astype(np.uint32) + 128) // 257).astype(np.uint8)
    return np.repeat(grey[..., None], 3, axis=2)


def _too_large(name: str, max_megapixels: float) -> UserError:
    return UserError(f"{name} has more than {max_megapixels:g} megapixels; scale it down first.")
