"""Mixed requests at random concurrency get the same responses as one by one: token for token, pixel for pixel."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import httpx
import numpy as np
import pytest
from tests.serving.conftest import png_of, url_of
from tests.serving.server import Server, running

from latentbridge.data.shapes.language import describe
from latentbridge.data.shapes.render import render
from latentbridge.data.shapes.scenes import distinct_scenes
from latentbridge.models.omnibridge.modeling_omnibridge import OmniBridge
from latentbridge.rng import numpy_rng
from latentbridge.serving.api import create_app
from latentbridge.serving.guard.limits import Limits
from latentbridge.serving.settings import Settings

Request = tuple[str, dict[str, Any]]
QUESTIONS = (
    "Describe the picture.",
    "How many objects are there?",
    "Is there a star?",
    "What is left of the circle? Think step by step.",
)
VARYING = ("id", "created")
SCENES = 48


def mixed_requests(count: int) -> list[Request]:
    """Return requests for chat with and without pictures, greedy and sampled, for embeddings, and for drawings."""
    rng = numpy_rng(0, "mixed requests")
    scenes = distinct_scenes("train", rng, SCENES)
    pictures = [url_of(png_of(render(scene))) for scene in scenes]
    words = [describe(scene) for scene in scenes]
    requests: list[Request] = []
    for number in range(count):
        picture, text = pictures[rng.integers(SCENES)], words[rng.integers(SCENES)]
        kind = rng.choice(["ask", "ask", "chat", "embed text", "embed picture", "draw"])
        if kind == "ask":
            question = {"type": "text", "text": str(rng.choice(QUESTIONS))}
            content = [question, {"type": "image_url", "image_url": {"url": picture}}]
            requests.append(("chat/completions", {"messages": [{"role": "user", "content": content}]}))
        elif kind == "chat":
            messages = [{"role": "user", "content": f"Draw: {text}"}]
            sampled = {
                "temperature": float(rng.choice([0.5, 1.5])),
                "seed": number,
                "max_tokens": int(rng.integers(5, 40)),
            }
            requests.append(("chat/completions", {"messages": messages, **sampled}))
        elif kind == "draw":
            drawing = {"prompt": text[:60], "seed": number, "steps": int(rng.integers(1, 4))}
            requests.append(("images/generations", drawing))
        else:
            requests.append(("embeddings", {"input": [text, {"image": picture}][int(kind == "embed picture") :][:1]}))
    return requests


async def send_all(server: Server, requests: Sequence[Request], concurrency: Sequence[int]) -> list[dict[str, Any]]:
    """Return the responses in order; requests are sent in waves, with the concurrency of each."""
    responses: dict[int, dict[str, Any]] = {}
    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{server.port}/v1/", timeout=300) as client:

        async def send(index: int, semaphore: asyncio.Semaphore) -> None:
            async with semaphore:
                path, body = requests[index]
                response = await client.post(path, json=body)
                assert response.status_code == 200, response.text
                responses[index] = {key: value for key, value in response.json().items() if key not in VARYING}

        waves = np.array_split(np.arange(len(requests)), len(concurrency))
        for wave, limit in zip(waves, concurrency, strict=True):
            semaphore = asyncio.Semaphore(limit)
            await asyncio.gather(*(send(int(index), semaphore) for index in wave))
    return [responses[index] for index in range(len(requests))]


def check(server: Server, count: int, waves: int, other: Server | None = None) -> None:
    """Compare requests one by one with the same ones concurrently, to another server if given."""
    requests = mixed_requests(count)
    sequential = asyncio.run(send_all(server, requests, [1]))
    rng = numpy_rng(1, "concurrency")
    order = rng.permutation(count)
    concurrent = asyncio.run(
        send_all(other or server, [requests[i] for i in order], rng.integers(2, 33, waves).tolist())
    )
    pairs = [(requests[i], sequential[i], concurrent[position]) for position, i in enumerate(order)]
    differing = [pair for pair in pairs if pair[1] != pair[2]]
    assert not differing
    assert len({str(response) for response in sequential}) > count // 3


def test_forty_concurrent_requests_get_the_responses_of_sequential_ones(server: Server):
    check(server, 40, 2)


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_a_thousand_concurrent_requests_get_the_responses_of_sequential_ones(server: Server):
    check(server, 1_000, 20)


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_two_workers_give_the_responses_of_a_thread_to_a_thousand_requests(served_model: OmniBridge, server: Server):
    with running(create_app(served_model, Settings(workers=2)), Limits()) as other:
        check(server, 1_000, 20, other)
