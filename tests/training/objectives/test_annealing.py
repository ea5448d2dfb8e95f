from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from latentbridge.training.objectives.annealing import (
    ANNEALED_SHARE,
    LADDER,
    beta_at,
    mix_bernoulli,
    mix_convex,
    mix_text_and_queries,
)

GOLDEN = Path(__file__).parents[2] / "golden" / "omnibridge"

TEXT, QUERIES = torch.full((3, 40, 2), 2.0), torch.full((1, 40, 2), -2.0)


def rng() -> torch.Generator:
    return torch.Generator().manual_seed(0)


@pytest.mark.parametrize(
    ("schedule", "values"),
    [
        ("none", (0.0, 0.0, 0.0, 0.0, 0.0)),
        ("step", (1.0, 1.0, 1.0, 0.0, 0.0)),
        ("linear", (1.0, 0.75, 0.5, 0.0, 0.0)),
        ("cosine", (1.0, 0.853553, 0.5, 0.0, 0.0)),  # (1 + cos(pi / 4)) / 2
    ],
)
def test_beta_follows_the_schedule(schedule, values):
    progress = [share * ANNEALED_SHARE for share in (0, 0.25, 0.5, 1)] + [1.0]
    assert [beta_at(schedule, p) for p in progress] == pytest.approx(values, abs=1e-6)


def test_linear_annealing_mixes_convexly():
    quarter = mix_text_and_queries("linear", 0.25 * ANNEALED_SHARE, TEXT, QUERIES, rng())
    assert torch.equal(quarter, torch.full_like(TEXT, 1.0))  # 0.75 * 2 - 0.25 * 2
    assert torch.equal(mix_text_and_queries("linear", 0.9, TEXT, QUERIES, rng()), QUERIES.expand(3, -1, -1))


def test_the_ladder_replaces_more_and_more_positions():
    shares = []
    for rung in range(6):
        mixed = mix_text_and_queries("ladder", (rung + 0.5) / 6 * ANNEALED_SHARE, TEXT, QUERIES, rng())
        assert ((mixed == TEXT).all(-1) | (mixed == QUERIES).all(-1)).all()
        shares.append((mixed == QUERIES).all(-1).float().mean().item())
    assert shares[0] == 0 and shares[-1] == 1
    assert shares == sorted(shares) and shares[2] == pytest.approx(0.15, abs=0.1)  # three standard deviations of 120
    assert mix_text_and_queries("ladder", 1.0, TEXT, QUERIES, rng()).eq(QUERIES).all()


def test_the_ladder_is_deterministic():
    first, again = (mix_text_and_queries("ladder", 0.3, TEXT, QUERIES, rng()) for _ in range(2))
    assert torch.equal(first, again)


@pytest.mark.parametrize("rung", range(6))
def test_the_ladder_draws_its_probability_from_the_released_range(rung: int):
    (low, high), progress = list(LADDER.values())[rung], (rung + 0.5) / 6 * ANNEALED_SHARE
    text, queries, shares = torch.zeros(1, 4000, 1), torch.ones(1, 4000, 1), []
    for seed in range(50):
        mixed = mix_text_and_queries("ladder", progress, text, queries, torch.Generator().manual_seed(seed))
        shares.append(mixed.mean().item())
    assert low - 0.02 <= min(shares) and max(shares) <= high + 0.02  # 0.008 is a standard deviation of 4000 at most
    assert max(shares) - min(shares) >= 0.8 * (high - low)


def test_seeded_mixing_draws_the_authors_mask():
    mask = mix_bernoulli(torch.zeros(2, 40, 1), torch.ones(1, 40, 1), 0.15, torch.Generator().manual_seed(123))
    assert torch.equal(mask[..., 0], load_file(GOLDEN / "golden.safetensors")["bilm.in.mix15_mask"])


def test_convex_mixing_follows_equation_two():
    text, queries = torch.full((2, 3, 5), 4.0), torch.full((1, 3, 5), 8.0)
    assert torch.equal(mix_convex(text, queries, 0.75), torch.full((2, 3, 5), 5.0))
