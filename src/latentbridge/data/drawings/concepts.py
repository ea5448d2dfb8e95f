"""Concepts of the drawings, with names, tags and groups, and the clusters of concepts that are held out.

Names and tags are Unicode CLDR's, from `emojibase-data`; without it, names are Python's Unicode character names.
"""

from __future__ import annotations

import json
import re
import unicodedata
from collections.abc import Iterable
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path
from typing import Literal

from latentbridge.data.drawings.packages import archive_members

Tier = Literal["object", "face", "people", "symbol", "unsorted"]
TIER_OF_GROUP: dict[int, Tier] = {0: "face", 1: "people", **dict.fromkeys(range(3, 8), "object"), 8: "symbol"}
"""Groups 2 (modifiers) and 9 (flags) are left out: they are illegible at 64 px."""

TEST_CLUSTERS_PERCENT, VAL_CLUSTERS_PERCENT = 13, 6
_SHORTCODES = tuple(f"shortcodes/{name}" for name in ("cldr", "emojibase", "iamcal", "github", "joypixels"))
_TAIL = re.compile(r"\s*\(.*|[,:].*| (with|without|of|in|on|at|and|behind|not|done|showing|tilted)\b.*")
_HEAD_OF_LABEL = {
    "tram car": "train", "railway car": "train", "light rail": "train", "pig nose": "pig", "paw prints": "paw",
    "airplane departure": "airplane", "airplane arrival": "airplane", "e-mail": "envelope", "love letter": "envelope",
    "telephone receiver": "phone", "police car light": "light", "hot dog": "hot dog", "wind face": "wind",
}  # fmt: skip
_SYNONYMS = {
    "automobile": "car", "taxi": "car", "vehicle": "car", "lorry": "truck", "trolleybus": "bus", "minibus": "bus",
    "locomotive": "train", "metro": "train", "tram": "train", "monorail": "train", "railway": "train",
    "tramway": "cableway", "sailboat": "boat", "canoe": "boat", "speedboat": "boat", "ferry": "boat", "ship": "boat",
    "motorcycle": "motorbike", "scooter": "motorbike", "chick": "chicken", "rooster": "chicken", "ewe": "sheep",
    "ram": "sheep", "ox": "cow", "bison": "cow", "buffalo": "cow", "boar": "pig", "orca": "whale", "dove": "bird",
    "goose": "duck", "swan": "duck", "poodle": "dog", "mammoth": "elephant", "leopard": "tiger", "rat": "mouse",
    "hamster": "mouse", "notebook": "book", "ledger": "book", "teacup": "cup", "watch": "clock", "stopwatch": "clock",
    "telephone": "phone", "pager": "phone", "sandal": "shoe", "boot": "shoe", "cap": "hat", "helmet": "hat",
    "handbag": "bag", "purse": "bag", "sunglass": "glass", "goggle": "glass", "postbox": "mailbox",
    "shamrock": "clover", "house": "building", "hut": "building", "sunset": "sunrise", "softball": "baseball",
    "t-rex": "dinosaur", "sauropod": "dinosaur", "blossom": "flower", "crocodile": "lizard", "doughnut": "bagel",
    "rosette": "flower", "comet": "star",
}  # fmt: skip
_SINGULARS = {"cherries": "cherry", "fries": "fry", "blueberries": "blueberry"}
_ENDS_IN_S = frozenset(("abacus", "bus", "cactus", "compass", "hibiscus", "lotus", "octopus", "rhinoceros", "tennis"))


@dataclass(frozen=True)
class Concept:
    """A subject drawn by several artists."""

    codepoint: str
    """Hexadecimal Unicode scalars joined by "-", upper case, without FE0F."""
    label: str
    tags: tuple[str, ...]
    group: str
    subgroup: str
    tier: Tier
    cluster: str
    """Head noun; a cluster is held out as a whole."""


def normalize_codepoint(text: str) -> str:
    """Return a code point sequence in upper case without FE0F."""
    return "-".join(part for part in text.upper().split("-") if part != "FE0F")


