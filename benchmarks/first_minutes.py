"""The first five minutes: how long commands take from shell to answer, how threads and precision fare, and the quickstart's clock.

Commands are held against `python -c "import torch"` by the CPU seconds of the whole process; the server by the clock, until
`/readyz` answers. Drawing, embedding and a training step are timed by the clock in processes of their own: on one thread, on
the threads that the command line takes, and on two that spin as torch's do by itself; first on cores as they are, then, but for
the last, beside four processes that compute. A step of `post-sft` is taken with Muon as this processor does it best, with torch's own Muon (in
bfloat16) and with AdamW alone. `ONEDNN_MAX_CPU_ISA=AVX2` hides bfloat16 units where there are some. The quickstart is run
only when asked for, with everything fetched beforehand.

An answer takes 2.4 times `import torch` and not the 1.6 aimed at: with all that inference never runs left out, importing
Qwen2-VL's classes alone takes 2.0. An estimate builds the real networks without weights and needs all that they import.
A step of `post-sft` takes 1.5 times that with AdamW (aim 1.3): Muon's float32 products alone are .8 s. The stored ratios to
threads that spin are of threads that slept at once; now they spin for 30 microseconds, or 300 on idle cores, before they sleep
(docs/LOG.md, 2026-12-01).
Run: python benchmarks/first_minutes.py [--quickstart]
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from harness import ARGUMENTS, SMOKE, Target, compare, held, keep
from PIL import Image

from latentbridge.data.shapes.render import render
from latentbridge.data.shapes.scenes import distinct_scenes
from latentbridge.processes import idle_cores
from latentbridge.rng import numpy_rng

ROUNDS, BUSY = (1, 1) if SMOKE else (2, 4)
LATENTBRIDGE = str(Path(sys.executable).with_name("latentbridge"))
SPINNING = {"OMP_WAIT_POLICY": "ACTIVE", "OMP_NUM_THREADS": "2"}
_TIMED = """
import json, sys, tempfile, time
from pathlib import Path
import latentbridge as lb
from latentbridge.data.shapes.render import render
from latentbridge.data.shapes.scenes import distinct_scenes
from latentbridge.rng import numpy_rng

def drawing():
    model = lb.load("tiny")
    return lambda: model.generate(["a red circle", "three green squares", "a cross", "a star"], 7, steps=6)

def embedding():
    model, pictures = lb.load("tiny"), [render(s) for s in distinct_scenes("test", numpy_rng(1, "benchmark"), 16)]
    return lambda: model.embed(images=pictures)

def step(optimizer):
    from dataclasses import replace
    from latentbridge.devices import has_fast_bfloat16
    from latentbridge.models.backbones.loading import starting_network
    from latentbridge.models.checkpoint import TINY
    from latentbridge.recipes import POST_SFT
    from latentbridge.run_folder import RunFolder
    from latentbridge.training import learner
    from latentbridge.training.stages import make_stage
    config = replace(POST_SFT, stage=replace(POST_SFT.stage, sources=(("shapes", 1.0),), items=64))
    if optimizer == "adamw":
        config = replace(config, optim=replace(config.optim, muon_lr=0.0))
    if optimizer == "torch":
        learner.has_fast_bfloat16 = lambda device: True
    stage, model = make_stage(config), starting_network(config.model, 0, [("", TINY)])
    learns = learner.Learner(model, stage, config, RunFolder(Path(tempfile.mkdtemp())), None)
    batches = iter([stage.batch(model, number) for number in range(8)])
    return lambda: learns.train_step(next(batches), logged=False)

work = {"drawing": drawing, "embedding": embedding, "step": lambda: step("best"), "step, AdamW": lambda: step("adamw"),
        "step, torch's Muon": lambda: step("torch")}[sys.argv[1]]()
work()
clock, cpu = [], []
for _ in range(int(sys.argv[2])):
    began = time.perf_counter(), time.process_time()
    work()
    clock.append(time.perf_counter() - began[0])
    cpu.append(time.process_time() - began[1])
