"""Common words from small archives in the format of the packages."""

from __future__ import annotations

import gzip
import io
import tarfile
import zipfile
from pathlib import Path

import pytest

from latentbridge.data.drawings.packages import Package
from latentbridge.errors import UserError
from latentbridge.training.fits import common_words

# sense, lexicographer file: 05 an animal, 06 an artefact, 09 a thought, 15 a place
SENSES = {"00000001": "05", "00000002": "06", "00000003": "09", "00000004": "15"}
NOUNS = {
    "ostrich": "00000001",
    "kayak": "00000002",
    "idea": "00000003",
    "idaho": "00000004",
    "ant": "00000001",
    "reason": "00000003",
}
BY_FREQUENCY = ["the", "idea", "reason", "run", "idaho", "ant", "qwertz", "kayak", "ox", "ostrich"]


@pytest.fixture
def packages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a folder with both archives, in place of the downloaded packages."""
    licence = "  1 This is a licence  \n"
    data = "".join(
        f"{sense} {file} n 01 word 0 001 {'@i' if file == '15' else '@'} 00009999 n 0000 | a word  \n"
        for sense, file in SENSES.items()
    )
    index = "".join(f"{word} n 1 1 @ 1 0 {sense}  \n" for word, sense in NOUNS.items())
    texts = {
        "index.noun": licence + index + "hot_dog n 1 1 @ 1 0 00000001  \n",
        "index.verb": licence + "run v 1 1 @ 1 1 00000077  \n",
        "index.adj": licence,
        "data.noun": licence + data,
    }
    with tarfile.open(tmp_path / "words.tgz", "w:gz") as tarball:
        for name, text in texts.items():
            info = tarfile.TarInfo(f"package/dict/{name}")
            info.size = len(text)
            tarball.addfile(info, io.BytesIO(text.encode()))
    packed = b"\x92\x82\xa6format\xa2cB\xa7version\x01" + bytes([0x90 + len(BY_FREQUENCY)])
    packed += b"".join(bytes([0xA0 + len(word)]) + word.encode() for word in BY_FREQUENCY)
    with zipfile.ZipFile(tmp_path / "frequencies.whl", "w") as wheel:
        wheel.writestr("wordfreq/data/large_en.msgpack.gz", gzip.compress(packed))
    archives = {common_words.WORDNET: "words.tgz", common_words.WORDFREQ: "frequencies.whl"}

    def fetch(package: Package, folder: Path) -> Path:
        return folder / archives[package]

    monkeypatch.setattr(common_words, "fetch_package", fetch)
    return tmp_path


def test_half_are_the_most_common_words_and_the_rest_objects(packages: Path):
    assert common_words.common_words(4, {"ant"}, packages) == ["idea", "reason", "kayak", "ostrich"]
    assert common_words.common_words(5, set(), packages) == ["idea", "reason", "ant", "kayak", "ostrich"]


def test_names_stop_words_short_and_foreign_words_are_left_out(packages: Path):
    words = common_words.common_words(6, set(), packages)
    assert words == ["idea", "reason", "run", "ant", "kayak", "ostrich"]


def test_more_words_than_available_is_an_error(packages: Path):
    with pytest.raises(UserError, match="There are 6 common words; set model.second_view.more_words"):
        common_words.common_words(99, set(), packages)
