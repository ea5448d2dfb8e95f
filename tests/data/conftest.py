"""Toy icon sets of rectangles, packed like the real packages and built by the real builder."""

from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path

import pytest
from PIL import Image

from latentbridge.data.drawings.catalogue import Drawings, build_from_archives
from latentbridge.data.drawings.composer import countable_plurals
from latentbridge.data.drawings.icons import ICON_SETS, IconSet

TOY_SETS = ("noto", "fluent_flat", "fluent_3d", "emojione", "openmoji")
TOY_COLOURS = ("#dc2828", "#32a03c", "#2d50d2", "#f58c14", "#8c37b4")
NUM_CONCEPTS = 70
FIRST_CODEPOINT = 0x1F400


def pack(path: Path, files: dict[str, bytes]) -> Path:
    """Write a tarball with these members under `package/`."""
    with tarfile.open(path, "w:gz") as tarball:
        for name, content in files.items():
            info = tarfile.TarInfo(f"package/{name}")
            info.size = len(content)
            tarball.addfile(info, io.BytesIO(content))
    return path


def toy_icon(number: int, set_number: int) -> str:
    """Return a rectangle; its shape depends on the concept, its colour on the set too."""
    colour = TOY_COLOURS[(number + set_number) % len(TOY_COLOURS)]
    return f'<rect x="4" y="4" width="{30 + number % 25}" height="{30 + number // 4}" fill="{colour}"/>'


@pytest.fixture(scope="session")
def toy_emojibase(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write seventy countable objects, one face and one flag."""
    labels = list(countable_plurals())[:NUM_CONCEPTS]
    data = [
        {"label": label, "hexcode": f"{FIRST_CODEPOINT + i:X}", "tags": ["toy", label], "group": 3, "subgroup": 34}
        for i, label in enumerate(labels)
    ]
    data.append({"label": "zany face", "hexcode": "1F92A", "tags": [], "group": 0, "subgroup": 0})
    data.append({"label": "flag: Toyland", "hexcode": "1F1FA-1F1F3", "tags": [], "group": 9, "subgroup": 98})
    messages = {
        "groups": [
            {"order": 0, "message": "faces"},
            {"order": 3, "message": "animals & nature"},
            {"order": 9, "message": "flags"},
        ],
        "subgroups": [
            {"order": 0, "key": "face-toy"},
            {"order": 34, "key": "animal-mammal"},
            {"order": 98, "key": "flag"},
        ],
    }
    files = {"data": data, "messages": messages}
    files |= {f"shortcodes/{name}": {} for name in ("cldr", "emojibase", "iamcal", "github", "joypixels")}
    folder = tmp_path_factory.mktemp("emojibase")
    return pack(folder / "toy.tgz", {f"en/{name}.json": json.dumps(table).encode() for name, table in files.items()})


@pytest.fixture(scope="session")
def toy_archives(tmp_path_factory: pytest.TempPathFactory) -> dict[IconSet, Path]:
    """Write five sets of four artists; `emojione` has no table of characters, `fluent_3d` is pictures by code point."""
    folder = tmp_path_factory.mktemp("sets")
    labels = [*list(countable_plurals())[:NUM_CONCEPTS], "zany face"]
    codepoints = [*(f"{FIRST_CODEPOINT + i:x}" for i in range(NUM_CONCEPTS)), "1f92a"]
    archives: dict[IconSet, Path] = {}
    for set_number, name in enumerate(TOY_SETS):
        icon_set = next(icon_set for icon_set in ICON_SETS if icon_set.name == name)
        if name == "fluent_3d":
            files = {}
            for number, codepoint in enumerate(codepoints):
                stream = io.BytesIO()
                colour = TOY_COLOURS[(number + set_number) % len(TOY_COLOURS)]
                Image.new("RGBA", (10 + number, 60), colour).save(stream, "webp", lossless=True)
                files[f"assets/{codepoint}-fe0f.webp"] = stream.getvalue()
        else:
            slugs = [label.lower().replace(" ", "-") for label in labels]
            icons = {slug: {"body": toy_icon(number, set_number)} for number, slug in enumerate(slugs)}
            if name == "noto":
                icons[slugs[1]] = icons[slugs[0]]  # an exact repeat, to be left out
                icons[slugs[2]] = {"body": ""}  # a blank one, to be left out
            chars = {} if name == "emojione" else dict(zip(codepoints, slugs, strict=True))
            table = {"icons": icons, "width": 64, "height": 64, "aliases": {}}
            files = {"icons.json": json.dumps(table).encode(), "chars.json": json.dumps(chars).encode()}
        archives[icon_set] = pack(folder / f"{name}.tgz", files)
    return archives


@pytest.fixture(scope="session")
def toy_drawings(
    toy_archives: dict[IconSet, Path], toy_emojibase: Path, tmp_path_factory: pytest.TempPathFactory
) -> Drawings:
    """Build the toy sets."""
    pytest.importorskip("resvg_py")
    return build_from_archives(toy_archives, toy_emojibase, tmp_path_factory.mktemp("cache"), progress=False)
