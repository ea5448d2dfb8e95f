"""Manifests of a user's own data: one JSON object per line, checked before training.

    {"image": "cat.png", "texts": ["a cat on a mat"], "question": "What is it?", "answer": "a cat", "split": "train"}
    {"image": "a.png", "edit": {"instruction": "remove the hat", "target": "c.png", "description": "a dog on a mat"}}
    {"image": "b.png", "question": "How many legs?", "answer": "8", "chain": "### Image Description: ...",
     "key_steps": [["2 dogs", "two dogs"], ["8 legs", "2 x 4"]]}

A chain has the format of `data/reasoning.py`; a key step is a list of alternative phrases. Paths are relative to the
manifest's folder; `split` is `train` by default. An edit without a `description` takes the first text of a line whose
`image` is its target.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from difflib import get_close_matches
from hashlib import sha256
from io import BytesIO
from pathlib import Path
from typing import Any

from PIL import Image

from latentbridge.data.reasoning import read_chain
from latentbridge.data.shapes.language import final_answer
from latentbridge.errors import UserError

SPLITS = ("train", "val", "test")
FIELDS = ("image", "texts", "question", "answer", "chain", "key_steps", "edit", "split")
_MAX_QUOTED_FAULTS = 3


@dataclass(frozen=True)
class Record:
    """A checked line: a picture with texts, a question or an edit."""

    image: Path | bytes
    """The path of the picture, or the file's bytes from a shard."""
    texts: tuple[str, ...] = ()
    question: str | None = None
    answer: str | None = None
    instruction: str | None = None
    target: Path | bytes | None = None
    """The picture after the edit."""
    description: str | None = None
    """A text of the target."""
    split: str = "train"
    chain: str = ""
    """The reasoning chain, in the format of `data/reasoning.py`."""
    key_steps: tuple[tuple[str, ...], ...] = ()
    """Intermediate results, each with alternative phrases."""


def load_manifest(path: Path) -> list[Record]:
    """Return the records of a manifest; raise UserError that quotes the first faults if there are any."""
    records, faults = _read(Path(path))
    if faults:
        quoted = "; ".join(faults[:_MAX_QUOTED_FAULTS])
        more = len(faults) - _MAX_QUOTED_FAULTS
        raise UserError(f"{path} has {len(faults)} fault(s): {quoted}{f'; and {more} more' if more > 0 else ''}")
    return records


def outline_manifest(path: Path) -> list[Record]:
    """Return the records of the lines with valid fields, without opening a picture."""
    return _read(Path(path), open_pictures=False)[0]


def is_manifest(name: str) -> bool:
    """Return whether a source is a manifest rather than shards."""
    return name.endswith(".jsonl") or Path(name).is_file()


def check_manifest(path: Path) -> list[str]:
    """Return a sentence per fault, with its line number."""
    return _read(Path(path))[1]


def _read(path: Path, open_pictures: bool = True) -> tuple[list[Record], list[str]]:
    """Return the records of the valid lines, and the faults of the others."""
    if not path.is_file():
        raise UserError(f"There is no manifest at {path}; give the path of a JSON-lines file.")
    lines = path.read_bytes().split(b"\n")
    reader = _Reader(path.parent, open_pictures)
    for number, line in enumerate(lines, start=1):
        if line.strip():
            reader.read_line(number, line)
    if not any(line.strip() for line in lines):
        reader.faults.append("line 1: the manifest is empty; write one JSON object a line")
    return _with_descriptions(reader.records), reader.faults


def _with_descriptions(records: list[Record]) -> list[Record]:
    """Return the records with a missing description taken from the first text of the target's record."""
    texts = {record.image: record.texts[0] for record in reversed(records) if record.texts}
    return [
        replace(record, description=texts[record.target])
        if record.target and not record.description and record.target in texts
        else record
        for record in records
    ]


class _Reader:
    """A reader that remembers earlier lines, to find duplicates and pictures in two splits."""

    def __init__(self, folder: Path, open_pictures: bool) -> None:
        self.folder, self.open_pictures = folder, open_pictures
        self.records: list[Record] = []
        self.faults: list[str] = []
        self._line_of_record: dict[Record, int] = {}
        self._split_of_picture: dict[str, tuple[str, int]] = {}
        self._digests: dict[Path, str] = {}

    def read_line(self, number: int, line: bytes) -> None:
        """Add a record or its faults."""
        num_faults = len(self.faults)

        def fault(message: str) -> None:
            self.faults.append(f"line {number}: {message}")

        try:
            entry = json.loads(line.decode())
        except UnicodeDecodeError:
            return fault("this is not UTF-8 text; save it as UTF-8")
        except json.JSONDecodeError as error:
            return fault(f"this is not JSON ({error.msg} at column {error.colno})")
        if not isinstance(entry, dict):
            return fault('a line holds one JSON object, like {"image": "cat.png", "texts": ["a cat"]}')
        check_fields(entry, fault)
        if len(self.faults) > num_faults:
            return
        pictures = [self.folder / name for name in (entry["image"], (entry.get("edit") or {}).get("target")) if name]
        record = record_of(entry, *pictures)
        if self.open_pictures:
            self._check_pictures(number, pictures, record.split, fault)
        if record in self._line_of_record:
            fault(f"this repeats line {self._line_of_record[record]}; remove one of them")
        self._line_of_record.setdefault(record, number)
        if len(self.faults) == num_faults:
            self.records.append(record)

    def _check_pictures(self, number: int, paths: list[Path], split: str, fault: Callable[[str], None]) -> None:
        for path in paths:
            if not path.is_file():
                fault(f"there is no picture {path.relative_to(self.folder)} in the manifest's folder")
                continue
            try:
                digest = self._digests.get(path) or picture_digest(path)
            except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
                fault(f"{path.name} cannot be read as a picture ({error}); save it again as PNG or JPEG")
                continue
            self._digests[path] = digest
            first_split, first = self._split_of_picture.setdefault(digest, (split, number))
            if first_split != split:
                fault(f"{path.name} is the picture of line {first}, which is in split {first_split!r}; use one split")


