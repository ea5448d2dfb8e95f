"""Workers that are replaced, with workers that are only said to die."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Set
from typing import Any, cast

import pytest

from latentbridge.serving.engine import worker_pool as module
from latentbridge.serving.engine.metrics import Metrics
from latentbridge.serving.engine.worker_pool import WorkerPool
from latentbridge.serving.settings import Settings


class Thread:
    """A stand-in that is only said to work."""

    def __init__(self, model: Any, settings: Settings, told: Any) -> None: ...


def test_jobs_of_a_worker_that_cannot_be_replaced_go_to_the_others(monkeypatch: pytest.MonkeyPatch):
    """As where memory is short, which may be why it died."""
    deaths: list[Callable[[], None]] = []
    readies: list[Callable[[], None]] = []

    class Worker:
        def __init__(
            self, settings: Settings, maker: str, told: Any, ready: Callable[[], None], lost: Callable[[], None]
        ) -> None:
            if len(deaths) == 2:
                raise OSError(12, "Cannot allocate memory")
            readies.append(ready)
            deaths.append(lost)

    monkeypatch.setattr(module, "ProcessWorker", Worker)
    monkeypatch.setattr(module, "ThreadWorker", Thread)
    monkeypatch.setattr(module, "fingerprint", lambda model: "")
    lost: list[Set[int]] = []

    async def work() -> WorkerPool:
        crew = WorkerPool(cast(Any, None), Settings(workers=2), Metrics(), lambda results: None, lost.append)
        crew.start()
        assert len(crew.handles) == 3 and [type(handle.worker) for handle in crew.ready] == [Thread]
        for ready in readies:
            ready()
        await asyncio.sleep(0)
        assert [type(handle.worker) for handle in crew.ready] == [Worker, Worker]  # the thread is needed no more
        lost.clear()
        crew.handles[0].replies.add(3)
        crew.handles[0].batch.add(5)
        deaths[0]()
        await asyncio.sleep(0)
        return crew

    crew = asyncio.run(work())
    assert lost == [{3, 5}] and len(crew.handles) == 1
