"""The engine sequential: interleaving, admission, cancellation and shutdown."""

from __future__ import annotations

import asyncio
from contextlib import aclosing
from typing import Any

import numpy as np
import pytest
from tests.serving.engine.working import LONG, answer, counted, question, reply_text, run, running_engine, until

from latentbridge.errors import UserError
from latentbridge.models.omnibridge.editing import OmniBridgeOptions
from latentbridge.models.omnibridge.modeling_omnibridge import OmniBridge
from latentbridge.serving.engine.engine import Engine, ServerBusy, ShuttingDown
from latentbridge.serving.engine.jobs import GenerateJob, TextEmbeddingJob
from latentbridge.serving.engine.metrics import Metrics
from latentbridge.serving.settings import Settings
from latentbridge.types import Picture


def test_concurrent_results_equal_sequential_results(served_model: OmniBridge, scene_picture: Picture):
    jobs: list[Any] = [
        question("Describe the picture.", scene_picture),
        question("What?", max_tokens=7, temperature=1.4, seed=5),
        question("Is there a star? Think step by step.", scene_picture),
        TextEmbeddingJob("a red star"),
        TextEmbeddingJob("a tan star"),
        GenerateJob("small red star top, on white", 1, OmniBridgeOptions(3)),
        GenerateJob("large blue circle left, small tan ring top, on black", 2, OmniBridgeOptions(3)),
    ]

    async def test() -> None:
        async with running_engine(served_model) as engine:
            sequential = [await answer(engine, job) for job in jobs]
            for order in (jobs, jobs[::-1]):
                concurrent = await asyncio.gather(*(answer(engine, job) for job in order))
                for one, other in zip(sequential, concurrent if order is jobs else concurrent[::-1], strict=True):
                    assert np.array_equal(one, other)
            assert counted(engine, "batch_size_count", kind="GenerateJob") < 6

    run(test)


def test_a_short_reply_does_not_wait_for_a_long_drawing(served_model: OmniBridge):
    async def test() -> None:
        async with running_engine(served_model) as engine:
            drawing = asyncio.ensure_future(engine.run(GenerateJob("red star, on white", 1, OmniBridgeOptions(LONG))))
            await until(lambda: counted(engine, "batch_size_count", kind="GenerateJob") == 1)
            assert await reply_text(engine, question("Draw: a star", max_tokens=3))
            assert not drawing.done()
            drawing.cancel()

    run(test)


def test_a_disconnect_frees_the_slot(served_model: OmniBridge, scene_picture: Picture):
    async def test() -> None:
        async with running_engine(served_model, slots=1) as engine:
            long = question("Is there a star? Think step by step.", scene_picture)
            async with aclosing(engine.stream(long)) as chunks:
                await anext(chunks)
            # the one slot is free again, long before the reply would have ended
            assert len(await engine.complete(question("What?", max_tokens=2))) == 2
            assert counted(engine, "generated_tokens_total") < 10

    run(test)


def test_a_cancelled_drawing_is_dropped(served_model: OmniBridge):
    async def test() -> None:
        async with running_engine(served_model) as engine:
            drawing = asyncio.ensure_future(engine.run(GenerateJob("red star, on white", 1, OmniBridgeOptions(LONG))))
            await until(lambda: counted(engine, "batch_size_count", kind="GenerateJob") == 1)
            drawing.cancel()
            done = await engine.run(GenerateJob("red star, on white", 1, OmniBridgeOptions(1)))
            assert done.shape == (64, 64, 3)
            assert counted(engine, "job_duration_seconds_count", kind="GenerateJob") == 1  # the long one never ended

    run(test)


def test_a_full_engine_says_when_to_retry(served_model: OmniBridge):
    async def test() -> None:
        async with running_engine(served_model, max_requests=2) as engine:
            with engine.admit(), engine.admit():
                with pytest.raises(ServerBusy) as caught, engine.admit():
                    pass
                assert caught.value.retry_after_s >= 1
            with engine.admit():
                assert counted(engine, "requests_in_flight") == 1 and counted(engine, "requests_rejected_total") == 1

    run(test)


def test_close_finishes_running_jobs_and_rejects_new_ones(served_model: OmniBridge):
    async def test() -> None:
        engine = Engine(served_model, Settings(), Metrics())
        with pytest.raises(ShuttingDown), engine.admit():
            pass
        engine.start()
        reply = asyncio.ensure_future(reply_text(engine, question("Draw: a star")))
        drawing = asyncio.ensure_future(engine.run(GenerateJob("red star, on white", 1, OmniBridgeOptions(5))))
        await asyncio.sleep(0)
        await engine.close()
        assert not engine.ready
        assert await reply and (await drawing).shape == (64, 64, 3)
        with pytest.raises(ShuttingDown), engine.admit():
            pass

    run(test)


def test_an_error_reaches_its_own_request_only(served_model: OmniBridge):
    class Broken(TextEmbeddingJob):
        def shape(self, model: OmniBridge) -> Any:
            raise ZeroDivisionError

    async def test() -> None:
        async with running_engine(served_model, context_tokens=64) as engine:
            fine, long, broken = await asyncio.gather(
                reply_text(engine, question("Draw: a star", max_tokens=3)),
                reply_text(engine, question("star " * 99)),
                engine.run(Broken("a star")),
                return_exceptions=True,
            )
            assert isinstance(fine, str) and fine
            assert isinstance(long, UserError) and "shorten" in str(long)
            assert isinstance(broken, ZeroDivisionError)
            assert (await engine.run(TextEmbeddingJob("a star"))).tokens > 1

    run(test)