def normalize_name(name: str) -> str:
    """Return a name's ASCII letters and digits in lower case, to match names across sets."""
    plain = unicodedata.normalize("NFKD", name).encode("ascii", "ignore").decode()
    return re.sub(r"[^a-z0-9]", "", plain.lower())


def cluster_of(label: str) -> str:
    """Return the head noun of a label: "cat" for "cat face" and "black cat", "car" for "oncoming taxi"."""
    text = label.lower()
    if text in _HEAD_OF_LABEL:
        return _HEAD_OF_LABEL[text]
    words = _TAIL.sub("", text).split() or text.split()
    if len(words) > 1 and words[-1] == "face":
        words.pop()
    word = _SINGULARS.get(words[-1], words[-1])
    if word.endswith("s") and not word.endswith("ss") and word not in _ENDS_IN_S:
        word = word.removesuffix("es") if word.endswith("sses") else word[:-1]
    return _SYNONYMS.get(word, word)


def read_concepts(emojibase: Path) -> tuple[dict[str, Concept], dict[str, str]]:
    """Return concepts by code point, and code points by normalized name (label, else Unicode name, else shortcode)."""
    paths = {f"package/en/{table}.json": table for table in ("data", "messages", *_SHORTCODES)}
    tables = {paths[name]: json.loads(content) for name, content in archive_members(emojibase, paths.__contains__)}
    groups = {entry["order"]: entry["message"] for entry in tables["messages"]["groups"]}
    subgroups = {entry["order"]: entry["key"] for entry in tables["messages"]["subgroups"]}
    concepts: dict[str, Concept] = {}
    for entry in tables["data"]:
        label, tier = entry["label"], TIER_OF_GROUP.get(entry.get("group", -1))
        if tier is None or "o’clock" in label or "-thirty" in label:
            continue
        codepoint = normalize_codepoint(entry["hexcode"])
        tags = tuple(tag for tag in entry.get("tags", ()) if tag != label)
        group, subgroup = groups[entry["group"]], subgroups[entry["subgroup"]]
        concepts[codepoint] = Concept(codepoint, label, tags, group, subgroup, tier, cluster_of(label))
    names = {normalize_name(concept.label): codepoint for codepoint, concept in concepts.items()}
    for codepoint in concepts:
        names.setdefault(normalize_name(_character_name(codepoint)), codepoint)
    for table in _SHORTCODES:
        for raw, shortcodes in tables[table].items():
            for shortcode in [shortcodes] if isinstance(shortcodes, str) else shortcodes:
                names.setdefault(normalize_name(shortcode), normalize_codepoint(raw))
    return concepts, names


def character_concepts(codepoints: Iterable[str]) -> dict[str, Concept]:
    """Return concepts of single characters by their Unicode names, without tags and groups."""
    concepts: dict[str, Concept] = {}
    for codepoint in codepoints:
        label = _character_name(codepoint).lower()
        if not label or "clock face" in label or "regional indicator" in label:
            continue
        if unicodedata.category(chr(int(codepoint, 16))) == "So":
            concepts[codepoint] = Concept(codepoint, label, (), "", "", "unsorted", cluster_of(label))
    return concepts


def held_out_clusters(concepts: Iterable[Concept]) -> tuple[frozenset[str], frozenset[str]]:
    """Return (test, val) clusters by the hash of their names; only clusters of objects alone are held out."""
    concepts = list(concepts)
    mixed = {concept.cluster for concept in concepts if concept.tier not in ("object", "unsorted")}
    percentiles = {c.cluster: hash_percentile(c.cluster) for c in concepts if c.cluster not in mixed}
    test = frozenset(name for name, value in percentiles.items() if value < TEST_CLUSTERS_PERCENT)
    upper = TEST_CLUSTERS_PERCENT + VAL_CLUSTERS_PERCENT
    return test, frozenset(name for name, value in percentiles.items() if TEST_CLUSTERS_PERCENT <= value < upper)


def hash_percentile(text: str) -> int:
    """Return a number in [0, 100) from a hash of the text that is the same in every process."""
    return int.from_bytes(blake2b(text.encode(), digest_size=8).digest(), "big") % 100


def _character_name(codepoint: str) -> str:
    return "" if "-" in codepoint else unicodedata.name(chr(int(codepoint, 16)), "")
