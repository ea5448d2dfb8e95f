"""Rows, noise and means of ranks, simulated in one process; `training/test_parallel.py` starts real ranks."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from latentbridge import ranks
from latentbridge.models.diffusion import draw_noise, make_scheduler
from latentbridge.rng import torch_rng
from latentbridge.training import parallel
from latentbridge.training.objectives.latentumm import rollout_noise
from latentbridge.types import Conversation

WORLD = 3
PICTURE = np.zeros((4, 4, 3), np.uint8)


@pytest.fixture
def be_rank(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Return a function that simulates a rank of a world size."""

    def be(rank: int, world: int = WORLD) -> None:
        for module in (ranks, parallel):
            monkeypatch.setattr(module, "rank", lambda: rank)
            monkeypatch.setattr(module, "world_size", lambda: world)

    return be


@pytest.mark.parametrize(("device", "backend"), [("cpu", "gloo"), ("cuda:1", "cpu:gloo,cuda:nccl")])
def test_process_group_has_a_backend_for_device_and_cpu(monkeypatch: pytest.MonkeyPatch, device: str, backend: str):
    calls: list[Any] = []
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setattr(
        torch.distributed, "init_process_group", lambda *by, **how: calls.append((*by, how["device_id"]))
    )
    monkeypatch.setattr(torch.distributed, "destroy_process_group", lambda: None)
    with parallel.process_group(torch.device(device)):
        assert calls == [(backend, None if device == "cpu" else torch.device(device))]


@pytest.mark.parametrize("dim", [0, 1])
def test_random_numbers_do_not_depend_on_the_number_of_ranks(be_rank: Any, dim: int):
    shape, of_all = [5, 5], [5, 5]
    of_all[dim] *= WORLD
    alone = torch.rand(of_all, generator=torch_rng(0, "rows"))
    after = []
    for rank in range(WORLD):
        be_rank(rank)
        rng = torch_rng(0, "rows")
        found = ranks.per_rank_random(torch.rand, shape, rng, dim)
        assert torch.equal(found, alone.movedim(dim, 0)[rank::WORLD].movedim(0, dim))
        after.append(torch.rand(1, generator=rng).item())
    assert len(set(after)) == 1, "generators stay in step"


def test_noise_is_split_like_the_batch(be_rank: Any):
    z, scheduler = torch.randn(2 * WORLD, 7, generator=torch_rng(0, "z")), make_scheduler(100)
    noise, timesteps = draw_noise(scheduler, (4, 2 * WORLD, 5, 1, 1), torch_rng(0, "noise"), 1)  # [k b c h w]
    assert timesteps.shape == (4, 2 * WORLD)
    for rank in range(WORLD):
        for objective in ("anchored", "reference"):
            be_rank(0, world=1)
            whole = rollout_noise(z, 4, 0.1, torch_rng(0, "rollouts"), objective)
            be_rank(rank)
            found = rollout_noise(z[rank::WORLD], 4, 0.1, torch_rng(0, "rollouts"), objective)
            assert torch.equal(found, whole[:, rank::WORLD])
        own = draw_noise(scheduler, (4, 2, 5, 1, 1), torch_rng(0, "noise"), 1)
        assert torch.equal(own[0], noise[:, rank::WORLD]) and torch.equal(own[1], timesteps[:, rank::WORLD])


def test_a_rank_without_images_gets_one_with_zero_weight(be_rank: Any):
    talks = [Conversation.with_picture(((str(index), ""),), PICTURE if index in (2, 3) else None) for index in range(6)]
    for rank, own in enumerate([["0", "3"], ["1", "4", "2"], ["2", "5"]]):
        be_rank(rank)
        found = parallel.local_conversations(talks)
        assert [talk.turns[0][0] for talk in found] == own
        assert [talk.counts for talk in found] == [True, True, False][: len(own)]
    be_rank(1)
    assert parallel.local_conversations([talks[0], talks[1], talks[4]]) == [talks[1]], (
        "without images there is no zero-weight conversation"
    )


def test_global_mean_weight_weighs_means_by_their_counts(monkeypatch: pytest.MonkeyPatch, be_rank: Any):
    rows = [[2.0, 4.0, 6.0], [11.0], []]
    monkeypatch.setattr(ranks, "all_reduce_sum", lambda count: torch.tensor(4.0))
    total = 0.0
    for rank, own in enumerate(rows):
        be_rank(rank)
        total += ranks.global_mean_weight(len(own)) * sum(own) / max(1, len(own)) / WORLD
    assert total == pytest.approx((2 + 4 + 6 + 11) / 4)


@pytest.mark.parametrize("kind", ["omnibridge", "janus", "bagel", "harmon"])
def test_generation_losses_do_not_depend_on_the_number_of_ranks(
    be_rank: Any, request: pytest.FixtureRequest, kind: str
):
    """The mean over two ranks of each loss equals that of the global batch, with prompts of different lengths."""
    model = request.getfixturevalue("small_model" if kind == "omnibridge" else f"small_{kind}")
    backbone = model
    prompts = ["a star", "a large red circle left of a star", "nothing", "two squares"]
    pictures = list(np.random.default_rng(0).integers(0, 256, (4, 32, 32, 3), np.uint8))

    def losses() -> Tensor:
        own = ranks.local_rows(prompts), ranks.local_rows(pictures)
        with torch.no_grad():
            drawing = backbone.generation_loss(*own, torch_rng(0, "loss"))
            return torch.stack([drawing, backbone.reconstruction_loss(own[1], torch_rng(0, "loss"))])

    whole = losses()
    parts = []
    for rank in range(2):
        be_rank(rank, world=2)
        parts.append(losses())
    assert (parts[0] - parts[1]).abs().max() > 1e-4
    torch.testing.assert_close(torch.stack(parts).mean(0), whole, atol=1e-5, rtol=1e-5)
