"""Sampling with one generator per row in transformers' `generate`."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from transformers import LogitsProcessor, LogitsProcessorList

from latentbridge.models.qwen_vl.sampling import sample_tokens


class RowSampler(LogitsProcessor):
    """A logits processor that samples a token per row with the row's generator and masks all others, for greedy search."""

    def __init__(self, temperature: float, generators: Sequence[torch.Generator]):
        self.temperature, self.generators = temperature, generators

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        probabilities = (scores.float() / self.temperature).softmax(dim=-1)
        tokens = sample_tokens(probabilities, self.generators)
        return torch.full_like(scores, -torch.inf).scatter(1, tokens[:, None], 0.0)


def sampling_processors(temperature: float, generators: Sequence[torch.Generator] | None) -> LogitsProcessorList:
    """Return the processors that sample at `temperature` under `do_sample=False`; none at temperature 0."""
    if temperature == 0.0:
        return LogitsProcessorList()
    assert generators is not None, "sampling needs one generator per conversation"
    return LogitsProcessorList([RowSampler(temperature, generators)])
