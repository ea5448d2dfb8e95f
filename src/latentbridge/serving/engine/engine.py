"""The engine: one queue for all requests, and workers that take from it what they have room for."""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Hashable, Iterator, Sequence
from contextlib import aclosing, asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from itertools import count
from typing import Any

from latentbridge.models.checkpoint import fingerprint
from latentbridge.models.omnibridge.model import Model
from latentbridge.serving.engine.metrics import Metrics
from latentbridge.serving.engine.replies import Ask, Piece
from latentbridge.serving.engine.turns import Batch, Drop, Reply, Results
from latentbridge.serving.engine.work import Work
from latentbridge.serving.engine.workers import ProcessWorker, ThreadWorker, Worker
from latentbridge.serving.settings import Settings

_log = logging.getLogger(__name__)
_TRIES = 2
"""How often a job is begun; what outlives no worker may be what kills them."""


class Busy(Exception):
    """There is no room for another request; `retry_after_s` is when to come back."""

    def __init__(self, retry_after_s: int):
        super().__init__("The server is full; send the request again a little later.")
        self.retry_after_s = retry_after_s


class Closing(Exception):
    """The server finishes what it started and takes nothing new."""


class Lost(Exception):
    """The workers that did something died of it, or beside it."""


@dataclass(eq=False)
class _Job:
    """Something to do and where its results go: the pieces of a reply, one result of other work, or an exception."""

    number: int
    work: Ask | Work
    shape: Hashable
    """What works must share to be done together."""
    results: asyncio.Queue[Any] = field(default_factory=asyncio.Queue)
    hand: _Hand | None = None
    """Who is at it; nobody while it waits."""
    begun: int = 0
    written: int = 0
    """Tokens of a reply that were handed out."""
    came: float = field(default_factory=time.monotonic)


@dataclass(eq=False)
class _Hand:
    """A worker and what it is at, by number."""

    worker: Worker
    is_ready: bool = False
    replies: set[int] = field(default_factory=set)
    batch: set[int] = field(default_factory=set)


