"""Images of all formats, modes and faults, compared with values by hand."""

from __future__ import annotations

import struct
import sys
import types
import zlib
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from latentbridge.errors import UserError
from latentbridge.images import FORMATS, fit_square, open_picture, picture_digest, picture_kind, resize

RED = (255, 0, 0)


def encode(image: Image.Image, kind: str = "PNG", **options) -> bytes:
    buffer = BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def noise(height: int = 31, width: int = 37) -> np.ndarray:
    return np.random.default_rng(5).integers(0, 256, (height, width, 3), dtype=np.uint8)


def png_header(width: int, height: int) -> bytes:
    """Return a PNG with a size in its header and no pixels."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


# --- what is read ---


def test_every_kind_of_source_gives_the_same_picture(tmp_path: Path):
    pixels = noise()
    path = tmp_path / "a.png"
    Image.fromarray(pixels).save(path)
    for source in (path, str(path), path.read_bytes(), Image.open(path), pixels):
        opened = open_picture(source)
        assert opened.dtype == np.uint8
        assert np.array_equal(opened, pixels)


@pytest.mark.parametrize("kind", ["PNG", "WEBP", "BMP", "TIFF", "PPM"])
def test_lossless_formats_keep_every_pixel(kind: str):
    options = {"lossless": True} if kind == "WEBP" else {}
    assert np.array_equal(open_picture(encode(Image.fromarray(noise()), kind, **options)), noise())


def test_grey_arrays_become_rgb_and_alpha_is_laid_on_white():
    grey = np.array([[0, 200]], dtype=np.uint8)
    assert open_picture(grey).tolist() == [[[0, 0, 0], [200, 200, 200]]]
    rgba = np.array([[[255, 0, 0, 255], [255, 0, 0, 0], [0, 0, 0, 51]]], dtype=np.uint8)
    assert open_picture(rgba).tolist() == [[[255, 0, 0], [255, 255, 255], [204, 204, 204]]]


def test_sixteen_bits_are_scaled_not_clipped():
    deep = np.array([[0, 257, 128 * 257, 65_535]], dtype=np.uint16)
    for kind in ("PNG", "TIFF"):
        assert open_picture(encode(Image.fromarray(deep), kind))[0, :, 0].tolist() == [0, 1, 128, 255]


def test_sixteen_bit_pgm_is_scaled():
    assert open_picture(b"P5 2 1 65535\n" + struct.pack(">HH", 65_535, 257))[0, :, 1].tolist() == [255, 1]


def test_cmyk_is_converted():
    cmyk = Image.new("CMYK", (8, 8), (0, 255, 255, 0))
    assert open_picture(encode(cmyk, "TIFF"))[3, 3].tolist() == [255, 0, 0]
    # JPEG rounds through its own colour space: 4 levels of 255.
    assert np.abs(open_picture(encode(cmyk, "JPEG"))[3, 3].astype(int) - RED).max() <= 4


def test_palette_with_a_transparent_entry_is_laid_on_white():
    image = Image.new("P", (2, 1))
    image.putpalette([255, 0, 0, 0, 0, 255])
    image.putpixel((1, 0), 1)
    assert open_picture(encode(image)).tolist() == [[[255, 0, 0], [0, 0, 255]]]
    assert open_picture(encode(image, transparency=1)).tolist() == [[[255, 0, 0], [255, 255, 255]]]


def test_grey_with_alpha_is_laid_on_white():
    assert open_picture(encode(Image.new("LA", (1, 1), (0, 0)))).tolist() == [[[255, 255, 255]]]


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "PNG"])
def test_an_animation_gives_its_first_frame(kind: str):
    frames = [Image.new("RGB", (4, 4), colour) for colour in ("red", "blue", "green")]
    options = {"lossless": True} if kind == "WEBP" else {}
    data = encode(frames[0], kind, save_all=True, append_images=frames[1:], **options)
    assert open_picture(data)[0, 0].tolist() == [255, 0, 0]


def test_exif_orientation_is_applied():
    stored = np.zeros((2, 3, 3), dtype=np.uint8)
    stored[0, 0] = RED
    exif = Image.Exif()
    exif[0x0112] = 6  # stored lying on its side: turn 90 degrees clockwise
    opened = open_picture(encode(Image.fromarray(stored), exif=exif))
    assert opened.shape == (3, 2, 3)
    assert opened[0, 1].tolist() == [255, 0, 0]


def test_one_pixel_is_a_picture():
    assert open_picture(encode(Image.new("RGB", (1, 1), "red"))).tolist() == [[[255, 0, 0]]]


def test_the_opened_picture_is_writable():
    open_picture(encode(Image.fromarray(noise())))[0, 0] = 0


# --- what is refused ---


def refusal(source: object) -> str:
    with pytest.raises(UserError) as caught:
        open_picture(source)
    message = str(caught.value)
    assert "\n" not in message and message.endswith(".")
    return message


def test_a_missing_file_a_folder_and_a_text_file_are_named(tmp_path: Path):
    text = tmp_path / "notes.png"
    text.write_text("not a picture at all")
    empty = tmp_path / "empty.png"
    empty.touch()
    assert "There is no picture" in refusal(tmp_path / "none.png")
    assert "is a folder" in refusal(tmp_path)
    assert "notes.png is not a picture" in refusal(text)
    assert "empty.png is not a picture" in refusal(empty)
    assert "is not a picture" in refusal(b"")


def test_other_formats_are_not_tried():
    assert "use PNG" in refusal(encode(Image.fromarray(noise()), "EPS"))


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "TIFF", "BMP", "PPM", "WEBP"])
def test_a_picture_cut_in_half_is_refused(kind: str):
    data = encode(Image.fromarray(noise()), kind)
    assert "broken or cut short" in refusal(data[: len(data) // 2])


def test_a_lazy_pil_image_of_a_broken_file_is_refused():
    data = encode(Image.fromarray(noise()))
    assert "broken or cut short" in refusal(Image.open(BytesIO(data[: len(data) // 2])))


@pytest.mark.parametrize("size", [(7_072, 7_072), (100_000, 100_000), (2**31 - 1, 2**31 - 1)])
@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_a_huge_picture_is_refused_before_it_is_decoded(size: tuple[int, int]):
    # There are no pixels behind the header, so decoding would complain of a broken file instead.
    assert "more than 50 megapixels" in refusal(png_header(*size))


def test_a_picture_below_the_limit_reaches_the_decoder():
    assert "broken" in refusal(png_header(7_071, 7_071))


@pytest.mark.parametrize("size", [(30_000, 1), (1, 30_000), (16_385, 3)])
def test_a_long_side_is_refused_before_it_is_decoded(size: tuple[int, int]):
    words = f"{size[0]:,} x {size[1]:,}"
    assert words in refusal(png_header(*size))
    assert words in refusal(np.zeros((size[1], size[0]), dtype=np.uint8))
    assert open_picture(np.zeros((1, 16_384), dtype=np.uint8)).shape == (1, 16_384, 3)


def test_the_limit_is_adjustable():
    with pytest.raises(UserError, match=r"more than 0\.5 megapixels"):
        open_picture(png_header(1_000, 501), max_megapixels=0.5)
    assert open_picture(noise(), max_megapixels=0.001147).shape == (31, 37, 3)


# --- which pictures are the same ---


def test_pictures_that_differ_in_transparency_or_16_bit_level_are_different():
    icons = [Image.new("RGBA", (8, 8), (255, 255, 255, 0)) for _ in range(2)]
    icons[1].putpixel((3, 3), (255, 255, 255, 255))  # white on nothing: the same when laid on white
    deep = [np.full((4, 4), level, np.uint16) for level in (5000, 5001)]
    for pair in (icons, [Image.fromarray(each) for each in deep]):
        assert len({picture_digest(encode(each)) for each in pair}) == 2


def test_pictures_that_look_the_same_on_every_ground_are_the_same():
    grey = np.full((4, 4), 7, np.uint8)
    same = [
        encode(Image.fromarray(grey)),
        encode(Image.fromarray(np.repeat(grey[..., None], 3, axis=2)), "BMP"),
        encode(Image.fromarray(grey.astype(np.uint16) * 257), "TIFF"),
        encode(Image.merge("LA", [Image.fromarray(grey), Image.new("L", (4, 4), 255)])),
    ]
    assert len(set(map(picture_digest, same))) == 1
    invisible = [Image.new("RGBA", (4, 4), (red, 0, 0, 0)) for red in (0, 255)]
    assert len({picture_digest(encode(each)) for each in invisible}) == 1


def test_the_digest_refuses_what_reading_refuses():
    with pytest.raises(UserError, match="20,000 x 4"):
        picture_digest(png_header(20_000, 4))
    with pytest.raises(UserError, match="floating-point"):
        picture_digest(encode(Image.fromarray(np.zeros((2, 2), dtype=np.float32)), "TIFF"))


def test_the_kind_is_the_contents(tmp_path: Path):
    path = tmp_path / "a.png"
    for kind, suffix in (("JPEG", "jpg"), ("WEBP", "webp"), ("TIFF", "tif"), ("AVIF", "avif")):
        path.write_bytes(encode(Image.fromarray(noise()), kind))
        assert picture_kind(path) == suffix
    path.write_bytes(encode(Image.fromarray(noise()), "ICO"))
    with pytest.raises(UserError, match="a.png is not a picture that can be read"):
        picture_kind(path)


# --- formats that need a plug-in ---


def media(brand: bytes, *more: bytes) -> bytes:
    """Return the head of an ISO media file."""
    body = b"ftyp" + brand + bytes(4) + b"".join(more)
    return struct.pack(">I", len(body) + 4) + body + b"rest" * 9


def test_avif_is_read_and_limited_like_others():
    data = encode(Image.fromarray(np.full((31, 37, 3), 200, np.uint8)), "AVIF")
    assert open_picture(data).shape == (31, 37, 3) and abs(open_picture(data).astype(int) - 200).max() < 4
    assert "broken or cut short" in refusal(data[: len(data) // 2])
    with pytest.raises(UserError, match="more than 0.001 megapixels"):
        open_picture(data, max_megapixels=0.001)


@pytest.mark.parametrize(
    ("data", "package"),
    [
        (media(b"heic"), "pillow-heif"),
        (media(b"mif1", b"mif1", b"heic"), "pillow-heif"),
        (b"\xff\x0a" + bytes(20), "pillow-jxl-plugin"),
        (b"\0\0\0\x0cJXL \r\n\x87\n" + bytes(20), "pillow-jxl-plugin"),
    ],
)
def test_a_missing_plug_in_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, data: bytes, package: str):
    for module in ("pillow_heif", "pillow_jxl"):
        monkeypatch.setitem(sys.modules, module, None)
    (tmp_path / "a.jpg").write_bytes(data)
    assert f"pip install {package}" in refusal(tmp_path / "a.jpg") and "a.jpg" in refusal(tmp_path / "a.jpg")


def test_without_avif_in_pillow_a_package_is_named(monkeypatch: pytest.MonkeyPatch):
    data = encode(Image.fromarray(noise()), "AVIF")
    monkeypatch.setitem(sys.modules, "PIL.AvifImagePlugin", None)
    assert "pip install pillow-avif-plugin" in refusal(data)
    assert "pip install pillow-avif-plugin" in refusal(media(b"mif1", b"mif1", b"avif"))


def test_a_plug_in_is_used_and_its_pictures_are_limited(monkeypatch: pytest.MonkeyPatch):
    class Heif(Image.Image):
        format = "HEIF"

        def __init__(self, file: object, name: str) -> None:
            super().__init__()
            self.im, self._mode, self._size = Image.new("RGB", (5, 3), "red").im, "RGB", (5, 3)

    def register() -> None:
        Image.register_open("HEIF", Heif, lambda head: head[4:8] == b"ftyp")  # pyright: ignore

    plug_in = types.ModuleType("pillow_heif")
    plug_in.register_heif_opener = register  # pyright: ignore[reportAttributeAccessIssue]
    monkeypatch.setitem(sys.modules, "pillow_heif", plug_in)
    monkeypatch.setattr(Image, "ID", list(Image.ID))
    monkeypatch.setattr(Image, "OPEN", dict(Image.OPEN))
    assert open_picture(media(b"heic")).tolist() == [[[255, 0, 0]] * 5] * 3
    with pytest.raises(UserError, match="megapixels"):
        open_picture(media(b"heic"), max_megapixels=1e-6)


def test_a_film_is_no_picture():
    assert "is not a picture that can be read" in refusal(media(b"qt  "))


def test_every_format_has_suffixes_of_its_own():
    suffixes = [suffix for kind in FORMATS for suffix in FORMATS[kind]]
    assert len(set(suffixes)) == len(suffixes)


# --- disks and names ---


def test_a_disk_that_fails_is_not_a_broken_picture(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    path = tmp_path / "a.png"
    path.write_bytes(encode(Image.fromarray(noise())))

    def fail(*_: object) -> None:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(Path, "open", fail)
    assert "cannot be read (Input/output error); check its disk" in refusal(path)


def test_a_name_is_found_however_its_accents_are_written(tmp_path: Path):
    composed, apart = "caf\u00e9", "cafe\u0301"
    (tmp_path / apart).mkdir()
    (tmp_path / apart / f"{composed}.png").write_bytes(encode(Image.fromarray(noise())))
    for folder in (composed, apart):
        for name in (composed, apart):
            assert np.array_equal(open_picture(tmp_path / folder / f"{name}.png"), noise())


# --- pictures made to harm ---


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
@pytest.mark.parametrize("kind", ["PNG", "WEBP", "TIFF", "GIF"])
def test_decompression_bombs_are_refused(kind: str):
    options: dict = {"TIFF": {"compression": "tiff_deflate"}, "WEBP": {"lossless": True, "method": 0}}.get(kind, {})
    bomb = encode(Image.new("L" if kind != "WEBP" else "RGB", (4_000, 4_000)), kind, **options)
    assert len(bomb) < 200_000  # 48 MB of pixels
    with pytest.raises(UserError, match="more than 4 megapixels"):
        open_picture(bomb, max_megapixels=4)


def test_a_text_chunk_bomb_is_refused():
    data = encode(Image.fromarray(noise()))
    body = b"Comment\0\0" + zlib.compress(b"\0" * (80 << 20))
    chunk = struct.pack(">I", len(body)) + b"zTXt" + body + struct.pack(">I", zlib.crc32(b"zTXt" + body))
    assert len(chunk) < 100_000
    assert "too large" in refusal(data[:33] + chunk + data[33:])


def test_frames_after_the_first_are_not_decoded():
    first, second = encode(Image.new("P", (5, 3), 7), "GIF"), b"\x2c\0\0\0\0\xff\xff\xff\xff\0\x08\xff" + b"\xff" * 255
    assert open_picture(first[:-1] + second * 1_000 + b"\0\x3b").shape == (3, 5, 3)


def test_a_first_frame_that_is_larger_than_its_picture_is_measured_as_it_is():
    small = bytearray(encode(Image.new("P", (8, 8)), "GIF"))
    frame = small.index(b"\x2c")
    small[frame + 5 : frame + 9] = struct.pack("<HH", 30_000, 5)
    assert "30,000" in refusal(bytes(small))


@pytest.mark.parametrize(
    "data",
    [
        b'<svg xmlns="http://www.w3.org/2000/svg" width="9" height="9"><rect width="9" height="9"/></svg>',
        b'<?xml version="1.0"?><!DOCTYPE svg [<!ENTITY a SYSTEM "file:///etc/passwd">]><svg>&a;</svg>',
        b"<html><script>alert(1)</script></html>" + encode(Image.new("RGB", (2, 2))),
        b"%PDF-1.7\n" + encode(Image.new("RGB", (2, 2)), "JPEG"),
        b"PK\x03\x04" + encode(Image.new("RGB", (2, 2))),
        b"GIF89a/*" + b"*/=alert(1)//",
    ],
    ids=["svg", "svg with an entity", "html", "pdf", "zip", "script"],
)
def test_polyglot_files_are_refused(data: bytes):
    assert "picture" in refusal(data)


def test_data_after_a_picture_is_dropped():
    opened = open_picture(encode(Image.fromarray(noise())) + b"PK\x03\x04<script>alert(1)</script>")
    assert np.array_equal(opened, noise())


@pytest.mark.parametrize(
    ("array", "words"),
    [
        (np.zeros((4, 4, 3)), "not float64"),
        (np.zeros((4, 4, 3), dtype=np.int32), "not int32"),
        (np.zeros((4, 4, 3), dtype=bool), "not bool"),
        (np.zeros((0, 4, 3), dtype=np.uint8), "is empty"),
        (np.zeros((4, 4, 2), dtype=np.uint8), "not [4, 4, 2]"),
        (np.zeros((2, 4, 4, 3), dtype=np.uint8), "not [2, 4, 4, 3]"),
        (np.zeros(4, dtype=np.uint8), "not [4]"),
    ],
)
def test_arrays_of_another_kind_are_refused(array: np.ndarray, words: str):
    assert words in refusal(array)


def test_other_things_are_refused():
    assert "not int" in refusal(3)
    assert "not NoneType" in refusal(None)
    assert "is empty" in refusal(Image.new("RGB", (0, 5)))
    assert "floating-point" in refusal(encode(Image.fromarray(np.zeros((2, 2), dtype=np.float32)), "TIFF"))
    assert "32-bit" in refusal(encode(Image.fromarray(np.full((2, 2), 70_000, dtype=np.int32)), "TIFF"))


@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::PIL.Image.DecompressionBombWarning")
def test_damaged_bytes_give_a_picture_or_a_user_error():
    rng = np.random.default_rng(11)
    for kind in ("PNG", "JPEG", "GIF", "WEBP", "BMP", "TIFF", "PPM"):
        whole = np.frombuffer(encode(Image.fromarray(noise(16, 16)), kind), dtype=np.uint8)
        for _ in range(40):
            damaged = whole.copy()
            places = rng.integers(0, min(len(whole), 200), 3)
            damaged[places] = rng.integers(0, 256, 3)
            try:
                assert open_picture(damaged.tobytes()).ndim == 3
            except UserError as error:
                assert str(error)


# --- the square ---


def test_a_fitting_picture_is_returned_unchanged():
    picture = noise(64, 64)
    assert fit_square(picture, 64) is picture


def test_a_wide_picture_is_centred_on_white():
    fitted = fit_square(np.zeros((32, 128, 3), dtype=np.uint8), 64)
    assert fitted.shape == (64, 64, 3)
    assert (fitted[24:40] == 0).all()
    assert (fitted[:24] == 255).all() and (fitted[40:] == 255).all()


@pytest.mark.parametrize("shape", [(1, 1), (32, 32), (1, 5_000), (5_000, 1)])
def test_small_and_thin_pictures_fill_the_square(shape: tuple[int, int]):
    fitted = fit_square(np.zeros((*shape, 3), dtype=np.uint8), 64)
    assert fitted.shape == (64, 64, 3)
    assert fitted[31:33, 31:33].min() == 0
    assert (fitted == 0).all() == (shape[0] == shape[1])


@pytest.mark.parametrize(
    ("shape", "size", "vertical_first"),
    [
        ((150, 61), (26, 64), True),  # 86 rows fewer, 35 columns fewer
        ((74, 33), (28, 64), False),  # 10 and 5: not more than twice as many
        ((75, 33), (28, 64), True),
        ((70, 90), (64, 49), False),
        ((40, 30), (60, 39), True),  # one row fewer, and wider
        ((30, 40), (80, 60), False),
    ],
)
def test_resizing_passes_follow_one_order_whatever_pillow_is_installed(
    shape: tuple[int, int], size: tuple[int, int], vertical_first: bool
):
    picture = np.random.default_rng(0).integers(0, 256, (*shape, 3), np.uint8)
    image, bicubic = Image.fromarray(picture), Image.Resampling.BICUBIC
    by_rows = np.asarray(image.resize((image.width, size[1]), bicubic).resize(size, bicubic))
    by_columns = np.asarray(image.resize((size[0], image.height), bicubic).resize(size, bicubic))
    assert not np.array_equal(by_rows, by_columns)
    assert np.array_equal(resize(picture, size, bicubic), by_rows if vertical_first else by_columns)
