"""Worker processes: the same results as in a thread, also if they are killed."""

from __future__ import annotations

import asyncio
import os
import signal
from contextlib import aclosing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.serving.engine.working import LONG, answer, counted, question, reply_text, run, running_engine, until

from latentbridge.errors import UserError
from latentbridge.models.omnibridge.editing import OmniBridgeOptions
from latentbridge.models.omnibridge.modeling_omnibridge import OmniBridge
from latentbridge.serving.engine.engine import WorkersLost
from latentbridge.serving.engine.jobs import GenerateJob, ImageEmbeddingJob, TextEmbeddingJob
from latentbridge.types import Picture


def worker_pids() -> set[int]:
    """Return the process ids of the workers."""
    children = (file.read_text().split() for file in Path("/proc/self/task").glob("*/children"))
    pids = {int(pid) for ids in children for pid in ids}
    return {pid for pid in pids if b"worker_process import run_worker" in Path(f"/proc/{pid}/cmdline").read_bytes()}


def test_processes_give_the_results_of_a_thread_even_if_one_is_killed(served_model: OmniBridge, scene_picture: Picture):
    reply = question("Describe the picture. Think step by step.", scene_picture, 60, temperature=1.5, seed=3)
    drawing = GenerateJob("large blue circle left, small tan ring top, on black", 2, OmniBridgeOptions(12))
    jobs: list[Any] = [
        question("What?", max_tokens=7, temperature=1.4, seed=5),
        question("Is there a star?", scene_picture),
        *(TextEmbeddingJob(text) for text in ("a red star", "a tan star", "a blue star")),
        ImageEmbeddingJob(scene_picture),
        GenerateJob("small red star top, on white", 1, OmniBridgeOptions(3)),
    ]

    async def test() -> None:
        async with running_engine(served_model) as engine:
            expected = [await answer(engine, job) for job in [*jobs, drawing, reply]]
        async with running_engine(served_model, workers=2) as engine:
            await until(lambda: counted(engine, "workers") == 2)
            for one, other in zip(
                await asyncio.gather(*(answer(engine, job) for job in jobs)), expected[:-2], strict=True
            ):
                assert np.array_equal(one, other)
            killed = min(worker_pids())
            drawing_task = asyncio.ensure_future(answer(engine, drawing))
            tokens = list[int]()
            async with aclosing(engine.stream(reply)) as chunks:
                async for chunk in chunks:
                    if not tokens:  # one worker draws and the other replies, so a job is lost whichever is killed
                        os.kill(killed, signal.SIGTERM)  # ignored by workers
                        os.kill(killed, signal.SIGKILL)
                    tokens.append(chunk.token)
            assert tokens == expected[-1] and np.array_equal(await drawing_task, expected[-2])
            assert counted(engine, "workers_lost_total") == 1
            await until(lambda: len(worker_pids()) == 2)
            assert killed not in worker_pids()
        assert not worker_pids()

    run(test)


def test_errors_of_a_process_are_those_of_a_thread(served_model: OmniBridge):
    async def test() -> None:
        async with running_engine(served_model, workers=2, context_tokens=64) as engine:
            await until(lambda: counted(engine, "workers") == 2)
            with pytest.raises(UserError, match="shorten"):
                await reply_text(engine, question("star " * 99))
            with pytest.raises(RuntimeError, match="in a worker"):
                await engine.run(ImageEmbeddingJob(np.zeros((3, 5), np.uint8)))
            assert await reply_text(engine, question("Draw: a star", max_tokens=3))

    run(test)


@pytest.mark.slow
def test_a_job_that_killed_two_workers_fails_and_no_other(served_model: OmniBridge):
    async def test() -> None:
        async with running_engine(served_model, workers=2) as engine:
            await until(lambda: counted(engine, "workers") == 2)
            drawing = asyncio.ensure_future(engine.run(GenerateJob("red star, on white", 1, OmniBridgeOptions(LONG))))
            for attempt in (1, 2):
                await until(lambda: counted(engine, "batch_size_count", kind="GenerateJob") == attempt)  # noqa: B023
                for pid in worker_pids():
                    os.kill(pid, signal.SIGKILL)
            with pytest.raises(WorkersLost):
                await drawing
            assert (await engine.run(TextEmbeddingJob("a star"))).tokens > 1

    run(test)


@pytest.mark.slow
def test_if_no_process_becomes_ready_a_thread_computes(served_model: OmniBridge, tmp_path: Path):
    async def test() -> None:
        async with running_engine(served_model, workers=2, source=str(tmp_path)) as engine:
            await until(lambda: counted(engine, "workers_lost_total") >= 2 and not worker_pids())
            assert (await engine.run(TextEmbeddingJob("a star"))).tokens > 1
            assert engine.ready

    run(test)
