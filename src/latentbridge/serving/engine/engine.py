"""The engine: a job queue in front of a pool of workers."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Hashable, Iterator, Sequence, Set
from contextlib import aclosing, asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from itertools import count
from typing import Any

from latentbridge.models.stepwise import StepwiseModel
from latentbridge.models.unified import UnifiedModel
from latentbridge.serving.engine.jobs import Job, ReplyJob
from latentbridge.serving.engine.metrics import Metrics
from latentbridge.serving.engine.scheduler import Cancel, Results, RunBatch, StartReply
from latentbridge.serving.engine.text_generation import GenerationRequest, TokenChunk
from latentbridge.serving.engine.worker_pool import WorkerPool
from latentbridge.serving.engine.workers import Worker
from latentbridge.serving.settings import Settings

_MAX_ATTEMPTS = 2
"""Workers that may die while running one job; the job itself may be the cause."""


class ServerBusy(Exception):
    """The limit of concurrent requests is reached; retry after `retry_after_s`."""

    def __init__(self, retry_after_s: int):
        super().__init__("The server is full; send the request again a little later.")
        self.retry_after_s = retry_after_s


class ShuttingDown(Exception):
    """The server finishes running requests and accepts no new ones."""


class WorkersLost(Exception):
    """Every worker that ran the job died."""


@dataclass(eq=False)
class _QueuedJob:
    """A job and the queue of its results: token chunks, or one result, or an exception."""

    number: int
    payload: GenerationRequest | Job
    batch_key: Hashable
    """Jobs with equal keys may share a batch."""
    results: asyncio.Queue[Any] = field(default_factory=asyncio.Queue)
    worker: Worker | None = None
    """The worker that runs it; None while it is queued."""
    attempts: int = 0
    reply_tokens: int = 0
    """Tokens of a reply already delivered."""
    submitted_s: float = field(default_factory=time.monotonic)


class Engine:
    """A job queue in front of a pool of workers.

    A reply goes to a worker with a free slot (`_least_busy`). Other jobs of one kind and shape go as a batch to a worker
    that runs no batch, split evenly over the idle ones. A job whose worker dies is retried once elsewhere: results depend on
    the request alone (`scheduler.py`), so a stream resumes where it stopped. Everything here runs in the event loop that
    `start` was called in.
    """

    def __init__(self, model: UnifiedModel, settings: Settings, metrics: Metrics):
        self.model = model
        self.settings = settings
        self.metrics = metrics
        self._in_flight = 0
        self._mean_request_s = 1.0
        """Running mean of request durations."""
        self._numbers = count()
        self._jobs: dict[int, _QueuedJob] = {}
        """All unfinished jobs, by number."""
        self._reply_queue: deque[_QueuedJob] = deque()
        self._batch_queue: deque[_QueuedJob] = deque()
        self._pool = WorkerPool(model, settings, metrics, self._on_results, self._on_jobs_lost)
        self._closing = False
        self._progress = asyncio.Event()
        """Set whenever a job or request ends."""

    def start(self) -> None:
        """Start the workers; jobs submitted before one is ready wait in the queue."""
        self._loop = asyncio.get_running_loop()
        self._pool.start()

    async def close(self) -> None:
        """Reject new requests, finish the running ones, whose jobs may still be to come, and shut the workers down."""
        self._closing = True
        while self._jobs or self._in_flight:
            self._progress.clear()
            await self._progress.wait()
        await self._pool.shutdown()

    @property
    def ready(self) -> bool:
        """Return whether requests are accepted and a worker can run them."""
        return not self._closing and bool(self._pool.ready)

    # --- requests ---

    @contextmanager
    def admit(self) -> Iterator[None]:
        """Count a request as running, however many jobs it submits; raises ServerBusy or ShuttingDown."""
        if self._closing or not self._pool.workers:
            raise ShuttingDown
        if self._in_flight >= self.settings.max_requests:
            self.metrics.rejected.inc()
            raise ServerBusy(max(1, round(self._mean_request_s)))
        self._in_flight += 1
        self.metrics.in_flight.set(self._in_flight)
        start_s = time.monotonic()
        try:
            yield
        finally:
            self._in_flight -= 1
            self.metrics.in_flight.set(self._in_flight)
            self._mean_request_s += 0.1 * (time.monotonic() - start_s - self._mean_request_s)
            self._progress.set()

    async def run(self, job: Job) -> Any:
        """Return the result of a job."""
        async with self._submitted(job, job.shape(self.model)) as queued:
            return _raise_if_error(await queued.results.get())

    async def run_all(self, jobs: Sequence[Job]) -> list[Any]:
        """Return the results of jobs in order; if one fails, the others are cancelled."""
        tasks = [asyncio.ensure_future(self.run(job)) for job in jobs]
        try:
            return await asyncio.gather(*tasks)
        finally:
            for task in tasks:
                task.cancel()

    async def stream(self, request: GenerationRequest) -> AsyncGenerator[TokenChunk]:
        """Yield the chunks of a reply as they are generated; one chunk if the model is not stepwise."""
        if not isinstance(self.model, StepwiseModel):
            yield await self.run(ReplyJob(request))
            return
        async with self._submitted(request) as queued:
            finish_reason = None
            while finish_reason is None:
                chunk: TokenChunk = _raise_if_error(await queued.results.get())
                finish_reason = chunk.finish_reason
                yield chunk

    async def complete(self, request: GenerationRequest) -> list[TokenChunk]:
        """Return all chunks of a reply."""
        async with aclosing(self.stream(request)) as chunks:
            return [chunk async for chunk in chunks]

    @asynccontextmanager
    async def _submitted(self, payload: GenerationRequest | Job, shape: Hashable = None) -> AsyncIterator[_QueuedJob]:
        """Queue a job, and cancel it at the end unless it has finished."""
        job = _QueuedJob(next(self._numbers), payload, (type(payload), shape))
        self._jobs[job.number] = job
        self._queue_of(job).append(job)
        self._loop.call_soon(self._dispatch)  # not at once, so that jobs submitted together are batched
        try:
            yield job
        finally:
            if job.number in self._jobs:
                if job.worker is None:
                    self._queue_of(job).remove(job)
                else:
                    job.worker.send(Cancel(job.number))
                self._remove(job)

    def _queue_of(self, job: _QueuedJob) -> deque[_QueuedJob]:
        return self._reply_queue if isinstance(job.payload, GenerationRequest) else self._batch_queue

    def _remove(self, job: _QueuedJob) -> None:
        """Remove a finished or cancelled job and give its worker the next one."""
        del self._jobs[job.number]
        if job.worker is not None:
            job.worker.replies.discard(job.number)
            job.worker.batch.discard(job.number)
        self._loop.call_soon(self._dispatch)
        self._progress.set()

    # --- workers ---

    def _dispatch(self) -> None:
        """Send queued jobs to workers that have capacity."""
        ready = self._pool.ready
        while self._reply_queue and (worker := self._least_busy(ready)) is not None:
            job = self._reply_queue.popleft()
            self._assign(job, worker, worker.replies)
            assert isinstance(job.payload, GenerationRequest)
            worker.send(StartReply(job.number, job.payload))
        idle = sorted((worker for worker in ready if not worker.batch), key=lambda worker: len(worker.replies))
        while self._batch_queue and idle:
            similar = [job for job in self._batch_queue if job.batch_key == self._batch_queue[0].batch_key]
            batch = similar[: min(self.settings.max_batch, -(-len(similar) // len(idle)))]
            worker = idle.pop(0)
            for job in batch:
                self._batch_queue.remove(job)
                self._assign(job, worker, worker.batch)
            self.metrics.batch_sizes.labels(type(batch[0].payload).__name__).observe(len(batch))
            payloads: tuple[Any, ...] = tuple(job.payload for job in batch)
            worker.send(RunBatch(tuple(job.number for job in batch), payloads))

    def _least_busy(self, ready: Sequence[Worker]) -> Worker | None:
        """Return a worker with a free slot, if any: preferably one without a batch, then the one with fewest replies."""
        free = (worker for worker in ready if len(worker.replies) < self.settings.slots)
        return min(free, key=lambda worker: (bool(worker.batch), len(worker.replies)), default=None)

    def _assign(self, job: _QueuedJob, worker: Worker, jobs: set[int]) -> None:
        job.worker = worker
        job.attempts += 1
        jobs.add(job.number)

    def _on_results(self, results: Results) -> None:
        chunks = sum(isinstance(result, TokenChunk) for _, result in results)
        if chunks:
            self.metrics.batch_sizes.labels("GenerationRequest").observe(chunks)
        for number, result in results:
            job = self._jobs.get(number)
            if job is None:
                continue
            if isinstance(result, TokenChunk):
                if result.reply_tokens <= job.reply_tokens:  # delivered before, by a worker that has died since
                    continue
                self.metrics.tokens.inc(result.reply_tokens - job.reply_tokens)
                job.reply_tokens = result.reply_tokens
            if not isinstance(result, TokenChunk) or result.finish_reason:
                self.metrics.seconds.labels(type(job.payload).__name__).observe(time.monotonic() - job.submitted_s)
                self._remove(job)
            job.results.put_nowait(result)

    def _on_jobs_lost(self, numbers: Set[int]) -> None:
        """Put the jobs of a dead worker at the front of the queue, or fail them after `_MAX_ATTEMPTS`."""
        for number in sorted(numbers, reverse=True):
            job = self._jobs[number]
            job.worker = None
            if job.attempts < _MAX_ATTEMPTS:
                self._queue_of(job).appendleft(job)
            else:
                self._remove(job)
                job.results.put_nowait(WorkersLost(f"{job.attempts} workers died while running it"))
        self._dispatch()


def _raise_if_error(result: Any) -> Any:
    if isinstance(result, Exception):
        raise result
    return result
