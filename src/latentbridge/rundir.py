"""What a run leaves behind: resolved config, metrics, checkpoints; every file whole or absent."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import Any

from safetensors import SafetensorError

from latentbridge.errors import UserError


@contextmanager
def atomic_write(path: Path) -> Iterator[Path]:
    """A temporary path in the same folder that becomes `path` when the block ends well and vanishes when it does not."""
    path = Path(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with NamedTemporaryFile(dir=path.parent, prefix=f".{path.name}.", suffix=path.suffix, delete=False) as file:
            temporary = Path(file.name)
    except OSError as error:
        raise UserError(
            f"Cannot write to {path.parent} ({error.strerror}); choose a folder you may write to."
        ) from error
    try:
        yield temporary
        with open(temporary, "rb") as file:
            os.fsync(file.fileno())
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    except (OSError, SafetensorError) as error:
        reason = getattr(error, "strerror", None) or error
        raise UserError(f"Cannot write {path} ({reason}); free some space or choose another folder.") from error
    finally:
        temporary.unlink(missing_ok=True)


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

    def newest_checkpoint(self) -> Path | None:
        """The latest whole checkpoint; a folder counts once its `state.json`, written last, is there."""
        whole = sorted(path.parent for path in self.path.glob("checkpoints/step_*/state.json"))
        return whole[-1] if whole else None
