"""Atomic writes of files and folders, JSON files and checksums."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import Any

from safetensors import SafetensorError

from latentbridge.errors import StorageError, UserError


@contextmanager
def atomic_write(path: Path, *, replace: bool = True) -> Iterator[Path]:
    """A temporary path in the same folder that becomes `path` when the block ends well and vanishes when it does not.

    Without `replace` what has that name by then stays as it is, and of several writers at once the first one's counts.
    """
    path = Path(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with NamedTemporaryFile(dir=path.parent, prefix=f".{path.name}.", suffix=path.suffix, delete=False) as file:
            temporary = Path(file.name)
    except OSError as error:
        raise StorageError(
            f"Cannot write to {path.parent} ({error.strerror}); choose a folder you may write to."
        ) from error
    try:
        yield temporary
        _sync(temporary)
        os.chmod(temporary, 0o644)
        if replace:
            os.replace(temporary, path)
        else:
            with suppress(FileExistsError):
                os.link(temporary, path)
        _sync(path.parent)
    except (OSError, SafetensorError) as error:
        reason = getattr(error, "strerror", None) or error
        raise StorageError(f"Cannot write {path} ({reason}); free some space or choose another folder.") from error
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def atomic_folder(path: Path) -> Iterator[Path]:
    """An empty folder beside `path` that takes its place when the block ends well and vanishes when it does not.

    All of it is on the disk before it has its name, so that even a power cut leaves the old folder, none, or the whole new
    one. What a killed writer left behind is cleared away; one process at a time may write a folder.
    """
    staging = staging_path(path)
    try:
        shutil.rmtree(staging, ignore_errors=True)
        staging.mkdir(parents=True)
    except OSError as error:
        raise StorageError(
            f"Cannot write to {path.parent} ({error.strerror}); choose a folder you may write to."
        ) from error
    try:
        yield staging
        for written in (*staging.rglob("*"), staging):
            _sync(written)
        if path.exists():
            shutil.rmtree(path)
        os.replace(staging, path)
        _sync(path.parent)
    except (OSError, SafetensorError) as error:
        reason = getattr(error, "strerror", None) or error
        raise StorageError(f"Cannot write {path} ({reason}); free some space or choose another folder.") from error
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def staging_path(path: Path) -> Path:
    """Where a folder stands while it is written."""
    return path.with_name(f".{path.name}.unfinished")


def _sync(path: Path) -> None:
    """Wait until a file's content or a folder's list of names is on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_json(path: Path, values: Any) -> None:
    """`values` as indented JSON, written atomically."""
    with atomic_write(path) as temporary:
        temporary.write_text(json.dumps(values, indent=2) + "\n")


def read_json(path: Path) -> Any:
    """The JSON in a file; raises UserError where it is damaged."""
    try:
        return json.loads(path.read_text())
    except ValueError as error:
        raise UserError(f"{path} is damaged ({error}); restore it or write it again.") from error


def file_digest(path: Path) -> str:
    """The sha256 of a file's bytes, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
