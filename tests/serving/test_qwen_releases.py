"""A server of a Qwen-VL release: chats with several pictures, turns and a system message are answered as the library does."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.models.qwen_vl.tiny_releases import KINDS, save_release
from tests.serving.conftest import client_of, png_of, url_of
from tests.serving.server import running

import latentbridge as lb
from latentbridge.serving.api import create_app
from latentbridge.serving.guard.limits import Limits
from latentbridge.serving.settings import Settings
from latentbridge.types import Conversation


@pytest.mark.parametrize("kind", KINDS)
def test_a_chat_is_answered_as_the_library_does(kind: str, tmp_path: Path):
    folder = save_release(kind, tmp_path / kind, repetition_penalty=1.3)
    rng = np.random.default_rng(3)
    pictures = [rng.integers(0, 256, (height, 40, 3), dtype=np.uint8) for height in (30, 50, 20)]
    conversation = Conversation(
        (("two stars", "a circle"), ("left of", "")), ((pictures[0], pictures[1]), (pictures[2],)), system="large"
    )
    (expected,) = lb.load(folder).reply([conversation], max_tokens=9)
    urls: list[Any] = [{"type": "image_url", "image_url": {"url": url_of(png_of(picture))}} for picture in pictures]
    messages: list[Any] = [
        {"role": "system", "content": "large"},
        {"role": "user", "content": [*urls[:2], {"type": "text", "text": "two stars"}]},
        {"role": "assistant", "content": "a circle"},
        {"role": "user", "content": [urls[2], {"type": "text", "text": "left of"}]},
    ]
    with running(create_app(lb.load(folder), Settings(model_name=kind)), Limits()) as server:
        client = client_of(server)
        completion = client.chat.completions.create(model=kind, messages=messages, max_tokens=9)
        assert completion.choices[0].message.content == expected.text
        vector = client.embeddings.create(model=kind, input="a star").data[0].embedding
    np.testing.assert_allclose(vector, lb.load(folder).embed(texts="a star"), atol=2e-2)  # bfloat16
