"""Atomic writes of files and folders, JSON files and checksums."""

from __future__ import annotations

import hashlib
import json
import os
import secrets
import shutil
import unicodedata
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from latentbridge.errors import StorageError, UserError

NO_SPACE = "free some space or choose another folder"


@contextmanager
def atomic_write(path: Path, *, replace: bool = True) -> Iterator[Path]:
    """Yield a temporary path that becomes `path` if the block succeeds and is deleted if it fails.

    The permissions are those of the user's umask. Without `replace` an existing file is kept, so the first of several concurrent writers wins.
    Raises StorageError if the file cannot be written.
    """
    path = Path(path)
    with storage_errors(f"to {path.parent}", "choose a folder you may write to"):
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}{path.suffix}")
        os.close(os.open(temporary, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666))
    try:
        with storage_errors(path):
            yield temporary
            _fsync(temporary)
            if replace:
                os.replace(temporary, path)
            else:
                with suppress(FileExistsError):
                    os.link(temporary, path)
            _fsync(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def atomic_folder(path: Path) -> Iterator[Path]:
    """Yield an empty folder that replaces `path` if the block succeeds and is deleted if it fails.

    Everything is flushed to disk before the rename, so a crash leaves the old folder, none, or the complete new one.
    Deletes what a killed writer left; only one process at a time may write a folder.
    Raises StorageError if the folder cannot be written.
    """
    staging = staging_path(path)
    with storage_errors(f"to {path.parent}", "choose a folder you may write to"):
        shutil.rmtree(staging, ignore_errors=True)
        staging.mkdir(parents=True)
    try:
        with storage_errors(path):
            yield staging
            for written in (*staging.rglob("*"), staging):
                _fsync(written)
            if path.exists():
                shutil.rmtree(path)
            os.replace(staging, path)
            _fsync(path.parent)
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def staging_path(path: Path) -> Path:
    """Return the path at which `atomic_folder` writes a folder."""
    return path.with_name(f".{path.name}.unfinished")


def write_json(path: Path, values: Any) -> None:
    """Write `values` atomically as indented JSON."""
    with atomic_write(path) as temporary:
        temporary.write_text(json.dumps(values, indent=2) + "\n")


def read_json(path: Path) -> Any:
    """Load a JSON file; raises UserError if it is damaged."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path} is damaged ({error}); restore it or write it again.") from error


def file_digest(path: Path) -> str:
    """Return the SHA-256 of a file as hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def find_path(path: Path) -> Path:
    """Return the path or, if only such a one exists, its spelling with composed or decomposed accents (NFC, NFD).

    macOS and archives from it spell names in NFD, keyboards in NFC; other systems tell the two apart.
    """
    if str(path).isascii() or os.path.lexists(path):
        return path
    found = Path(path.anchor)
    for part in path.relative_to(path.anchor).parts:
        spellings = (part, *(unicodedata.normalize(form, part) for form in ("NFC", "NFD")))
        existing = [spelling for spelling in spellings if os.path.lexists(found / spelling)]
        if not existing:
            return path
        found /= existing[0]
    return found


def _fsync(path: Path) -> None:
    if os.name == "nt" and path.is_dir():  # Windows cannot flush folders
        return
    descriptor = os.open(path, os.O_RDWR if os.name == "nt" else os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def storage_errors(target: Path | str, fix: str = NO_SPACE) -> Iterator[None]:
    """Raise errors of the disk as a StorageError that names what could not be written."""
    try:
        yield
    except (OSError, SafetensorError) as error:
        reason = getattr(error, "strerror", None) or error
        raise StorageError(f"Cannot write {target} ({reason}); {fix}.") from error
