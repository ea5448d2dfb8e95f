"""The workers of an engine: hired, replaced when they die, and sent home."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Set
from dataclasses import dataclass, field
from typing import Any

from latentbridge.models.checkpoint import fingerprint
from latentbridge.models.omnibridge.modeling_omnibridge import OmniBridge
from latentbridge.serving.engine.metrics import Metrics
from latentbridge.serving.engine.scheduler import Results
from latentbridge.serving.engine.workers import ProcessWorker, ThreadWorker, Worker
from latentbridge.serving.settings import Settings

_log = logging.getLogger(__name__)
_TRIES = 2
"""Processes in a row that may end before they are ready."""


@dataclass(eq=False)
class WorkerHandle:
    """A worker and the jobs it is at, by number."""

    worker: Worker
    is_ready: bool = False
    replies: set[int] = field(default_factory=set)
    batch: set[int] = field(default_factory=set)


class WorkerPool:
    """As many workers as the settings say; it lives in the event loop that `start` was called in.

    `told` hears their results, and `changed` the jobs that one of them died over, or of none when one got ready.
    """

    def __init__(
        self,
        model: OmniBridge,
        settings: Settings,
        metrics: Metrics,
        told: Callable[[Results], None],
        changed: Callable[[Set[int]], None],
    ):
        self.handles: list[WorkerHandle] = []
        self._model = model
        self._settings = settings
        self._metrics = metrics
        self._told = told
        self._changed = changed
        self._unready = 0
        self._ended = False
        self._stand_in: WorkerHandle | None = None
        """A thread that works until the first process is ready."""

    def start(self) -> None:
        """Start the workers: a thread at once, processes beside it, which replace it some seconds later."""
        self._loop = asyncio.get_running_loop()
        stand_in = self._hire_thread()
        if self._settings.workers > 1:
            self._stand_in = stand_in
            self._maker = fingerprint(self._model)
            for _ in range(self._settings.workers):
                self._hire_process()

    @property
    def ready(self) -> list[WorkerHandle]:
        """Who can work."""
        return [handle for handle in self.handles if handle.is_ready]

    async def shutdown(self) -> None:
        """End all workers; what they are at is left."""
        self._ended = True
        for handle in self.handles:
            handle.worker.send(None)
        await asyncio.gather(*(asyncio.to_thread(handle.worker.join) for handle in self.handles))

    def _hire_thread(self) -> WorkerHandle:
        handle = WorkerHandle(ThreadWorker(self._model, self._settings, self._heard(self._told)), is_ready=True)
        self.handles.append(handle)
        self._metrics.workers.inc()
        return handle

    def _dismiss_stand_in(self) -> None:
        """Give the thread nothing new; what it has begun it finishes."""
        if self._stand_in is not None:
            self.handles.remove(self._stand_in)
            self._metrics.workers.dec()
            self._stand_in = None

    def _hire_process(self) -> None:
        def got_ready() -> None:
            handle.is_ready, self._unready = True, 0
            self._dismiss_stand_in()
            self._metrics.workers.inc()
            self._changed(set())

        def died() -> None:
            self._replace(handle)

        told, ready, lost = (self._heard(answer) for answer in (self._told, got_ready, died))
        handle = WorkerHandle(ProcessWorker(self._settings, self._maker, told, ready, lost))
        self.handles.append(handle)

    def _replace(self, handle: WorkerHandle) -> None:
        """Another worker for one that died. Where none gets ready, the others go on, or else a thread of this process does."""
        if self._ended:
            return
        _log.error("A worker died over %d jobs.", len(handle.replies | handle.batch))
        self._metrics.lost.inc()
        self._metrics.workers.dec(handle.is_ready)
        self.handles.remove(handle)
        self._unready += not handle.is_ready
        if self._unready < _TRIES:
            try:
                self._hire_process()
            except OSError as error:
                _log.error("No worker can be started in its place (%s).", error)
        if not self.handles:
            self._hire_thread()
        self._changed(handle.replies | handle.batch)

    def _heard(self, answer: Callable[..., None]) -> Callable[..., None]:
        """What calls `answer` in the event loop, from any thread; a loop that has ended hears nothing."""

        def call(*arguments: Any) -> None:
            if not self._loop.is_closed():
                self._loop.call_soon_threadsafe(answer, *arguments)

        return call
