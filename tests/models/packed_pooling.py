"""The pooling that feeds the heads of LatentUMM's release, for parity tests (TorchUMM@083395e, spec LatentUMM 1.4)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def pool_packed(
    hidden: Tensor, lengths: Sequence[int], text: Sequence[int], vae: Sequence[int], vit: Sequence[int]
) -> tuple[Tensor, Tensor]:
    """Return the mean states of captions and of pictures, [b h] each, from samples packed in `hidden` [p h].

    `text`, `vae` and `vit` are positions in the pack. A picture is its VAE tokens, or its ViT tokens if it has no VAE
    tokens. A caption is the text up to the token before the picture, a marker that does not count; for a sample whose
    caption was dropped the picture markers are pooled instead, as in the release.
    """
    captions, pictures = [], []
    start = 0
    for length in lengths:
        words, seen, drawn = ([p for p in kind if start <= p < start + length] for kind in (text, vit, vae))
        picture = drawn or seen
        caption = [p for p in words if p < min(picture) - 1] or words
        captions.append(hidden[caption].mean(0))
        pictures.append(hidden[picture].mean(0))
        start += length
    return torch.stack(captions), torch.stack(pictures)