print(json.dumps([clock, cpu]))
"""


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        targets, details = time_commands(Path(folder))
    for beside, most in ((0, None), (BUSY, 1.3)):
        with busy(beside):
            found, more = time_threads(beside, most)
        targets, details = targets + found, details | more
    found, more = time_precision()
    targets, details = targets + found, details | more
    if "--quickstart" in ARGUMENTS:
        for beside, most in ((0, 3.0), (BUSY, 6.0)):
            with busy(beside):
                targets.append(held(f"minutes of the quickstart beside {beside} others", [quickstart()], most=most))
    hidden = os.environ.get("ONEDNN_MAX_CPU_ISA", "nothing")
    keep(__file__, targets, {**details, "ONEDNN_MAX_CPU_ISA": hidden})


def time_commands(folder: Path) -> tuple[list[Target], dict[str, object]]:
    """CPU seconds of whole commands against those of importing torch, in turns; of the server, seconds of the clock."""
    picture, drawing = folder / "scene.png", str(folder / "out.png")
    Image.fromarray(render(distinct_scenes("test", numpy_rng(3, "benchmark"), 1)[0])).save(picture)
    python, quiet = sys.executable, {"OMP_NUM_THREADS": "1"}
    ways: dict[str, tuple[float, Callable[[], float]]] = {
        "import latentbridge": (0.05, lambda: cpu_seconds([python, "-c", "import latentbridge"], quiet)),
        "understand": (1.6, lambda: cpu_seconds([LATENTBRIDGE, "understand", str(picture)], quiet)),
        "generate": (2.2, lambda: cpu_seconds([LATENTBRIDGE, "generate", "a red circle", "--out", drawing], quiet)),
        "estimate": (1.5, lambda: cpu_seconds([LATENTBRIDGE, "estimate", "bagel-7b-latentumm", "--ranks", "8"], quiet)),
    }
    taken: dict[str, list[float]] = {name: [] for name in ("torch", "nothing", "torch, clock", "server", *ways)}
    for _ in range(ROUNDS):
        taken["nothing"].append(cpu_seconds([python, "-c", ""], quiet))
        began = time.perf_counter()
        taken["torch"].append(cpu_seconds([python, "-c", "import torch"], quiet))
        taken["torch, clock"].append(time.perf_counter() - began)
        for name, (_, way) in ways.items():
            taken[name].append(way())
        taken["server"].append(server_seconds())
    targets = [
        compare(f"{name} / import torch", taken[name], taken["torch"], most=most) for name, (most, _) in ways.items()
    ]
    own = [a - b for a, b in zip(taken["import latentbridge"], taken["nothing"], strict=True)]
    targets[0] = held("CPU seconds of import latentbridge", own, most=0.05)
    targets.append(compare("server ready / import torch, clock", taken["server"], taken["torch, clock"], most=2.5))
    return targets, {"seconds": {name: round(min(values), 2) for name, values in taken.items()}}


def time_threads(beside: int, most: float | None) -> tuple[list[Target], dict[str, object]]:
    """Drawing, embedding and a training step by the clock, on the threads taken by default against one thread."""
    targets, details = [], {}
    for work in ("drawing", "embedding", "step"):
        taken = {
            "one": timed(work, {"OMP_NUM_THREADS": "1"})[0],
            "default": timed(work, {"OMP_NUM_THREADS": str(idle_cores())})[0],
        }
        targets.append(
            compare(f"{work} beside {beside}: default / one thread", taken["default"], taken["one"], most=most)
        )
        if not beside:
            taken["spinning"] = timed(work, SPINNING)[0]
            targets.append(compare(f"{work}: default / two that spin", taken["default"], taken["spinning"], most=1.03))
        details[f"{work} beside {beside}, clock s"] = {name: round(min(values), 2) for name, values in taken.items()}
    return targets, details


def time_precision() -> tuple[list[Target], dict[str, object]]:
    """A step of `post-sft` by CPU seconds, with each optimiser."""
    taken = {name: timed(name, {"OMP_NUM_THREADS": "1"})[1] for name in ("step", "step, AdamW", "step, torch's Muon")}
    targets = [
        compare("step of post-sft / with AdamW", taken["step"], taken["step, AdamW"], most=1.3),
        compare("step of post-sft with torch's Muon / as here", taken["step, torch's Muon"], taken["step"]),
    ]
    return targets, {"step of post-sft, CPU s": {name: round(min(values), 2) for name, values in taken.items()}}


def timed(work: str, environment: dict[str, str]) -> tuple[list[float], list[float]]:
    """Seconds of the clock and of the processor for a piece of work, `ROUNDS` times in one process."""
    command = [sys.executable, "-c", _TIMED, work, str(ROUNDS)]
    told = subprocess.run(command, env={**os.environ, **environment}, check=True, capture_output=True, text=True)
    clock, cpu = json.loads(told.stdout.splitlines()[-1])
    return clock, cpu


def cpu_seconds(command: list[str], environment: dict[str, str]) -> float:
    """User and system seconds of a process from its start to its end."""
    before = os.times()
    subprocess.run(command, env={**os.environ, **environment}, check=True, capture_output=True)
    after = os.times()
    return after.children_user + after.children_system - before.children_user - before.children_system


def server_seconds() -> float:
    """Seconds of the clock from starting a server of one worker until it is ready."""
    port, began = "8763", time.perf_counter()
    command = [LATENTBRIDGE, "serve", "--port", port, "--workers", "1"]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as server:
        try:
            while server.poll() is None:
                with suppress(OSError), urllib.request.urlopen(f"http://127.0.0.1:{port}/readyz", timeout=5):
                    return time.perf_counter() - began
                time.sleep(0.05)
            raise RuntimeError("The server ended before it was ready; start it by hand to see why.")
        finally:
            server.terminate()


def quickstart() -> float:
    """Minutes of the clock that `latentbridge quickstart` takes."""
    with tempfile.TemporaryDirectory() as folder:
        began = time.perf_counter()
        subprocess.run([LATENTBRIDGE, "quickstart", "--out", folder], check=True, capture_output=True)
        return (time.perf_counter() - began) / 60


@contextmanager
def busy(count: int) -> Iterator[None]:
    """So many processes that compute without end beside the block."""
    with ExitStack() as running:
        for _ in range(count):
            process = running.enter_context(subprocess.Popen([sys.executable, "-c", "while True: pass"]))
            running.callback(process.kill)
        yield


if __name__ == "__main__":
    main()
