"""The pool of workers: starts them, replaces those that die, and shuts them down."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Set
from typing import Any

from latentbridge.models.checkpoint import fingerprint
from latentbridge.models.unified import UnifiedModel
from latentbridge.serving.engine.metrics import Metrics
from latentbridge.serving.engine.scheduler import Results
from latentbridge.serving.engine.workers import ProcessWorker, ThreadWorker, Worker
from latentbridge.serving.settings import Settings

_log = logging.getLogger(__name__)
_MAX_FAILED_STARTS = 2
"""Processes in a row that may exit before they are ready."""


class WorkerPool:
    """`Settings.workers` workers, managed in the event loop that `start` was called in.

    `on_jobs_lost` gets the jobs of a worker that died, and an empty set when a worker becomes ready.
    """

    def __init__(
        self,
        model: UnifiedModel,
        settings: Settings,
        metrics: Metrics,
        on_results: Callable[[Results], None],
        on_jobs_lost: Callable[[Set[int]], None],
    ):
        self.workers: list[Worker] = []
        self._model = model
        self._settings = settings
        self._metrics = metrics
        self._on_results = on_results
        self._on_jobs_lost = on_jobs_lost
        self._failed_starts = 0
        self._closed = False
        self._startup_thread: Worker | None = None
        """A thread worker that serves until the first process is ready."""

    def start(self) -> None:
        """Start a thread worker, and with several workers the processes that replace it some seconds later."""
        self._loop = asyncio.get_running_loop()
        worker = self._start_thread()
        if self._settings.workers > 1:
            self._startup_thread = worker
            self._fingerprint = fingerprint(self._model)
            for _ in range(self._settings.workers):
                self._start_process()

    @property
    def ready(self) -> list[Worker]:
        """Workers that can run jobs."""
        return [worker for worker in self.workers if worker.is_ready]

    async def shutdown(self) -> None:
        """Stop all workers; unfinished jobs are dropped."""
        self._closed = True
        for worker in self.workers:
            worker.send(None)
        await asyncio.gather(*(asyncio.to_thread(worker.join) for worker in self.workers))

    def _start_thread(self) -> Worker:
        worker = ThreadWorker(self._model, self._settings, self._in_event_loop(self._on_results))
        worker.is_ready = True
        self.workers.append(worker)
        self._metrics.workers.inc()
        return worker

    def _start_process(self) -> None:
        def on_ready() -> None:
            worker.is_ready, self._failed_starts = True, 0
            if self._startup_thread is not None:  # it gets no new jobs, and finishes those it has
                self.workers.remove(self._startup_thread)
                self._metrics.workers.dec()
                self._startup_thread = None
            self._metrics.workers.inc()
            self._on_jobs_lost(set())

        callbacks = (self._on_results, on_ready, lambda: self._replace(worker))
        worker = ProcessWorker(self._settings, self._fingerprint, *map(self._in_event_loop, callbacks))
        self.workers.append(worker)

    def _replace(self, worker: Worker) -> None:
        """Replace a worker that died; if no process can be started, the others go on, or a thread of this process."""
        if self._closed:
            return
        _log.error("A worker died while running %d jobs.", len(worker.replies | worker.batch))
        self._metrics.lost.inc()
        self._metrics.workers.dec(worker.is_ready)
        self.workers.remove(worker)
        self._failed_starts += not worker.is_ready
        if self._failed_starts < _MAX_FAILED_STARTS:
            try:
                self._start_process()
            except OSError as error:
                _log.error("No worker can be started in its place (%s).", error)
        if not self.workers:
            self._start_thread()
        self._on_jobs_lost(worker.replies | worker.batch)

    def _in_event_loop(self, callback: Callable[..., None]) -> Callable[..., None]:
        """Return a function that calls `callback` in the event loop, from any thread, unless the loop is closed."""

        def call(*arguments: Any) -> None:
            if not self._loop.is_closed():
                self._loop.call_soon_threadsafe(callback, *arguments)

        return call
