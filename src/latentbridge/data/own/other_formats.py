"""Readers of formats in which people have pictures with texts: each sample becomes the fields of a manifest's line.

LLaVA and ShareGPT conversations, Hugging Face's `metadata.jsonl` and `metadata.csv`, COCO captions, VQA questions with
annotations, tables, JSON with fields of other names, and folders with captions beside the pictures.
"""

from __future__ import annotations

import csv
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

from latentbridge.data.folder_walk import FolderWalk, read_sidecars
from latentbridge.data.own.json_lines import read_document
from latentbridge.data.own.manifest import without_nulls
from latentbridge.errors import UserError

_PICTURE_NAMES = (
    "image", "file_name", "filename", "image_path", "image_file", "image_name", "img", "img_path", "picture", "path",
    "file", "images", "image_id",
)  # fmt: skip
_TEXT_NAMES = (
    "texts", "text", "caption", "captions", "description", "alt_text", "alt", "prompt", "sentences", "comment", "title",
)  # fmt: skip
_QUESTION_NAMES = ("question", "query")
_ANSWER_NAMES = ("answer", "multiple_choice_answer", "answers", "response")
_PLAIN_NAMES = ("raw", "caption", "text", "answer", "sentence", "value")
"""Names of the text in objects that stand for one."""
_CHAT_NAMES = ("conversations", "conversation", "messages")
_USERS, _ASSISTANTS = ("human", "user"), ("gpt", "assistant", "model", "chatgpt", "bing", "bard")
_SPLITS = {"train": "train", "training": "train", "val": "val", "valid": "val", "validation": "val", "dev": "val"}
_SPLITS |= {"test": "test", "testing": "test"}
_QWEN_PICTURE = re.compile(r"(?:Picture \d+:\s*)?<img>(.*?)</img>")
_PLACEHOLDERS = re.compile(r"<image>|<ImageHere>|<\|image\|>|<\|image_1\|>|<image_placeholder>|<img>")
_METADATA_FILES = ("metadata.jsonl", "metadata.csv")

FaultHandler = Callable[[str], None]


@dataclass
class Sample:
    """A sample of another format."""

    place: str
    """Where it stands, for messages."""
    pictures: list[Any]
    """Paths, or ids (int) of pictures."""
    fields: dict[str, Any]
    """Fields of a manifest's line, without `image`."""
    folder: Path | None = None
    """The folder that paths are relative to, if the format says so."""


def read_samples(sources: list[Path], fault: FaultHandler) -> Iterator[Sample]:
    """Yield the samples of files that belong together, or of a folder; `fault` gets a sentence per unusable record."""
    documents: dict[str, list[Any]] = defaultdict(list)
    place = ", ".join(map(str, sources))
    for source in sources:
        if source.is_dir():
            yield from _folder_samples(source, fault)
            continue
        if not source.is_file():
            raise UserError(
                f"There is no {source}; give a file of another format, or a folder of pictures with captions."
            )
        document = _read_table(source) if source.suffix.lower() in (".csv", ".tsv") else read_document(source, fault)
        if isinstance(document, list):
            yield from _record_samples(str(source), document, None, fault)
            continue
        for name, value in document.items():
            documents[name] += value if isinstance(value, list) else []
    if documents:
        yield from _joined_samples(place, documents, fault)


def split_of(name: Any) -> str | None:
    """Return our name of a split, if it is one."""
    return _SPLITS.get(str(name).lower())


