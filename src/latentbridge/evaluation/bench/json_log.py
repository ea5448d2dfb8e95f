"""An append-only file of JSON lines that a killed process leaves readable."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from latentbridge.errors import StorageError


class JsonLog:
    """Records by key, one JSON object per line; `append` returns when they are on the disk.

    Only one process at a time may append. A last line that a killed writer left incomplete is removed on opening.
    """

    def __init__(self, path: Path, key: str) -> None:
        self.path, self.key = path, key
        self.records: dict[str, dict[str, Any]] = {}
        self._open()

    def __contains__(self, value: str) -> bool:
        return value in self.records

    def __len__(self) -> int:
        return len(self.records)

    def __iter__(self) -> Iterator[dict[str, Any]]:
        return iter(self.records.values())

    def append(self, records: Iterable[dict[str, Any]]) -> None:
        """Add records whose keys are new, in one write; others are left as they are."""
        new = {record[self.key]: record for record in records if record[self.key] not in self.records}
        if not new:
            return
        lines = "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in new.values())
        try:
            with self.path.open("ab") as file:
                file.write(lines.encode())
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            raise StorageError(f"Cannot write {self.path} ({error.strerror}); free some space or move it.") from error
        self.records |= new

    def clear(self) -> None:
        """Delete all records."""
        self.path.unlink(missing_ok=True)
        self.records = {}

    def _open(self) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        if not self.path.exists():
            return
        content, valid = self.path.read_bytes(), 0
        for line in content.splitlines(keepends=True):
            try:
                record = json.loads(line)
            except ValueError:
                break
            if not line.endswith(b"\n"):
                break
            valid += len(line)
            self.records.setdefault(record[self.key], record)
        if valid < len(content):
            with self.path.open("r+b") as file:
                file.truncate(valid)
                os.fsync(file.fileno())
