"""What a run leaves behind: resolved config, metrics, checkpoints; every file whole or absent."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import Any

from safetensors import SafetensorError

from latentbridge.errors import StorageError, UserError


@contextmanager
def atomic_write(path: Path) -> Iterator[Path]:
    """A temporary path in the same folder that becomes `path` when the block ends well and vanishes when it does not."""
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
        os.replace(temporary, path)
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
    staging = unfinished(path)
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


def unfinished(path: Path) -> Path:
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


class RunDir:
    """The folder of one run: `config.json`, `metrics.jsonl`, `checkpoints/step_*/`, and the finished `model/`."""

    def __init__(self, path: str | Path):
        self.path = Path(path)

    @property
    def model(self) -> Path:
        """The folder the finished model is saved to."""
        return self.path / "model"

    @property
    def adapter(self) -> Path:
        """The folder of the adapter that a run with `lora_rank` trains; `model` has it merged."""
        return self.path / "adapter"

    def log(self, record: dict[str, Any]) -> None:
        """Append one line to `metrics.jsonl`."""
        self.path.mkdir(parents=True, exist_ok=True)
        with open(self.path / "metrics.jsonl", "a+b") as file:
            if file.seek(0, os.SEEK_END):
                file.seek(-1, os.SEEK_END)
                if file.read(1) != b"\n":  # a line torn by a kill; end it, so that it spoils only itself
                    file.write(b"\n")
            file.write(json.dumps(record).encode() + b"\n")

    def metrics(self) -> list[dict[str, Any]]:
        """All whole lines of `metrics.jsonl`; where a step was logged twice (before and after a resume) the later counts."""
        path = self.path / "metrics.jsonl"
        lines = path.read_text().splitlines() if path.exists() else []
        records = [json.loads(line) for line in lines if line.endswith("}")]
        return list({record["step"]: record for record in records}.values())

    def checkpoint(self, step: int) -> Path:
        """The folder of the checkpoint taken after `step` steps."""
        return self.path / "checkpoints" / f"step_{step:07d}"

    def checkpoints(self) -> list[Path]:
        """The folders of finished checkpoints, newest first; each has its `state.json`."""
        return sorted((path.parent for path in self.path.glob("checkpoints/step_*/state.json")), reverse=True)

    def newest_checkpoint(self) -> Path | None:
        """The latest finished checkpoint."""
        return next(iter(self.checkpoints()), None)
