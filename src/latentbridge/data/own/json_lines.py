"""JSON lines as other people's programs write them: byte-order marks, CR LF, odd numbers and texts."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from latentbridge.errors import UserError
from latentbridge.files import find_path
from latentbridge.images import PICTURE_KINDS

_BOM = b"\xef\xbb\xbf"
_MAX_DEPTH = 100
"""Levels of brackets; parsers and databases give up at about ten times as many."""

_BRACKETS = re.compile(r'"(?:[^"\\]|\\.)*"|[\[\]{}]', re.DOTALL)
"""Brackets, and strings as a whole."""
_LIST_FIELDS = ("annotations", "questions", "data", "train")
"""Fields of documents that hold many samples."""
_TO_CONVERT = (".json", ".csv", ".tsv")


def read_lines(path: Path) -> Iterator[tuple[int, bytes]]:
    """Yield the number and content of each line that is not blank; raise UserError for another kind of file."""
    path = find_path(path)
    if not path.is_file():
        raise UserError(f"There is no manifest at {path}; give the path of a JSON-lines file.")
    if path.suffix.lower()[1:] in PICTURE_KINDS:
        raise UserError(
            f'{path} is a picture; give a manifest, a JSON-lines file with lines like {{"image": "{path.name}", '
            '"texts": ["what it shows"]}.'
        )
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            if number == 1:
                _check_first_line(path, line)
                line = line.removeprefix(_BOM)
            if line.strip():
                yield number, line


def read_document(path: Path, fault: Callable[[str], None]) -> list[Any] | dict[str, Any]:
    """Return a JSON document, or the objects of JSON lines as a list; `fault` gets a sentence per unusable line."""
    data = path.read_bytes().removeprefix(_BOM)
    if data.startswith((b"\xff\xfe", b"\xfe\xff")):
        data = data.decode("utf-16", "replace").encode()
    try:
        document = json.loads(data, parse_constant=lambda name: None)
    except RecursionError:
        raise UserError(f"{path} has too many levels of brackets; make it flatter.") from None
    except ValueError as error:
        document, broken = [], []
        for number, line in enumerate(filter(bytes.strip, data.split(b"\n")), start=1):
            try:
                document.append(parse_object(line))
            except ValueError as reason:
                broken.append(f"{path}, line {number}: {reason}")
        if not document:
            raise UserError(f"{path} is neither JSON nor JSON lines ({error}); check how it was saved.") from None
        for sentence in broken:
            fault(sentence)
    if isinstance(document, dict) and not any(isinstance(document.get(name), list) for name in _LIST_FIELDS):
        return [document]  # a single line
    if not isinstance(document, (dict, list)):
        raise UserError(f"{path} holds no samples; give a JSON list, or one JSON object a line.")
    return document


def parse_object(text: bytes) -> dict[str, Any]:
    """Return a JSON object; raise ValueError with a sentence for anything that cannot be stored or trained on.

    NaN and infinities by name, which Python writes for missing values, become None.
    """
    try:
        decoded = text.removeprefix(_BOM).decode()
    except UnicodeDecodeError:
        raise ValueError("this is not UTF-8 text; save it as UTF-8") from None
    if text.count(b"[") + text.count(b"{") > _MAX_DEPTH and _depth(decoded) > _MAX_DEPTH:
        raise ValueError(f"this has brackets more than {_MAX_DEPTH} levels deep; make it flatter")
    try:
        entry = json.loads(decoded, parse_constant=lambda name: None, parse_float=_finite)
    except json.JSONDecodeError as error:
        raise ValueError(f"this is not JSON ({error.msg} at column {error.colno})") from None
    except ValueError:
        raise ValueError("this holds a number too large to be stored; write it as text") from None
    if not isinstance(entry, dict):
        raise ValueError('a line holds one JSON object, like {"image": "cat.png", "texts": ["a cat"]}')
    if "\\u" in decoded and not all(map(is_storable, _texts(entry))):
        raise ValueError("this holds NUL or half of a surrogate pair, which are not text; remove them")
    return entry


def is_storable(text: str) -> bool:
    """Return whether a text has only characters that UTF-8, files and databases can hold."""
    return "\0" not in text and not any("\ud800" <= character <= "\udfff" for character in text)


def _check_first_line(path: Path, line: bytes) -> None:
    """Raise UserError for UTF-16, and for a file that is one JSON document or a table."""
    if line.startswith((b"\xff\xfe", b"\xfe\xff")) or b"\0" in line[:2]:
        raise UserError(
            f"{path} is UTF-16 text; save it as UTF-8, in PowerShell with: Get-Content {path.name} | "
            "Set-Content -Encoding utf8 new.jsonl"
        )
    start = line.removeprefix(_BOM).strip()
    if start.startswith(b"[") or (path.suffix.lower() in _TO_CONVERT and not start.endswith(b"}")):
        raise UserError(
            f"{path} does not hold one JSON object a line; make a manifest of it: latentbridge data convert {path}"
        )


def _finite(number: str) -> float:
    if abs(value := float(number)) == float("inf"):
        raise ValueError
    return value


def _depth(text: str) -> int:
    """Return the levels of brackets outside of strings."""
    level = deepest = 0
    for token in _BRACKETS.findall(text):
        if token in "[{":
            level += 1
            deepest = max(deepest, level)
        elif token in "]}":
            level -= 1
    return deepest


def _texts(value: Any) -> Iterator[str]:
    """Yield all texts in a JSON value, names of fields included."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for name, entry in value.items():
            yield name
            yield from _texts(entry)
    elif isinstance(value, list):
        for entry in value:
            yield from _texts(entry)
