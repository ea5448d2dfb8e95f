"""Manifests of a user's own data: one JSON object per line, checked before training.

    {"image": "cat.png", "texts": ["a cat on a mat"], "question": "What is it?", "answer": "a cat", "split": "train"}
    {"image": "a.png", "edit": {"instruction": "remove the hat", "target": "c.png", "description": "a dog on a mat"}}
    {"image": "b.png", "question": "How many legs?", "answer": "8", "chain": "### Image Description: ...",
     "key_steps": [["2 dogs", "two dogs"], ["8 legs", "2 x 4"]]}

A chain has the format of `data/reasoning.py`; a key step is a list of alternative phrases. Paths are relative to the
manifest's folder; `split` is `train` by default. An edit without a `description` takes the first text of a line whose
`image` is its target.

A line with a fault is left out, with a sentence, and the others are used; a picture in two splits is refused, since the
test scores would be of training data.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from difflib import get_close_matches
from functools import lru_cache
from pathlib import Path, PureWindowsPath
from typing import Any

from latentbridge import prompts
from latentbridge.data.own.json_lines import is_storable, parse_object, read_lines
from latentbridge.data.reasoning import read_chain
from latentbridge.data.shapes.language import final_answer
from latentbridge.errors import UserError
from latentbridge.files import find_path
from latentbridge.images import picture_digest

SPLITS = ("train", "val", "test")
FIELDS = ("image", "texts", "question", "answer", "chain", "key_steps", "edit", "split")
_OTHER_NAMES = {
    "image": ("file_name", "filename", "file", "path", "img", "image_path", "image_file", "picture", "images"),
    "texts": ("caption", "captions", "text", "alt", "alt_text", "prompt", "label", "labels", "title"),
    "question": ("query", "q", "problem"),
    "answer": ("response", "a", "answers", "reply", "multiple_choice_answer"),
    "split": ("subset", "set", "fold"),
}
"""Names that other formats give to `FIELDS`."""
_CONVERTED_FIELDS = ("conversations", "messages", "annotations", "questions", "images", "file_names")
"""Fields of formats that `latentbridge data convert` reads."""
_MAX_CHARACTERS = {
    **dict.fromkeys(("texts", "question", "instruction", "description"), prompts.MAX_CHARACTERS),
    **dict.fromkeys(("answer", "chain"), 4 * prompts.MAX_CHARACTERS),
}
_MAX_QUOTED_FAULTS = 3
_CACHED_DIGESTS = 1 << 20


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
    place: str = field(default="", compare=False, repr=False)
    """The shard and key of a sample from a shard."""


def load_manifest(path: Path) -> list[Record]:
    """Return the records of the lines without faults, with a Python warning about the others.

    Raise UserError that quotes the first faults if no line is left, or if a picture is in two splits.
    """
    reader = _load(path)
    if reader.faults:
        warnings.warn(describe_faults(path, reader.faults), stacklevel=2)
    return _with_descriptions(reader.records)


def left_out_lines(path: Path) -> list[str]:
    """Return a sentence per fault of the lines that `load_manifest` leaves out; raise UserError where it does."""
    return _load(path).faults


def _load(path: Path) -> _Reader:
    reader = _read(Path(path))
    if reader.conflicts or not reader.records:
        raise UserError(describe_faults(path, reader.conflicts or reader.faults))
    return reader


def describe_faults(path: Path, faults: list[str]) -> str:
    """Return a sentence that counts faults and quotes the first."""
    quoted = "; ".join(faults[:_MAX_QUOTED_FAULTS])
    more = len(faults) - _MAX_QUOTED_FAULTS
    return f"{path} has {len(faults)} fault(s): {quoted}{f'; and {more} more' if more > 0 else ''}"


def outline_manifest(path: Path) -> list[Record]:
    """Return the records of the lines with valid fields, without opening a picture."""
    return _with_descriptions(_read(Path(path), open_pictures=False).records)


def is_manifest(name: str) -> bool:
    """Return whether a source is a manifest rather than shards."""
    return name.endswith(".jsonl") or Path(name).is_file()


def check_manifest(path: Path) -> list[str]:
    """Return a sentence per fault, with its line number."""
    reader = _read(Path(path))
    return sorted(reader.faults + reader.conflicts, key=lambda fault: int(fault.split(":")[0].split()[1]))


def _read(path: Path, open_pictures: bool = True) -> _Reader:
    """Return a reader with the records of the valid lines, and the faults of the others."""
    reader = _Reader(path.parent, open_pictures)
    for number, line in read_lines(path):
        reader.read_line(number, line)
    if not (reader.records or reader.faults or reader.conflicts):
        reader.faults.append("line 1: the manifest is empty; write one JSON object a line")
    return reader


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
        """A sentence per fault of a line that is left out."""
        self.conflicts: list[str] = []
        """A sentence per picture in two splits."""
        self._line_of_record: dict[Record, int] = {}
        self._split_of_picture: dict[str, tuple[str, int]] = {}

    def read_line(self, number: int, line: bytes) -> None:
        """Add a record or its faults."""
        num_faults = len(self.faults)

        def fault(message: str) -> None:
            self.faults.append(f"line {number}: {message}")

        try:
            entry = without_nulls(parse_object(line))
        except ValueError as error:
            return fault(str(error))
        check_fields(entry, fault)
        if len(self.faults) > num_faults:
            return
        edit = entry.get("edit") or {}
        pictures = [find_path(self.folder / name) for name in (entry["image"], edit.get("target")) if name]
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
                name = path.relative_to(self.folder)
                fault(f"there is no picture {name} in the manifest's folder{backslash_hint(str(name))}")
                continue
            try:
                status = path.stat()
                digest = _file_digest(path, status.st_size, status.st_mtime_ns)
            except UserError as error:
                fault(f"{path.name} {str(error).removeprefix(f'{path} ').removesuffix('.')}")
                continue
            first_split, first = self._split_of_picture.setdefault(digest, (split, number))
            if first_split != split:
                self.conflicts.append(
                    f"line {number}: {path.name} is the picture of line {first}, which is in split {first_split!r}; "
                    "use one split"
                )


@lru_cache(_CACHED_DIGESTS)
def _file_digest(path: Path, size_bytes: int, modified_ns: int) -> str:
    """Return the digest of a picture, decoded once for a check and the training after it."""
    return picture_digest(path)


def without_nulls(entry: dict[str, Any]) -> dict[str, Any]:
    """Return an entry without the fields that are null, as tables write fields that are not there."""
    kept = {name: value for name, value in entry.items() if value is not None}
    return {name: without_nulls(value) if isinstance(value, dict) else value for name, value in kept.items()}


def backslash_hint(name: str) -> str:
    """Return the end of a sentence about a missing file whose path is written as on Windows, or an empty text."""
    return f"; write it with slashes, {name.replace(chr(92), '/')}" if "\\" in name else ""


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
    for name in sorted(entry.keys() - set(FIELDS)):
        fault(f"unknown field {name!r}; {_field_suggestion(name)}")
    if not _is_text(entry.get("image")):
        fault("`image` must be the path of a picture")
    elif not is_inside(entry["image"]):
        fault("`image` must be a path inside the manifest's folder, such as sub/cat.png")
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
    _check_lengths(entry, fault)
    if entry.get("split", "train") not in SPLITS:
        fault(f"unknown split {entry['split']!r}; {_suggestion(str(entry['split']), SPLITS)}")
    if not (texts or "question" in entry or edit):
        fault("the picture has no text; give `texts`, `question` and `answer`, or `edit`")


def _check_lengths(entry: dict[str, Any], fault: Callable[[str], None]) -> None:
    """Pass to `fault` a sentence for a text that is too long: the memory of a step grows with its square."""
    edit = entry.get("edit")
    fields = entry | (edit if isinstance(edit, dict) else {})
    for name, limit in _MAX_CHARACTERS.items():
        texts = fields.get(name)
        texts = texts if isinstance(texts, list) else [texts]
        longest = max((len(text) for text in texts if isinstance(text, str)), default=0)
        if longest > limit:
            fault(f"`{name}` has a text of {longest:,} characters; shorten it to {limit:,}")


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


def other_name_hint(entry: dict[str, Any]) -> str:
    """Return the end of a sentence about a line without `image` that calls it otherwise, or an empty text."""
    name = next((name for name in entry if name.lower() in _OTHER_NAMES["image"]), None)
    return f"; call its {name!r} so, or make a manifest with: latentbridge data convert" if name else ""


def is_inside(path: str) -> bool:
    """Return whether a path stays inside the folder that it is relative to, on every system."""
    native, windows = Path(path), PureWindowsPath(path)
    return not (native.is_absolute() or native.drive or windows.is_absolute() or ".." in windows.parts)


def _field_suggestion(name: str) -> str:
    if name in _CONVERTED_FIELDS:
        return "it is another format's; make a manifest of it: latentbridge data convert"
    known = [ours for ours, others in _OTHER_NAMES.items() if name.lower() in others]
    return f"did you mean {known[0]!r}?" if known else _suggestion(name, FIELDS)


def _suggestion(name: str, options: tuple[str, ...]) -> str:
    close = get_close_matches(name, options, n=1)
    return f"did you mean {close[0]!r}?" if close else f"choose {', '.join(options)}"


def _is_text(value: object) -> bool:
    return isinstance(value, str) and bool(value.strip()) and is_storable(value)
