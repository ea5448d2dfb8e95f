"""The engine: one thread owns the model and gives every request its turn, a step at a time."""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Hashable, Iterator, Sequence
from contextlib import aclosing, asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch

from latentbridge.errors import UserError
from latentbridge.models.omnibridge.model import Model
from latentbridge.models.qwen_vl.slots import ReplySlots
from latentbridge.serving.engine.metrics import Metrics
from latentbridge.serving.engine.replies import Ask, Piece, Writing
from latentbridge.serving.engine.rows import make_rows_independent
from latentbridge.serving.engine.work import Steps, Work
from latentbridge.serving.settings import Settings

_log = logging.getLogger(__name__)


class Busy(Exception):
    """There is no room for another request; `retry_after_s` is when to come back."""

    def __init__(self, retry_after_s: int):
        super().__init__("The server is full; send the request again a little later.")
        self.retry_after_s = retry_after_s


class Closing(Exception):
    """The server finishes what it started and takes nothing new."""


@dataclass(eq=False)
class _Job:
    """Something to do and where its results go: the pieces of a reply, one result of other work, or an exception."""

    work: Ask | Work
    loop: asyncio.AbstractEventLoop
    results: asyncio.Queue[Any]
    abandoned: bool = False
    """Nobody waits for it any more."""
    shape: Hashable = None
    prompt: Any = None
    """What was asked, as tokens (`TokenBatch`); known once the worker has looked at it."""
    writing: Writing | None = None
    began: float = field(default_factory=time.monotonic)

    def tell(self, result: Any) -> None:
        """Hand a result over to the event loop; a loop that has ended wants none."""
        if not self.abandoned and not self.loop.is_closed():
            self.loop.call_soon_threadsafe(self.results.put_nowait, result)


