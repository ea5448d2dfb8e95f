"""A reply while it is written: tokens in, text out, and when to stop."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from latentbridge.models.qwen_vl.continuous_batching import SamplingParams
from latentbridge.rng import torch_rng
from latentbridge.types import Conversation

FinishReason = Literal["stop", "length"]
_UNFINISHED = "\ufffd"
"""What a character decodes to of which not all bytes are there."""


@dataclass(frozen=True)
class GenerationRequest:
    """What to reply to, and how."""

    conversation: Conversation
    max_tokens: int
    temperature: float = 0.0
    seed: int = 0
    stop: tuple[str, ...] = ()
    """Texts that end the reply, and are not part of it."""
    purpose: str = "chat"
    """Which stream of the seed the tokens are drawn from (`rng.py`)."""

    def sampling_params(self) -> SamplingParams:
        """How its tokens are chosen."""
        return SamplingParams(self.temperature, torch_rng(self.seed, self.purpose))


@dataclass(frozen=True)
class TokenChunk:
    """What a token added to a reply; the last piece says why it is the last."""

    token: int
    text: str
    finish_reason: FinishReason | None
    prompt_tokens: int
    reply_tokens: int
    """So far, the end of the turn included."""


class Detokenizer:
    """Text of a reply, given out as soon as it is certain: no half characters, nothing that may become a stop text."""

    def __init__(
        self, ask: GenerationRequest, prompt_tokens: int, end_of_turn: int, decode: Callable[[Sequence[int]], str]
    ):
        self._ask = ask
        self._prompt_tokens = prompt_tokens
        self._end_of_turn = end_of_turn
        self._decode = decode
        self._tokens: list[int] = []
        self._given = 0

    def add(self, token: int, room: bool) -> TokenChunk:
        """The piece of a token; `room` tells whether another one fits."""
        self._tokens.append(token)
        text = self._decode(self._tokens)
        stopped = min((found for stop in self._ask.stop if (found := text.find(stop)) >= 0), default=None)
        reason: FinishReason | None = None
        if token == self._end_of_turn or stopped is not None:
            reason = "stop"
        elif len(self._tokens) == self._ask.max_tokens or not room:
            reason = "length"
        certain = text[:stopped] if reason else text[: len(text) - self._doubtful(text)]
        new, self._given = certain[self._given :], max(self._given, len(certain))
        return TokenChunk(token, new, reason, self._prompt_tokens, len(self._tokens))

    def _doubtful(self, text: str) -> int:
        """How many characters at the end may still change or turn out to be a stop text."""
        whole = text.rstrip(_UNFINISHED)
        begun = (n for stop in self._ask.stop for n in range(len(stop) - 1, 0, -1) if whole.endswith(stop[:n]))
        return len(text) - len(whole) + max(begun, default=0)
