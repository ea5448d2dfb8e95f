from __future__ import annotations

from pathlib import Path
from typing import Literal

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from latentbridge.config import AlignerConfig, RetrievalConfig
from latentbridge.models.omnibridge.aligner import BiTransformer
from latentbridge.models.omnibridge.retrieval_head import AttentionPool, RetrievalHead, fuse
from latentbridge.models.qwen_vl.modeling_qwen_vl import Compat

FIXTURE = load_file(Path(__file__).parents[2] / "golden" / "omnibridge" / "golden.safetensors")
ATOL = 2e-5  # float32 rounding; observed below 2e-6
Kind = Literal["image", "text"]


def weights(prefix: str) -> dict[str, Tensor]:
    return {key.removeprefix(prefix): value for key, value in FIXTURE.items() if key.startswith(prefix)}


def build_aligner() -> BiTransformer:
    config = AlignerConfig(32, 48, 16, 3, num_layers=6, num_queries=40, cross_layers=(0, 2, 4))
    aligner = BiTransformer(config).eval()
    aligner.load_state_dict(weights("bilm.w."))
    return aligner


def build_head(compat: Compat) -> RetrievalHead:
    config = RetrievalConfig(num_image_queries=24, num_text_queries=20, embedding_size=16, num_heads=4)
    head = RetrievalHead(config, d_model=32).eval()
    head.compat = compat
    state = {k: v for k, v in weights("ret.in.").items() if k in head.state_dict()}
    for pool in ("image_proj", "image_proj_1", "text_proj", "text_proj_1"):
        state |= {f"{pool}.{key}": value for key, value in weights(f"{pool}.w.").items()}
    head.load_state_dict(state)
    return head


def states(kind: Kind) -> tuple[Tensor, Tensor]:
    return FIXTURE[f"ret.in.{kind}_states"], FIXTURE[f"ret.in.{kind}_mask"]


def distance(a: Tensor, b: Tensor) -> float:
    return (a - b).abs().max().item()


def pad(x: Tensor, mask: Tensor, fill: float, length: int = 3) -> tuple[Tensor, Tensor]:
    """`x` and its mask, `length` positions longer; the new positions hold `fill`."""
    padding = x.new_full((len(x), length, x.shape[-1]), fill)
    return torch.cat([x, padding], 1), torch.cat([mask, mask.new_zeros(len(x), length)], 1)


@torch.no_grad()
@pytest.mark.parametrize("padding, golden", [(0, "image_proj"), (3, "image_proj_zero_padded_by_3")])
def test_unmasked_pool_equals_the_authors_module(padding: int, golden: str) -> None:
    pool = build_head("reference").image_proj
    x = FIXTURE["pool.in.x"]
    x, _ = pad(x, torch.ones(x.shape[:2]), fill=0.0, length=padding)
    assert distance(pool(x), FIXTURE[f"pool.out.{golden}"]) <= ATOL
    pool.get_parameter("cross_attn.v.weight").data[0, 0] += 0.1
    assert distance(pool(x), FIXTURE[f"pool.out.{golden}"]) > ATOL


@torch.no_grad()
@pytest.mark.parametrize("fill", [0.0, 5.0])
def test_masked_pool_ignores_what_it_masks(fill: float) -> None:
    pool = build_head("reference").image_proj
    padded, mask = pad(FIXTURE["pool.in.x"], torch.ones(2, 9), fill)
    assert distance(pool(padded, mask), FIXTURE["pool.out.image_proj"]) <= ATOL
    assert distance(pool(padded), FIXTURE["pool.out.image_proj"]) > 0.01


@torch.no_grad()
def test_a_fully_masked_row_pools_to_finite_numbers() -> None:
    pool = AttentionPool(d_model=12, embedding_size=5, num_heads=3)
    assert pool(torch.randn(2, 7, 12), torch.tensor([[0] * 7, [1] * 7])).isfinite().all()


@torch.no_grad()
@pytest.mark.parametrize(
    "kind, weight",
    [
        ("image", "image_queries"),
        ("image", "image_proj.norm1_q.bias"),
        ("image", "image_proj_1.cross_attn.proj.weight"),
        ("image", "fusion_alpha_image"),
        ("text", "text_queries"),
        ("text", "text_proj.cross_attn.k.weight"),
        ("text", "text_proj_1.norm1_v.weight"),
        ("text", "fusion_alpha_text"),
    ],
)
def test_reference_embeddings_equal_the_authors_ones(kind: Kind, weight: str) -> None:
    aligner, head = build_aligner(), build_head("reference")
    golden = FIXTURE[f"ret.out.{kind}_embeds"]
    assert distance(head(kind, *states(kind), aligner), golden) <= ATOL
    head.get_parameter(weight).data.view(-1)[0] += 0.1
    assert distance(head(kind, *states(kind), aligner), golden) > ATOL


@torch.no_grad()
@pytest.mark.parametrize("kind, tower", [("image", "vision_tower"), ("text", "text_tower")])
def test_aligner_outputs_equal_the_authors_ones(kind: Kind, tower: str) -> None:
    aligner, (x, mask) = build_aligner(), states(kind)
    queries = FIXTURE[f"ret.in.{kind}_queries"].expand(len(x), -1, -1)
    assert distance(aligner(queries, x, mask), FIXTURE[f"ret.out.{tower}"]) <= ATOL
    aligner.get_parameter("block.4.layer.1.EncDecAttention.k.weight").data[0, 0] += 0.1
    assert distance(aligner(queries, x, mask), FIXTURE[f"ret.out.{tower}"]) > ATOL


@torch.no_grad()
def test_logits_are_scaled_cosines() -> None:
    aligner, head = build_aligner(), build_head("reference")
    image, text = head("image", *states("image"), aligner), head("text", *states("text"), aligner)
    logits = head.logit_scale.exp() * image @ text.T
    assert distance(logits, FIXTURE["ret.out.logits_per_image"]) <= 20 * ATOL  # the scale is 14.3
    assert distance(1.001 * logits, FIXTURE["ret.out.logits_per_image"]) > 20 * ATOL


@torch.no_grad()
@pytest.mark.parametrize("kind", ["image", "text"])
@pytest.mark.parametrize("compat", ["corrected", "reference"])
def test_only_masked_embeddings_do_not_depend_on_padding_or_batch(kind: Kind, compat: Compat) -> None:
    aligner, head = build_aligner(), build_head(compat)
    x, mask = states(kind)
    together = head(kind, x, mask, aligner)
    padded = head(kind, *pad(x, mask, fill=5.0), aligner)
    lengths = mask.sum(1).long().tolist()
    assert min(lengths) < max(lengths)
    alone = torch.cat([head(kind, x[i : i + 1, :n], mask[i : i + 1, :n], aligner) for i, n in enumerate(lengths)])
    torch.testing.assert_close(together.norm(dim=-1), torch.ones(len(x)))
    for other in (padded, alone):
        assert (distance(together, other) <= ATOL) == (compat == "corrected")


def test_fusion_weighs_directions_not_lengths() -> None:
    read, pooled = torch.tensor([[7.0, 0.0]]), torch.tensor([[0.0, 0.2]])
    # sigmoid(ln 3) = 3/4, so the sum is (3/4, 1/4), of length sqrt(10)/4
    expected = torch.tensor([[3.0, 1.0]]) / 10**0.5
    torch.testing.assert_close(fuse(read, pooled, torch.tensor([3.0]).log()), expected)
