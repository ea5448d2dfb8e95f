"""Every knob of the server; the standard library only."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Settings:
    """What the server takes on at a time, and how much one request may ask for."""

    model_name: str = "tiny"
    """What clients call the model."""
    source: str = "tiny"
    """What `load` takes; where worker processes have their models from."""
    workers: int = 1
    """Who computes: with 1 a thread of the server's process, with more so many processes beside it."""
    indexes: str | Path | None = None
    """The folder of the indexes, or the address of their database; there are none without."""
    slots: int = 16
    """Replies that a worker writes side by side."""
    context_tokens: int = 512
    """Prompt and reply together."""
    max_batch: int = 8
    """Pictures drawn, or items embedded, in one pass."""
    max_requests: int = 64
    """Requests in the service, waiting or at work; the next one is told to come back."""
    request_timeout_s: float = 120.0
    """What takes longer is given up."""
    max_megapixels: float = 16.0
    """Of a picture sent, before it is scaled to the model's size."""
    max_characters: int = 4_000
    """Of a conversation, or of a text to embed; prompts are bounded everywhere (`prompts.py`)."""
    max_tokens: int = 256
    """Of a reply, and what a request gets that names no number."""
    max_pictures: int = 8
    """Drawn for one request."""
    max_steps: int = 100
    max_inputs: int = 256
    """Texts and pictures embedded for one request."""
    max_rounds: int = 16
    """Of a walk through words and pictures."""
    max_hits: int = 100
    """Returned by one search."""
    max_indexes: int = 64
    """Made by clients; each that is open holds some files."""