def _joined_samples(place: str, documents: dict[str, list[Any]], fault: FaultHandler) -> Iterator[Sample]:
    """Yield the samples of documents whose lists refer to each other: COCO captions, VQA, or a list in `data`."""
    if records := documents.get("data") or documents.get("train"):
        yield from _record_samples(place, records, None, fault)
        return
    annotations = [each for each in documents.get("annotations", []) if isinstance(each, dict)]
    if questions := documents.get("questions"):
        answers = {each.get("question_id"): each for each in annotations}
        joined = [{**answers.get(each.get("question_id"), {}), **each} for each in questions if isinstance(each, dict)]
        if not annotations and not any(_first(each, _ANSWER_NAMES) for each in joined):
            raise UserError(f"{place} has questions without answers; give the file of annotations too, after it.")
        yield from _record_samples(place, joined, None, fault)
    elif any("caption" in each for each in annotations):
        names = {
            each.get("id"): each.get("file_name") for each in documents.get("images", []) if isinstance(each, dict)
        }
        texts: dict[Any, list[str]] = defaultdict(list)
        for each in annotations:
            texts[each.get("image_id")] += _texts_of(each.get("caption"))
        for number, captions in texts.items():
            yield Sample(f"{place}, image {number}", [names.get(number) or number], {"texts": captions})
    elif any("question_id" in each for each in annotations):
        raise UserError(f"{place} has answers without questions; give the file of questions too, before it.")
    else:
        raise UserError(
            f"{place} is of no format known here (it has {', '.join(documents)}); known are conversations (LLaVA, "
            "ShareGPT), metadata.jsonl, COCO captions, and questions with answers (VQA)."
        )


def _record_samples(place: str, records: list[Any], folder: Path | None, fault: FaultHandler) -> Iterator[Sample]:
    for number, record in enumerate(records, start=1):
        where = f"{place}, record {number}"
        if not isinstance(record, dict):
            fault(f"{where} is no JSON object")
            continue
        record = without_nulls(record)
        is_chat = any(isinstance(record.get(name), list) for name in _CHAT_NAMES)
        try:
            lines = _chat_lines(record) if is_chat else [_plain_line(record)]
        except ValueError as error:
            fault(f"{where} {error}")
            continue
        for pictures, fields in lines:
            if split := split_of(record.get("split")):
                fields["split"] = split
            yield Sample(where, pictures, fields, folder)


def _plain_line(record: dict[str, Any]) -> tuple[list[Any], dict[str, Any]]:
    """Return the pictures and fields of a record without a conversation."""
    fields: dict[str, Any] = {name: record[name] for name in ("chain", "key_steps", "edit") if name in record}
    if texts := _texts_of(_first(record, _TEXT_NAMES)):
        fields["texts"] = texts
    if (question := _texts_of(_first(record, _QUESTION_NAMES))) and (answers := _answers_of(record)):
        fields |= {"question": question[0], "answer": Counter(answers).most_common(1)[0][0]}
    if not fields:
        raise ValueError(f"has no text, and no question with an answer (it has {', '.join(record)})")
    return _pictures_of(_first(record, _PICTURE_NAMES)), fields


def _chat_lines(record: dict[str, Any]) -> list[tuple[list[Any], dict[str, Any]]]:
    """Return a line per pair of a user's and an assistant's turn; raise ValueError if there is none."""
    turns = next(record[name] for name in _CHAT_NAMES if isinstance(record.get(name), list))
    pictures = _pictures_of(record.get("image", record.get("images")))
    asked: list[str] = []
    pairs: list[tuple[str, str]] = []
    for turn in turns:
        if not isinstance(turn, dict):
            raise ValueError("has a turn that is no JSON object")
        role = str(turn.get("from", turn.get("role", ""))).lower()
        text, inside = _turn_content(turn.get("value", turn.get("content", "")))
        pictures += [picture for picture in inside if picture not in pictures]
        if role in _USERS:
            asked.append(text)
        elif role in _ASSISTANTS and text:
            pairs.append(("\n".join(filter(None, asked)), text))
            asked = []
    if record.get("video") or record.get("videos"):
        raise ValueError("is about a video")
    if not pairs:
        raise ValueError("has no answer of an assistant")
    lines = [
        {"question": question, "answer": answer} if question else {"texts": [answer]} for question, answer in pairs
    ]
    return [(list(pictures), line) for line in lines]


