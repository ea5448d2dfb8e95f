"""A user's own data: one JSON object a line, checked before anything trains on it.

    {"image": "cat.png", "texts": ["a cat on a mat"], "question": "What is it?", "answer": "a cat", "split": "train"}
    {"image": "a.png", "edit": {"instruction": "remove the hat", "target": "c.png", "description": "a dog on a mat"}}
    {"image": "b.png", "question": "How many legs?", "answer": "8", "chain": "### Image Description: ...",
     "key_steps": [["2 dogs", "two dogs"], ["8 legs", "2 x 4"]]}

A chain has the form of `data/reasoning.py`; of a key step any of its phrases will do. Paths are relative to the manifest's folder; `split` is `train` unless given.
An edit without a `description` takes the first text of a line whose `image` is its target.
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
_SHOWN_FAULTS = 3


@dataclass(frozen=True)
class Record:
    """One checked line: a picture with any of texts, a question and an edit."""

    image: Path | bytes
    """Where the picture is, or the file itself where it came out of a shard."""
    texts: tuple[str, ...] = ()
    question: str | None = None
    answer: str | None = None
    instruction: str | None = None
    target: Path | bytes | None = None
    """The picture the instruction leads to."""
    description: str | None = None
    """A text that is true of the target."""
    split: str = "train"
    chain: str = ""
    """The answer worked out, in the form of `data/reasoning.py`."""
    key_steps: tuple[tuple[str, ...], ...] = ()
    """What must be found on the way, each by any of some phrases."""


def load_manifest(path: Path) -> list[Record]:
    """The records of a faultless manifest; a `UserError` quotes the first faults of any other."""
    records, faults = _read(Path(path))
    if faults:
        shown = "; ".join(faults[:_SHOWN_FAULTS])
        more = len(faults) - _SHOWN_FAULTS
        raise UserError(f"{path} has {len(faults)} fault(s): {shown}{f'; and {more} more' if more > 0 else ''}")
    return records


def outline_manifest(path: Path) -> list[Record]:
    """Return the records of the lines whose fields are sound, without opening a picture."""
    return _read(Path(path), open_pictures=False)[0]


def is_manifest(name: str) -> bool:
    """Return whether a source is a manifest rather than shards."""
    return name.endswith(".jsonl") or Path(name).is_file()


def check_manifest(path: Path) -> list[str]:
    """One clear line per fault, with its line number; empty when the manifest can be used."""
    return _read(Path(path))[1]


def _read(path: Path, open_pictures: bool = True) -> tuple[list[Record], list[str]]:
    """Records of the sound lines, and the faults of the others."""
    if not path.is_file():
        raise UserError(f"There is no manifest at {path}; give the path of a JSON-lines file.")
    lines = path.read_bytes().split(b"\n")
    reader = _Reader(path.parent, open_pictures)
    for number, line in enumerate(lines, start=1):
        if line.strip():
            reader.read_line(number, line)
    if not any(line.strip() for line in lines):
        reader.faults.append("line 1: the manifest is empty; write one JSON object a line")
    return _described(reader.records), reader.faults


def _described(records: list[Record]) -> list[Record]:
    """Return the records, edits without a description given the first text of a record whose image is their target."""
    texts = {record.image: record.texts[0] for record in reversed(records) if record.texts}
    return [
        replace(record, description=texts[record.target])
        if record.target and not record.description and record.target in texts
        else record
        for record in records
    ]


class _Reader:
    """What has been seen so far, so that repeats and leaks can name the earlier line."""

    def __init__(self, folder: Path, open_pictures: bool) -> None:
        self.folder, self.open_pictures = folder, open_pictures
        self.records: list[Record] = []
        self.faults: list[str] = []
        self._line_of_record: dict[Record, int] = {}
        self._side_of_picture: dict[str, tuple[str, int]] = {}
        self._digests: dict[Path, str] = {}

    def read_line(self, number: int, line: bytes) -> None:
        """Adds one record, or the faults that keep it out."""
        before = len(self.faults)

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
        if len(self.faults) > before:
            return
        pictures = [self.folder / name for name in (entry["image"], (entry.get("edit") or {}).get("target")) if name]
        record = record_of(entry, *pictures)
        if self.open_pictures:
            self._check_pictures(number, pictures, record.split, fault)
        if record in self._line_of_record:
            fault(f"this repeats line {self._line_of_record[record]}; remove one of them")
        self._line_of_record.setdefault(record, number)
        if len(self.faults) == before:
            self.records.append(record)

    def _check_pictures(self, number: int, paths: list[Path], side: str, fault: Callable[[str], None]) -> None:
        for path in paths:
            if not path.is_file():
                fault(
                    f"there is no picture {path.relative_to(self.folder)}; paths are relative to the manifest's folder"
                )
                continue
            try:
                digest = self._digests.get(path) or picture_digest(path)
            except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
                fault(f"{path.name} cannot be read as a picture ({error}); save it again as PNG or JPEG")
                continue
            self._digests[path] = digest
            split, first = self._side_of_picture.setdefault(digest, (side, number))
            if split != side:
                fault(f"{path.name} shows what line {first} shows, which is in split {split!r}; keep both in one split")


def picture_digest(image: Path | bytes) -> str:
    """A hash of what a picture shows: size and RGB pixels, whatever the file format."""
    with Image.open(BytesIO(image) if isinstance(image, bytes) else image) as picture:
        pixels = picture.convert("RGB")
    return sha256(repr(pixels.size).encode() + pixels.tobytes()).hexdigest()


def record_of(entry: dict[str, Any], image: Path | bytes, target: Path | bytes | None = None) -> Record:
    """A faultless entry with its pictures."""
    return Record(
        image=image,
        texts=tuple(entry.get("texts", ())),
        question=entry.get("question"),
        answer=entry.get("answer"),
        chain=entry.get("chain", ""),
        key_steps=tuple(tuple(forms) for forms in entry.get("key_steps", ())),
        instruction=(entry.get("edit") or {}).get("instruction"),
        target=target,
        description=(entry.get("edit") or {}).get("description"),
        split=entry.get("split", "train"),
    )


def check_fields(entry: dict[str, Any], fault: Callable[[str], None]) -> None:
    """Tells `fault` what is wrong with an entry, all but its pictures."""
    for name in entry.keys() - set(FIELDS):
        close = get_close_matches(name, FIELDS, n=1)
        fault(
            f"unknown field {name!r}; " + (f"did you mean {close[0]!r}?" if close else f"known are {', '.join(FIELDS)}")
        )
    if not _is_text(entry.get("image")):
        fault("`image` must be the path of a picture")
    elif Path(entry["image"]).is_absolute() or ".." in Path(entry["image"]).parts:
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
            '`edit` must be {"instruction": text, "target": path of the edited picture}, '
            'and may have "description": what the target shows'
        )
    elif edit and (Path(edit["target"]).is_absolute() or ".." in Path(edit["target"]).parts):
        fault("the `target` of `edit` must be a path inside the manifest's folder")
    if entry.get("split", "train") not in SPLITS:
        close = get_close_matches(str(entry["split"]), SPLITS, n=1)
        fault(
            f"unknown split {entry['split']!r}; "
            + (f"did you mean {close[0]!r}?" if close else f"choose {', '.join(SPLITS)}")
        )
    if not (texts or "question" in entry or edit):
        fault("nothing is said about the picture; give `texts`, `question` and `answer`, or `edit`")


def _check_reasoning(entry: dict[str, Any], fault: Callable[[str], None]) -> None:
    for name in ("chain", "key_steps"):
        if name in entry and not (_is_text(entry.get("question")) and _is_text(entry.get("answer"))):
            return fault(f"`{name}` needs `question` and `answer` beside it")
    steps = entry.get("key_steps", [])
    if not isinstance(steps, list) or not all(
        isinstance(forms, list) and forms and all(map(_is_text, forms)) for forms in steps
    ):
        fault('`key_steps` must be a list of lists of phrases, like [["2 dogs", "two dogs"], ["8 legs"]]')
    if "chain" not in entry:
        return
    chain = read_chain(entry["chain"]) if _is_text(entry["chain"]) else None
    if chain is None:
        fault(
            "`chain` must have the lines ### Image Description:, ### Rationales:, ### Let's think step by step., "
            "### Step 1: and so on, and ### The final answer is:"
        )
    elif final_answer(chain.answer) != final_answer(entry["answer"]):
        fault(f"`chain` ends with {chain.answer!r}, and `answer` is {entry['answer']!r}; make them the same")


def _is_text(value: object) -> bool:
    return isinstance(value, str) and bool(value.strip())
