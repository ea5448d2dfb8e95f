"""Two experts in every layer, one attention over the tokens of both: BAGEL's language model (arXiv 2505.14683, section 2)."""

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
)

Past = Sequence[tuple[Tensor, Tensor]]
"""Keys and values [b heads s d] of each layer, positions turned in."""


class Stream(NamedTuple):
    """The tokens one expert takes."""

    states: Tensor
    """[b s h]."""
    positions: Tensor
    """int64 [b s]; the tokens of one picture share theirs."""


def seen_before(positions: Tensor, real: Tensor) -> Tensor:
    """Which tokens see which, bool [b s s], from their positions [b s]: those at their own or before.

    Words each have a position of their own, so they see what precedes them; the tokens of a picture share one, so they
    see each other. Padding, where `real` [b s] is False, is seen by padding alone.
    """
    ordered = positions[:, None, :] <= positions[:, :, None]
    return ordered & (real[:, None, :] == real[:, :, None])


class ExpertLayer(nn.Module):
    """One expert's share of a layer: norms, projections and MLP of Qwen2, with QK-norm; the attention itself is shared."""

    def __init__(self, config: Qwen2Config):
        super().__init__()
        sizes: Any = config
        width, self.head_dim = sizes.hidden_size, sizes.hidden_size // sizes.num_attention_heads
        queried, kept = width, sizes.num_key_value_heads * self.head_dim
        self.input_layernorm = Qwen2RMSNorm(width, sizes.rms_norm_eps)
        self.q_proj = nn.Linear(width, queried)
        self.k_proj = nn.Linear(width, kept)
        self.v_proj = nn.Linear(width, kept)
        self.o_proj = nn.Linear(queried, width, bias=False)
        self.q_norm = Qwen2RMSNorm(self.head_dim, sizes.rms_norm_eps)
        self.k_norm = Qwen2RMSNorm(self.head_dim, sizes.rms_norm_eps)
        self.post_attention_layernorm = Qwen2RMSNorm(width, sizes.rms_norm_eps)
        self.mlp = Qwen2MLP(config)

    def project(self, states: Tensor, rotary: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys and values [b heads s d] of states [b s h]."""
        normed = self.input_layernorm(states)
        queries, keys, values = (
            projection(normed).unflatten(-1, (-1, self.head_dim))
            for projection in (self.q_proj, self.k_proj, self.v_proj)
        )
        queries, keys = self.q_norm(queries).transpose(1, 2), self.k_norm(keys).transpose(1, 2)
        return *apply_rotary_pos_emb(queries, keys, *rotary), values.transpose(1, 2)

    def absorb(self, states: Tensor, attended: Tensor) -> Tensor:
        """The next states [b s h], after what was attended to [b heads s d] and the MLP."""
        states = states + self.o_proj(attended.transpose(1, 2).flatten(2))
        return states + self.mlp(self.post_attention_layernorm(states))


class Expert(nn.Module):
    """All layers of one expert, and its final norm."""

    def __init__(self, config: Qwen2Config):
        super().__init__()
        self.layers = nn.ModuleList(ExpertLayer(config) for _ in range(config.num_hidden_layers))
        self.norm = Qwen2RMSNorm(config.hidden_size, config.rms_norm_eps)


class MixtureOfTransformers(nn.Module):
    """An understanding expert for words and pictures read, a generation expert for pictures drawn, of one size.

    Each takes the tokens of its own stream, and in every layer a token attends to those of both. How tokens lie in
    streams says nothing of their order: positions and `visible` do.
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
        """The final states [b s h] of each stream, and what later tokens may attend to.

        The first stream is the understanding expert's, the second, where there is one, the generation expert's.
        `visible` bool [b q k]: which of the k tokens (those of `past`, then the streams') each of the streams' q sees.
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
            attended = F.scaled_dot_product_attention(
                queries, keys, values, attn_mask=visible[:, None], enable_gqa=True
            ).split(lengths, dim=2)
            states = [layer.absorb(state, part) for layer, state, part in zip(layers, states, attended, strict=True)]
        return [expert.norm(state) for expert, state in zip(experts, states, strict=True)], present