def _turn_content(content: Any) -> tuple[str, list[Any]]:
    """Return the text of a turn without placeholders of pictures, and the pictures that it names."""
    parts = content if isinstance(content, list) else [{"type": "text", "text": content}]
    texts: list[str] = []
    pictures: list[Any] = []
    for part in filter(lambda part: isinstance(part, dict), parts):
        if isinstance(text := part.get("text"), str):
            pictures += _QWEN_PICTURE.findall(text)
            texts.append(_PLACEHOLDERS.sub("", _QWEN_PICTURE.sub("", text)).strip())
        pictures += _pictures_of(part.get("image", part.get("image_url")))
    return "\n".join(filter(None, texts)), pictures


def _pictures_of(value: Any) -> list[Any]:
    """Return paths or ids of pictures: of one, of a list, or of objects that hold a path or url."""
    if isinstance(value, list):
        return list(chain.from_iterable(map(_pictures_of, value)))
    if isinstance(value, dict):
        return _pictures_of(_first(value, ("path", "file_name", "url", "image")))
    return [value] if isinstance(value, (str, int)) and value != "" else []


def _texts_of(value: Any) -> list[str]:
    """Return the texts of one, of a list, or of objects that hold one."""
    if isinstance(value, list):
        return list(dict.fromkeys(chain.from_iterable(map(_texts_of, value))))
    if isinstance(value, dict):
        return _texts_of(_first(value, _PLAIN_NAMES))
    return [value.strip()] if isinstance(value, str) and value.strip() else []


def _answers_of(record: dict[str, Any]) -> list[str]:
    """Return the answers of a record with repeats, numbers and truth values as words."""
    value = _first(record, _ANSWER_NAMES)
    entries = value if isinstance(value, list) else [value]
    plain = [_first(each, _PLAIN_NAMES) if isinstance(each, dict) else each for each in entries]
    words = [("yes" if each else "no") if isinstance(each, bool) else each for each in plain]
    return [str(each).strip() for each in words if isinstance(each, (str, int, float)) and str(each).strip()]


def _first(record: dict[str, Any], names: tuple[str, ...]) -> Any:
    """Return the first field of these names that is there and not empty."""
    return next((record[name] for name in names if record.get(name) not in (None, "", [], {})), None)


def _folder_samples(folder: Path, fault: FaultHandler) -> Iterator[Sample]:
    """Yield the samples of a folder: of its metadata files, or of the captions beside its pictures."""
    places = [folder, *(path for path in sorted(folder.iterdir()) if path.is_dir() and split_of(path.name))]
    tables = [place / name for place in places for name in _METADATA_FILES if (place / name).is_file()]
    for table in tables:
        records = _read_table(table) if table.suffix == ".csv" else read_document(table, fault)
        for sample in _record_samples(str(table), records if isinstance(records, list) else [], table.parent, fault):
            if split := split_of(table.parent.name) if table.parent != folder else None:
                sample.fields.setdefault("split", split)
            yield sample
    if tables:
        return
    for found in FolderWalk(folder).pictures(fault):
        if found.sidecars:
            try:
                metadata = read_sidecars(found)
                _, fields = _plain_line(metadata)
            except ValueError as error:
                fault(f"{found.path} {error}")
                continue
            yield Sample(str(found.path), [str(found.path.relative_to(folder))], fields, folder)
        else:
            fault(f"{found.path} has no caption; write one to {found.path.with_suffix('.txt').name} beside it")


def _read_table(path: Path) -> list[dict[str, Any]]:
    """Return the rows of a CSV or TSV file by the names in its first line."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError:
        raise UserError(f"{path} is not UTF-8 text; save it as UTF-8.") from None
    head = text.partition("\n")[0]
    delimiter = next((sign for sign in "\t|;," if sign in head), ",")
    rows = csv.DictReader(text.splitlines(keepends=True), delimiter=delimiter, skipinitialspace=True)
    try:
        return [{name.strip(): value for name, value in row.items() if name and value} for row in rows]
    except csv.Error as error:
        raise UserError(f"{path} is not a table that can be read ({error}); save it again as CSV.") from None
