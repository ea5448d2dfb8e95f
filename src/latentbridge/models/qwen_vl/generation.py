"""Reply options of a Qwen-VL, its folder's defaults of them, and the repetition penalty."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Annotated, Any

import torch
from torch import Tensor

from latentbridge.models.options import ReplyOptions

_MAX_TOKENS = 1024
"""New tokens of a released model's reply, as OmniBridge's scripts set them (spec OmniBridge 2.1)."""


@dataclass(frozen=True)
class QwenReplyOptions(ReplyOptions):
    """Options of a reply of a Qwen-VL."""

    repetition_penalty: Annotated[float, (0.1, 10.0)] = 1.0
    """Divisor of the positive logits, and factor of the negative ones, of all tokens in prompt and reply."""


def read_generation(text: str, end_of_turn: int) -> tuple[QwenReplyOptions, tuple[int, ...]]:
    """Return the reply options of a generation_config.json, and the ids that end a reply; greedy without one."""
    if not text:
        return QwenReplyOptions(max_tokens=256), (end_of_turn,)
    values: dict[str, Any] = json.loads(text)
    sampled = bool(values.get("do_sample", False))
    ends = values.get("eos_token_id") or end_of_turn
    options = QwenReplyOptions(
        max_tokens=values.get("max_new_tokens") or _MAX_TOKENS,
        temperature=float(values.get("temperature", 1.0)) if sampled else 0.0,
        top_p=float(values.get("top_p", 1.0)) if sampled else 1.0,
        top_k=int(values.get("top_k", 50)) if sampled else 0,  # transformers' default of a sampled reply is 50
        repetition_penalty=float(values.get("repetition_penalty") or 1.0),
    )
    return options, (ends,) if isinstance(ends, int) else tuple(ends)


class SeenTokens:
    """The tokens of prompt and reply in each of r rows, and the penalty on their repetition (arXiv 1909.05858)."""

    def __init__(self, options: ReplyOptions, ids: Tensor, mask: Tensor, vocabulary: int):
        """`ids` [r s] are prompts and `mask` [r s] is 1 at their tokens; without a penalty nothing is kept."""
        self._penalty = options.repetition_penalty if isinstance(options, QwenReplyOptions) else 1.0
        self._seen: Tensor | None = None
        if self._penalty != 1.0:
            counts = torch.zeros(len(ids), vocabulary, dtype=torch.long, device=ids.device)
            self._seen = counts.scatter_add_(1, ids, mask.long()) > 0

    def penalize(self, logits: Tensor) -> Tensor:
        """Return logits [r v] with the penalty on the tokens seen."""
        if self._seen is None:
            return logits
        return torch.where(self._seen, torch.where(logits > 0, logits / self._penalty, logits * self._penalty), logits)

    def add(self, tokens: Tensor) -> None:
        """Record the next token of each row, int64 [r]."""
        if self._seen is not None:
            self._seen.scatter_(1, tokens[:, None], True)
