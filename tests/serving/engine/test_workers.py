"""Workers in processes of their own: the same answers as in a thread, also when they are killed."""

from __future__ import annotations

import asyncio
import os
import signal
from contextlib import aclosing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.serving.engine.working import LONG, answer, asked, counted, run, until, working

from latentbridge.errors import UserError
from latentbridge.models.omnibridge.modeling_omnibridge import OmniBridge
from latentbridge.serving.engine.engine import WorkersLost
from latentbridge.serving.engine.jobs import GenerateJob, ImageEmbeddingJob, TextEmbeddingJob
from latentbridge.types import Picture


def worker_pids() -> set[int]:
    """The workers among the children of this process."""
    children = (file.read_text().split() for file in Path("/proc/self/task").glob("*/children"))
    pids = {int(pid) for found in children for pid in found}
    return {pid for pid in pids if b"worker_process import work" in Path(f"/proc/{pid}/cmdline").read_bytes()}


def test_processes_answer_as_a_thread_does_even_while_one_of_them_is_killed(
    served_model: OmniBridge, scene_picture: Picture
):
    reply = asked("Describe the picture. Think step by step.", scene_picture, 60, temperature=1.5, seed=3)
    drawing = GenerateJob("large blue circle left, small tan ring top, on black", 2, 12, 2.5)
    works: list[Any] = [
        asked("What?", max_tokens=7, temperature=1.4, seed=5),
        asked("Is there a star?", scene_picture),
        *(TextEmbeddingJob(text) for text in ("a red star", "a tan star", "a blue star")),
        ImageEmbeddingJob(scene_picture),
        GenerateJob("small red star top, on white", 1, 3, 2.5),
    ]

    async def test() -> None:
        async with working(served_model) as engine:
            expected = [await answer(engine, work) for work in [*works, drawing, reply]]
        async with working(served_model, workers=2) as engine:
            await until(lambda: counted(engine, "workers") == 2)
            for one, other in zip(
                await asyncio.gather(*(answer(engine, work) for work in works)), expected[:-2], strict=True
            ):
                assert np.array_equal(one, other)
            killed = min(worker_pids())
            drawn = asyncio.ensure_future(answer(engine, drawing))
            tokens = list[int]()
            async with aclosing(engine.pieces(reply)) as pieces:
                async for piece in pieces:
                    if not tokens:  # one draws and the other writes, so something is lost whichever is killed
                        os.kill(killed, signal.SIGTERM)  # is the server's to hear, not theirs
                        os.kill(killed, signal.SIGKILL)
                    tokens.append(piece.token)
            assert tokens == expected[-1] and np.array_equal(await drawn, expected[-2])
            assert counted(engine, "workers_lost_total") == 1
            await until(lambda: len(worker_pids()) == 2)
            assert killed not in worker_pids()
        assert not worker_pids()

    run(test)


def test_a_mistake_is_told_from_a_process_as_from_a_thread(served_model: OmniBridge):
    async def test() -> None:
        async with working(served_model, workers=2, context_tokens=64) as engine:
            await until(lambda: counted(engine, "workers") == 2)
            with pytest.raises(UserError, match="shorten"):
                await engine.reply(asked("star " * 99))
            with pytest.raises(RuntimeError, match="in a worker"):
                await engine.do(ImageEmbeddingJob(np.zeros((3, 5), np.uint8)))
            assert await engine.reply(asked("Draw: a star", max_tokens=3))

    run(test)


@pytest.mark.slow
def test_what_two_workers_died_over_is_given_up_and_nothing_else(served_model: OmniBridge):
    async def test() -> None:
        async with working(served_model, workers=2) as engine:
            await until(lambda: counted(engine, "workers") == 2)
            drawing = asyncio.ensure_future(engine.do(GenerateJob("red star, on white", 1, LONG, 2.5)))
            for begun in (1, 2):
                await until(lambda: counted(engine, "batch_size_count", kind="GenerateJob") == begun)  # noqa: B023
                for pid in worker_pids():
                    os.kill(pid, signal.SIGKILL)
            with pytest.raises(WorkersLost):
                await drawing
            assert (await engine.do(TextEmbeddingJob("a star"))).tokens > 1

    run(test)


@pytest.mark.slow
def test_where_no_process_gets_ready_the_server_computes_by_itself(served_model: OmniBridge, tmp_path: Path):
    async def test() -> None:
        async with working(served_model, workers=2, source=str(tmp_path)) as engine:
            await until(lambda: counted(engine, "workers_lost_total") >= 2 and not worker_pids())
            assert (await engine.do(TextEmbeddingJob("a star"))).tokens > 1
            assert engine.ready

    run(test)
