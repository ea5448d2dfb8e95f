"""What the benchmarks share: ways that are timed in turns, ratios with their intervals, and results kept as JSON."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import date
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from latentbridge.evaluation.statistics import bootstrap_interval
from latentbridge.rundir import write_json

SMOKE = "--smoke" in sys.argv
"""Whether to run at toy sizes, to see that the script works; nothing is kept then."""
_INSTRUCTIONS = ("avx2", "avx512f", "avx512_bf16", "amx_bf16", "amx_tile")


class Target(NamedTuple):
    """One aim and what was measured: a ratio, with the 95 % interval of its mean over the rounds."""

    name: str
    aim: str
    """In words, such as "at least 5"."""
    measured: float
    low: float
    high: float
    met: bool


def in_turns(ways: Mapping[str, Callable[[], object]], rounds: int) -> dict[str, list[float]]:
    """CPU seconds of this process for each way, one after another round by round, after a round that does not count."""
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for turn in range(rounds + 1):
        for name, way in ways.items():
            began = time.process_time()
            way()
            if turn:
                seconds[name].append(time.process_time() - began)
    return seconds


def compare(
    name: str, slow: Sequence[float], fast: Sequence[float], *, least: float | None = None, most: float | None = None
) -> Target:
    """How many times longer `slow` took than `fast`, held against what it should be at `least` or at `most`."""
    ratios = [a / b for a, b in zip(slow, fast, strict=True)]
    low, high = bootstrap_interval(ratios)
    measured = float(np.mean(ratios))
    met = (least is None or measured >= least) and (most is None or measured <= most)
    aim = " and ".join(
        words for words in (f"at least {least}" if least else "", f"at most {most}" if most else "") if words
    )
    return Target(name, aim or "none", round(measured, 3), round(low, 3), round(high, 3), met)


def one_thread() -> None:
    """One thread unless OMP_NUM_THREADS says otherwise: on more, threads that wait would count as work."""
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))


def printed_number(script: str, *arguments: str) -> float:
    """The number that a Python process of its own prints; peak memory, for one, is a process' own."""
    told = subprocess.run([sys.executable, script, *arguments], check=True, capture_output=True, text=True)
    return float(told.stdout)


def keep(script: str, targets: Sequence[Target], details: Mapping[str, Any]) -> None:
    """Print the results, and write them beside the script unless this is a smoke test."""
    results = {"targets": [target._asdict() for target in targets], "details": dict(details), "machine": machine()}
    print(json.dumps(results, indent=2))
    if not SMOKE:
        write_json(Path(script).with_suffix(".json"), results)


def machine() -> dict[str, Any]:
    """What the numbers were measured on, and how busy it was."""
    found = Path("/proc/cpuinfo")
    flags = found.read_text().split() if found.exists() else []
    return {
        "date": date.today().isoformat(),
        "processor": platform.machine(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "instructions": [name for name in _INSTRUCTIONS if name in flags],
        "torch": torch.__version__,
        "processes per core": round(os.getloadavg()[0] / (os.cpu_count() or 1), 1),
    }
