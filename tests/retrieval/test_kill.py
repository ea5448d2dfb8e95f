"""Durability tests: an index killed at random moments of adding, deleting, refreshing, compacting and checking.

Two hundred trials, `make test-kill`. A forked process runs steps that are a function of (seed, step) and acknowledges each in
a file when it has returned. The index must then hold the acknowledged steps, with the interrupted step done completely or not at
all; the next process continues in the same folder.
"""

from __future__ import annotations

import os
import signal
import time
import traceback
from pathlib import Path

import pytest
from tests.retrieval.unit_vectors import unit

from latentbridge.retrieval import disk_index
from latentbridge.retrieval.base_index import Index
from latentbridge.retrieval.disk_index import DiskIndex
from latentbridge.retrieval.exact_index import ExactIndex
from latentbridge.retrieval.health_check import check_health
from latentbridge.rng import numpy_rng

KILLS, FOLDERS = 200, 10
DIMENSION, IDS, IVF_MIN_ITEMS = 24, 701, 300
LONGEST_S = 0.6
KINDS = ("add", "add", "add", "add", "delete", "refresh", "compact", "check")


def step(index: Index, seed: int, number: int) -> None:
    """Run the `number`-th step, which is determined by the seed and the number."""
    rng = numpy_rng(seed, "kill steps", number)
    kind = str(rng.choice(KINDS)) if number else "add"
    ids = [f"item {i}" for i in rng.permutation(IDS)[: rng.integers(1, 90)]]
    if kind == "add":
        index.add(ids, unit(rng, len(ids), DIMENSION), [{"step": number} for _ in ids])
    elif kind == "delete":
        index.delete(ids)
    elif kind == "refresh":
        index.refresh()
    elif kind == "compact":
        index.compact()
    else:
        assert check_health(index, 5).errors == ()


def work(folder: Path, seed: int, first: int) -> None:
    """Run steps from the `first` on, and acknowledge each, until killed."""
    index = DiskIndex.create(folder / "index", DIMENSION)
    acknowledged = os.open(folder / "acknowledged", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    number = first
    while True:
        step(index, seed, number)
        os.write(acknowledged, b".")
        number += 1


def kill_after(seconds: float, folder: Path, seed: int, first: int) -> int:
    """Kill a worker process after some seconds and return its exit status: -9 unless it failed before."""
    if (child := os.fork()) == 0:
        try:
            work(folder, seed, first)
        except BaseException:
            traceback.print_exc()
        os._exit(1)
    time.sleep(seconds)
    os.kill(child, signal.SIGKILL)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def contents(index: Index) -> dict[str, tuple[bytes, object]]:
    ids = list(index.ids())
    assert len(ids) == len(index) == len(set(ids))
    vectors = index.vectors(ids) if ids else []
    return {n: (v.tobytes(), m) for n, v, m in zip(ids, vectors, index.metadata(ids), strict=True)}


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("seed", range(FOLDERS))
def test_acknowledged_writes_survive_a_kill_at_any_moment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seed: int
) -> None:
    monkeypatch.setattr(disk_index, "IVF_MIN_ITEMS", IVF_MIN_ITEMS)
    oracle, done, rng, num_advanced = ExactIndex(DIMENSION), 0, numpy_rng(seed, "kill moments"), 0
    for trial in range(KILLS // FOLDERS):
        seconds = float(rng.uniform(0, LONGEST_S))
        assert kill_after(seconds, tmp_path, seed, done) == -signal.SIGKILL, f"trial {trial}"
        acknowledged = len((tmp_path / "acknowledged").read_bytes()) if (tmp_path / "acknowledged").exists() else 0
        index = DiskIndex.create(tmp_path / "index", DIMENSION)
        for number in range(done, acknowledged):
            step(oracle, seed, number)
        num_advanced += acknowledged > done
        done, actual = acknowledged, contents(index)
        if actual != contents(oracle):
            step(oracle, seed, done)  # the interrupted step was committed
            assert actual == contents(oracle), f"trial {trial}, killed in step {done} after {seconds:.3f} s"
        report = check_health(index, 20)
        assert report.errors == ()
        queries = unit(rng, 7, DIMENSION)
        assert index.search(queries, exact=True) == oracle.search(queries), f"trial {trial}"
        if index.search(queries) != oracle.search(queries):  # approximate: scores are exact, recall may be below 1
            assert report.recall > 0.8
        index.close()
    assert num_advanced >= KILLS // FOLDERS / 3, "most trials must get somewhere"
