"""A load on any server that speaks OpenAI's API: mixed requests, so many at a time, and what became of them.

Run: python benchmarks/load_test.py --url http://127.0.0.1:8000 --concurrency 16 --seconds 60 [--key KEY] [--pid SERVER]
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import json
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from io import BytesIO
from itertools import islice
from pathlib import Path
from typing import Any

import httpx
import numpy as np
from PIL import Image, ImageDraw

Request = tuple[str, dict[str, Any]]
MIX = {"look": 5, "talk": 2, "embed": 2, "draw": 1}
"""How often each kind comes, out of ten."""
COLORS = ("red", "green", "blue", "purple", "cyan", "orange")


@dataclass
class Outcome:
    """What became of a load."""

    seconds: float = 0.0
    latencies_s: list[float] = field(default_factory=list)
    statuses: Counter[int] = field(default_factory=Counter)
    """How often each came; 0 is no answer at all."""
    memory_mib: list[float] = field(default_factory=list)
    """Of the server's process and its workers, once a second, where its number was given."""

    def document(self) -> dict[str, Any]:
        p50, p99 = np.percentile(self.latencies_s, (50, 99)) if self.latencies_s else (0.0, 0.0)
        told: dict[str, Any] = {
            "requests": sum(self.statuses.values()),
            "requests per second": round(len(self.latencies_s) / self.seconds, 2),
            "p50 s": round(float(p50), 3),
            "p99 s": round(float(p99), 3),
            "statuses": dict(self.statuses),
        }
        if len(self.memory_mib) >= 3:
            thirds = [float(np.mean(part)) for part in np.array_split(self.memory_mib, 3)]
            told["memory MiB, by thirds"] = [round(mean, 1) for mean in thirds]
        return told


def mixed_requests(steps: int = 20) -> Iterator[Request]:
    """Requests without end, always the same ones: pictures asked about, prompts completed, embeddings, drawings."""
    rng = np.random.default_rng(0)
    kinds = [kind for kind, often in MIX.items() for _ in range(often)]
    number = 0
    while True:
        for kind in rng.permutation(kinds):
            number += 1
            color, other = rng.choice(COLORS, 2)
            words = f"a {color} circle left of a {other} star"
            if kind == "draw":
                yield "images/generations", {"prompt": words, "seed": number, "steps": steps}
            elif kind == "embed":
                yield "embeddings", {"input": [words], "model": "tiny"}
            elif kind == "talk":
                messages = [{"role": "user", "content": f"Draw: {words}"}]
                yield "chat/completions", {"messages": messages, "seed": number, "temperature": 0.7}
            else:
                content = [
                    {"type": "text", "text": str(rng.choice(["Describe the picture.", "How many objects are there?"]))},
                    {"type": "image_url", "image_url": {"url": _picture(str(color), int(rng.integers(4)))}},
                ]
                yield "chat/completions", {"messages": [{"role": "user", "content": content}]}


async def put_load(
    url: str,
    requests: Iterator[Request],
    concurrency: int,
    *,
    seconds: float | None = None,
    key: str = "none",
    pid: int | None = None,
) -> Outcome:
    """The outcome of all requests, or of those begun within so many seconds, `concurrency` at a time."""
    outcome, began = Outcome(), time.monotonic()
    headers = {"Authorization": f"Bearer {key}"}
    limits = httpx.Limits(max_connections=concurrency)
    async with httpx.AsyncClient(base_url=f"{url}/v1/", headers=headers, limits=limits, timeout=600) as client:

        async def client_of_many() -> None:
            for path, body in requests:
                if seconds is not None and time.monotonic() - began > seconds:
                    return
                sent = time.monotonic()
                try:
                    status = (await client.post(path, json=body)).status_code
                except httpx.HTTPError:
                    status = 0
                outcome.statuses[status] += 1
                if status == 200:
                    outcome.latencies_s.append(time.monotonic() - sent)

        watch = asyncio.ensure_future(_watch(pid, outcome.memory_mib)) if pid else None
        await asyncio.gather(*(client_of_many() for _ in range(concurrency)))
        if watch:
            watch.cancel()
    outcome.seconds = time.monotonic() - began
    return outcome


def some_requests(count: int, steps: int = 20) -> Sequence[Request]:
    """The first of the mixed requests."""
    return list(islice(mixed_requests(steps), count))


async def _watch(pid: int, memory_mib: list[float]) -> None:
    while True:
        memory_mib.append(sum(map(_own_mib, [pid, *_children(pid)])))
        await asyncio.sleep(1.0)


def _own_mib(pid: int) -> float:
    """Memory of a process, what it shares counted by its share; 0 once it has ended."""
    try:
        told = Path(f"/proc/{pid}/smaps_rollup").read_text()
    except OSError:
        return 0.0
    return next((int(line.split()[1]) / 1024 for line in told.splitlines() if line.startswith("Pss:")), 0.0)


def _children(pid: int) -> list[int]:
    lists = [file.read_text().split() for file in Path(f"/proc/{pid}/task").glob("*/children")]
    return [int(child) for found in lists for child in found]


def _picture(color: str, place: int) -> str:
    image = Image.new("RGB", (64, 64), "white")
    left, top = 32 * (place % 2), 32 * (place // 2)
    ImageDraw.Draw(image).ellipse((left + 4, top + 4, left + 26, top + 26), fill=color)
    file = BytesIO()
    image.save(file, "PNG")
    return "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--url", required=True, help="where the server listens, without /v1")
    parser.add_argument("--concurrency", type=int, default=16)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--steps", type=int, default=20, help="denoising steps of a drawing")
    parser.add_argument("--key", default="none")
    parser.add_argument("--pid", type=int, help="the server's process on this machine, to watch its memory")
    given = parser.parse_args()
    try:
        httpx.get(f"{given.url}/healthz", timeout=10).raise_for_status()
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        sys.exit(f"No server answers at {given.url} ({error}); start one with `latentbridge serve`.")
    load = put_load(
        given.url, mixed_requests(given.steps), given.concurrency, seconds=given.seconds, key=given.key, pid=given.pid
    )
    print(json.dumps(asyncio.run(load).document(), indent=2))


if __name__ == "__main__":
    main()
