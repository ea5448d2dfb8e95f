"""The BiTransformer: text embeddings or learned queries that read the backbone and become the decoder's condition.

A bidirectional T5 encoder in which some blocks also cross-attend to the backbone's hidden states. It is made of
transformers' own T5 layers, in the key layout of the released OmniBridge checkpoint (`bilm.*`).
Source: OmniBridge, released code (modeling_bitransformer.py).
"""

from __future__ import annotations

import re
from typing import Any, cast

import torch
from torch import Tensor, nn
from transformers import MT5EncoderModel, T5Config, T5EncoderModel
from transformers.models.t5.modeling_t5 import (
    T5Attention,
    T5DenseGatedActDense,
    T5LayerCrossAttention,
    T5LayerFF,
    T5LayerNorm,
    T5LayerSelfAttention,
)

from latentbridge.config import AlignerConfig
from latentbridge.errors import UserError
from latentbridge.models.omnibridge.attention import LEAN


def t5_config(config: AlignerConfig, **more: Any) -> T5Config:
    """The T5 whose layers the aligner is made of, and which the tiny text encoder is."""
    return T5Config(
        d_model=config.d_model,
        d_ff=config.d_ff,
        d_kv=config.d_kv,
        num_heads=config.num_heads,
        num_layers=config.num_layers,
        relative_attention_num_buckets=config.num_buckets,
        relative_attention_max_distance=config.max_distance,
        layer_norm_epsilon=config.norm_eps,
        feed_forward_proj="gated-gelu_pytorch_tanh",
        **more,
    )


class BiTransformerBlock(nn.Module):
    """Pre-norm self-attention, cross-attention where `crosses`, gated feed-forward; all residual."""

    def __init__(self, config: T5Config, layer_idx: int, crosses: bool) -> None:
        super().__init__()
        self.crosses = crosses
        self.layer = nn.ModuleList([T5LayerSelfAttention(config, layer_idx == 0, layer_idx)])
        if crosses:
            self.layer.append(T5LayerCrossAttention(config, layer_idx))
        self.layer.append(T5LayerFF(config))

    def forward(self, x: Tensor, hidden: Tensor, bias: Tensor, hidden_bias: Tensor) -> Tensor:
        x = self.layer[0](x, position_bias=bias)[0]
        if self.crosses:
            x = self.layer[1](x, hidden, position_bias=hidden_bias)[0]
        return self.layer[-1](x)


