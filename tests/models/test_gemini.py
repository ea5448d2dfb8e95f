"""Google's own client against a server on this machine that speaks the wire format of `models.batchEmbedContents`."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from threading import Thread
from typing import Any

import numpy as np
import pytest
from PIL import Image

from latentbridge.errors import UserError
from latentbridge.models.teachers import gemini, load_teacher
from latentbridge.types import Teacher

DIMENSION = 131


class Fake(HTTPServer):
    """Answers an item by the length of its text or the grey of its picture, after `faults` of its own."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.faults: list[int] = []
        self.lost = 0
        self.requests: list[tuple[str, str | None, dict[str, Any]]] = []

    def answer(self, request: dict[str, Any]) -> dict[str, Any]:
        (part,) = request["content"]["parts"]
        values = np.zeros(request["outputDimensionality"])
        if "text" in part:
            values[:2] = len(part["text"]), 1
        else:
            assert part["inline_data"]["mime_type"] == "image/png"
            stream = io.BytesIO(base64.urlsafe_b64decode(part["inline_data"]["data"]))
            values[:2] = 1, np.asarray(Image.open(stream))[0, 0, 0]
        return {"values": values.tolist()}


class _Handler(BaseHTTPRequestHandler):
    server: Fake

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.requests.append((self.path, self.headers["x-goog-api-key"], body))
        status = self.server.faults.pop(0) if self.server.faults else 200
        answer = {"error": {"code": status, "message": "a fault", "status": "FAULT"}}
        if status == 200:
            embeddings = [self.server.answer(request) for request in body["requests"]]
            answer = {"embeddings": embeddings[: len(embeddings) - self.server.lost]}
        content = json.dumps(answer).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, format: str, *args: Any) -> None:
        pass


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> Iterator[Fake]:
    pytest.importorskip("google.genai")
    server = Fake()
    Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    monkeypatch.setenv("GOOGLE_GEMINI_BASE_URL", f"http://127.0.0.1:{server.server_port}")
    monkeypatch.setenv("GEMINI_API_KEY", "a key")
    monkeypatch.setattr(gemini, "_RETRIES", {"attempts": 3, "initial_delay": 0.01, "max_delay": 0.01, "jitter": 0.0})
    yield server
    server.shutdown()
    server.server_close()


@pytest.fixture
def teacher(fake: Fake) -> Teacher:
    return load_teacher(f"gemini:{DIMENSION}")


def test_texts_are_sent_in_one_request_and_return_unit_vectors(fake: Fake, teacher: Teacher):
    vectors = teacher.embed_texts(["abc", "a"])
    np.testing.assert_allclose(vectors[:, :2], [[3 / 10**0.5, 1 / 10**0.5], [0.5**0.5, 0.5**0.5]], atol=1e-6)
    assert vectors.shape == (2, DIMENSION) and vectors.dtype == np.float32
    ((path, key, body),) = fake.requests
    assert path == "/v1/models/gemini-embedding-2:batchEmbedContents" and key == "a key"
    assert [request["model"] for request in body["requests"]] == ["models/gemini-embedding-2"] * 2


def test_pictures_are_sent_losslessly(teacher: Teacher):
    vectors = teacher.embed_pictures([np.full((5, 7, 3), grey, np.uint8) for grey in (3, 200)])
    np.testing.assert_allclose(vectors[:, 1] / vectors[:, 0], [3, 200], rtol=1e-5)


def test_errors_are_retried_and_then_reported(fake: Fake, teacher: Teacher):
    fake.faults = [429, 503]
    assert teacher.embed_texts(["abc"]).shape == (1, DIMENSION) and len(fake.requests) == 3
    fake.faults = [429, 503, 500]
    with pytest.raises(UserError, match="what was embedded so far is stored"):
        teacher.embed_texts(["abc"])
    fake.faults = [403]
    with pytest.raises(UserError, match="403"):
        teacher.embed_texts(["abc"])
    assert len(fake.requests) == 3 + 3 + 1


def test_a_response_with_too_few_vectors_is_refused(fake: Fake, teacher: Teacher):
    fake.lost = 1
    with pytest.raises(UserError, match=r"answered 3 items with an array of shape \[2, 131\]"):
        teacher.embed_texts(["a", "b", "c"])


def test_the_cost_by_hand(teacher: Teacher):
    # 10,000 * $0.00012 + 4,000,000 characters / 4 * $0.20 / 1,000,000
    assert "10,000 pictures and 1 texts for about $1.40" in teacher.cost(10_000, ["x" * 4_000_000])
    assert teacher.cost(0, []) == ""


@pytest.mark.parametrize("dimension", ["127", "3073", "many"])
def test_unsupported_dimensions_are_refused(dimension: str):
    with pytest.raises(UserError, match="128 to 3072 numbers"):
        load_teacher(f"gemini:{dimension}")


def test_a_missing_key_is_reported(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv("GEMINI_API_KEY", raising=False)
    with pytest.raises(UserError, match="set GEMINI_API_KEY"):
        load_teacher("gemini")
