"""BAGEL's vision encoder: SigLIP over images of any size and shape (NaViT, arXiv 2307.06304)."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import SiglipVisionConfig, SiglipVisionModel

from latentbridge.devices import device_of
from latentbridge.models.backbones.bagel.latent_tokens import place_table
from latentbridge.models.pixels import to_pixels
from latentbridge.types import Picture


class NaViTEncoder(nn.Module):
    """transformers' SigLIP, a two-layer connector, and a fixed 2-D position embedding per patch.

    Positions are rows and columns in the largest grid, from the upper left, in SigLIP's own position table too; the library
    would interpolate that table over each image instead. Images of one size are batched.
    """

    places: Tensor

    def __init__(self, config: SiglipVisionConfig, width: int, least_px: int):
        """`config.image_size` is the longest side, `least_px` the shortest if the shape allows; `width` is that of the tokens."""
        super().__init__()
        sizes: Any = config
        self.patch_px, self.most_px, self.least_px = sizes.patch_size, sizes.image_size, least_px
        self.vision = SiglipVisionModel(config)
        self.connector = nn.Sequential()
        self.connector.add_module("fc1", nn.Linear(sizes.hidden_size, width))
        self.connector.add_module("act", nn.GELU(approximate="tanh"))
        self.connector.add_module("fc2", nn.Linear(width, width))
        self.register_buffer("places", place_table(self.most_px // self.patch_px, width))

    def forward(self, pictures: Sequence[Picture]) -> list[Tensor]:
        """Return the tokens [n h] of each picture, row-major."""
        by_size: dict[tuple[int, int], list[int]] = defaultdict(list)
        for index, picture in enumerate(pictures):
            by_size[(picture.shape[0], picture.shape[1])].append(index)
        tokens: dict[int, Tensor] = {}
        for (height, width), indices in by_size.items():
            pixels = to_pixels([pictures[index] for index in indices], device_of(self))
            size = fitted_size(height, width, self.patch_px, self.least_px, self.most_px)
            tokens.update(zip(indices, self.encode_pixels(resized(pixels, size)), strict=True))
        return [tokens[index] for index in range(len(pictures))]

    def encode_pixels(self, pixels: Tensor) -> Tensor:
        """Return the tokens [b n h] of pixels [b 3 h w] in [-1, 1], whose sides are multiples of the patch, with gradients."""
        embeddings = self.vision.embeddings
        patches = embeddings.patch_embedding(pixels.to(self.places.dtype))
        rows, columns = (torch.arange(size, device=pixels.device) for size in patches.shape[2:])
        positions = (rows[:, None] * (self.most_px // self.patch_px) + columns).flatten()
        states = patches.flatten(2).mT + embeddings.position_embedding(positions)
        states = cast(Tensor, self.vision.encoder(inputs_embeds=states).last_hidden_state)
        return self.connector(self.vision.post_layernorm(states)) + self.places[positions]


def fitted_size(height: int, width: int, patch_px: int, least_px: int, most_px: int) -> tuple[int, int]:
    """Return the height and width to resize a picture to: multiples of the patch, near its own size and shape.

    The longer side is at most `most_px`; the shorter is at least `least_px` if the longer allows it.
    """
    scale = min(most_px / max(height, width), max(1.0, least_px / min(height, width)))
    rows, columns = (max(1, round(side * scale / patch_px)) for side in (height, width))
    return rows * patch_px, columns * patch_px


def resized(pixels: Tensor, size: tuple[int, int]) -> Tensor:
    """Return pixels [b 3 h w] at another height and width; torch's bicubic may differ from Pillow's by two levels of 255."""
    if tuple(pixels.shape[2:]) == size:
        return pixels
    return F.interpolate(pixels, size, mode="bicubic", antialias=True).clamp(-1, 1)
