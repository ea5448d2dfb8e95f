"""What LatentUMM's release adds to BAGEL: two heads on the last hidden state, and the pooling that feeds them.

Source: TorchUMM@083395e, spec LatentUMM 1.4. The release calls `embed_to_hidden(hidden_to_embed(z))` a round trip, but
nothing is generated, decoded or read again; a real one comes from the backbone.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn


class LatentHeads(nn.Module):
    """Maps pooled hidden states [b h] into the space of stored embeddings [b e] and back.

    Key layout of the release behind its prefix `latentumm_`.
    """

    def __init__(self, hidden_width: int, embedding_width: int = 3072) -> None:
        super().__init__()
        self.hidden_to_embed = nn.Sequential(
            nn.Linear(hidden_width, hidden_width), nn.GELU(), nn.Linear(hidden_width, embedding_width)
        )
        self.embed_to_hidden = nn.Sequential(
            nn.Linear(embedding_width, hidden_width), nn.GELU(), nn.Linear(hidden_width, hidden_width)
        )

    def autoencode(self, z: Tensor) -> Tensor:
        """[b h] -> [b h], the release's stand-in for a round trip."""
        return self.embed_to_hidden(self.hidden_to_embed(z))


def pool_packed(
    hidden: Tensor, lengths: Sequence[int], text: Sequence[int], vae: Sequence[int], vit: Sequence[int]
) -> tuple[Tensor, Tensor]:
    """Mean states of caption and of picture, [b h] each, from samples packed one after another in `hidden` [p h].

    `text`, `vae` and `vit` are positions in the pack. A picture is its VAE tokens, or its ViT tokens where it has no
    others. A caption is the text up to the token before the picture, which opens the picture and does not count; a
    sample whose caption was dropped has its picture markers pooled instead, as in the release.
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
