"""The BiTransformer: a T5 encoder that maps text embeddings or learned queries to the decoder's condition.

Some of its blocks also cross-attend to the backbone's hidden states. It is made of transformers' own T5 layers, in the
key layout of the released OmniBridge checkpoint (`bilm.*`).
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
    T5PreTrainedModel,
)

from latentbridge.config import AlignerConfig
from latentbridge.errors import UserError
from latentbridge.models.omnibridge.attention import CHUNKED


def t5_config(config: AlignerConfig, **settings: Any) -> T5Config:
    """Return the T5 config of the aligner's layers and of the tiny text encoder."""
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
        dropout_rate=0.0,
        **settings,
    )


class BiTransformerBlock(nn.Module):
    """Pre-norm self-attention, optional cross-attention and gated feed-forward; all residual."""

    def __init__(self, config: T5Config, layer_idx: int, has_cross_attention: bool) -> None:
        super().__init__()
        self.has_cross_attention = has_cross_attention
        self.layer = nn.ModuleList([T5LayerSelfAttention(config, layer_idx == 0, layer_idx)])
        if has_cross_attention:
            self.layer.append(T5LayerCrossAttention(config, layer_idx))
        self.layer.append(T5LayerFF(config))

    def forward(self, x: Tensor, hidden: Tensor, bias: Tensor, hidden_bias: Tensor) -> Tensor:
        x = self.layer[0](x, position_bias=bias)[0]
        if self.has_cross_attention:
            x = self.layer[1](x, hidden, position_bias=hidden_bias)[0]
        return self.layer[-1](x)


class BiTransformer(nn.Module):
    """Maps input embeddings [b n d] and hidden states [b m d] to latents [b n d].

    Attention is T5's: no 1/sqrt(d), and one relative bias, owned by block 0, for every self-attention. Cross-attention
    has no bias, or with `cross_bias` one that all its layers share and that starts at zero. Weights are initialised as in
    T5, except that every cross-attention output is zero, so an untrained aligner ignores the backbone (deviation: the
    release leaves PyTorch's defaults and zero queries).
    """

    _no_split_modules = ("BiTransformerBlock",)
    """The FSDP unit, under the attribute name of transformers' models."""

    def __init__(self, config: AlignerConfig) -> None:
        super().__init__()
        self.config = config
        t5 = t5_config(config, attn_implementation=CHUNKED)
        self.query_tokens = nn.Parameter(torch.empty(1, config.num_queries, config.d_model))
        self.block = nn.ModuleList(
            BiTransformerBlock(t5, i, has_cross_attention=i in config.cross_layers) for i in range(config.num_layers)
        )
        if config.cross_bias:
            self.cross_relative_attention_bias = nn.Embedding(config.num_buckets, config.num_heads)
        self.final_layer_norm = T5LayerNorm(config.d_model, eps=config.norm_eps)
        self._reset_parameters(t5)

    def forward(
        self,
        inputs_embeds: Tensor,
        hidden: Tensor,
        hidden_mask: Tensor | None = None,
        inputs_mask: Tensor | None = None,
    ) -> Tensor:
        """Return latents [b n d]; masks are 1 at attended positions, and an all-0 row attends uniformly.

        Float32 embeddings keep the residual stream in float32 even when the weights are bfloat16.
        """
        x = inputs_embeds
        bias = self._self_bias(x.shape[1], inputs_mask)
        hidden_bias = self._cross_bias(x.shape[1], hidden.shape[1], hidden_mask, bias)
        for block in self.block:
            x = block(x, hidden, bias, hidden_bias)
        return self.final_layer_norm(x)

    def _self_bias(self, length: int, mask: Tensor | None) -> Tensor:
        """Return [1|b heads n n]; the causal ablation keeps the bidirectional buckets and changes the mask only."""
        attention = cast(T5Attention, self.get_submodule("block.0.layer.0.SelfAttention"))
        bias = attention.compute_bias(length, length).contiguous()  # every block reads it
        if mask is not None:
            bias = bias + _additive(mask, bias.dtype)
        if not self.config.bidirectional:
            future = torch.ones(length, length, dtype=torch.bool, device=bias.device).triu(1)
            bias = bias.masked_fill(future, torch.finfo(bias.dtype).min)
        return bias

    def _cross_bias(self, length: int, hidden_length: int, mask: Tensor | None, like: Tensor) -> Tensor:
        """Return [1|b heads|1 1|n m] with dtype and device of `like`; masked states take up no position."""
        mask = like.new_ones(1, hidden_length) if mask is None else mask
        bias = _additive(mask, like.dtype)
        if not self.config.cross_bias:
            return bias
        positions = mask.long().cumsum(dim=1) - 1
        offsets = positions[:, None, :] - torch.arange(length, device=like.device)[:, None]
        buckets = T5Attention._relative_position_bucket(
            offsets, num_buckets=self.config.num_buckets, max_distance=self.config.max_distance
        )
        return bias + self.cross_relative_attention_bias(buckets).permute(0, 3, 1, 2).contiguous()

    def _reset_parameters(self, t5: T5Config) -> None:
        nn.init.normal_(self.query_tokens)  # the scale of T5's token embeddings
        if self.config.cross_bias:
            nn.init.zeros_(self.cross_relative_attention_bias.weight)
        initializer = T5PreTrainedModel(t5)
        for name, module in self.named_modules():
            if isinstance(module, (T5Attention, T5DenseGatedActDense)):
                initializer._init_weights(module)
            if isinstance(module, T5Attention) and name.endswith("EncDecAttention"):
                nn.init.zeros_(module.o.weight)


def _additive(mask: Tensor, dtype: torch.dtype) -> Tensor:
    """Return the additive mask [b 1 1 m] of a mask [b m]: 0, or the most negative finite number."""
    return (1 - mask[:, None, None, :].to(dtype)) * torch.finfo(dtype).min


def init_from_t5(aligner: BiTransformer, t5: T5EncoderModel | MT5EncoderModel) -> None:
    """Copy a T5 encoder into a new `aligner`, which then computes the same until cross-attention is trained.

    In blocks with cross-attention T5's `layer.1`, the feed-forward, becomes `layer.2`. Deviation: the release copied by
    equal name, which left those feed-forwards random and put their norm on the cross-attention. Raises UserError if the
    shapes differ.
    """
    cross_layers = {str(i) for i in aligner.config.cross_layers}

    def convert(layer: re.Match[str]) -> str:
        return f"block.{layer[1]}.layer.{2 if layer[1] in cross_layers else 1}."

    source = {
        re.sub(r"^block\.(\d+)\.layer\.1\.", convert, key): weight
        for key, weight in t5.encoder.state_dict().items()
        if not key.startswith("embed_tokens")
    }
    not_in_t5 = ("query_tokens", "cross_relative_attention_bias.", *(f"block.{i}.layer.1." for i in cross_layers))
    expected = {key: weight.shape for key, weight in aligner.state_dict().items() if not key.startswith(not_in_t5)}
    if expected != {key: weight.shape for key, weight in source.items()}:
        raise UserError("The T5 encoder's depth, widths or gating differ from the aligner's; give both the same sizes.")
    aligner.load_state_dict(source, strict=False)
