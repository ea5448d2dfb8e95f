"""Readers of untrusted images: RGB, upright, fitted to the model's square.

Checks, training, indexing, serving and the commands all open pictures here, so that what one accepts the others do too.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from hashlib import sha256
from importlib import import_module
from io import BytesIO
from pathlib import Path
from typing import IO, Any

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from latentbridge.errors import UserError
from latentbridge.files import find_path
from latentbridge.types import Picture

ImageLike = str | Path | bytes | np.ndarray | Image.Image
"""A path, encoded bytes, a uint8 array [h, w, 3], [h, w, 4] or [h, w], or a PIL image."""

MAX_MEGAPIXELS = 50
MAX_SIDE_PX = 16_384
"""Largest side; 30,000 x 1 pixels are few, but break resizing."""
FORMATS = {
    "PNG": ("png", "apng"),
    "JPEG": ("jpg", "jpeg", "jpe", "jfif"),
    "WEBP": ("webp",),
    "GIF": ("gif",),
    "BMP": ("bmp",),
    "TIFF": ("tif", "tiff"),
    "PPM": ("ppm", "pgm", "pbm", "pnm"),
    "AVIF": ("avif",),
    "HEIF": ("heic", "heif"),
    "JXL": ("jxl",),
}
"""Suffixes by format that is read; of Pillow's other formats, some start programs (EPS) and most are rare."""
PICTURE_KINDS = tuple(suffix for suffixes in FORMATS.values() for suffix in suffixes)
"""Suffixes of pictures, without the dot."""
_PLUG_INS = {
    "AVIF": ("PIL.AvifImagePlugin", "", "pillow-avif-plugin"),
    "HEIF": ("pillow_heif", "register_heif_opener", "pillow-heif"),
    "JXL": ("pillow_jxl", "", "pillow-jxl-plugin"),
}
"""By format: the module that reads it, the function that registers it, and the package to install without it."""
_BRANDS = {"AVIF": {b"avif", b"avis"}, "HEIF": {b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1"}}
"""Brands of ISO media files by format; a file that has both kinds is AVIF."""
_JXL_SIGNATURES = (b"\xff\x0a", b"\x00\x00\x00\x0cJXL \r\n\x87\n")
_DEEP_MODES = ("I", "I;16", "I;16L", "I;16B")


def open_picture(source: Any, max_megapixels: float = MAX_MEGAPIXELS) -> Picture:
    """Return uint8 [h, w, 3] RGB, upright by its EXIF orientation, on white if transparent.

    16-bit greys are scaled to 8 bits. Only the first frame of an animation is decoded. Raise UserError if the source
    cannot be read, and before decoding if it has more than `max_megapixels` or a side above `MAX_SIDE_PX`. Decoding keeps
    several copies of the pixels; servers limit memory with `max_megapixels`.
    """
    pixels = _read_pixels(source, max_megapixels)
    if pixels.dtype == np.uint16:
        grey = ((pixels.astype(np.uint32) + 128) // 257).astype(np.uint8)
        return np.repeat(grey[..., None], 3, axis=2)
    if pixels.shape[2] == 3:
        return pixels
    layer = Image.fromarray(pixels)
    return np.array(Image.alpha_composite(Image.new("RGBA", layer.size, "white"), layer).convert("RGB"))


def picture_digest(source: Any) -> str:
    """Return a hash of a picture's size and pixels, which does not depend on the file format.

    Transparency counts, what is under transparent pixels does not, and 16-bit greys keep all their levels.
    """
    pixels = _read_pixels(source, MAX_MEGAPIXELS)
    if pixels.dtype == np.uint16 and not (pixels % 257).any():  # 8-bit levels, stored with 16
        pixels = np.repeat((pixels // 257).astype(np.uint8)[..., None], 3, axis=2)
    elif pixels.shape[2:] == (4,):
        opaque = pixels[..., 3:]
        pixels = pixels[..., :3] if (opaque == 255).all() else np.where(opaque > 0, pixels, np.uint8(0))
    return sha256(repr((pixels.shape, pixels.dtype.str)).encode() + pixels.tobytes()).hexdigest()


def picture_kind(path: Path) -> str:
    """Return the usual suffix of a picture file's format, whatever its name says."""
    with _translate_errors(str(path), MAX_MEGAPIXELS), path.open("rb") as file, _open_image(file, str(path)) as image:
        return FORMATS["JPEG" if image.format == "MPO" else str(image.format)][0]  # MPO: JPEG with further images


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


def _read_pixels(source: Any, max_megapixels: float) -> np.ndarray:
    """Return uint8 [h, w, 3] or, with transparency, [h, w, 4], or uint16 [h, w], upright; raise UserError."""
    name = str(source) if isinstance(source, (str, Path)) else "The picture"
    with _translate_errors(name, max_megapixels):
        if isinstance(source, np.ndarray):
            _check_array(source)
            return _from_image(Image.fromarray(source), name, max_megapixels)
        if isinstance(source, Image.Image):
            return _from_image(source, name, max_megapixels)
        if isinstance(source, bytes):
            with _open_image(BytesIO(source), name) as image:
                return _from_image(image, name, max_megapixels)
        if not isinstance(source, (str, Path)):
            raise UserError(f"A picture is a path, bytes, a uint8 array or a PIL image, not {type(source).__name__}.")
        path = find_path(Path(source))
        _check_path(path)
        with path.open("rb") as file, _open_image(file, name) as image:
            return _from_image(image, name, max_megapixels)


def _open_image(file: IO[bytes], name: str) -> Image.Image:
    """Return an image of one of `FORMATS`, not decoded; raise UserError with the package that reads it, if one is missing."""
    head = file.read(64)
    file.seek(0)
    kinds = ["JXL"] if head.startswith(_JXL_SIGNATURES) else []
    if head[4:8] == b"ftyp":
        brands = {head[start : start + 4] for start in range(8, min(len(head), int.from_bytes(head[:4])), 4)}
        kinds = [kind for kind, its_brands in _BRANDS.items() if brands & its_brands]
    if not kinds:
        return Image.open(file, formats=[kind for kind in FORMATS if kind not in _PLUG_INS])
    kind = kinds[0]
    module, register, package = _PLUG_INS[kind]
    try:
        plug_in = import_module(module)
    except ImportError:
        plug_in = None
    if plug_in and register:
        getattr(plug_in, register)()
    if plug_in is None or kind not in Image.OPEN or not getattr(plug_in, "SUPPORTED", True):
        raise UserError(f"{name} is in the format {kind}; pip install {package}, or save it again as PNG or JPEG.")
    try:
        return Image.open(file, formats=[kind])
    except UnidentifiedImageError:
        raise _broken(name, ValueError("its head cannot be read")) from None


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
        *kinds, last = (kind for kind in FORMATS if kind not in _PLUG_INS)
        raise UserError(f"{name} is not a picture that can be read; use {', '.join(kinds)} or {last}.") from None
    except Image.DecompressionBombError:
        raise _too_large(name, max_megapixels) from None
    except PermissionError:
        raise UserError(f"{name} cannot be read (permission denied); change its permissions or copy it.") from None
    except OSError as error:
        if error.errno is None:  # Pillow's own, of a file that was read
            raise _broken(name, error) from error
        raise UserError(f"{name} cannot be read ({error.strerror}); check its disk and try again.") from error
    except Exception as error:  # Pillow's decoders raise many types
        raise _broken(name, error) from error


def _from_image(image: Image.Image, name: str, max_megapixels: float) -> np.ndarray:
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
        return _sixteen_bits(np.asarray(upright), name)
    return np.array(upright.convert("RGBA" if upright.has_transparency_data else "RGB"))


def _sixteen_bits(deep: np.ndarray, name: str) -> np.ndarray:
    if deep.min() < 0 or deep.max() > 65_535:
        raise UserError(f"{name} holds 32-bit pixels; save it with 8 or 16 bits.")
    return deep.astype(np.uint16)


def _too_large(name: str, max_megapixels: float) -> UserError:
    return UserError(f"{name} has more than {max_megapixels:g} megapixels; scale it down first.")


def _broken(name: str, error: Exception) -> UserError:
    return UserError(f"{name} is broken or cut short ({error}); save it again as PNG or JPEG.")
