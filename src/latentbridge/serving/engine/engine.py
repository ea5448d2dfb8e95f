"""The engine: one queue for all requests, and workers that take from it what they have room for."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Hashable, Iterator, Sequence, Set
from contextlib import aclosing, asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from itertools import count
from typing import Any

from latentbridge.models.omnibridge.modeling_omnibridge import OmniBridge
from latentbridge.serving.engine.jobs import Job
from latentbridge.serving.engine.metrics import Metrics
from latentbridge.serving.engine.scheduler import Cancel, Results, RunBatch, StartReply
from latentbridge.serving.engine.text_generation import GenerationRequest, TokenChunk
from latentbridge.serving.engine.worker_pool import WorkerHandle, WorkerPool
from latentbridge.serving.settings import Settings

_TRIES = 2
"""How often a job is begun; what outlives no worker may be what kills them."""


class ServerBusy(Exception):
    """There is no room for another request; `retry_after_s` is when to come back."""

    def __init__(self, retry_after_s: int):
        super().__init__("The server is full; send the request again a little later.")
        self.retry_after_s = retry_after_s


class ShuttingDown(Exception):
    """The server finishes what it started and takes nothing new."""


class WorkersLost(Exception):
    """The workers that did something died of it, or beside it."""


@dataclass(eq=False)
class _QueuedJob:
    """Something to do and where its results go: the pieces of a reply, one result of other work, or an exception."""

    number: int
    work: GenerationRequest | Job
    shape: Hashable
    """What works must share to be done together."""
    results: asyncio.Queue[Any] = field(default_factory=asyncio.Queue)
    handle: WorkerHandle | None = None
    """Who is at it; nobody while it waits."""
    begun: int = 0
    written: int = 0
    """Tokens of a reply that were handed out."""
    came: float = field(default_factory=time.monotonic)


class Engine:
    """Requests come in from an event loop, workers do them, many at a time, and their results come back.

    What comes in waits in one queue. A conversation goes to a worker with a free slot (`_least_busy`); works of one kind
    and shape go together to a worker that does no others, and are shared out where several do none. What a worker had
    begun when it died is begun once more elsewhere: an answer depends on the request alone (`turns.py`), so a reply goes
    on where it stopped. All of this happens in the event loop that `start` was called in.
    """

    def __init__(self, model: OmniBridge, settings: Settings, metrics: Metrics):
        self.model = model
        self.settings = settings
        self.metrics = metrics
        self._inside = 0
        self._recent_s = 1.0
        """How long a request took of late, a running mean."""
        self._numbers = count()
        self._jobs: dict[int, _QueuedJob] = {}
        """All that is not done, by number."""
        self._asks: deque[_QueuedJob] = deque()
        self._works: deque[_QueuedJob] = deque()
        self._crew = WorkerPool(model, settings, metrics, self._told, self._begin_again)
        self._closing = False
        self._done = asyncio.Event()
        """Set whenever less is left to do."""

    def start(self) -> None:
        """Begin to work; worker processes are at hand some seconds later, and what comes before waits for them."""
        self._loop = asyncio.get_running_loop()
        self._crew.start()

    async def close(self) -> None:
        """Take nothing new, finish what was taken, and end; a request may have jobs yet to come."""
        self._closing = True
        while self._jobs or self._inside:
            self._done.clear()
            await self._done.wait()
        await self._crew.shutdown()

    @property
    def ready(self) -> bool:
        """Whether requests are taken and done."""
        return not self._closing and bool(self._crew.ready)

    # --- for requests ---

    @contextmanager
    def place(self) -> Iterator[None]:
        """A place for one request, however many jobs it makes; raises Busy where there is none, and Closing at the end."""
        if self._closing or not self._crew.handles:
            raise ShuttingDown
        if self._inside >= self.settings.max_requests:
            self.metrics.refused.inc()
            raise ServerBusy(max(1, round(self._recent_s)))
        self._inside += 1
        self.metrics.inside.set(self._inside)
        began = time.monotonic()
        try:
            yield
        finally:
            self._inside -= 1
            self.metrics.inside.set(self._inside)
            self._recent_s += 0.1 * (time.monotonic() - began - self._recent_s)
            self._done.set()

    async def do(self, work: Job) -> Any:
        """The result of one piece of work."""
        async with self._sent(work, work.shape(self.model)) as job:
            return _unless_failed(await job.results.get())

    async def do_all(self, works: Sequence[Job]) -> list[Any]:
        """The results of several pieces of work, in order; where one fails, the others are dropped."""
        tasks = [asyncio.ensure_future(self.do(work)) for work in works]
        try:
            return await asyncio.gather(*tasks)
        finally:
            for task in tasks:
                task.cancel()

    async def pieces(self, ask: GenerationRequest) -> AsyncGenerator[TokenChunk]:
        """A reply as it is written."""
        async with self._sent(ask) as job:
            reason = None
            while reason is None:
                piece: TokenChunk = _unless_failed(await job.results.get())
                reason = piece.finish_reason
                yield piece

    async def reply(self, ask: GenerationRequest) -> str:
        """The text of a reply."""
        async with aclosing(self.pieces(ask)) as pieces:
            return "".join([piece.text async for piece in pieces])

    @asynccontextmanager
    async def _sent(self, work: GenerationRequest | Job, shape: Hashable = None) -> AsyncIterator[_QueuedJob]:
        job = _QueuedJob(next(self._numbers), work, (type(work), shape))
        self._jobs[job.number] = job
        self._queue_of(job).append(job)
        self._loop.call_soon(self._hand_out)  # not at once, so that what comes together goes together
        try:
            yield job
        finally:
            if job.number in self._jobs:  # nobody waits for it any more
                if job.handle is None:
                    self._queue_of(job).remove(job)
                else:
                    job.handle.worker.send(Cancel(job.number))
                self._forget(job)

    def _queue_of(self, job: _QueuedJob) -> deque[_QueuedJob]:
        return self._asks if isinstance(job.work, GenerationRequest) else self._works

    def _forget(self, job: _QueuedJob) -> None:
        """A job is done with, and its worker has room again."""
        del self._jobs[job.number]
        if job.handle is not None:
            job.handle.replies.discard(job.number)
            job.handle.batch.discard(job.number)
        self._loop.call_soon(self._hand_out)
        self._done.set()

    # --- between the queue and the workers ---

    def _hand_out(self) -> None:
        """Give what waits to workers that have room for it."""
        ready = self._crew.ready
        while self._asks and (handle := self._least_busy(ready)) is not None:
            job = self._asks.popleft()
            self._begin(job, handle, handle.replies)
            assert isinstance(job.work, GenerationRequest), "only conversations wait there"
            handle.worker.send(StartReply(job.number, job.work))
        idle = sorted((handle for handle in ready if not handle.batch), key=lambda handle: len(handle.replies))
        while self._works and idle:
            alike = [job for job in self._works if job.shape == self._works[0].shape]
            jobs = alike[: min(self.settings.max_batch, -(-len(alike) // len(idle)))]
            handle = idle.pop(0)
            for job in jobs:
                self._works.remove(job)
                self._begin(job, handle, handle.batch)
            self.metrics.batch_sizes.labels(type(jobs[0].work).__name__).observe(len(jobs))
            works: tuple[Any, ...] = tuple(job.work for job in jobs)
            handle.worker.send(RunBatch(tuple(job.number for job in jobs), works))

    def _least_busy(self, ready: Sequence[WorkerHandle]) -> WorkerHandle | None:
        """The worker with a free slot that has the least to do: rather one without a batch, then the one with fewest replies."""
        free = (handle for handle in ready if len(handle.replies) < self.settings.slots)
        return min(free, key=lambda handle: (bool(handle.batch), len(handle.replies)), default=None)

    def _begin(self, job: _QueuedJob, handle: WorkerHandle, jobs: set[int]) -> None:
        job.handle = handle
        job.begun += 1
        jobs.add(job.number)

    def _told(self, results: Results) -> None:
        """What a worker did goes to those who wait for it."""
        pieces = [result for _, result in results if isinstance(result, TokenChunk)]
        if pieces:
            self.metrics.tokens.inc(len(pieces))
            self.metrics.batch_sizes.labels("GenerationRequest").observe(len(pieces))
        for number, result in results:
            job = self._jobs.get(number)
            if job is None:
                continue
            if isinstance(result, TokenChunk):
                if result.reply_tokens <= job.written:  # written before, by a worker that died since
                    continue
                job.written = result.reply_tokens
            if not isinstance(result, TokenChunk) or result.finish_reason:
                self.metrics.seconds.labels(type(job.work).__name__).observe(time.monotonic() - job.came)
                self._forget(job)
            job.results.put_nowait(result)

    def _begin_again(self, lost: Set[int]) -> None:
        """What a dead worker was at waits again, before all else."""
        for number in sorted(lost, reverse=True):
            job = self._jobs[number]
            job.handle = None
            if job.begun < _TRIES:
                self._queue_of(job).appendleft(job)
            else:
                self._forget(job)
                job.results.put_nowait(WorkersLost(f"{job.begun} workers died over it"))
        self._hand_out()


def _unless_failed(result: Any) -> Any:
    if isinstance(result, Exception):
        raise result
    return result
