from __future__ import annotations

import pytest
import torch

from latentbridge.models.omnibridge.decoder import Decoder
from latentbridge.models.omnibridge.modeling_omnibridge import OmniBridge


@pytest.fixture(scope="module")
def decoder(small_model: OmniBridge) -> Decoder:
    return small_model.decoder


def inputs(decoder: Decoder) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    rng = torch.Generator().manual_seed(0)
    noisy, condition = torch.randn(2, 64, 8, 8, generator=rng), torch.randn(2, 32, 32, generator=rng)
    return noisy, torch.tensor([10, 700]), condition


@torch.no_grad()
def test_every_input_reaches_the_output(decoder: Decoder):
    noisy, timesteps, condition = inputs(decoder)
    output = decoder(noisy, timesteps, condition)
    assert output.shape == noisy.shape
    for moved in ((noisy + 0.1, timesteps, condition), (noisy, timesteps + 50, condition)):
        assert (decoder(*moved) - output).abs().max() > 1e-4
    for position in (0, 15, 31):  # every position, the last as well, since none is masked
        other = condition.clone()
        other[0, position] += 1
        change = (decoder(noisy, timesteps, other) - output).abs().amax(dim=(1, 2, 3))
        assert change[0] > 1e-5 and change[1] == 0


@torch.no_grad()
def test_nothing_in_the_clip_slot_reaches_the_output(decoder: Decoder):
    noisy, timesteps, condition = inputs(decoder)
    length, width = decoder.clip_slot

    def run(clip: torch.Tensor, mask: int) -> torch.Tensor:
        return decoder.transformer(
            noisy,
            timesteps.float(),
            encoder_hidden_states=clip,
            text_embedding_mask=torch.full((2, length), mask),
            encoder_hidden_states_t5=condition,
            text_embedding_mask_t5=torch.ones(2, 32, dtype=torch.long),
            image_rotary_emb=(decoder.rope_cosine, decoder.rope_sine),
            return_dict=False,
        )[0]

    output, clip = decoder(noisy, timesteps, condition), torch.ones(2, length, width)
    assert torch.equal(run(clip, mask=0), output)
    assert (run(clip, mask=1) - output).abs().max() > 1e-5  # unmasked it would


def test_the_gradient_reaches_the_condition(decoder: Decoder):
    noisy, timesteps, condition = inputs(decoder)
    condition.requires_grad_()
    (gradient,) = torch.autograd.grad(decoder(noisy, timesteps, condition).square().mean(), condition)
    assert (gradient.abs().amax(dim=-1) > 0).all()
