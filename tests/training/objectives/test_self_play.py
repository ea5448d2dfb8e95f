from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from latentbridge.rng import torch_rng
from latentbridge.training.objectives.self_play import self_play_loss, worst_perturbation


def lifted(x: Tensor) -> Tensor:
    """Return a round trip that adds 1 to the second coordinate."""
    return x + torch.tensor([0.0, 1.0])


def test_worst_perturbation_by_hand() -> None:
    # (2, 0) comes back as (2, 1), so the angle grows fastest across (2, 1): along (-1, 2) / sqrt 5, by a tenth of norm 2.
    latents = torch.tensor([[2.0, 0.0]])
    moved = worst_perturbation(latents, lifted, 0.1)
    assert moved[0].tolist() == pytest.approx([-0.2 / math.sqrt(5), 0.4 / math.sqrt(5)])
    x, y = 2 - 0.2 / math.sqrt(5), 1 + 0.4 / math.sqrt(5)
    assert self_play_loss(latents, lifted, 0.1).item() == pytest.approx(1 - x / math.hypot(x, y))
    assert self_play_loss(latents, lifted, 0.0).item() == pytest.approx(1 - 2 / math.sqrt(5))


def test_worst_perturbation_has_the_given_norm_and_beats_a_random_one() -> None:
    torch.manual_seed(0)
    trip = nn.Sequential(nn.Linear(7, 13), nn.Tanh(), nn.Linear(13, 7))
    latents = torch.randn(5, 7, generator=torch_rng(0, "latents")) * torch.tensor([0.1, 1, 3, 10, 30])[:, None]
    moved = worst_perturbation(latents, trip, 0.05)
    torch.testing.assert_close(moved.norm(dim=-1), 0.05 * latents.norm(dim=-1))

    def distance(perturbation: Tensor) -> Tensor:
        return 1 - torch.cosine_similarity(latents, trip(latents + perturbation), dim=-1)

    chance = torch.randn(5, 7, generator=torch_rng(1, "chance"))
    chance *= moved.norm(dim=-1, keepdim=True) / chance.norm(dim=-1, keepdim=True)
    with torch.no_grad():
        assert (distance(moved) > distance(torch.zeros(5, 7))).all()
        assert distance(moved).mean() > distance(chance).mean()


def test_self_play_trains_the_round_trip_and_not_the_latents() -> None:
    torch.manual_seed(0)
    trip, latents = nn.Linear(7, 7), torch.randn(5, 7, requires_grad=True)
    worst_perturbation(latents, trip, 0.1)
    assert trip.weight.grad is None and latents.grad is None  # the adversary moves no weight
    self_play_loss(latents, trip, 0.1).backward()
    assert trip.weight.grad is not None and trip.weight.grad.abs().max() > 0 and latents.grad is None
