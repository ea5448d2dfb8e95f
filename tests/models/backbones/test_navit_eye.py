from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn
from transformers import SiglipVisionConfig

from latentbridge.images import resize
from latentbridge.models.backbones.bagel.navit_encoder import NaViTEncoder, resized
from latentbridge.models.pixels import to_pictures, to_pixels

WIDTH, SIDE, PATCH_PX = 20, 5, 7


@pytest.fixture
def eye() -> NaViTEncoder:
    sizes = SiglipVisionConfig(
        hidden_size=24,
        num_hidden_layers=2,
        num_attention_heads=3,
        intermediate_size=29,
        image_size=SIDE * PATCH_PX,
        patch_size=PATCH_PX,
        vision_use_head=False,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return NaViTEncoder(sizes, WIDTH, shortest_px=2 * PATCH_PX).eval()


def picture(height: int, width: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)


@torch.no_grad()
def test_on_the_largest_square_it_is_the_librarys_siglip(eye: NaViTEncoder):
    pixels = to_pixels([picture(35, 35), picture(35, 35, seed=1)])
    expected = eye.connector(eye.vision(pixels).last_hidden_state) + eye.places
    torch.testing.assert_close(eye.encode_pixels(pixels), expected, atol=1e-5, rtol=0)
    assert (eye.encode_pixels(pixels.flip(0)) - expected).abs().max() > 1e-2


@torch.no_grad()
def test_a_patch_has_the_place_of_its_row_and_column(eye: NaViTEncoder):
    eye.vision.encoder.layers = nn.ModuleList()
    eye.vision.post_layernorm = eye.connector = nn.Identity()  # pyright: ignore[reportAttributeAccessIssue]
    eye.places = torch.zeros(SIDE**2, 1)
    eye.vision.embeddings.patch_embedding.weight.zero_()
    eye.vision.embeddings.patch_embedding.bias.zero_()
    eye.vision.embeddings.position_embedding.weight.copy_(torch.arange(SIDE**2)[:, None].expand(-1, 24))
    (seen,) = eye([picture(2 * PATCH_PX, 3 * PATCH_PX)])
    assert seen[:, 0].tolist() == [0, 1, 2, 5, 6, 7]


@torch.no_grad()
def test_pictures_of_any_size_are_read_as_if_alone(eye: NaViTEncoder):
    pictures = [picture(35, 20), picture(14, 14, 1), picture(35, 20, 2), picture(90, 31, 3)]
    together = eye(pictures)
    assert [len(tokens) for tokens in together] == [15, 4, 15, 10]
    for alone, tokens in zip(pictures, together, strict=True):
        torch.testing.assert_close(eye([alone])[0], tokens, atol=1e-5, rtol=0)
    assert not torch.allclose(together[0], together[2], atol=1e-2)


def test_resized_pixels_are_pillows_with_gradients():
    pixels = to_pixels([picture(21, 14)]).requires_grad_()
    assert resized(pixels, (21, 14)) is pixels
    found = resized(pixels, (33, 17))
    assert np.array_equal(to_pictures(found.detach())[0], resize(picture(21, 14), (17, 33), Image.Resampling.BICUBIC))
    (found * torch.randn(found.shape, generator=torch.Generator().manual_seed(0))).sum().backward()
    assert pixels.grad is not None and pixels.grad.abs().amax(dim=(1,)).min() > 0
