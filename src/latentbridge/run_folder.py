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

from latentbridge.files import storage_errors

_INSTRUCTION_SETS = ("avx2", "avx512f", "avx512_bf16", "amx_bf16")
_PACKAGES = ("torch", "transformers", "diffusers", "peft", "numpy")


def describe_environment() -> dict[str, Any]:
    """Return the command, time, machine and package versions of this process."""
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
    """Return the processor's model name, or its architecture if the system has no /proc/cpuinfo."""
    return _cpuinfo("model name") or platform.processor()


def instruction_sets() -> list[str]:
    """Return the instruction sets of the processor that matter for matrix products, as named in /proc/cpuinfo."""
    flags = _cpuinfo("flags").split()
    return [name for name in _INSTRUCTION_SETS if name in flags]


def _cpuinfo(field: str) -> str:
    path = Path("/proc/cpuinfo")
    values = re.findall(rf"^{field}\s*: (.+)$", path.read_text(), re.MULTILINE) if path.exists() else []
    return values[0] if values else ""


class RunFolder:
    """The folder of one run.

    It holds `config.json`, `environment.json`, `metrics.jsonl`, `checkpoints/step_*/`, the finished `model/`; optionally
    `samples/` and `report.html`; and `stopped.json` if the run diverged.
    """

    def __init__(self, path: str | Path):
        self.path = path = Path(path)
        self.model = path / "model"
        """The folder of the finished model."""
        self.adapter = path / "adapter"
        """The folder of the LoRA adapter of a run with `lora_rank`; `model` has it merged."""
        self.environment = path / "environment.json"
        """Machine, versions, threads and precision."""
        self.report = path / "report.html"
        self.size = path / "size.json"
        """The number of trained parameters (`moving`) and the peak memory in MiB (`peak_mib`)."""
        self.stopped = path / "stopped.json"
        """The `step` and `reason` of a run that diverged."""
        self.tracker_state = path / "tracked.json"
        """The run id and last logged step of each tracker."""
        self.prompts = path / "samples" / "prompts.json"
        """The list of prompts of the samples."""

    def sample(self, step: int) -> Path:
        """Return the path of the images sampled after `step` steps."""
        return self.path / "samples" / f"step_{step:06d}.png"

    def samples(self) -> dict[int, Path]:
        """Return the paths of all samples by step."""
        return {int(path.stem.removeprefix("step_")): path for path in sorted(self.path.glob("samples/step_*.png"))}

    def log(self, record: dict[str, Any]) -> None:
        """Append a record to `metrics.jsonl`."""
        self.path.mkdir(parents=True, exist_ok=True)
        path = self.path / "metrics.jsonl"
        with storage_errors(path), path.open("a+b") as file:
            if file.seek(0, os.SEEK_END):
                file.seek(-1, os.SEEK_END)
                if file.read(1) != b"\n":  # end a line that a killed process left incomplete
                    file.write(b"\n")
            file.write(json.dumps(record).encode() + b"\n")

    def metrics(self) -> list[dict[str, Any]]:
        """Return all complete records of `metrics.jsonl`; of a step logged again after a resume, the last record."""
        path = self.path / "metrics.jsonl"
        lines = path.read_text().splitlines() if path.exists() else []
        records = [json.loads(line) for line in lines if line.endswith("}")]
        return list({record["step"]: record for record in records}.values())

    def checkpoint(self, step: int) -> Path:
        """Return the path of the checkpoint after `step` steps."""
        return self.path / "checkpoints" / f"step_{step:07d}"

    def checkpoints(self) -> list[Path]:
        """Return the folders of complete checkpoints, which have a `state.json`, newest first."""
        return sorted((path.parent for path in self.path.glob("checkpoints/step_*/state.json")), reverse=True)

    def newest_checkpoint(self) -> Path | None:
        """Return the newest complete checkpoint, if any."""
        return next(iter(self.checkpoints()), None)