class Engine:
    """Requests come in from an event loop, workers do them, many at a time, and their results come back.

    What comes in waits in one queue. A conversation goes to the worker with the fewest, as long as one has a free slot; works of
    one kind and shape go together to a worker that does no others, and are shared out where several do none. What a
    worker had begun when it died is begun once more elsewhere: an answer depends on the request alone (`turns.py`), so
    a reply goes on where it stopped. All of this happens in the event loop that `start` was called in.
    """

    def __init__(self, model: Model, settings: Settings, metrics: Metrics):
        self.model = model
        self.settings = settings
        self.metrics = metrics
        self._inside = 0
        self._recent_s = 1.0
        """How long a request took of late, a running mean."""
        self._numbers = count()
        self._jobs: dict[int, _Job] = {}
        """All that is not done, by number."""
        self._asks: deque[_Job] = deque()
        self._works: deque[_Job] = deque()
        self._hands: list[_Hand] = []
        self._closing = False
        self._done = asyncio.Event()
        """Set whenever nothing is left to do."""
        self._stillborn = 0
        """Worker processes that ended before they were ready, one after another."""

    def start(self) -> None:
        """Begin to work; worker processes are at hand some seconds later, and what comes before waits for them."""
        self._loop = asyncio.get_running_loop()
        if self.settings.workers == 1:
            self._hire_thread()
        for _ in range(self.settings.workers if self.settings.workers > 1 else 0):
            self._hire_process()

    async def close(self) -> None:
        """Take nothing new, finish what was taken, and end."""
        self._closing = True
        while self._jobs:
            self._done.clear()
            await self._done.wait()
        for hand in self._hands:
            hand.worker.send(None)
        await asyncio.gather(*(asyncio.to_thread(hand.worker.join) for hand in self._hands))

    @property
    def ready(self) -> bool:
        """Whether requests are taken and done."""
        return not self._closing and any(hand.is_ready for hand in self._hands)

    # --- for requests ---

    @contextmanager
    def place(self) -> Iterator[None]:
        """A place for one request, however many jobs it makes; raises Busy where there is none, and Closing at the end."""
        if self._closing or not self._hands:
            raise Closing
        if self._inside >= self.settings.max_requests:
            self.metrics.refused.inc()
            raise Busy(max(1, round(self._recent_s)))
        self._inside += 1
        self.metrics.inside.set(self._inside)
        began = time.monotonic()
        try:
            yield
        finally:
            self._inside -= 1
            self.metrics.inside.set(self._inside)
            self._recent_s += 0.1 * (time.monotonic() - began - self._recent_s)

    async def do(self, work: Work) -> Any:
        """The result of one piece of work."""
        async with self._sent(work, work.shape(self.model)) as job:
            return _unless_failed(await job.results.get())

    async def do_all(self, works: Sequence[Work]) -> list[Any]:
        """The results of several pieces of work, in order; where one fails, the others are dropped."""
        tasks = [asyncio.ensure_future(self.do(work)) for work in works]
        try:
            return await asyncio.gather(*tasks)
        finally:
            for task in tasks:
                task.cancel()

    async def pieces(self, ask: Ask) -> AsyncGenerator[Piece]:
        """A reply as it is written."""
        async with self._sent(ask) as job:
            reason = None
            while reason is None:
                piece: Piece = _unless_failed(await job.results.get())
                reason = piece.finish_reason
                yield piece

    async def reply(self, ask: Ask) -> str:
        """The text of a reply."""
        async with aclosing(self.pieces(ask)) as pieces:
            return "".join([piece.text async for piece in pieces])

    @asynccontextmanager
    async def _sent(self, work: Ask | Work, shape: Hashable = None) -> AsyncIterator[_Job]:
        job = _Job(next(self._numbers), work, (type(work), shape))
        self._jobs[job.number] = job
        self._queue_of(job).append(job)
        self._loop.call_soon(self._hand_out)  # not at once, so that what comes together goes together
        try:
            yield job
        finally:
            if job.number in self._jobs:  # nobody waits for it any more
                if job.hand is None:
                    self._queue_of(job).remove(job)
                else:
                    job.hand.worker.send(Drop(job.number))
                self._forget(job)

    def _queue_of(self, job: _Job) -> deque[_Job]:
        return self._asks if isinstance(job.work, Ask) else self._works

    def _forget(self, job: _Job) -> None:
        """A job is done with, and its worker has room again."""
        del self._jobs[job.number]
        if job.hand is not None:
            job.hand.replies.discard(job.number)
            job.hand.batch.discard(job.number)
        self._loop.call_soon(self._hand_out)
        if not self._jobs:
            self._done.set()

    # --- between the queue and the workers ---

    def _hand_out(self) -> None:
        """Give what waits to workers that have room for it."""
        ready = [hand for hand in self._hands if hand.is_ready]
        while self._asks and (hand := self._writer_among(ready)) is not None:
            job = self._asks.popleft()
            self._begin(job, hand, hand.replies)
            assert isinstance(job.work, Ask), "only conversations wait there"
            hand.worker.send(Reply(job.number, job.work))
        idle = sorted((hand for hand in ready if not hand.batch), key=lambda hand: len(hand.replies))
        while self._works and idle:
            alike = [job for job in self._works if job.shape == self._works[0].shape]
            jobs = alike[: min(self.settings.max_batch, -(-len(alike) // len(idle)))]
            hand = idle.pop(0)
            for job in jobs:
                self._works.remove(job)
                self._begin(job, hand, hand.batch)
            self.metrics.batch_sizes.labels(type(jobs[0].work).__name__).observe(len(jobs))
            works: tuple[Any, ...] = tuple(job.work for job in jobs)
            hand.worker.send(Batch(tuple(job.number for job in jobs), works))

    def _writer_among(self, ready: Sequence[_Hand]) -> _Hand | None:
        """The worker with a free slot that should write the next reply: one without a batch, if possible.

        Replies are shared out while all workers have time for them. Beside batches they are kept together, since a token
        of one takes nearly as long as one of each of many.
        """
        free = (hand for hand in ready if len(hand.replies) < self.settings.slots)
        together = -1 if any(hand.batch for hand in ready) else 1
        return min(free, key=lambda hand: (bool(hand.batch), together * len(hand.replies)), default=None)

    def _begin(self, job: _Job, hand: _Hand, jobs: set[int]) -> None:
        job.hand = hand
        job.begun += 1
        jobs.add(job.number)

    def _told(self, results: Results) -> None:
        """What a worker did goes to those who wait for it."""
        pieces = [result for _, result in results if isinstance(result, Piece)]
        if pieces:
            self.metrics.tokens.inc(len(pieces))
            self.metrics.batch_sizes.labels("Ask").observe(len(pieces))
        for number, result in results:
            job = self._jobs.get(number)
            if job is None:
                continue
            if isinstance(result, Piece):
                if result.reply_tokens <= job.written:  # written before, by a worker that died since
                    continue
                job.written = result.reply_tokens
            if not isinstance(result, Piece) or result.finish_reason:
                self.metrics.seconds.labels(type(job.work).__name__).observe(time.monotonic() - job.came)
                self._forget(job)
            job.results.put_nowait(result)

    # --- workers come and go ---

    @cached_property
    def _maker(self) -> str:
        return fingerprint(self.model)

    def _hire_thread(self) -> None:
        self._hands.append(_Hand(ThreadWorker(self.model, self.settings, self._heard(self._told)), is_ready=True))

    def _hire_process(self) -> None:
        def is_ready() -> None:
            hand.is_ready, self._stillborn = True, 0
            self._hand_out()

        hand = _Hand(
            ProcessWorker(
                self.settings,
                self._maker,
                self._heard(self._told),
                self._heard(is_ready),
                self._heard(lambda: self._lost(hand)),
            )
        )
        self._hands.append(hand)

    def _lost(self, hand: _Hand) -> None:
        """A worker has ended: what it was at waits again, before all else, and another one takes its place.

        Where none gets ready, those that are left go on without it, and where nobody is, this process does the work.
        """
        if self._closing and not self._jobs:
            return
        self._hands.remove(hand)
        begun = [self._jobs[number] for number in sorted(hand.replies | hand.batch, reverse=True)]
        _log.error("a worker died over %d jobs", len(begun))
        self.metrics.lost.inc()
        for job in begun:
            job.hand = None
            if job.begun < _TRIES:
                self._queue_of(job).appendleft(job)
            else:
                self._forget(job)
                job.results.put_nowait(Lost(f"{job.begun} workers died over it"))
        self._stillborn += not hand.is_ready
        if self._stillborn < _TRIES:
            self._hire_process()
        elif not self._hands:
            self._hire_thread()
        self._hand_out()

    def _heard(self, answer: Callable[..., None]) -> Callable[..., None]:
        """What calls `answer` in the event loop, from any thread; a loop that has ended hears nothing."""

        def call(*arguments: Any) -> None:
            if not self._loop.is_closed():
                self._loop.call_soon_threadsafe(answer, *arguments)

        return call


def _unless_failed(result: Any) -> Any:
    if isinstance(result, Exception):
        raise result
    return result
