from __future__ import annotations

import os
import subprocess
import sys
import time
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tests.data.manifests import write_manifest
from tests.training.runs import run
from tests.training.test_loop import run_config

from latentbridge.config import SftConfig
from latentbridge.data.own import sharding
from latentbridge.data.own.sharding import shard_manifest
from latentbridge.errors import UserError
from latentbridge.models.checkpoint import new_model
from latentbridge.run_folder import RunFolder
from latentbridge.training.loop import train
from latentbridge.training.prefetch import Prefetcher
from latentbridge.training.stages import make_stage


class Maker:
    """A factory of batches with the id of the process that made them."""

    def __init__(self, pause_s: float = 0.0) -> None:
        self.pause_s = pause_s
        self.calls = 0

    def __call__(self, step: int) -> object:
        time.sleep(self.pause_s)
        self.calls += 1
        if step == 11:
            raise UserError("The shard x is damaged; restore it.")
        return os.getpid(), torch.full((3,), step), self.calls


def test_a_worker_makes_batches_in_order_without_global_randomness():
    state = torch.get_rng_state()
    maker = Maker()
    found = list(Prefetcher(maker, range(4, 9), ahead=True))
    assert torch.equal(torch.get_rng_state(), state)
    assert [step for step, _ in found] == [4, 5, 6, 7, 8] == [int(tensor[0]) for _, (_, tensor, _) in found]
    assert os.getpid() not in {pid for _, (pid, _, _) in found} and maker.calls == 0


BLOCKED_WORKER = """
import os, time
from latentbridge.training.prefetch import Prefetcher
for _, (worker, _) in Prefetcher(lambda step: (os.getpid(), bytes(1 << 20)), range(9), ahead=True):
    print(worker, flush=True)
    time.sleep(60)
"""


def test_a_killed_loop_leaves_no_worker_blocked_on_its_pipe():
    with subprocess.Popen([sys.executable, "-c", BLOCKED_WORKER], stdout=subprocess.PIPE, text=True) as loop:
        assert loop.stdout
        worker = Path(f"/proc/{int(loop.stdout.readline())}/stat")
        assert worker.exists()
        time.sleep(0.5)  # until it has made more batches than fit into the pipe
        loop.kill()
    until = time.monotonic() + 10
    while worker.exists() and " Z " not in worker.read_text() and time.monotonic() < until:
        time.sleep(0.05)
    assert not worker.exists() or " Z " in worker.read_text()


def test_without_ahead_batches_are_made_on_demand():
    batches = Prefetcher(Maker(), range(3), ahead=False)
    assert [(pid, count) for _, (pid, _, count) in batches] == [(os.getpid(), n) for n in (1, 2, 3)]


@pytest.mark.parametrize("ahead", [True, False])
def test_a_user_error_is_raised_at_its_step(ahead):
    seen = []
    with pytest.raises(UserError) as caught:
        for step, _ in Prefetcher(Maker(), range(9, 13), ahead=ahead):
            seen.append(step)
    assert str(caught.value) == "The shard x is damaged; restore it." and seen == [9, 10]


def test_wait_fraction():
    slow = Prefetcher(Maker(pause_s=0.1), range(4), ahead=False)
    for _ in slow:
        pass
    assert slow.wait_fraction() > 0.8
    slept, quick = 0, Prefetcher(Maker(pause_s=0.1), range(4), ahead=True)
    for _ in quick:
        time.sleep(0.5)
        slept += 1
    assert slept == 4 and 0.0 < quick.wait_fraction() < 0.4
    assert quick.wait_fraction() == 0.0


@pytest.mark.parametrize("kind", ["pretrain_decoder", "pretrain_backbone", "sft", "posttrain_sft"])
def test_prefetched_batches_are_bitwise_equal(small_config, kind):
    model, stage = new_model(small_config, 0), make_stage(run_config(small_config, kind))
    made = [
        [_plain(batch) for _, batch in Prefetcher(partial(stage.batch, model), range(2, 5), ahead=ahead)]
        for ahead in (True, False)
    ]
    assert made[0] == made[1]


def _plain(batch: Any) -> Any:
    """Replace tensors and arrays by bytes, so that nested values can be compared."""
    if isinstance(batch, (torch.Tensor, np.ndarray)):
        array = np.asarray(batch)
        return str(array.dtype), array.shape, array.tobytes()
    if hasattr(batch, "__dataclass_fields__"):
        return [_plain(getattr(batch, name)) for name in batch.__dataclass_fields__]
    return [_plain(item) for item in batch] if isinstance(batch, (list, tuple)) else batch


def test_a_damaged_shard_stops_a_run_that_can_be_resumed(small_config, tmp_path, monkeypatch):
    monkeypatch.setattr(sharding, "_SHARD_BYTES", 200)
    shards = tmp_path / "shards"
    written = shard_manifest(write_manifest(tmp_path / "own", 9), shards, progress=False)
    sources = ((str(shards), 0.75), ("shapes", 0.25))
    config = replace(run_config(small_config, "sft"), stage=SftConfig(sources=sources))
    whole = run(config, tmp_path / "whole")

    damaged = shards / written[-1].name
    content = damaged.read_bytes()
    damaged.write_bytes(content[:-1000])
    with pytest.raises(UserError, match=f"{damaged} cannot be read whole"):
        train(config, make_stage(config), tmp_path / "stopped", progress=False)
    damaged.write_bytes(content)
    assert run(config, tmp_path / "stopped", resume=True) == whole
    assert all(0 <= record["waiting"] <= 1 for record in RunFolder(tmp_path / "whole").metrics())
