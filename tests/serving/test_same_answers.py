"""A thousand mixed requests at random concurrency, and the same one by one: token for token, pixel for pixel."""

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
    """Chat with and without pictures, greedy and sampled; embeddings of texts and pictures; drawings."""
    rng = numpy_rng(0, "mixed requests")
    scenes = distinct_scenes("train", rng, SCENES)
    pictures = [url_of(png_of(render(scene))) for scene in scenes]
    words = [describe(scene) for scene in scenes]
    requests: list[Request] = []
    for number in range(count):
        picture, text = pictures[rng.integers(SCENES)], words[rng.integers(SCENES)]
        kind = rng.choice(["look", "look", "talk", "embed text", "embed picture", "draw"])
        if kind == "look":
            question = {"type": "text", "text": str(rng.choice(QUESTIONS))}
            content = [question, {"type": "image_url", "image_url": {"url": picture}}]
            requests.append(("chat/completions", {"messages": [{"role": "user", "content": content}]}))
        elif kind == "talk":
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


async def answers(server: Server, requests: Sequence[Request], concurrency: Sequence[int]) -> list[dict[str, Any]]:
    """The answers in order; requests are sent in waves, `concurrency` says how many may be under way in each."""
    found: dict[int, dict[str, Any]] = {}
    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{server.port}/v1/", timeout=300) as client:

        async def ask(place: int, gate: asyncio.Semaphore) -> None:
            async with gate:
                path, body = requests[place]
                answer = await client.post(path, json=body)
                assert answer.status_code == 200, answer.text
                found[place] = {key: value for key, value in answer.json().items() if key not in VARYING}

        waves = np.array_split(np.arange(len(requests)), len(concurrency))
        for wave, most in zip(waves, concurrency, strict=True):
            gate = asyncio.Semaphore(most)
            await asyncio.gather(*(ask(int(place), gate) for place in wave))
    return [found[place] for place in range(len(requests))]


def check(server: Server, count: int, waves: int, other: Server | None = None) -> None:
    """Requests one by one against the same ones at once, from another server if given."""
    requests = mixed_requests(count)
    alone = asyncio.run(answers(server, requests, [1]))
    rng = numpy_rng(1, "concurrency")
    order = rng.permutation(count)
    at_once = asyncio.run(answers(other or server, [requests[i] for i in order], rng.integers(2, 33, waves).tolist()))
    differing = [(requests[i], alone[i], at_once[place]) for place, i in enumerate(order) if at_once[place] != alone[i]]
    assert not differing
    assert len({str(answer) for answer in alone}) > count // 3


def test_forty_requests_at_once_are_answered_as_one_by_one(server: Server):
    check(server, 40, 2)


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_a_thousand_requests_at_random_concurrency_are_answered_as_one_by_one(server: Server):
    check(server, 1_000, 20)


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_a_thousand_requests_to_two_workers_are_answered_as_one_by_one_in_a_thread(
    served_model: OmniBridge, server: Server
):
    with running(create_app(served_model, Settings(workers=2)), Limits()) as other:
        check(server, 1_000, 20, other)
