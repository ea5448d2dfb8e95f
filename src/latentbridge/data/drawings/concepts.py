"""What the drawings show: concepts with names, keywords and groups, and which clusters of them are held out.

Names and keywords come from Unicode CLDR by way of `emojibase-data`; without it, from Python's own character names.
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
TIER_OF_GROUP: dict[int, Tier] = {
    0: "face",
    1: "people",
    3: "object",
    4: "object",
    5: "object",
    6: "object",
    7: "object",
    8: "symbol",
}
"""Groups 2 (bare modifiers) and 9 (flags) are left out: they say nothing at 64 px."""

TEST_CLUSTERS_PERCENT, VAL_CLUSTERS_PERCENT = 13, 6
_TABLES = (
    "data",
    "messages",
    "shortcodes/cldr",
    "shortcodes/emojibase",
    "shortcodes/iamcal",
    "shortcodes/github",
    "shortcodes/joypixels",
)
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
    """One thing that several artists drew."""

    codepoint: str
    """Hexadecimal Unicode scalars joined by "-", upper case, without FE0F."""
    label: str
    tags: tuple[str, ...]
    group: str
    subgroup: str
    tier: Tier
    cluster: str
    """Head noun: concepts of one cluster are held out together."""


def normalize_codepoint(text: str) -> str:
    """A code point sequence in the one spelling used here."""
    return "-".join(part for part in text.upper().split("-") if part != "FE0F")


def normalize_name(name: str) -> str:
    """A name with everything but ASCII letters and digits removed, for joining sets that spell names differently."""
    plain = unicodedata.normalize("NFKD", name).encode("ascii", "ignore").decode()
    return re.sub(r"[^a-z0-9]", "", plain.lower())


def cluster_of(label: str) -> str:
    """The head noun of a label: "cat face" and "black cat" give "cat", "oncoming taxi" gives "car"."""
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
    """Concepts by code point, and code points by squashed name (labels first, older names and shortcodes after)."""
    paths = {f"package/en/{table}.json": table for table in _TABLES}
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
    for table in _TABLES[2:]:
        for raw, shortcodes in tables[table].items():
            for shortcode in [shortcodes] if isinstance(shortcodes, str) else shortcodes:
                names.setdefault(normalize_name(shortcode), normalize_codepoint(raw))
    return concepts, names


def character_concepts(codepoints: Iterable[str]) -> dict[str, Concept]:
    """Concepts named by Python's own Unicode tables, for single characters only; no tags, groups or tiers."""
    found: dict[str, Concept] = {}
    for codepoint in codepoints:
        label = _character_name(codepoint).lower()
        if label and "-" not in codepoint and unicodedata.category(chr(int(codepoint, 16))) == "So":
            if "clock face" in label or "regional indicator" in label:
                continue
            found[codepoint] = Concept(codepoint, label, (), "", "", "unsorted", cluster_of(label))
    return found


def held_out_clusters(concepts: Iterable[Concept]) -> tuple[frozenset[str], frozenset[str]]:
    """(test, val) clusters, chosen by a hash of their name; only clusters made of objects alone are held out."""
    concepts = list(concepts)
    mixed = {concept.cluster for concept in concepts if concept.tier not in ("object", "unsorted")}
    buckets = {c.cluster: hash_percentile(c.cluster) for c in concepts if c.cluster not in mixed}
    test = frozenset(name for name, place in buckets.items() if place < TEST_CLUSTERS_PERCENT)
    upper = TEST_CLUSTERS_PERCENT + VAL_CLUSTERS_PERCENT
    return test, frozenset(name for name, place in buckets.items() if TEST_CLUSTERS_PERCENT <= place < upper)


def hash_percentile(text: str) -> int:
    """A percentile in [0, 100) that depends on the text alone, the same in every process."""
    return int.from_bytes(blake2b(text.encode(), digest_size=8).digest(), "big") % 100


def _character_name(codepoint: str) -> str:
    return "" if "-" in codepoint else unicodedata.name(chr(int(codepoint, 16)), "")
