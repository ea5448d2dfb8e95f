"""Reading of benchmark files: JSON, JSON lines, TSV, CSV, Parquet and text, with a digest of all that was read."""

from __future__ import annotations

import base64
import csv
import json
import sys
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np

from latentbridge.errors import UserError
from latentbridge.files import file_digest

PICTURE_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif")
_FEWEST_BASE64_CHARACTERS = 64
"""A shorter text in a picture column names the row whose picture it repeats (VLMEvalKit)."""


class DataFolder:
    """A folder of a benchmark's files. Pictures are not part of its digest; they are part of each item's."""

    def __init__(self, path: Path) -> None:
        if not path.is_dir():
            raise UserError(f"There is no folder {path}; give the folder of the benchmark's files with --data.")
        self.path = path
        self._digests: dict[str, str] = {}
        self._pictures: dict[str, Path] = {}

    @property
    def digest(self) -> str:
        """SHA-256 over names and contents of the files read so far."""
        lines = "".join(f"{name} {digest}\n" for name, digest in sorted(self._digests.items()))
        return sha256(lines.encode()).hexdigest()

    def find(self, *patterns: str) -> list[Path]:
        """Return the files that match the first pattern that any matches, sorted; raise UserError if there are none."""
        for pattern in patterns:
            if paths := sorted(path for path in self.path.rglob(pattern) if path.is_file()):
                return paths
        raise UserError(f"{self.path} holds no {' or '.join(patterns)}; `latentbridge bench --list` names the files.")

    def has(self, pattern: str) -> bool:
        """Return whether a file matches."""
        return any(path.is_file() for path in self.path.rglob(pattern))

    def text(self, path: Path) -> str:
        """Return a text file."""
        try:
            return self._record(path).read_text(encoding="utf-8-sig")
        except UnicodeDecodeError as error:
            raise UserError(f"{path} is not UTF-8 text; download it again.") from error

    def json(self, path: Path) -> Any:
        """Return a JSON document."""
        try:
            return json.loads(self.text(path))
        except ValueError as error:
            raise UserError(f"{path} is no JSON ({error}); download it again.") from error

    def array(self, path: Path) -> np.ndarray:
        """Return an .npy file."""
        return np.load(self._record(path), allow_pickle=False)

    def rows(self, path: Path) -> Iterator[dict[str, Any]]:
        """Yield the rows of a .parquet, .tsv, .csv, .jsonl or .json file; JSON may also hold one object a line."""
        if path.suffix == ".parquet":
            yield from self._parquet_rows(path)
        elif path.suffix in (".tsv", ".csv"):
            csv.field_size_limit(sys.maxsize)
            with self._record(path).open(encoding="utf-8-sig", newline="") as file:
                yield from csv.DictReader(file, delimiter="\t" if path.suffix == ".tsv" else ",")
        else:
            yield from self._json_rows(path)

    def picture(self, name: str) -> Path:
        """Return the path of a picture by its relative path or, in any folder, by its name; it may be missing."""
        if (self.path / name).is_file():
            return self.path / name
        if not self._pictures:
            paths = sorted(self.path.rglob("*"), reverse=True)
            self._pictures = {path.name: path for path in paths if path.suffix.lower() in PICTURE_SUFFIXES}
        return self._pictures.get(Path(name).name, self.path / name)

    def stored_picture(self, value: Any) -> bytes | Path | None:
        """Return the picture of a Parquet cell, {"bytes", "path"}; None for an empty cell."""
        if isinstance(value, dict):
            return value.get("bytes") or (self.picture(value["path"]) if value.get("path") else None)
        if isinstance(value, (list, tuple)):
            return self.stored_picture(value[0]) if value else None
        return self.picture(value) if isinstance(value, str) and value else value or None

    def _json_rows(self, path: Path) -> Iterator[dict[str, Any]]:
        text = self.text(path)
        try:
            document = json.loads(text)
        except ValueError:
            for number, line in enumerate(text.split("\n"), start=1):
                if line.strip():
                    yield _json_line(path, number, line)
            return
        yield from document if isinstance(document, list) else [document]

    def _parquet_rows(self, path: Path) -> Iterator[dict[str, Any]]:
        try:
            from pyarrow import ArrowException
            from pyarrow.parquet import ParquetFile
        except ImportError as error:
            raise UserError("Parquet files need pyarrow; install latentbridge[shards].") from error
        try:
            for batch in ParquetFile(self._record(path)).iter_batches(batch_size=64):
                yield from batch.to_pylist()
        except ArrowException as error:
            raise UserError(f"{path} is no Parquet file ({error}); download it again.") from error

    def _record(self, path: Path) -> Path:
        if not path.is_file():
            raise UserError(f"There is no file {path}; download the benchmark again.")
        self._digests.setdefault(str(path.relative_to(self.path)), file_digest(path))
        return path


def base64_pictures(rows: list[dict[str, Any]], column: str = "image") -> list[bytes]:
    """Return the pictures of rows in VLMEvalKit's TSV format; a row may name the index of the row whose picture it has."""
    by_index = {str(row["index"]): row.get(column) or "" for row in rows}
    pictures: list[bytes] = []
    for row in rows:
        text = row.get(column) or ""
        text = by_index.get(text, text) if len(text) <= _FEWEST_BASE64_CHARACTERS else text
        try:
            pictures.append(base64.b64decode(text, validate=True))
        except ValueError:
            pictures.append(b"")
    return pictures


def _json_line(path: Path, number: int, line: str) -> dict[str, Any]:
    try:
        return json.loads(line)
    except ValueError as error:
        raise UserError(f"Line {number} of {path} is no JSON ({error}); download the file again.") from error
