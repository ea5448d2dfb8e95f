"""The tiny model's text encoder: a T5 encoder that starts as more than a bag of words."""

from __future__ import annotations

from typing import cast

import torch
from transformers import T5EncoderModel
from transformers.models.t5.modeling_t5 import T5Attention

from latentbridge.config import AlignerConfig
from latentbridge.models.omnibridge.aligner import t5_config

_FURTHEST = 128


def new_text_encoder(config: AlignerConfig, vocab_size: int) -> T5EncoderModel:
    """A T5 encoder of the aligner's own sizes, with random weights and a local position bias."""
    encoder = T5EncoderModel(
        t5_config(config, vocab_size=vocab_size, dropout_rate=0.0, is_encoder_decoder=False, use_cache=False)
    )
    _start_local(encoder)
    return encoder


@torch.no_grad()
def _start_local(encoder: T5EncoderModel) -> None:
    """Start the position bias so that neighbouring words mix from the first step (after ALiBi, arXiv 2108.12409).

    By turns a head prefers near words on both sides, nearest words, words before, and words after. From T5's random
    start a tiny encoder stays a bag of words for thousands of steps (docs/LOG.md, 2026-11-22).
    """
    attention = cast(T5Attention, encoder.get_submodule("encoder.block.0.layer.0.SelfAttention"))
    table = attention.relative_attention_bias.weight
    offsets = torch.arange(-_FURTHEST, _FURTHEST + 1)
    order = offsets.abs().argsort(descending=True)  # so that the nearest offset of a shared bucket is written last
    buckets = attention._relative_position_bucket(offsets, num_buckets=len(table), max_distance=_FURTHEST)
    near = offsets.abs().float()
    kinds = (0.5 * near, near, 0.5 * near + 4.0 * (offsets > 0), 0.5 * near + 4.0 * (offsets < 0))
    for head in range(table.shape[1]):
        table[buckets[order], head] = -kinds[head % len(kinds)][order]
