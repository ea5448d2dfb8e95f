"""The tiny model's text encoder: a T5 encoder whose position bias is initialised for local attention."""

from __future__ import annotations

from typing import cast

import torch
from transformers import T5EncoderModel
from transformers.models.t5.modeling_t5 import T5Attention

from latentbridge.config import AlignerConfig
from latentbridge.models.omnibridge.aligner import t5_config

_MAX_OFFSET = 128


def new_text_encoder(config: AlignerConfig, vocab_size: int) -> T5EncoderModel:
    """Build a T5 encoder of the aligner's sizes, with random weights and a local position bias."""
    encoder = T5EncoderModel(t5_config(config, vocab_size=vocab_size, is_encoder_decoder=False, use_cache=False))
    _init_position_bias(encoder)
    return encoder


@torch.no_grad()
def _init_position_bias(encoder: T5EncoderModel) -> None:
    """Initialise the position bias to favour neighbouring tokens (after ALiBi, arXiv 2108.12409).

    In turn, a head favours near tokens, the nearest tokens, tokens before, and tokens after. With T5's random
    initialisation a tiny encoder ignores word order for thousands of steps (docs/LOG.md, 2026-11-22).
    """
    attention = cast(T5Attention, encoder.get_submodule("encoder.block.0.layer.0.SelfAttention"))
    table = attention.relative_attention_bias.weight
    offsets = torch.arange(-_MAX_OFFSET, _MAX_OFFSET + 1)
    order = offsets.abs().argsort(descending=True)  # the nearest offset of a bucket is written last
    buckets = attention._relative_position_bucket(offsets, num_buckets=len(table), max_distance=_MAX_OFFSET)
    distance = offsets.abs().float()
    penalties = (distance / 2, distance, distance / 2 + 4.0 * (offsets > 0), distance / 2 + 4.0 * (offsets < 0))
    for head in range(table.shape[1]):
        table[buckets[order], head] = -penalties[head % len(penalties)][order]
