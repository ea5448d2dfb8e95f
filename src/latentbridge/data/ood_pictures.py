"""Out-of-distribution pictures: dead leaves, noise, pages and charts, in place of photographs, which cannot be shipped.

Dead leaves (Lee, Mumford, Huang 2001) are occluding shapes of all sizes with the statistics of natural images, enough to
train visual features (Baradad et al., arXiv 2106.05963).
"""

from __future__ import annotations

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

from latentbridge.data.sampling import pick
from latentbridge.images import fit_square
from latentbridge.types import Picture

_SIDE_PX = 64
_SCENE_PX, _PAGE_PX = 128, 256
_ASPECTS = (1.0, 4 / 3, 3 / 2, 16 / 9, 2.2)


def sample_ood_picture(rng: np.random.Generator) -> Picture:
    """Return a picture of a random kind, uint8 [64, 64, 3], letterboxed on white."""
    kind = rng.random()
    if kind < 0.72:
        return _photograph(_leaves(rng), rng)
    if kind < 0.84:
        return _photograph(_palette(rng, 1)[0] + rng.uniform(5, 70) * _texture(rng), rng)
    if kind < 0.87:
        return np.clip(rng.normal(128, rng.uniform(10, 90), (_SIDE_PX, _SIDE_PX, 3)), 0, 255).astype(np.uint8)
    return fit_square(np.asarray(_page(rng) if kind < 0.96 else _chart(rng)), _SIDE_PX)


def _noise(rng: np.random.Generator, slope: float, channels: int) -> np.ndarray:
    """Return noise [h, w, c] of mean 0 and deviation 1 with amplitude ~ frequency^-slope."""
    side = _SCENE_PX
    power = np.fft.rfftfreq(side)[None] ** 2 + np.fft.fftfreq(side)[:, None] ** 2
    power[0, 0] = 1.0
    shape = (channels, *power.shape)
    field = np.fft.irfft2(
        (rng.normal(size=shape) + 1j * rng.normal(size=shape)) * power ** (-slope / 2), s=(side, side)
    )
    field -= field.mean(axis=(1, 2), keepdims=True)
    return np.moveaxis(field / field.std(axis=(1, 2), keepdims=True), 0, -1)


def _texture(rng: np.random.Generator) -> np.ndarray:
    """Return a texture [h, w, 3], mostly of luminance with a little colour."""
    slope = rng.uniform(0.6, 2.0)
    return _noise(rng, slope, 1) * rng.uniform(0.6, 1.0) + _noise(rng, slope, 3) * rng.uniform(0, 0.35)


def _palette(rng: np.random.Generator, count: int) -> np.ndarray:
    """Return colours [n, 3] around a random one."""
    return np.clip(rng.uniform(20, 220, 3) + rng.normal(size=(count, 3)) * rng.uniform(10, 80), 0, 255)


def _leaves(rng: np.random.Generator) -> np.ndarray:
    """Return occluding textured, shaded ellipses and rectangles, float [h, w, 3]."""
    side = _SCENE_PX
    count = int(np.exp(rng.uniform(np.log(3), np.log(100))))
    colours, textures = _palette(rng, count + 1), [_texture(rng) for _ in range(3)]
    strength = rng.uniform(2, 40)
    ramp = np.linspace(-1, 1, side)
    shade = ramp[:, None, None] * rng.uniform(-60, 60) + ramp[None, :, None] * rng.uniform(-40, 40)
    picture = colours[0] + strength * textures[0] + shade
    radii = np.clip(np.sort(rng.pareto(1.2, size=count) + 0.05)[::-1] * side * 0.08, 2, side * 0.6)
    rows, columns = np.mgrid[:side, :side]
    for index, radius in enumerate(radii):
        y, x = rng.uniform(0, side, 2)
        aspect, angle = rng.uniform(0.4, 1), rng.uniform(0, np.pi)
        u = (np.cos(angle) * (columns - x) + np.sin(angle) * (rows - y)) / radius
        v = (np.cos(angle) * (rows - y) - np.sin(angle) * (columns - x)) / (radius * aspect)
        distance = np.maximum(abs(u), abs(v)) if rng.random() < 0.35 else np.hypot(u, v)
        cover = np.clip((1 - distance) * radius / rng.uniform(0.7, 4) + 0.5, 0, 1)[..., None]
        shade = (u * rng.uniform(-30, 30) + v * rng.uniform(-30, 30))[..., None]
        leaf = colours[index + 1] + strength * rng.uniform(0.2, 1.2) * textures[index % 3] + shade
        picture = picture * (1 - cover) + leaf * cover
    return picture