class BiTransformer(nn.Module):
    """Maps input embeddings [b n d] and hidden states [b m d] to latents [b n d].

    Attention is T5's: no 1/sqrt(d); one relative bias, owned by block 0, serves every self-attention; cross-attention
    has none, or with `cross_bias` another one that all its layers share and that starts at zero. Weights start as T5's do, except that every cross-attention output is zero, so an untrained aligner
    reads nothing from the backbone (deviation: the release leaves PyTorch's defaults and zero queries).
    """

    _no_split_modules = ("BiTransformerBlock",)
    """What is sharded and gathered together, as the libraries' models say it."""

    def __init__(self, config: AlignerConfig) -> None:
        super().__init__()
        self.config = config
        t5 = t5_config(config, dropout_rate=config.dropout, attn_implementation=LEAN)
        self.query_tokens = nn.Parameter(torch.empty(1, config.num_queries, config.d_model))
        self.block = nn.ModuleList(
            BiTransformerBlock(t5, i, crosses=i in config.cross_layers) for i in range(config.num_layers)
        )
        if config.cross_bias:
            self.cross_relative_attention_bias = nn.Embedding(config.num_buckets, config.num_heads)
        self.final_layer_norm = T5LayerNorm(config.d_model, eps=config.norm_eps)
        self.dropout = nn.Dropout(config.dropout)
        self._reset_parameters()

    def forward(
        self,
        inputs_embeds: Tensor,
        hidden: Tensor,
        hidden_mask: Tensor | None = None,
        inputs_mask: Tensor | None = None,
    ) -> Tensor:
        """Latents [b n d]; masks are 1 where a position may be read, and a row that is all 0 reads uniformly.

        Float32 embeddings keep the residual stream in float32 even when the weights are bfloat16.
        """
        x = self.dropout(inputs_embeds)
        bias = self._self_bias(x.shape[1], inputs_mask)
        hidden_bias = self._cross_bias(x.shape[1], hidden.shape[1], hidden_mask, bias)
        for block in self.block:
            x = block(x, hidden, bias, hidden_bias)
        return self.dropout(self.final_layer_norm(x))

    def _self_bias(self, length: int, mask: Tensor | None) -> Tensor:
        """[1|b heads n n]. The causal ablation keeps the bidirectional buckets, so only the mask changes."""
        attention = cast(T5Attention, self.get_submodule("block.0.layer.0.SelfAttention"))
        bias = attention.compute_bias(length, length).contiguous()  # else all blocks read it across its grain
        if mask is not None:
            bias = bias + _additive(mask, bias.dtype)
        if not self.config.bidirectional:
            future = torch.ones(length, length, dtype=torch.bool, device=bias.device).triu(1)
            bias = bias.masked_fill(future, torch.finfo(bias.dtype).min)
        return bias

    def _cross_bias(self, length: int, hidden_length: int, mask: Tensor | None, like: Tensor) -> Tensor:
        """[1|b heads|1 1|n m], of the dtype and on the device of `like`. Places are counted among the states that may be read."""
        mask = like.new_ones(1, hidden_length) if mask is None else mask
        bias = _additive(mask, like.dtype)
        if not self.config.cross_bias:
            return bias
        places = mask.long().cumsum(dim=1) - 1
        offsets = places[:, None, :] - torch.arange(length, device=like.device)[:, None]
        buckets = T5Attention._relative_position_bucket(
            offsets, num_buckets=self.config.num_buckets, max_distance=self.config.max_distance
        )
        return bias + self.cross_relative_attention_bias(buckets).permute(0, 3, 1, 2).contiguous()

    def _reset_parameters(self) -> None:
        d = self.config.d_model
        nn.init.normal_(self.query_tokens)  # the scale of T5's token embeddings
        if self.config.cross_bias:
            nn.init.zeros_(self.cross_relative_attention_bias.weight)
        for name, module in self.named_modules():
            if isinstance(module, T5Attention):
                nn.init.normal_(module.q.weight, std=(d * module.key_value_proj_dim) ** -0.5)
                nn.init.normal_(module.k.weight, std=d**-0.5)
                nn.init.normal_(module.v.weight, std=d**-0.5)
                nn.init.normal_(module.o.weight, std=module.inner_dim**-0.5)
                if module.has_relative_attention_bias:
                    nn.init.normal_(module.relative_attention_bias.weight, std=d**-0.5)
                if name.endswith("EncDecAttention"):
                    nn.init.zeros_(module.o.weight)
            elif isinstance(module, T5DenseGatedActDense):
                nn.init.normal_(module.wi_0.weight, std=d**-0.5)
                nn.init.normal_(module.wi_1.weight, std=d**-0.5)
                nn.init.normal_(module.wo.weight, std=module.wo.in_features**-0.5)


def _additive(mask: Tensor, dtype: torch.dtype) -> Tensor:
    """[b m] of ones and zeros -> [b 1 1 m] of zeros and the most negative finite number."""
    return (1 - mask[:, None, None, :].to(dtype)) * torch.finfo(dtype).min


def init_from_t5(aligner: BiTransformer, t5: T5EncoderModel | MT5EncoderModel) -> None:
    """Copies a T5 encoder into a fresh `aligner`, which then equals it exactly until cross-attention learns.

    In the crossing blocks T5's feed-forward moves from `layer.1` to `layer.2`. Deviation: the release copied by equal
    name, which left those feed-forwards random and put their norm on the cross-attention. Raises UserError when the
    encoder is not of the aligner's shape.
    """
    crossing = {str(i) for i in aligner.config.cross_layers}

    def moved(layer: re.Match[str]) -> str:
        return f"block.{layer[1]}.layer.{2 if layer[1] in crossing else 1}."

    source = {
        re.sub(r"^block\.(\d+)\.layer\.1\.", moved, key): weight
        for key, weight in t5.encoder.state_dict().items()
        if not key.startswith("embed_tokens")
    }
    fresh = ("query_tokens", "cross_relative_attention_bias.", *(f"block.{i}.layer.1." for i in crossing))
    target = {key: weight.shape for key, weight in aligner.state_dict().items() if not key.startswith(fresh)}
    if target != {key: weight.shape for key, weight in source.items()}:
        raise UserError("The T5 encoder's depth, widths or gating differ from the aligner's; give both the same sizes.")
    aligner.load_state_dict(source, strict=False)
