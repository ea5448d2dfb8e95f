from __future__ import annotations

import pytest
import torch
from tests.models.packed_pooling import pool_packed

from latentbridge.models.latent_heads import LatentHeads


def test_captions_and_pictures_are_pooled_as_released() -> None:
    # bos, two words, open, two VAE tokens, close | a dropped caption: open, VAE, close | bos, open, ViT, close
    hidden = torch.arange(14.0)[:, None] ** torch.tensor([1.0, 2.0])
    text = [0, 1, 2, 3, 6, 7, 9, 10, 11, 13]
    captions, pictures = pool_packed(hidden, [7, 3, 4], text, vae=[4, 5, 8], vit=[12])
    # positions 0 1 2 | the markers 7 and 9 | 10
    assert captions.flatten().tolist() == pytest.approx([1.0, 5 / 3, 8.0, 65.0, 10.0, 100.0])
    assert pictures.tolist() == [[4.5, 20.5], [8.0, 64.0], [12.0, 144.0]]


def test_vit_tokens_stand_in_only_where_there_are_no_vae_tokens() -> None:
    hidden = torch.tensor([[1.0], [2.0], [3.0], [7.0], [5.0]])
    _, pictures = pool_packed(hidden, [5], text=[0, 1, 4], vae=[2], vit=[3])
    assert pictures.tolist() == [[3.0]]


def test_as_large_as_released() -> None:
    with torch.device("meta"):
        heads = LatentHeads(3584)
    assert sum(p.numel() for p in heads.parameters()) / 1e6 == pytest.approx(47.7, abs=0.05)  # spec 1.4
