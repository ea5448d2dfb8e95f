from __future__ import annotations

from math import cos, sin

import pytest
import torch
from torch.nn import functional as F

from latentbridge.models.backbones.bagel.latent_tokens import LatentTokens, place_table


@pytest.fixture(scope="module")
def tokens() -> LatentTokens:
    return LatentTokens(channels=3, width=20, grid=2)


def test_a_token_holds_one_square_with_its_channels_innermost(tokens: LatentTokens):
    latents = torch.arange(2 * 3 * 4 * 4).view(2, 3, 4, 4)  # channel c, row y, column x of item 0: 16 c + 4 y + x
    found = tokens.split(latents)
    assert found.shape == (2, 4, 12)
    assert found[0, 1].tolist() == [2, 18, 34, 3, 19, 35, 6, 22, 38, 7, 23, 39]
    assert torch.equal(tokens.join(found, (2, 2)), latents)
    wide = latents.reshape(2, 3, 2, 8)
    assert torch.equal(tokens.join(tokens.split(wide), (1, 4)), wide)


@torch.no_grad()
def test_a_token_is_its_latents_its_time_and_its_place(tokens: LatentTokens):
    noisy = torch.randn(2, 4, 12, generator=torch.Generator().manual_seed(0))
    times = torch.tensor([0.25, 1.0])
    rates = 10000 ** -(torch.arange(128) / 128)
    angles = times[:, None] * rates
    features = torch.cat([angles.cos(), angles.sin()], dim=1)
    embedder = tokens.time_embedder
    moments = F.linear(
        F.silu(F.linear(features, embedder.linear_1.weight, embedder.linear_1.bias)),
        embedder.linear_2.weight,
        embedder.linear_2.bias,
    )
    expected = tokens.proj_in(noisy) + moments[:, None] + tokens.places
    torch.testing.assert_close(tokens.enter(noisy, times, (2, 2)), expected, atol=1e-5, rtol=0)
    column = tokens.enter(noisy[:, [0, 2]], times, (2, 1))
    torch.testing.assert_close(column, expected[:, [0, 2]], atol=1e-5, rtol=0)
    assert (moments[0] - moments[1]).abs().max() > 1e-2


def test_places_are_told_by_column_and_row():
    table = place_table(3, 4)
    assert table.shape == (9, 4) and table.dtype == torch.float32
    assert table[1 * 3 + 2].tolist() == pytest.approx([sin(2), cos(2), sin(1), cos(1)], abs=1e-6)
    assert len(table.unique(dim=0)) == 9
