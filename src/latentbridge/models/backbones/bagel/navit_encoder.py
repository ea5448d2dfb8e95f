"""BAGEL's vision encoder: SigLIP over images of any size and shape (NaViT, arXiv 2307.06304)."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import Any, cast

import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import SiglipVisionConfig, SiglipVisionModel

from latentbridge.devices import device_of
from latentbridge.images import resize
from latentbridge.models.backbones.bagel.latent_tokens import Shape, place_table
from latentbridge.models.backbones.bagel.pictures import ResizeRule
from latentbridge.models.pixels import to_pictures, to_pixels
from latentbridge.types import Picture


class NaViTEncoder(nn.Module):
    """transformers' SigLIP, a two-layer connector, and a fixed 2-D position embedding per patch.

    Positions are rows and columns in the largest grid, from the upper left, in SigLIP's own position table too; the library
    would interpolate that table over each image instead. Images of one size are batched.
    """

    places: Tensor

    def __init__(self, config: SiglipVisionConfig, width: int, shortest_px: int):
        """`config.image_size` is the longest side, `shortest_px` the shortest if the shape allows; `width` is that of the tokens."""
        super().__init__()
        sizes: Any = config
        self.patch_px, self.most_px = sizes.patch_size, sizes.image_size
        self.rule = ResizeRule(self.most_px, min(shortest_px, self.most_px), self.patch_px)
        self.vision = SiglipVisionModel(config)
        self.connector = nn.Sequential()
        self.connector.add_module("fc1", nn.Linear(sizes.hidden_size, width))
        self.connector.add_module("act", nn.GELU(approximate="tanh"))
        self.connector.add_module("fc2", nn.Linear(width, width))
        self.register_buffer("places", place_table(self.most_px // self.patch_px, width))

    def forward(self, pictures: Sequence[Picture]) -> list[Tensor]:
        """Return the tokens [n h] of each picture, row-major."""
        resized = [self.rule.resize(picture) for picture in pictures]
        by_size: dict[tuple[int, ...], list[int]] = defaultdict(list)
        for index, picture in enumerate(resized):
            by_size[picture.shape].append(index)
        tokens: dict[int, Tensor] = {}
        for indices in by_size.values():
            pixels = to_pixels([resized[index] for index in indices], device_of(self))
            tokens.update(zip(indices, self.encode_pixels(pixels), strict=True))
        return [tokens[index] for index in range(len(pictures))]

    def encode_pixels(self, pixels: Tensor) -> Tensor:
        """Return the tokens [b n h] of pixels [b 3 h w] in [-1, 1], whose sides are multiples of the patch, with gradients."""
        embeddings = self.vision.embeddings
        patches = embeddings.patch_embedding(pixels.to(self.places.dtype))
        positions = self.positions((patches.shape[2], patches.shape[3])).to(pixels.device)
        states = patches.flatten(2).mT + embeddings.position_embedding(positions)
        states = cast(Tensor, self.vision.encoder(inputs_embeds=states).last_hidden_state)
        return self.connector(self.vision.post_layernorm(states)) + self.places[positions]

    def positions(self, shape: Shape) -> Tensor:
        """Return the place in the largest grid of each patch of a picture, int64 [n]."""
        rows, columns = (torch.arange(size) for size in shape)
        return (rows[:, None] * (self.most_px // self.patch_px) + columns).flatten()


def resized(pixels: Tensor, size: tuple[int, int]) -> Tensor:
    """Return pixels [b 3 h w] of whole levels at another height and width: Pillow's values, with torch's gradients."""
    if tuple(pixels.shape[2:]) == size:
        return pixels
    smooth = F.interpolate(pixels, size, mode="bicubic", antialias=True)
    exact = to_pixels(
        [resize(picture, (size[1], size[0]), Image.Resampling.BICUBIC) for picture in to_pictures(pixels.detach())],
        pixels.device,
    )
    return smooth + (exact - smooth).detach()
