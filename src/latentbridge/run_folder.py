"""The folder of one run: its config, environment, metrics, checkpoints and model."""

from __future__ import annotations

import json
import os
import platform
import re
import shlex
import sys
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

_INSTRUCTION_SETS = ("avx2", "avx512f", "avx512_bf16", "amx_bf16")
_PACKAGES = ("torch", "transformers", "diffusers", "peft", "numpy")


def describe_environment() -> dict[str, Any]:
    """Where and how this process runs: command, time, machine, versions."""
    return {
        "command": shlex.join(sys.argv),
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": f"{platform.system()} {platform.machine()}, {processor()}",
        "instructions": instruction_sets(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "python": platform.python_version(),
        "packages": {name: version(name) for name in _PACKAGES},
    }


def processor() -> str:
    """Return the processor's model, or its architecture where the system does not say."""
    cpus = Path("/proc/cpuinfo")
    names = re.findall(r"^model name\s*: (.+)$", cpus.read_text(), re.MULTILINE) if cpus.exists() else []
    return names[0] if names else platform.processor()


def instruction_sets() -> list[str]:
    """Return those of the processor's instruction sets that decide how fast it multiplies, as /proc/cpuinfo names them."""
    cpus = Path("/proc/cpuinfo")
    found = re.findall(r"^flags\s*: (.+)$", cpus.read_text(), re.MULTILINE) if cpus.exists() else []
    return [name for name in _INSTRUCTION_SETS if found and name in found[0].split()]


class RunFolder:
    """The folder of one run: `config.json`, `environment.json`, `metrics.jsonl`, `checkpoints/step_*/`, the finished
    `model/`; where asked for, `samples/` and `report.html`; and of a run that was stopped, why (`stopped.json`)."""

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

    @property
    def environment(self) -> Path:
        """Where and how the run computes: machine, versions, threads, precision."""
        return self.path / "environment.json"

    @property
    def report(self) -> Path:
        """The page about the run."""
        return self.path / "report.html"

    @property
    def size(self) -> Path:
        """Where the loop says how many parameters moved (`moving`), and the most memory it held (`peak_mib`)."""
        return self.path / "size.json"

    @property
    def stopped(self) -> Path:
        """Where the loop says at which step, and why, it would not go on."""
        return self.path / "stopped.json"

    @property
    def tracker_state(self) -> Path:
        """Where trackers keep how far they have been told."""
        return self.path / "tracked.json"

    def sample(self, step: int) -> Path:
        """The picture of what the model draws after `step` steps."""
        return self.path / "samples" / f"step_{step:06d}.png"

    @property
    def prompts(self) -> Path:
        """What those pictures were drawn from, a list."""
        return self.path / "samples" / "prompts.json"

    def samples(self) -> dict[int, Path]:
        """All such pictures, by step."""
        return {int(path.stem.removeprefix("step_")): path for path in sorted(self.path.glob("samples/step_*.png"))}

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
