"""The engine by itself: turns, places, what is given up, and its end."""

from __future__ import annotations

import asyncio
from contextlib import aclosing
from typing import Any

import numpy as np
import pytest
from tests.serving.engine.working import LONG, all_of, answer, asked, counted, run, until, working

from latentbridge.errors import UserError
from latentbridge.models.omnibridge.modeling_omnibridge import OmniBridge
from latentbridge.serving.engine.engine import Engine, ServerBusy, ShuttingDown
from latentbridge.serving.engine.jobs import GenerateJob, TextEmbeddingJob
from latentbridge.serving.engine.metrics import Metrics
from latentbridge.serving.settings import Settings
from latentbridge.types import Picture


def test_answers_at_once_are_the_answers_one_by_one(served_model: OmniBridge, scene_picture: Picture):
    works: list[Any] = [
        asked("Describe the picture.", scene_picture),
        asked("What?", max_tokens=7, temperature=1.4, seed=5),
        asked("Is there a star? Think step by step.", scene_picture),
        TextEmbeddingJob("a red star"),
        TextEmbeddingJob("a tan star"),
        GenerateJob("small red star top, on white", 1, 3, 2.5),
        GenerateJob("large blue circle left, small tan ring top, on black", 2, 3, 2.5),
    ]

    async def test() -> None:
        async with working(served_model) as engine:
            alone = [await answer(engine, work) for work in works]
            for order in (works, works[::-1]):
                at_once = await asyncio.gather(*(answer(engine, work) for work in order))
                for one, other in zip(alone, at_once if order is works else at_once[::-1], strict=True):
                    assert np.array_equal(one, other)
            assert counted(engine, "batch_size_count", kind="GenerateJob") < 6

    run(test)


def test_a_short_reply_does_not_wait_for_a_long_drawing(served_model: OmniBridge):
    async def test() -> None:
        async with working(served_model) as engine:
            drawing = asyncio.ensure_future(engine.do(GenerateJob("red star, on white", 1, LONG, 2.5)))
            await until(lambda: counted(engine, "batch_size_count", kind="GenerateJob") == 1)
            assert await engine.reply(asked("Draw: a star", max_tokens=3))
            assert not drawing.done()
            drawing.cancel()

    run(test)


def test_who_hangs_up_frees_the_slot(served_model: OmniBridge, scene_picture: Picture):
    async def test() -> None:
        async with working(served_model, slots=1) as engine:
            question = asked("Is there a star? Think step by step.", scene_picture)
            async with aclosing(engine.pieces(question)) as pieces:
                await anext(pieces)
            # the one slot is free again, long before the reply would have ended
            assert len(await all_of(engine, asked("What?", max_tokens=2))) == 2
            written = counted(engine, "tokens_total")
            assert written < 10

    run(test)


def test_a_drawing_nobody_waits_for_is_dropped(served_model: OmniBridge):
    async def test() -> None:
        async with working(served_model) as engine:
            drawing = asyncio.ensure_future(engine.do(GenerateJob("red star, on white", 1, LONG, 2.5)))
            await until(lambda: counted(engine, "batch_size_count", kind="GenerateJob") == 1)
            drawing.cancel()
            done = await engine.do(GenerateJob("red star, on white", 1, 1, 2.5))
            assert done.shape == (64, 64, 3)
            assert counted(engine, "work_seconds_count", kind="GenerateJob") == 1  # the long one never ended

    run(test)


def test_a_full_engine_says_when_to_come_back(served_model: OmniBridge):
    async def test() -> None:
        async with working(served_model, max_requests=2) as engine:
            with engine.place(), engine.place():
                with pytest.raises(ServerBusy) as caught, engine.place():
                    pass
                assert caught.value.retry_after_s >= 1
            with engine.place():
                assert counted(engine, "requests_inside") == 1 and counted(engine, "refused_total") == 1

    run(test)


def test_the_end_waits_for_what_was_begun_and_takes_nothing_new(served_model: OmniBridge):
    async def test() -> None:
        engine = Engine(served_model, Settings(), Metrics())
        with pytest.raises(ShuttingDown), engine.place():
            pass
        engine.start()
        reply = asyncio.ensure_future(engine.reply(asked("Draw: a star")))
        drawing = asyncio.ensure_future(engine.do(GenerateJob("red star, on white", 1, 5, 2.5)))
        await asyncio.sleep(0)
        await engine.close()
        assert not engine.ready
        assert await reply and (await drawing).shape == (64, 64, 3)
        with pytest.raises(ShuttingDown), engine.place():
            pass

    run(test)


def test_a_mistake_is_told_to_who_made_it_and_to_nobody_else(served_model: OmniBridge):
    class Broken(TextEmbeddingJob):
        def shape(self, model: OmniBridge) -> Any:
            raise ZeroDivisionError

    async def test() -> None:
        async with working(served_model, context_tokens=64) as engine:
            fine, long, broken = await asyncio.gather(
                engine.reply(asked("Draw: a star", max_tokens=3)),
                engine.reply(asked("star " * 99)),
                engine.do(Broken("a star")),
                return_exceptions=True,
            )
            assert isinstance(fine, str) and fine
            assert isinstance(long, UserError) and "shorten" in str(long)
            assert isinstance(broken, ZeroDivisionError)
            assert (await engine.do(TextEmbeddingJob("a star"))).tokens > 1

    run(test)
