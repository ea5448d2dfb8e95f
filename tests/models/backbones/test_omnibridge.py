from __future__ import annotations

import copy
from dataclasses import replace

import pytest
import torch

from latentbridge.config import ModelConfig
from latentbridge.errors import UserError
from latentbridge.models.backbones.loading import prepare_for_training
from latentbridge.models.checkpoint import new_model
from latentbridge.models.omnibridge.modeling_omnibridge import OmniBridge

TEXTS = ["a red circle", "two blue stars on the left"]
STEPS = 3


@torch.no_grad()
def reading_of_drawings(model: OmniBridge) -> torch.Tensor:
    """What a round trip stands for, by way of uint8 pictures and the library's own image processor."""
    pictures = model.draw_descriptions(TEXTS, [5, 9], steps=STEPS, guidance=1.0)
    return model.aligned(*model.image_hidden(pictures)).flatten(1)


@torch.no_grad()
def test_a_round_trip_reads_the_picture_a_viewer_gets(small_model: OmniBridge):
    bridge = prepare_for_training(copy.deepcopy(small_model), roundtrip_steps=STEPS)
    returned = bridge.roundtrip(bridge.gen_latent(TEXTS), [5, 9])
    expected = reading_of_drawings(small_model)
    torch.testing.assert_close(returned, expected, atol=5e-3, rtol=0)  # a pixel or two may tip to the next level
    assert (bridge.roundtrip(bridge.gen_latent(TEXTS), [9, 5]) - expected).abs().max() > 5e-2


def test_a_model_without_a_decoder_makes_no_round_trips(small_config: ModelConfig):
    reader = new_model(replace(small_config, parts=("backbone", "bridge")), seed=0)
    with pytest.raises(UserError, match="no decoder, so it cannot generate"):
        prepare_for_training(reader)


@torch.no_grad()
def test_sizes_other_than_the_backbones_are_read_too(small_model: OmniBridge, three_pictures):
    bridge = small_model
    wide = three_pictures[0][:40]
    latents = bridge.und_latent([wide, three_pictures[0]])
    assert latents.shape == (2, 32) and not torch.equal(latents[0], latents[1])
    torch.testing.assert_close(latents[0], bridge.und_latent([small_model.fit(wide)])[0], atol=1e-4, rtol=0)
