"""Requests for a reply, the chunks of a reply, and the detokenizer that turns tokens into chunks."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass

import torch

from latentbridge.models.options import ReplyOptions, find_stop
from latentbridge.models.unified import CHAT_PURPOSE
from latentbridge.rng import torch_rng
from latentbridge.types import Conversation, FinishReason, Reply

_REPLACEMENT = "\ufffd"
"""The character that an incomplete UTF-8 sequence decodes to."""


@dataclass(frozen=True)
class GenerationRequest:
    """A conversation to reply to, with the options of the reply."""

    conversation: Conversation
    options: ReplyOptions
    seed: int = 0
    purpose: str = CHAT_PURPOSE
    """The stream of the seed that tokens are sampled from (`rng.py`)."""

    def generator(self) -> torch.Generator:
        """Return a new generator of the reply's tokens."""
        return torch_rng(self.seed, self.purpose)


@dataclass(frozen=True)
class TokenChunk:
    """The text that one token, or several, add to a reply; the last chunk has a finish reason."""

    token: int | None
    """None for a whole reply."""
    text: str
    finish_reason: FinishReason | None
    prompt_tokens: int
    reply_tokens: int
    """Tokens generated so far, the end of the turn included."""


class Detokenizer:
    """An incremental decoder that holds back incomplete characters and text that may become a stop text."""

    def __init__(
        self,
        request: GenerationRequest,
        prompt_tokens: int,
        end_ids: Collection[int],
        decode: Callable[[Sequence[int]], str],
    ):
        self._request = request
        self._prompt_tokens = prompt_tokens
        self._end_ids = end_ids
        self._decode = decode
        self._tokens: list[int] = []
        self._sent = 0
        """Characters already in a chunk."""

    def add(self, token: int, has_room: bool) -> TokenChunk:
        """Return the chunk of a token; `has_room` tells whether the slot holds another one."""
        self._tokens.append(token)
        text = self._decode(self._tokens)
        stop_at = find_stop(text, self._request.options.stop)
        reason: FinishReason | None = None
        if token in self._end_ids or stop_at is not None:
            reason = "stop"
        elif len(self._tokens) == self._request.options.max_tokens or not has_room:
            reason = "length"
        final = text[:stop_at] if reason else text[: len(text) - self._pending(text)]
        new, self._sent = final[self._sent :], max(self._sent, len(final))
        return TokenChunk(token, new, reason, self._prompt_tokens, len(self._tokens))

    def _pending(self, text: str) -> int:
        """Return how many characters at the end may still change or become a stop text."""
        complete = text.rstrip(_REPLACEMENT)
        prefixes = (
            n for stop in self._request.options.stop for n in range(len(stop) - 1, 0, -1) if complete.endswith(stop[:n])
        )
        return len(text) - len(complete) + max(prefixes, default=0)


def whole_reply(reply: Reply, prompt_tokens: int) -> TokenChunk:
    """Return a reply as one chunk of at least one token."""
    return TokenChunk(None, reply.text, reply.finish_reason, prompt_tokens, max(1, len(reply.token_ids)))