class Engine:
    """Requests come in from an event loop; a worker thread does them, many at a time, and hands results back.

    Replies are written side by side in slots (`models/qwen_vl/slots.py`), everything else in batches of one kind and shape
    (`work.py`). The worker takes turns: a token for every reply, a step for the batch at work, and so on; so a short
    reply does not wait for a long drawing, and what nobody waits for any more is dropped at the next step. An answer is
    the same, to the last bit, whatever else is at work (`rows.py`).
    """

    def __init__(self, model: Model, settings: Settings, metrics: Metrics):
        make_rows_independent(model)
        self.model = model
        self.settings = settings
        self.metrics = metrics
        self._inside = 0
        self._recent_s = 1.0
        """How long a request took of late, a running mean."""
        self._slots = ReplySlots(model.backbone, settings.slots, settings.context_tokens)
        self._lock = threading.Condition()
        self._inbox: deque[_Job] = deque()
        self._waiting: deque[_Job] = deque()
        self._replying: dict[int, _Job] = {}
        self._batch: tuple[list[_Job], Steps] | None = None
        self._closing = False
        self._worker: threading.Thread | None = None

    # --- from the event loop ---

    def start(self) -> None:
        """Begin to work."""
        self._worker = threading.Thread(target=self._run, name="engine", daemon=True)
        self._worker.start()

    async def close(self) -> None:
        """Take nothing new, finish what was taken, and end."""
        with self._lock:
            self._closing = True
            self._lock.notify()
        if self._worker is not None:
            await asyncio.to_thread(self._worker.join)

    @property
    def ready(self) -> bool:
        """Whether requests are taken and done."""
        return self._worker is not None and self._worker.is_alive() and not self._closing

    @contextmanager
    def place(self) -> Iterator[None]:
        """A place for one request, however many jobs it makes; raises Busy where there is none, and Closing at the end."""
        if not self.ready:
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
        async with self._sent(work) as job:
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
    async def _sent(self, work: Ask | Work) -> AsyncIterator[_Job]:
        job = _Job(work, asyncio.get_running_loop(), asyncio.Queue())
        with self._lock:
            self._inbox.append(job)
            self._lock.notify()
        try:
            yield job
        finally:
            job.abandoned = True

    # --- in the worker's thread ---

    def _run(self) -> None:
        with torch.inference_mode():
            while self._look():
                self._invite()
                self._reply_step()
                self._batch_step()

    def _look(self) -> bool:
        """Take what came in, wait where there is nothing at all to do; False once all is done and nothing will come."""
        with self._lock:
            while not (self._inbox or self._waiting or self._replying or self._batch):
                if self._closing:
                    return False
                self._lock.wait()
            came = list(self._inbox)
            self._inbox.clear()
        for job in came:
            with self._blamed([job]):
                self._read(job)
                self._waiting.append(job)
        self._waiting = deque(job for job in self._waiting if not job.abandoned)
        return True

    def _read(self, job: _Job) -> None:
        if isinstance(job.work, Ask):
            job.prompt = self._slots.read(job.work.conversation)
            tokens = int(job.prompt.attention_mask.sum())
            job.writing = Writing(job.work, tokens, self.model.backbone.end_of_turn, self._text)
            pixels = job.prompt.pixel_values
            job.shape = (Ask, job.prompt.input_ids.shape, None if pixels is None else pixels.shape)
        else:
            job.shape = (type(job.work), job.work.shape(self.model))

    def _text(self, tokens: Sequence[int]) -> str:
        return self.model.backbone.decode(torch.tensor([tokens]))[0]

    def _take(self, first: _Job, most: int) -> list[_Job]:
        """The waiting jobs that go with `first`, oldest first, no longer waiting."""
        taken = [job for job in self._waiting if job.shape == first.shape][:most]
        self._waiting = deque(job for job in self._waiting if job not in taken)
        self.metrics.batch_sizes.labels(type(first.work).__name__).observe(len(taken))
        return taken

    def _invite(self) -> None:
        """Give free slots to conversations that wait, those of one shape at a time."""
        first = next((job for job in self._waiting if isinstance(job.work, Ask)), None)
        if first is None or not self._slots.free:
            return
        jobs = self._take(first, min(self._slots.free, self.settings.max_batch))
        with self._blamed(jobs):
            choosing = [job.work.choosing() for job in jobs if isinstance(job.work, Ask)]
            self._replying |= zip(self._slots.join([job.prompt for job in jobs], choosing), jobs, strict=True)

    def _reply_step(self) -> None:
        for slot in [slot for slot, job in self._replying.items() if job.abandoned]:
            self._free(slot)
        if not self._replying:
            return
        jobs = list(self._replying.values())
        with self._blamed(jobs):
            chosen = self._slots.step()
            self.metrics.tokens.inc(len(chosen))
            for slot, token in chosen.items():
                job = self._replying[slot]
                assert job.writing is not None, "what is in a slot was read"
                piece = job.writing.add(token, self._slots.room(slot))
                if piece.finish_reason:
                    self._free(slot)
                job.tell(piece)
            return
        for slot in list(self._replying):
            self._free(slot)

    def _free(self, slot: int) -> None:
        self._slots.leave(slot)
        self.metrics.seconds.labels("Ask").observe(time.monotonic() - self._replying.pop(slot).began)

    def _batch_step(self) -> None:
        if self._batch is None:
            first = next((job for job in self._waiting if not isinstance(job.work, Ask)), None)
            if first is None:
                return
            jobs = self._take(first, self.settings.max_batch)
            works: list[Any] = [job.work for job in jobs]
            self._batch = jobs, type(works[0]).together(self.model, works)
        jobs, steps = self._batch
        if all(job.abandoned for job in jobs):
            self._batch = None
            return
        with self._blamed(jobs):
            try:
                next(steps)
                return
            except StopIteration as end:
                for job, result in zip(jobs, end.value, strict=True):
                    self.metrics.seconds.labels(type(job.work).__name__).observe(time.monotonic() - job.began)
                    job.tell(result)
        self._batch = None

    @contextmanager
    def _blamed(self, jobs: Sequence[_Job]) -> Iterator[None]:
        """Whatever goes wrong inside is told to those who wait for it; the worker goes on."""
        try:
            yield
        except Exception as error:
            if not isinstance(error, UserError):
                _log.exception("%s failed", type(jobs[0].work).__name__)
            for job in jobs:
                job.tell(error)


def _unless_failed(result: Any) -> Any:
    if isinstance(result, Exception):
        raise result
    return result