def picture_digest(image: Path | bytes) -> str:
    """Return a hash of a picture's size and RGB pixels, which does not depend on the file format."""
    with Image.open(BytesIO(image) if isinstance(image, bytes) else image) as picture:
        pixels = picture.convert("RGB")
    return sha256(repr(pixels.size).encode() + pixels.tobytes()).hexdigest()


def record_of(entry: dict[str, Any], image: Path | bytes, target: Path | bytes | None = None) -> Record:
    """Return the record of a valid entry and its pictures."""
    edit = entry.get("edit") or {}
    return Record(
        image=image,
        texts=tuple(entry.get("texts", ())),
        question=entry.get("question"),
        answer=entry.get("answer"),
        chain=entry.get("chain", ""),
        key_steps=tuple(map(tuple, entry.get("key_steps", ()))),
        instruction=edit.get("instruction"),
        target=target,
        description=edit.get("description"),
        split=entry.get("split", "train"),
    )


def check_fields(entry: dict[str, Any], fault: Callable[[str], None]) -> None:
    """Pass to `fault` a sentence for each invalid field of an entry; pictures are not opened."""
    for name in entry.keys() - set(FIELDS):
        fault(f"unknown field {name!r}; {_suggestion(name, FIELDS)}")
    if not _is_text(entry.get("image")):
        fault("`image` must be the path of a picture")
    elif not is_inside(entry["image"]):
        fault("`image` must be a path inside the manifest's folder")
    texts = entry.get("texts", [])
    if not isinstance(texts, list) or not all(_is_text(text) for text in texts):
        fault("`texts` must be a list of non-empty strings")
    for name, partner in (("question", "answer"), ("answer", "question")):
        if name in entry and not _is_text(entry[name]):
            fault(f"`{name}` must be a non-empty string")
        elif name in entry and partner not in entry:
            fault(f"`{name}` needs `{partner}` beside it")
    _check_reasoning(entry, fault)
    edit = entry.get("edit")
    if "edit" in entry and not (
        isinstance(edit, dict)
        and {"instruction", "target"} <= edit.keys() <= {"instruction", "target", "description"}
        and all(map(_is_text, edit.values()))
    ):
        fault(
            '`edit` must be {"instruction": text, "target": path of the edited picture, "description": its text (optional)}'
        )
    elif edit and not is_inside(edit["target"]):
        fault("the `target` of `edit` must be a path inside the manifest's folder")
    if entry.get("split", "train") not in SPLITS:
        fault(f"unknown split {entry['split']!r}; {_suggestion(str(entry['split']), SPLITS)}")
    if not (texts or "question" in entry or edit):
        fault("the picture has no text; give `texts`, `question` and `answer`, or `edit`")


def _check_reasoning(entry: dict[str, Any], fault: Callable[[str], None]) -> None:
    for name in ("chain", "key_steps"):
        if name in entry and not (_is_text(entry.get("question")) and _is_text(entry.get("answer"))):
            return fault(f"`{name}` needs `question` and `answer` beside it")
    steps = entry.get("key_steps", [])
    if not isinstance(steps, list) or not all(
        isinstance(phrases, list) and phrases and all(map(_is_text, phrases)) for phrases in steps
    ):
        fault('`key_steps` must be a list of lists of phrases, like [["2 dogs", "two dogs"], ["8 legs"]]')
    if "chain" not in entry:
        return
    chain = read_chain(entry["chain"]) if _is_text(entry["chain"]) else None
    if chain is None:
        fault(
            "`chain` needs the lines ### Image Description:, ### Rationales:, ### Let's think step by step., ### Step 1: "
            "and so on, ### The final answer is:"
        )
    elif final_answer(chain.answer) != final_answer(entry["answer"]):
        fault(f"`chain` ends with {chain.answer!r}, and `answer` is {entry['answer']!r}; make them the same")


def is_inside(path: str) -> bool:
    """Return whether a path stays inside the folder that it is relative to."""
    return not Path(path).is_absolute() and ".." not in Path(path).parts


def _suggestion(name: str, options: tuple[str, ...]) -> str:
    close = get_close_matches(name, options, n=1)
    return f"did you mean {close[0]!r}?" if close else f"choose {', '.join(options)}"


def _is_text(value: object) -> bool:
    return isinstance(value, str) and bool(value.strip())