def _photograph(levels: np.ndarray, rng: np.random.Generator) -> Picture:
    """Return the image after random noise, contrast, blur, greyscale, crop and rotation."""
    if rng.random() < 0.2:
        levels = np.repeat(levels.mean(axis=-1, keepdims=True), 3, axis=-1)
    levels = levels + rng.normal(size=levels.shape) * rng.uniform(0, 6)
    levels = 128 + (levels - 128) * rng.uniform(0.6, 1.5) + rng.uniform(-30, 30)
    image = Image.fromarray(np.clip(levels, 0, 255).astype(np.uint8))
    if rng.random() < 0.3:
        image = image.filter(ImageFilter.GaussianBlur(rng.uniform(0.3, 3)))
    height = int(image.height / pick(rng, _ASPECTS))
    top = (image.height - height) // 2
    image = image.crop((0, top, image.width, top + height))
    if rng.random() < 0.35:
        image = image.transpose(Image.Transpose.ROTATE_90)
    return fit_square(np.asarray(image), _SIDE_PX)


def _page(rng: np.random.Generator) -> Image.Image:
    """Return a page with lines of strokes like writing, and at times boxes."""
    dark = rng.random() < 0.2
    paper = _colour(rng, *((0, 40) if dark else (215, 256)))
    if rng.random() < 0.5:
        paper = (0, 0, 0) if dark else (255, 255, 255)
    image = Image.new("RGB", (_PAGE_PX, int(_PAGE_PX * rng.choice([0.5, 0.7, 1, 1.4]))), paper)
    draw = ImageDraw.Draw(image)
    if rng.random() < 0.5:
        for _ in range(rng.integers(1, 5)):
            x, y = (int(value) for value in rng.integers(0, _PAGE_PX - 20, 2))
            fill = _colour(rng, 0, 256) if rng.random() < 0.4 else (int(rng.integers(180, 250)),) * 3
            corner = x + int(rng.integers(10, _PAGE_PX)), y + int(rng.integers(4, 120))
            draw.rectangle((x, y, *corner), fill=fill, outline=(120, 120, 120))
    ink = _colour(rng, *((150, 255) if dark else (0, 110)))
    height, y = int(rng.integers(2, 9)), int(rng.integers(4, 40))
    while y < image.height - 10:
        x, end = int(rng.integers(4, 60)), _PAGE_PX - int(rng.integers(4, 80))
        while x < end:
            width = int(rng.integers(2, 6)) * height // 2 + 2
            for stroke in range(x, x + width, 2):
                low = y + height - int(rng.integers(0, height // 2 + 1))
                draw.line((stroke, y + int(rng.integers(0, 2)), stroke, low), fill=ink)
            x += width + height // 2 + 1
        y += int(height * rng.uniform(1.4, 2.5)) + (int(rng.integers(10, 40)) if rng.random() < 0.1 else 0)
    return image


def _chart(rng: np.random.Generator) -> Image.Image:
    """Return a chart with lines or points."""
    image = Image.new("RGB", (_PAGE_PX, int(_PAGE_PX * rng.choice([0.6, 0.75, 1]))), "white")
    draw, height = ImageDraw.Draw(image), image.height
    axes = (30, 10, 30, height - 20, _PAGE_PX - 10, height - 20)
    draw.line(axes, fill=(60, 60, 60), width=int(rng.integers(1, 3)))
    for _ in range(rng.integers(1, 4)):
        ink = _colour(rng, 0, 200)
        values = height - 25 - np.abs(np.cumsum(rng.normal(size=30)) * 12) % (height - 40)
        points = [(30 + 7 * place, float(value)) for place, value in enumerate(values)]
        if rng.random() < 0.6:
            draw.line(points, fill=ink, width=int(rng.integers(1, 3)))
        else:
            for x, y in points:
                draw.ellipse((x - 2, y - 2, x + 3, y + 3), fill=ink)
    return image


def _colour(rng: np.random.Generator, low: int, high: int) -> tuple[int, int, int]:
    red, green, blue = (int(value) for value in rng.integers(low, high, 3))
    return red, green, blue
