"""What a worker does all day: replies and batches take turns over one model, a step at a time, in one thread."""

from __future__ import annotations

import logging
from collections.abc import Callable, Hashable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from queue import SimpleQueue
from typing import Any

import torch

from latentbridge.errors import UserError
from latentbridge.models.omnibridge.modeling_omnibridge import OmniBridge
from latentbridge.models.qwen_vl.batch import TokenBatch
from latentbridge.models.qwen_vl.continuous_batching import ContinuousBatch
from latentbridge.serving.engine.batch_invariance import make_batch_invariant
from latentbridge.serving.engine.jobs import Job, Steps
from latentbridge.serving.engine.text_generation import Detokenizer, GenerationRequest
from latentbridge.serving.settings import Settings

_log = logging.getLogger(__name__)

Results = list[tuple[int, Any]]
"""By the numbers of jobs: a piece of a reply, the result of other work, or the exception that ended either."""


@dataclass(frozen=True)
class StartReply:
    """The order to write a reply. Not more of them are under way than there are slots."""

    job: int
    ask: GenerationRequest


@dataclass(frozen=True)
class RunBatch:
    """The order to do works of one kind and shape together, of which the batch before was done or dropped."""

    jobs: tuple[int, ...]
    works: tuple[Job, ...]


@dataclass(frozen=True)
class Cancel:
    """The order to forget a job that nobody waits for any more."""

    job: int


Command = StartReply | RunBatch | Cancel | None
"""None is the last one; whatever is not done by then is left."""


@dataclass(eq=False)
class _Talk:
    """A reply on its way."""

    ask: GenerationRequest
    prompt: TokenBatch
    writing: Detokenizer

    @property
    def shape(self) -> Hashable:
        pixels = self.prompt.pixel_values
        return self.prompt.input_ids.shape, None if pixels is None else pixels.shape


class Scheduler:
    """Follows orders, many at a time, and tells results as they come.

    Replies are written side by side in slots (`models/qwen_vl/continuous_batching.py`), everything else comes in batches (`work.py`). They
    take turns: a token for every reply, a step for the batch, and so on; so a short reply does not wait for a long
    drawing, and what is dropped is gone at the next step. An answer is the same, to the last bit, whatever else is at work
    (`rows.py`), and so is that of another process with the same weights.
    """

    def __init__(self, model: OmniBridge, settings: Settings, tell: Callable[[Results], None]):
        make_batch_invariant(model)
        self._model = model
        self._tell = tell
        self._most_together = settings.max_batch
        self._slots = ContinuousBatch(model.backbone, settings.slots, settings.context_tokens)
        self._orders: SimpleQueue[Command] = SimpleQueue()
        self._waiting: dict[int, _Talk] = {}
        self._replying: dict[int, tuple[int, _Talk]] = {}
        """Job and reply by slot."""
        self._batch: tuple[RunBatch, Steps] | None = None
        self._dropped: set[int] = set()
        """Jobs of the batch at work that nobody waits for."""

    def send(self, order: Command) -> None:
        """Give an order, from any thread; it is looked at before the next step."""
        self._orders.put(order)

    def run(self) -> None:
        """Work until the last order."""
        with torch.inference_mode():
            while self._look():
                self._invite()
                self._reply_step()
                self._batch_step()

    def _look(self) -> bool:
        """Follow the orders that came, wait for one where there is nothing to do; False once the last one came."""
        while not self._orders.empty() or not (self._waiting or self._replying or self._batch):
            match self._orders.get():
                case None:
                    return False
                case StartReply(job, ask):
                    with self._blamed([job]):
                        self._waiting[job] = self._read(ask)
                case RunBatch(_, works) as batch:
                    self._batch = batch, type(works[0]).run_batch(self._model, works)
                    self._dropped.clear()
                case Cancel(job):
                    self._drop(job)
        return True

    def _read(self, ask: GenerationRequest) -> _Talk:
        prompt = self._slots.tokenize(ask.conversation)
        tokens = int(prompt.attention_mask.sum())
        return _Talk(ask, prompt, Detokenizer(ask, tokens, self._model.backbone.end_of_turn, self._text))

    def _text(self, tokens: Sequence[int]) -> str:
        return self._model.backbone.decode(torch.tensor([tokens]))[0]

    def _drop(self, job: int) -> None:
        self._waiting.pop(job, None)
        for slot in [slot for slot, (sitting, _) in self._replying.items() if sitting == job]:
            self._free(slot)
        if self._batch:
            self._dropped.add(job)
            if self._dropped.issuperset(self._batch[0].jobs):
                self._batch = None

    def _free(self, slot: int) -> None:
        self._slots.release(slot)
        del self._replying[slot]

    def _invite(self) -> None:
        """Give free slots to conversations that wait, those of one shape at a time, which are read together."""
        if not self._waiting or not self._slots.free_slots:
            return
        shape = next(iter(self._waiting.values())).shape
        jobs = [job for job, talk in self._waiting.items() if talk.shape == shape]
        jobs = jobs[: min(self._slots.free_slots, self._most_together)]
        talks = [self._waiting.pop(job) for job in jobs]
        with self._blamed(jobs):
            slots = self._slots.add([talk.prompt for talk in talks], [talk.ask.sampling_params() for talk in talks])
            self._replying |= zip(slots, zip(jobs, talks, strict=True), strict=True)

    def _reply_step(self) -> None:
        if not self._replying:
            return
        with self._blamed([job for job, _ in self._replying.values()]):
            pieces: Results = []
            for slot, token in self._slots.step().items():
                job, talk = self._replying[slot]
                piece = talk.writing.add(token, self._slots.has_room(slot))
                if piece.finish_reason:
                    self._free(slot)
                pieces.append((job, piece))
            self._tell(pieces)
            return
        for slot in list(self._replying):
            self._free(slot)

    def _batch_step(self) -> None:
        if self._batch is None:
            return
        batch, steps = self._batch
        with self._blamed(batch.jobs):
            try:
                next(steps)
                return
            except StopIteration as end:
                self._tell(list(zip(batch.jobs, end.value, strict=True)))
        self._batch = None

    @contextmanager
    def _blamed(self, jobs: Sequence[int]) -> Iterator[None]:
        """Whatever goes wrong inside is told to those who wait for it; the worker goes on."""
        try:
            yield
        except Exception as error:
            if not isinstance(error, UserError):
                _log.exception("the work on %d jobs failed", len(jobs))
            self._tell([(job, error) for job in jobs])
