"""Replacement of workers, with fake workers."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Set
from typing import Any, cast

import pytest

from latentbridge.serving.engine import worker_pool as module
from latentbridge.serving.engine.metrics import Metrics
from latentbridge.serving.engine.scheduler import Command
from latentbridge.serving.engine.worker_pool import WorkerPool
from latentbridge.serving.engine.workers import Worker
from latentbridge.serving.settings import Settings


class FakeWorker(Worker):
    def send(self, command: Command) -> None: ...

    def join(self) -> None: ...


class Thread(FakeWorker):
    def __init__(self, model: Any, settings: Settings, on_results: Any) -> None:
        super().__init__()


def test_jobs_of_a_worker_that_cannot_be_replaced_go_to_the_others(monkeypatch: pytest.MonkeyPatch):
    """For example for want of memory, which may be why it died."""
    exit_callbacks: list[Callable[[], None]] = []
    ready_callbacks: list[Callable[[], None]] = []

    class Process(FakeWorker):
        def __init__(
            self,
            settings: Settings,
            fingerprint: str,
            on_results: Any,
            on_ready: Callable[[], None],
            on_exit: Callable[[], None],
        ) -> None:
            super().__init__()
            if len(exit_callbacks) == 2:
                raise OSError(12, "Cannot allocate memory")
            ready_callbacks.append(on_ready)
            exit_callbacks.append(on_exit)

    monkeypatch.setattr(module, "ProcessWorker", Process)
    monkeypatch.setattr(module, "ThreadWorker", Thread)
    monkeypatch.setattr(module, "fingerprint", lambda model: "")
    lost: list[Set[int]] = []

    async def work() -> WorkerPool:
        pool = WorkerPool(cast(Any, None), Settings(workers=2), Metrics(), lambda results: None, lost.append)
        pool.start()
        assert len(pool.workers) == 3 and [type(worker) for worker in pool.ready] == [Thread]
        for on_ready in ready_callbacks:
            on_ready()
        await asyncio.sleep(0)
        assert [type(worker) for worker in pool.ready] == [Process, Process]  # the startup thread is retired
        lost.clear()
        pool.workers[0].replies.add(3)
        pool.workers[0].batch.add(5)
        exit_callbacks[0]()
        await asyncio.sleep(0)
        return pool

    pool = asyncio.run(work())
    assert lost == [{3, 5}] and len(pool.workers) == 1
