"""The Gemini Embedding API as a teacher; calls cost money and send pictures and texts to Google."""

from __future__ import annotations

import io
import os
from collections.abc import Sequence
from typing import Any

import numpy as np
from PIL import Image

from latentbridge.errors import UserError
from latentbridge.types import EmbeddingSpace, Picture, Teacher

MODEL = "gemini-embedding-2"
"""The current name of the paper's teacher; `gemini-embedding-001` does not take pictures."""
_KEY = "GEMINI_API_KEY"
_FULL_DIMENSION, _SMALLEST_DIMENSION = 3072, 128
_USD_PER_PICTURE, _USD_PER_TEXT_TOKEN = 0.00012, 0.20e-6
_CHARACTERS_PER_TOKEN = 4
_RETRIES: dict[str, Any] = {"attempts": 6, "initial_delay": 1.0, "max_delay": 60.0}
"""Retries after rate limits, timeouts and server errors, with exponential backoff."""
_TIMEOUT_MS = 60_000


class Gemini(Teacher):
    """Unit vectors of 3072 numbers, or of fewer, which are then normalized here."""

    def __init__(self, dimension: str = "") -> None:
        size = int(dimension) if dimension.isdecimal() else 0 if dimension else _FULL_DIMENSION
        if not _SMALLEST_DIMENSION <= size <= _FULL_DIMENSION:
            raise UserError(
                f"Gemini's embeddings have {_SMALLEST_DIMENSION} to {_FULL_DIMENSION} numbers, not {dimension}; "
                "write gemini:768, for example."
            )
        key = os.environ.get(_KEY)
        if not key:
            raise UserError(f"The teacher 'gemini' needs a key of yours in the environment; set {_KEY}.")
        try:
            from google import genai
            from google.genai import types
        except ImportError as missing:
            raise UserError('Google\'s client is missing; run `pip install "latentbridge[gemini]"`.') from missing
        options = types.HttpOptions(timeout=_TIMEOUT_MS, retry_options=types.HttpRetryOptions(**_RETRIES))
        self._client = genai.Client(api_key=key, vertexai=False, http_options=options)
        self.space = EmbeddingSpace(MODEL, size, "unit")

    def cost(self, pictures: int, texts: Sequence[str]) -> str:
        if not pictures and not texts:
            return ""
        tokens = sum(map(len, texts)) / _CHARACTERS_PER_TOKEN
        dollars = pictures * _USD_PER_PICTURE + tokens * _USD_PER_TEXT_TOKEN
        return (
            f"{MODEL} will embed {pictures:,} pictures and {len(texts):,} texts for about ${dollars:.2f} "
            "(by prices of spring 2026; look them up before a large run)."
        )

    def embed_pictures(self, pictures: Sequence[Picture]) -> np.ndarray:
        return self._embed([{"inline_data": {"data": _png(picture), "mime_type": "image/png"}} for picture in pictures])

    def embed_texts(self, texts: Sequence[str]) -> np.ndarray:
        return self._embed([{"text": text} for text in texts])

    def _embed(self, parts: list[dict[str, Any]]) -> np.ndarray:
        """Return one vector per part; each part is its own content, because parts of one content share a vector."""
        import httpx2
        from google.genai import errors, types

        try:
            response = self._client.models.embed_content(
                model=MODEL,
                contents=[types.Content.model_validate({"parts": [part]}) for part in parts],
                config=types.EmbedContentConfig(output_dimensionality=self.space.dimension),
            )
        except (errors.APIError, httpx2.HTTPError) as error:
            raise UserError(
                f"Gemini did not answer ({error}); what was embedded so far is stored, so run the command again to continue."
            ) from error
        vectors = np.array([embedding.values for embedding in response.embeddings or ()], np.float32)
        if vectors.shape != (len(parts), self.space.dimension):
            raise UserError(
                f"Gemini answered {len(parts)} items with an array of shape {list(vectors.shape)}; its API may have "
                "changed, so update latentbridge."
            )
        return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def _png(picture: Picture) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(picture).save(stream, "PNG")
    return stream.getvalue()
