"""The retrieval head: unit embeddings of pictures and captions, pooled in two ways and fused by a learned gate.

Key layout of the released OmniBridge checkpoint. Source: released code (modeling_qwen2_vl.py, multimodal_retrieval.py).
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from latentbridge.config import RetrievalConfig

if TYPE_CHECKING:
    from latentbridge.models.omnibridge.aligner import BiTransformer
    from latentbridge.models.qwen_vl.modeling_qwen_vl import Compat


class AttentionPool(nn.Module):
    """Attention pooling, [b n d] -> [b e]: the query is the mean over positions; query, key and value have their own norms.

    A `mask` [b n] is 1 at positions that are averaged and attended; without it all are, as in the release. There is no
    residual and no output norm.
    """

    def __init__(self, d_model: int, embedding_size: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.norm1_q = nn.LayerNorm(d_model)
        self.norm1_k = nn.LayerNorm(d_model)
        self.norm1_v = nn.LayerNorm(d_model)
        self.cross_attn = nn.ModuleDict({role: nn.Linear(d_model, d_model) for role in ("q", "k", "v")})
        self.cross_attn["proj"] = nn.Linear(d_model, embedding_size)

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        mask = x.new_ones(x.shape[:2]) if mask is None else mask.to(x.dtype)
        mean = (x * mask[..., None]).sum(1, keepdim=True) / mask.sum(1)[:, None, None].clamp(min=1)
        query = self._heads("q", self.norm1_q(mean))
        scores = query @ self._heads("k", self.norm1_k(x)).transpose(-1, -2) * query.shape[-1] ** -0.5
        scores = scores + (1 - mask[:, None, None, :]) * torch.finfo(scores.dtype).min
        pooled = scores.softmax(-1) @ self._heads("v", self.norm1_v(x))
        return self.cross_attn["proj"](pooled.flatten(1))

    def _heads(self, role: str, x: Tensor) -> Tensor:
        return self.cross_attn[role](x).unflatten(-1, (self.num_heads, -1)).transpose(1, 2)


class RetrievalHead(nn.Module):
    """Maps the projected hidden states of a picture or a caption to a unit vector.

    The vector fuses two pooled embeddings: of the aligner's output for learned queries, and of the states themselves.
    Cosine similarities are multiplied by exp(logit_scale), which is never clamped. With `compat="reference"` the second
    pooling attends to zeroed padding, as in the release, so an embedding depends on the length of its batch.
    """

    def __init__(self, config: RetrievalConfig, d_model: int) -> None:
        super().__init__()
        self.compat: Compat = "corrected"
        self.image_queries = nn.Parameter(0.02 * torch.randn(1, config.num_image_queries, d_model))
        self.text_queries = nn.Parameter(0.02 * torch.randn(1, config.num_text_queries, d_model))
        self.image_proj = AttentionPool(d_model, config.embedding_size, config.num_heads)
        self.image_proj_1 = AttentionPool(d_model, config.embedding_size, config.num_heads)
        self.text_proj = AttentionPool(d_model, config.embedding_size, config.num_heads)
        self.text_proj_1 = AttentionPool(d_model, config.embedding_size, config.num_heads)
        self.logit_scale = nn.Parameter(torch.full((1,), math.log(1 / 0.07)))
        self.fusion_alpha_image = nn.Parameter(torch.zeros(1))
        self.fusion_alpha_text = nn.Parameter(torch.zeros(1))

    def forward(self, kind: Literal["image", "text"], states: Tensor, mask: Tensor, aligner: BiTransformer) -> Tensor:
        """Return unit embeddings [b e] of `states` [b s d], the backbone's hidden states projected to the aligner's width."""
        states = states * mask[..., None].to(states.dtype)
        if kind == "image":
            queries, pool_output, pool_states = self.image_queries, self.image_proj, self.image_proj_1
            alpha = self.fusion_alpha_image
        else:
            queries, pool_output, pool_states = self.text_queries, self.text_proj, self.text_proj_1
            alpha = self.fusion_alpha_text
        output = aligner(queries.expand(len(states), -1, -1), states, mask)
        return fuse(pool_output(output), pool_states(states, None if self.compat == "reference" else mask), alpha)


def fuse(output: Tensor, states: Tensor, alpha: Tensor) -> Tensor:
    """Return the float32 unit vector along gate * unit(output) + (1 - gate) * unit(states), [b e]; gate = sigmoid(alpha)."""
    gate, output, states = alpha.float().sigmoid(), output.float(), states.float()
    return F.normalize(gate * F.normalize(output, dim=-1) + (1 - gate) * F.normalize(states, dim=-1), dim=-1)
