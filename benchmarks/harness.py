"""What the benchmarks share: ways that are timed in turns, numbers with intervals held against aims, and results kept as JSON."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from datetime import date
from pathlib import Path
from typing import Any, Literal, NamedTuple, NoReturn

import numpy as np
import torch
from torch.utils.flop_counter import FlopCounterMode

from latentbridge.evaluation.statistics import bootstrap_interval, wilson_interval
from latentbridge.files import read_json, write_json
from latentbridge.run_folder import instruction_sets, processor

SMOKE = "--smoke" in sys.argv
"""Whether to run at toy sizes, to see that the script works; nothing is kept then."""
ARGUMENTS = [word for word in sys.argv[1:] if word != "--smoke"]


class Target(NamedTuple):
    """One aim and what was measured, with its 95 % interval."""

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
    """How many times longer `slow` took than `fast`, round by round."""
    return held(name, [a / b for a, b in zip(slow, fast, strict=True)], least=least, most=most)


def held(name: str, values: Sequence[float], *, least: float | None = None, most: float | None = None) -> Target:
    """The mean of what the rounds gave, held against what it should be at `least` or at `most`."""
    return _target(name, float(np.mean(values)), bootstrap_interval(values), least, most)


def share(name: str, right: Collection[bool], *, least: float | None = None) -> Target:
    """How many of many items are right, with Wilson's interval."""
    return _target(name, sum(right) / len(right), wilson_interval(sum(right), len(right)), least, None)


def _target(
    name: str, measured: float, interval: tuple[float, float], least: float | None, most: float | None
) -> Target:
    met = (least is None or measured >= least) and (most is None or measured <= most)
    bounds = (("at least", least), ("at most", most))
    aim = " and ".join(f"{words} {bound}" for words, bound in bounds if bound is not None)
    return Target(name, aim or "none", round(measured, 4), round(interval[0], 4), round(interval[1], 4), met)


def flops(way: Callable[[], object]) -> int:
    """Of the products that a way computes, there and back, as torch counts them."""
    with FlopCounterMode(display=False) as counter:
        counter.mod_tracker.__exit__()  # to which module a product belongs is not asked; without gradients asking may fail
        way()
    return counter.get_total_flops()


def not_here(reason: str) -> NoReturn:
    """End without an error where this machine lacks what is measured; what is stored stays."""
    print(f"Not run: {reason}")
    sys.exit()


def one_thread() -> None:
    """One thread unless OMP_NUM_THREADS says otherwise: on more, threads that wait would count as work."""
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))


def memory(kind: Literal["VmRSS", "VmHWM"]) -> float:
    """MiB that this process holds now, or has held at most; unlike ru_maxrss, not what the process that started it held."""
    return next(int(line.split()[1]) / 1024 for line in Path("/proc/self/status").open() if line.startswith(kind))


def printed_number(script: str, *arguments: str) -> float:
    """The number that a Python process of its own prints; peak memory, for one, is a process' own."""
    told = subprocess.run([sys.executable, script, *arguments], check=True, capture_output=True, text=True)
    return float(told.stdout)


def keep(script: str, targets: Sequence[Target], details: Mapping[str, Any]) -> None:
    """Print the results and what has changed, and write them beside the script, unless this is a smoke test."""
    results = {"targets": [target._asdict() for target in targets], "details": dict(details), "machine": machine()}
    print(json.dumps(results, indent=2))
    if SMOKE:
        return
    stored = Path(script).with_suffix(".json")
    if stored.exists():
        before = [Target(**target) for target in read_json(stored)["targets"]]
        print("\n".join(changes(before, targets)) or "As stored: every interval meets the one before.")
    write_json(stored, results)


def changes(before: Sequence[Target], now: Sequence[Target]) -> list[str]:
    """The targets whose interval lies apart from the stored one's, in words."""
    known = {target.name: target for target in before}
    apart = [
        (known[each.name], each)
        for each in now
        if each.name in known and (each.low > known[each.name].high or each.high < known[each.name].low)
    ]
    return [
        f"Changed: {is_.name} was {was.measured} ({was.low} to {was.high}) and is {is_.measured} ({is_.low} to {is_.high})."
        for was, is_ in apart
    ]


def machine() -> dict[str, Any]:
    """What the numbers were measured on, and how busy it was."""
    return {
        "date": date.today().isoformat(),
        "processor": processor(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "instructions": instruction_sets(),
        "torch": torch.__version__,
        "processes per core": round(os.getloadavg()[0] / (os.cpu_count() or 1), 1),
    }
