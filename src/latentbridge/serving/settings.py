"""Settings of the server; the standard library only."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Settings:
    """Capacity of the server, and limits of one request."""

    model_name: str = "tiny"
    """The model's name in the API."""
    source: str = "tiny"
    """The model that worker processes load."""
    loading: Mapping[str, Any] = field(default_factory=dict[str, Any])
    """Keyword arguments of `load` for worker processes."""
    workers: int = 1
    """1 computes in a thread of the server's process, more in that many child processes."""
    indexes: str | Path | None = None
    """The folder of the indexes, or the address of their database; None for a server without indexes."""
    slots: int = 16
    """Replies that a worker generates in parallel."""
    context_tokens: int | None = None
    """Prompt and reply together, of a stepwise model; None is the model's own `context_length`, which others always have."""
    max_batch: int = 8
    """Pictures drawn, or items embedded, in one pass."""
    max_requests: int = 64
    """Requests queued or running; further ones get a 429."""
    request_timeout_s: float = 120.0
    max_megapixels: float = 16.0
    """Size of an uploaded picture, before it is scaled to the model's size."""
    max_characters: int = 4_000
    """Length of a conversation, or of a text to embed; `prompts.py` limits prompts."""
    max_tokens: int | None = None
    """Tokens of a reply, and the default; None is the rest of the context, and the model's own default."""
    strict: bool = False
    """True to reject a number of tokens above the limit, or a size that the model does not draw, in place of taking the
    nearest one."""
    max_pictures: int = 8
    """Pictures drawn for one request."""
    max_steps: int = 100
    max_inputs: int = 2_048
    """Texts and pictures embedded for one request."""
    max_items: int = 256
    """Pictures added to an index in one request, or of one conversation."""
    max_rounds: int = 16
    """Rounds of a loopback."""
    max_hits: int = 100
    """Hits of one search."""
    max_indexes: int = 64
    """Indexes that clients may create; each open one holds some file descriptors."""
