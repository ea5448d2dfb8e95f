"""`index build` with pictures opened ahead, in two threads, against opening each batch when its turn comes: pictures a second.

The rows are the same bit for bit, which is checked. Wall time is what opening ahead is for, so it takes a core beside the
model's that is free; CPU time tells what the threads cost. Run: python benchmarks/index_build.py
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import numpy as np
from harness import SMOKE, Target, compare, keep, one_thread
from PIL import Image

from latentbridge import indexing
from latentbridge.data.pictures import FolderPictures
from latentbridge.models.checkpoint import load
from latentbridge.models.omnibridge.modeling_omnibridge import OmniBridge
from latentbridge.retrieval.exact import ExactIndex
from latentbridge.rng import numpy_rng

SIDES_PX = (128, 1024)
PICTURES, ROUNDS = (70, 1) if SMOKE else (256, 7)


class AtOnce:
    """An executor without threads; what it is given is done when the result is asked for."""

    def __init__(self, threads: int, thread_name_prefix: str) -> None: ...

    def submit(self, way: Callable[..., object], *given: object) -> SimpleNamespace:
        return SimpleNamespace(result=partial(way, *given))

    def shutdown(self, cancel_futures: bool) -> None: ...


def main() -> None:
    one_thread()
    model, targets, details = load("tiny"), list[Target](), {}
    ways = {"ahead": indexing.ThreadPoolExecutor, "at once": AtOnce}
    for side in SIDES_PX:
        with tempfile.TemporaryDirectory() as folder:
            draw(Path(folder), side)
            wall, cpu, rows = {way: [] for way in ways}, {way: [] for way in ways}, set()
            for _ in range(ROUNDS + 1):
                for way, executor in ways.items():
                    indexing.ThreadPoolExecutor = executor
                    began = time.perf_counter(), time.process_time()
                    rows.add(built(model, Path(folder)))
                    wall[way].append(time.perf_counter() - began[0])
                    cpu[way].append(time.process_time() - began[1])
        assert len(rows) == 1, "the same rows"
        for name, seconds in (("wall", wall), ("CPU", cpu)):
            told = f"JPEGs of {side} px: {name} time at once / ahead"
            targets.append(compare(told, seconds["at once"][1:], seconds["ahead"][1:]))
            rates = {way: round(PICTURES / float(np.mean(taken[1:])), 1) for way, taken in seconds.items()}
            details[f"pictures of {side} px a {name} second"] = rates
    keep(__file__, targets, details)


def draw(folder: Path, side_px: int) -> None:
    """Pictures that take as long to open as photographs: smooth, with nothing that is flat."""
    rng = numpy_rng(0, "index build")
    for number in range(PICTURES):
        small = rng.integers(0, 256, (16, 16, 3), dtype=np.uint8)
        Image.fromarray(small).resize((side_px, side_px)).save(folder / f"{number}.jpg", quality=90)


def built(model: OmniBridge, folder: Path) -> bytes:
    """All rows of a new index of the folder."""
    index = ExactIndex(model.embedding_size)
    indexing.fill_index(model, index, FolderPictures(folder))
    return index.vectors(list(index.ids())).tobytes()


if __name__ == "__main__":
    main()
