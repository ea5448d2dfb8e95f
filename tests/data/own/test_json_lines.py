"""JSON lines as other programs write them."""

from __future__ import annotations

from pathlib import Path

import pytest

from latentbridge.data.own.json_lines import parse_object, read_document, read_lines
from latentbridge.errors import UserError

LINE = b'{"image": "a.png"}'


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (b'{"a": 1e999}', "a number too large"),
        (b'{"a": -1e999}', "a number too large"),
        (b'{"a": ' + b"9" * 5000 + b"}", "a number too large"),
        (b'{"a": ' + b"[" * 20_000 + b"]" * 20_000 + b"}", "more than 100 levels deep"),
        (b'{"a": ' + b"[" * 101 + b"]" * 101 + b"}", "more than 100 levels deep"),
        (b'{"a": "\\ud83d"}', "half of a surrogate pair"),
        (b'{"a\\u0000": 1}', "NUL"),
        (b'{"a": ["b\\u0000"]}', "NUL"),
        (b'{"a": "\xff"}', "not UTF-8"),
        (b"[1]", "one JSON object"),
        (b"{", "not JSON"),
    ],
)
def test_what_cannot_be_stored_is_one_sentence(text: bytes, words: str):
    with pytest.raises(ValueError, match=words) as caught:
        parse_object(text)
    assert len(str(caught.value)) < 120


def test_odd_but_sound_objects_are_taken():
    assert parse_object(b'\xef\xbb\xbf{"a": "\\ud83d\\ude00", "b": NaN, "c": -Infinity}\r\n') == {
        "a": "\U0001f600",
        "b": None,
        "c": None,
    }
    assert parse_object(b'{"a": "' + b"[" * 300 + b'", "b": "\\\\u0000"}') == {"a": "[" * 300, "b": "\\u0000"}


def test_lines_are_numbered_with_a_mark_at_the_start_and_windows_ends(tmp_path: Path):
    path = tmp_path / "m.jsonl"
    path.write_bytes(b"\xef\xbb\xbf" + LINE + b"\r\n\r\n" + LINE + b"\r\n")
    assert [(number, parse_object(line)["image"]) for number, line in read_lines(path)] == [(1, "a.png"), (3, "a.png")]


@pytest.mark.parametrize(
    ("name", "data", "words"),
    [
        ("m.jsonl", LINE.decode().encode("utf-16"), "is UTF-16 text; save it as UTF-8"),
        ("m.jsonl", LINE.decode().encode("utf-16-le"), "is UTF-16 text; save it as UTF-8"),
        ("m.jsonl", b"[" + LINE + b"]", "latentbridge data convert"),
        ("m.jsonl", b"[\n  " + LINE + b"\n]", "latentbridge data convert"),
        ("m.json", b'{\n "images": []\n}', "latentbridge data convert"),
        ("m.csv", b"image,caption\n", "latentbridge data convert"),
        ("a.JPG", b"\xff\xd8\xff", "is a picture; give a manifest"),
    ],
)
def test_another_kind_of_file_is_one_sentence(tmp_path: Path, name: str, data: bytes, words: str):
    (tmp_path / name).write_bytes(data)
    with pytest.raises(UserError, match=words):
        list(read_lines(tmp_path / name))


def test_documents_and_lines_are_told_apart(tmp_path: Path):
    path, faults = tmp_path / "x.json", list[str]()
    for data, expected in (
        (b'[{"a": 1}]', [{"a": 1}]),
        (b'{"a": 1}\n{"a": 2}\n{"a": 1e999}\n', [{"a": 1}, {"a": 2}]),
        (b'{"a": 1}', [{"a": 1}]),
        (b'{"annotations": [1]}', {"annotations": [1]}),
        ('[{"a": "é"}]'.encode("utf-16"), [{"a": "é"}]),
    ):
        path.write_bytes(data)
        assert read_document(path, faults.append) == expected
    assert len(faults) == 1 and "line 3" in faults[0]
    for data, words in ((b"nonsense", "neither JSON nor"), (b"3", "holds no samples"), (b"[" * 100_000, "levels")):
        path.write_bytes(data)
        with pytest.raises(UserError, match=words):
            read_document(path, pytest.fail)
