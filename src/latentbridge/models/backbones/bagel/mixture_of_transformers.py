"""BAGEL's language model: two experts per layer with shared attention (arXiv 2505.14683, section 2)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import Qwen2Config
from transformers.models.qwen2.modeling_qwen2 import (
    Qwen2MLP,
    Qwen2RMSNorm,
    Qwen2RotaryEmbedding,
    apply_rotary_pos_emb,
    repeat_kv,
)

Past = Sequence[tuple[Tensor, Tensor]]
"""Keys and values [b heads s d] of each layer, after the rotary embedding."""


class Stream(NamedTuple):
    """The input tokens of one expert."""

    states: Tensor
    """[b s h]."""
    positions: Tensor
    """int64 [b s]; the tokens of one picture share a position."""


def seen_before(positions: Tensor, real: Tensor) -> Tensor:
    """Return the attention mask, bool [b s s], from positions [b s]: tokens attend to the same and earlier positions.

    Text tokens have a position each, so attention is causal; the tokens of a picture share one, so they attend to each
    other. Padding, where `real` [b s] is False, is attended to by padding alone.
    """
    ordered = positions[:, None, :] <= positions[:, :, None]
    return ordered & (real[:, None, :] == real[:, :, None])


class ExpertLayer(nn.Module):
    """One expert's part of a layer: norms, projections and MLP of Qwen2, with QK-norm; the attention itself is shared."""

    def __init__(self, config: Qwen2Config):
        super().__init__()
        sizes: Any = config
        width, self.head_dim = sizes.hidden_size, sizes.hidden_size // sizes.num_attention_heads
        kv_width = sizes.num_key_value_heads * self.head_dim
        self.input_layernorm = Qwen2RMSNorm(width, sizes.rms_norm_eps)
        self.q_proj = nn.Linear(width, width)
        self.k_proj = nn.Linear(width, kv_width)
        self.v_proj = nn.Linear(width, kv_width)
        self.o_proj = nn.Linear(width, width, bias=False)
        self.q_norm = Qwen2RMSNorm(self.head_dim, sizes.rms_norm_eps)
        self.k_norm = Qwen2RMSNorm(self.head_dim, sizes.rms_norm_eps)
        self.post_attention_layernorm = Qwen2RMSNorm(width, sizes.rms_norm_eps)
        self.mlp = Qwen2MLP(config)

    def project(self, states: Tensor, rotary: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor, Tensor]:
        """Return queries, keys and values [b heads s d] of states [b s h]."""
        normed = self.input_layernorm(states)
        queries, keys, values = (
            projection(normed).unflatten(-1, (-1, self.head_dim))
            for projection in (self.q_proj, self.k_proj, self.v_proj)
        )
        queries, keys = self.q_norm(queries).transpose(1, 2), self.k_norm(keys).transpose(1, 2)
        return *apply_rotary_pos_emb(queries, keys, *rotary), values.transpose(1, 2)

    def update(self, states: Tensor, attended: Tensor) -> Tensor:
        """Return the next states [b s h] from the attention output [b heads s d]."""
        states = states + self.o_proj(attended.transpose(1, 2).flatten(2))
        return states + self.mlp(self.post_attention_layernorm(states))


class Expert(nn.Module):
    """The layers of one expert and its final norm."""

    def __init__(self, config: Qwen2Config):
        super().__init__()
        self.layers = nn.ModuleList(ExpertLayer(config) for _ in range(config.num_hidden_layers))
        self.norm = Qwen2RMSNorm(config.hidden_size, config.rms_norm_eps)


class MixtureOfTransformers(nn.Module):
    """An understanding expert for text and input images, and a generation expert of the same size for generated images.

    Each expert has a stream of tokens, and in every layer tokens attend to those of both streams. Order is given by
    positions and `visible`, not by the streams.
    """

    def __init__(self, config: Qwen2Config):
        super().__init__()
        self.config = config
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size)
        self.und = Expert(config)
        self.gen = Expert(config)
        self.rotary_emb = Qwen2RotaryEmbedding(config)
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        if config.tie_word_embeddings:
            self.lm_head.weight = self.embed_tokens.weight

    def forward(self, streams: Sequence[Stream], visible: Tensor, past: Past = ()) -> tuple[list[Tensor], Past]:
        """Return the final states [b s h] of each stream, and keys and values for later tokens.

        The first stream is the understanding expert's, the second, if any, the generation expert's. `visible` is the
        attention mask, bool [b q k], of the q tokens of the streams over the k tokens of `past` and of the streams.
        """
        experts = (self.und, self.gen)[: len(streams)]
        states = [stream.states for stream in streams]
        rotaries = [self.rotary_emb(stream.states, stream.positions) for stream in streams]
        lengths = [stream.positions.shape[1] for stream in streams]
        present: list[tuple[Tensor, Tensor]] = []
        for index in range(self.config.num_hidden_layers):
            layers: list[Any] = [expert.layers[index] for expert in experts]
            projected = [
                layer.project(state, rotary) for layer, state, rotary in zip(layers, states, rotaries, strict=True)
            ]
            queries, keys, values = (torch.cat(parts, dim=2) for parts in zip(*projected, strict=True))
            if past:
                keys, values = (torch.cat(parts, dim=2) for parts in zip(past[index], (keys, values), strict=True))
            present.append((keys, values))
            if queries.device.type != "cpu":  # fused kernels there take no groups of heads beside a mask
                keys, values = (repeat_kv(each, queries.shape[1] // each.shape[1]) for each in (keys, values))
            attended = F.scaled_dot_product_attention(
                queries, keys, values, attn_mask=visible[:, None], enable_gqa=True
            ).split(lengths, dim=2)
            states = [layer.update(state, part) for layer, state, part in zip(layers, states, attended, strict=True)]
        return [expert.norm(state) for expert, state in zip(experts, states, strict=True)], present
