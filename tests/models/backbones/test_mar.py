from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from latentbridge.config import MarConfig
from latentbridge.models.backbones.harmon.mar import (
    MaskedDecoder,
    MaskedEncoder,
    TokenDenoiser,
    known_counts,
    pick,
    resized_positions,
)
from latentbridge.rng import torch_rng

SIZES = MarConfig(width=14, num_layers=2, num_heads=2, grid=3, channels=5, num_buffers=2, head_width=11, head_layers=2)
GRID = (3, 3)
KNOWN = torch.tensor([[1, 4, 7], [0, 2, 8]])


@pytest.fixture(autouse=True)
def seeded():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        yield


def some(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch_rng(seed, "some"))


def open_up(module: nn.Module) -> None:
    """Weights in place of the zeros that new gates are."""
    with torch.no_grad():
        for index, parameter in enumerate(module.parameters()):
            parameter.copy_(some(*parameter.shape, seed=index) * 0.3)


@pytest.mark.parametrize(
    ("tokens", "steps", "counts"),
    [
        (13, 4, [0, 1, 4, 9, 13]),
        (16, 1, [0, 16]),
        (3, 6, [0, 1, 2, 2, 2, 2, 3]),  # one token is left for the last step
        (7, 3, [0, 1, 4, 7]),
        (16, 12, [0, 1, 2, 3, 4, 5, 6, 7, 8, 10, 12, 14, 16]),
    ],
)
def test_few_tokens_come_first_and_all_in_the_end(tokens: int, steps: int, counts: list[int]):
    assert known_counts(tokens, steps) == counts


@torch.no_grad()
def test_the_encoder_reads_known_tokens_alone_and_by_their_places():
    encoder, tokens = MaskedEncoder(SIZES).eval(), some(2, 9, 5)
    states = encoder(tokens, KNOWN, GRID)
    assert states.shape == (2, 2 + 3, 14)
    for place, read in [(5, False), (3, False), (4, True)]:  # places of the first picture, whose known ones are 1, 4, 7
        other = tokens.clone()
        other[0, place] += 1
        moved = (encoder(other, KNOWN, GRID) - states).abs().amax(2) > 1e-4
        assert moved[0].all() == read and moved[0].any() == read and not moved[1].any()
    elsewhere = tokens[:, [0, 4, 2, 3, 1, 5, 6, 7, 8]]
    assert (encoder(elsewhere, KNOWN, GRID) - states).abs()[0].max() > 1e-3


@torch.no_grad()
def test_every_place_of_the_decoder_holds_its_own_state_or_the_mask():
    decoder = MaskedDecoder(MarConfig(**{**SIZES.__dict__, "num_layers": 0}))
    decoder.norm, decoder.embed = nn.Identity(), nn.Identity()
    encoded = some(2, 2 + 3, 14)
    states = decoder(encoded, KNOWN, GRID) - decoder.positions[2:] - decoder.head_positions
    for row in range(2):
        for place in range(9):
            spots = KNOWN[row].tolist()
            expected = encoded[row, 2 + spots.index(place)] if place in spots else decoder.mask
            torch.testing.assert_close(states[row, place], expected, atol=1e-6, rtol=0)


@torch.no_grad()
def test_with_nothing_known_the_decoder_still_hears_the_buffers():
    decoder, nothing = MaskedDecoder(SIZES).eval(), torch.zeros(2, 0, dtype=torch.long)
    states, others = decoder(some(2, 2, 14), nothing, GRID), decoder(some(2, 2, 14, seed=1), nothing, GRID)
    assert states.shape == (2, 9, 14) and ((states - others).abs().amax(2) > 1e-3).all()


@torch.no_grad()
def test_the_head_is_the_papers_network_written_out():
    head = TokenDenoiser(SIZES)
    noisy, timesteps, states = some(3, 5, 1, 1), torch.tensor([0, 17, 999]), some(3, 14, seed=1)
    assert not head(noisy, timesteps, states).any(), "closed before training"
    open_up(head)
    weights = dict(head.named_parameters())

    def layer(name: str, x: Tensor) -> Tensor:
        return x @ weights[f"{name}.weight"].T + weights[f"{name}.bias"]

    def normed(x: Tensor) -> Tensor:
        return (x - x.mean(1, keepdim=True)) / (x.var(1, correction=0, keepdim=True) + 1e-6).sqrt()

    silu = nn.functional.silu
    angles = timesteps[:, None] * torch.exp(-math.log(10000) * torch.arange(128) / 128)
    time = layer("embed_time.linear_2", silu(layer("embed_time.linear_1", torch.cat([angles.cos(), angles.sin()], 1))))
    condition = silu(time + layer("embed_state", states))
    x = layer("embed", noisy[..., 0, 0])
    for block in ("blocks.0", "blocks.1"):
        shift, scale, gate = layer(f"{block}.modulation", condition).split(11, dim=1)
        inner = normed(x) * weights[f"{block}.norm.weight"] + weights[f"{block}.norm.bias"]
        x = x + gate * layer(f"{block}.mlp.2", silu(layer(f"{block}.mlp.0", inner * (1 + scale) + shift)))
    shift, scale = layer("modulation", condition).split(11, dim=1)
    expected = layer("out", normed(x) * (1 + scale) + shift)
    torch.testing.assert_close(head(noisy, timesteps, states)[..., 0, 0], expected, atol=1e-4, rtol=1e-4)
    swapped = head(noisy, timesteps.flip(0), states)[..., 0, 0]
    assert (swapped - expected).abs()[0].max() > 1e-2


@torch.no_grad()
def test_positions_are_resized_for_another_grid_and_those_of_buffers_are_not():
    ramp = torch.stack([torch.arange(9) // 3, torch.arange(9) % 3], dim=1).float()  # row and column of each position
    positions = torch.cat([torch.full((2, 2), 7.0), ramp])
    assert resized_positions(positions, GRID, 2) is positions
    wide = resized_positions(positions, (3, 6), 2)
    assert torch.equal(wide[:2], positions[:2])
    rows, columns = wide[2:].unflatten(0, (3, 6)).unbind(-1)
    assert torch.equal(rows, torch.arange(3.0)[:, None].expand(3, 6))
    torch.testing.assert_close(columns, torch.tensor([0, 0.25, 0.75, 1.25, 1.75, 2]).expand(3, 6))


def test_a_head_with_learned_variances_has_two_halves():
    head = TokenDenoiser(replace(SIZES, learned_variances=True))
    assert head(some(3, 5, 1, 1), torch.tensor([0, 17, 999]), some(3, 14)).shape == (3, 10, 1, 1)


def test_rows_are_picked_by_place():
    values = torch.arange(2 * 5 * 3).view(2, 5, 3)
    assert pick(values, torch.tensor([[4, 0], [1, 1]])).tolist() == [
        [[12, 13, 14], [0, 1, 2]],
        [[18, 19, 20], [18, 19, 20]],
    ]
