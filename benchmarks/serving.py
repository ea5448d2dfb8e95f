"""The server with the shipped model: 16 requests at a time against one at a time, and against calls without a server.

The same mixed requests go three ways, in turns: to a real `latentbridge serve` 16 at a time, to the same server one at a
time, and as plain calls one after another in this process (transformers' own `generate`, diffusers' model and scheduler
as `OmniBridge.generate` calls them). Unlike the other benchmarks this one is about wall time, on all cores; run it on a quiet
machine. Afterwards 16 at a time go on for MINUTES, for p99, memory and errors. Run: python benchmarks/serving.py
"""

from __future__ import annotations

import asyncio
import base64
import os
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import contextmanager
from typing import Any

import httpx
import torch
from harness import SMOKE, compare, keep
from load_test import Outcome, Request, mixed_requests, put_load, some_requests

from latentbridge.models.checkpoint import load
from latentbridge.models.omnibridge.modeling_omnibridge import OmniBridge
from latentbridge.types import Conversation

COUNT, ROUNDS, STEPS, MINUTES = (20, 1, 2, 0.1) if SMOKE else (100, 5, 20, 10)


def main() -> None:
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", os.cpu_count() or 1)))
    requests, model = some_requests(COUNT, STEPS), load("tiny")
    seconds: dict[str, list[float]] = {"16 at a time": [], "one at a time": [], "plain calls": []}
    outcomes: dict[str, Outcome] = {}
    with serving() as (url, pid):
        for turn in range(ROUNDS + 1):
            for way, concurrency in (("16 at a time", 16), ("one at a time", 1)):
                outcomes[way] = asyncio.run(put_load(url, iter(requests), concurrency))
                seconds[way].append(outcomes[way].seconds)
            seconds["plain calls"].append(plain_seconds(model, requests))
            if turn == 0:
                for taken in seconds.values():
                    taken.clear()
        long = asyncio.run(put_load(url, mixed_requests(STEPS), 16, seconds=60 * MINUTES, pid=pid))
    fast = seconds["16 at a time"]
    targets = [
        compare("one at a time / 16 at a time", seconds["one at a time"], fast, least=3.0),
        compare("plain calls / 16 at a time", seconds["plain calls"], fast),
        compare("one at a time / plain calls", seconds["one at a time"], seconds["plain calls"]),
    ]
    details: dict[str, Any] = {way: outcome.document() for way, outcome in outcomes.items()}
    keep(__file__, targets, {**details, f"{MINUTES} minutes, 16 at a time": long.document()})


@contextmanager
def serving():
    """A server's address and process number."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "latentbridge", "serve", "--port", str(port)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    url = f"http://127.0.0.1:{port}"
    try:
        while not answers(f"{url}/readyz"):
            assert process.poll() is None, "the server did not start; its reason is above"
            time.sleep(0.2)
        yield url, process.pid
    finally:
        process.terminate()
        process.wait(60)


def answers(address: str) -> bool:
    """Whether something is there that says so."""
    try:
        return httpx.get(address).status_code == 200
    except httpx.HTTPError:
        return False


def plain_seconds(model: OmniBridge, requests: Sequence[Request]) -> float:
    """Wall seconds of the same requests as plain calls."""
    began = time.monotonic()
    with torch.inference_mode():
        for path, body in requests:
            plain(model, path, body)
    return time.monotonic() - began


def plain(model: OmniBridge, path: str, body: dict[str, Any]) -> Any:
    """What a request asks for, without a server."""
    if path == "images/generations":
        return model.generate(body["prompt"], body["seed"], steps=body["steps"])
    if path == "embeddings":
        return model.embed(texts=body["input"])
    content = body["messages"][0]["content"]
    if isinstance(content, str):
        text, picture = content, None
    else:
        text = content[0]["text"]
        picture = model.fit(base64.b64decode(content[1]["image_url"]["url"].partition(",")[2]))
    backbone = model.backbone
    batch = backbone.tokenize([Conversation.with_picture(((text, ""),), picture)], open_ended=True, pad="left")
    inputs = {name: value for name, value in backbone.inputs(batch).items() if name != "position_ids"}
    sampling = (
        {"do_sample": True, "temperature": body["temperature"]} if "temperature" in body else {"do_sample": False}
    )
    stop = {"eos_token_id": backbone.end_of_turn, "pad_token_id": backbone.padding}
    return backbone.model.generate(**inputs, max_new_tokens=256, **sampling, **stop)  # pyright: ignore


if __name__ == "__main__":
    main()
