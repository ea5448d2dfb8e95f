"""Names of colours, measured in pixels."""

from __future__ import annotations

import numpy as np

CHROMATIC = ("red", "orange", "yellow", "green", "cyan", "blue", "purple", "pink", "brown")
ACHROMATIC = ("black", "gray", "white")
COLOUR_WORDS = CHROMATIC + ACHROMATIC
"""All colour words. Questions name only chromatic ones: artists draw "white" things in grey, "black" ones in purple."""

_LAST_RED_DEG = 346
_HUE_STARTS_DEG = {
    0: "red",
    16: "orange",
    43: "yellow",
    68: "green",
    167: "cyan",
    196: "blue",
    256: "purple",
    292: "pink",
    _LAST_RED_DEG: "red",
}
_SMALLEST_SHARE = 0.12


def measure_colours(rgba: np.ndarray) -> tuple[tuple[str, float], ...]:
    """Return (word, share of the opaque area) of a uint8 [h, w, 4] picture, largest first, shares over 12 % only."""
    opaque = rgba[rgba[..., 3] > 127][:, :3]
    if not len(opaque):
        return ()
    counts = np.bincount(name_colours(opaque), minlength=len(COLOUR_WORDS)) / len(opaque)
    order = np.argsort(-counts, kind="stable")
    return tuple((COLOUR_WORDS[i], round(float(counts[i]), 3)) for i in order if counts[i] >= _SMALLEST_SHARE)


def name_colours(rgb: np.ndarray) -> np.ndarray:
    """Return indices into `COLOUR_WORDS` for uint8 colours [n, 3], by thresholds on hue, saturation and value."""
    colour = rgb.astype(np.float32) / 255.0  # hue arithmetic on small integers overflows
    value, low = colour.max(axis=1), colour.min(axis=1)
    chroma = value - low
    saturation = chroma / np.maximum(value, 1e-6)
    hue = _hue_deg(colour, value, chroma)
    words = np.array([COLOUR_WORDS.index(word) for word in _HUE_STARTS_DEG.values()])
    named = words[np.searchsorted(list(_HUE_STARTS_DEG), hue, side="right") - 1]
    warm = (hue < 43) | (hue >= _LAST_RED_DEG)
    named[warm & (hue >= 10) & (hue < 43) & (value < 0.68)] = COLOUR_WORDS.index("brown")
    named[warm & ((hue < 10) | (hue >= _LAST_RED_DEG)) & (value < 0.45)] = COLOUR_WORDS.index("brown")
    named[((hue >= 320) | (hue < 12)) & (saturation < 0.5) & (value > 0.75)] = COLOUR_WORDS.index("pink")
    grey = (saturation < 0.17) | (chroma < 0.1)
    named[grey] = COLOUR_WORDS.index("gray")
    named[grey & (value > 0.86)] = COLOUR_WORDS.index("white")
    named[(grey & (value < 0.36)) | (value < 0.2)] = COLOUR_WORDS.index("black")
    return named


def _hue_deg(colour: np.ndarray, value: np.ndarray, chroma: np.ndarray) -> np.ndarray:
    """Return the hue in [0, 360)."""
    red, green, blue = colour.T
    safe = np.maximum(chroma, 1e-6)
    sector = np.where(
        value == red, (green - blue) / safe, np.where(value == green, 2 + (blue - red) / safe, 4 + (red - green) / safe)
    )
    return (sector * 60.0) % 360.0
