"""Runs killed at random moments, once or twice, and resumed end with the same result as uninterrupted ones.

Two hundred trials, `make test-kill`. They are cheap because one warm process, which has imported everything, forks for
each. Checkpoints are written after every step and every trial fills its own caches, so that many kills interrupt writes.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Iterator
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.training.runs import stage_with

from latentbridge.config import (
    ModelConfig,
    OptimConfig,
    RunConfig,
    SceneConfig,
    TinyJanusConfig,
    from_dict,
    to_dict,
)
from latentbridge.data.stores.embeddings import EmbeddingStore, text_digest
from latentbridge.rng import numpy_rng
from latentbridge.run_folder import RunFolder
from latentbridge.training.loop import train
from latentbridge.training.stages import STAGES, make_stage
from latentbridge.types import EmbeddingSpace

ROOT = Path(__file__).parents[2]
EMBEDDING = "embedding"
JOBS = (*STAGES, EMBEDDING)
TRIALS, STEPS = 200, 4
JANUS = TinyJanusConfig(width=32, num_layers=1, num_heads=2, image_size_px=16, patch_size_px=4, codebook_size=61)
SCENE = SceneConfig(picture_width=32, picture_layers=1, picture_heads=2, text_width=32, text_layers=1, text_heads=2)
MODELS = {"pretrain_squares": JANUS, "pretrain_codes": JANUS, "pretrain_unified": JANUS, "pretrain_teacher": SCENE}
"""Models of the stages that do not train an OmniBridge."""
TEXTS = [f"text {number}" for number in range(331)]


def tiny(kind: str, small_config: ModelConfig) -> RunConfig:
    """Return a run of about a second, half of it spent on checkpoints."""
    return RunConfig(
        name=kind,
        stage=stage_with(kind, items=8, retrieval_weight=0.1, roundtrip_steps=1, rollouts=2),
        steps=STEPS,
        batch_size=2,
        model=MODELS.get(kind, small_config),
        optim=OptimConfig(warmup_steps=1),
        bf16=False,
        log_every=1,
        checkpoint_every=1,
        threads=1,
    )


# --- the warm process -------------------------------------------------------------------------------


class SlowTeacher:
    """A teacher with embeddings of five numbers that takes a millisecond per text."""

    space = EmbeddingSpace("slow", 5, "none")

    def embed_pictures(self, pictures: Any) -> np.ndarray:
        raise NotImplementedError

    def embed_texts(self, texts: Any) -> np.ndarray:
        time.sleep(1e-3 * len(texts))
        return np.stack([numpy_rng(0, text).random(5, np.float32) for text in texts])

    def cost(self, pictures: int, texts: list[str]) -> str:
        return ""


def do(job: dict[str, Any]) -> None:
    """Start or resume a job in a folder."""
    folder = Path(job["folder"])
    os.environ["LATENTBRIDGE_CACHE"] = str(folder / "cache")
    if job["config"] is None:
        EmbeddingStore(folder / "store", SlowTeacher.space).fill(SlowTeacher(), texts=TEXTS, progress=False)
    else:
        config = from_dict(RunConfig, job["config"])
        train(config, make_stage(config), folder / "run", resume=True, progress=False)


def serve() -> None:
    """Fork a process for each job on stdin, and kill it after the job's `seconds`, if given."""
    from latentbridge.training.fits import autoencoder as autoencoder_fit
    from latentbridge.training.stages import posttrain, pretrain_codes, pretrain_teacher

    autoencoder_fit._FIT_PICTURES, pretrain_codes._INIT_PICTURES = 64, 30
    posttrain._HELD_OUT_PAIRS = pretrain_teacher._HELD_OUT_PAIRS = 3
    for line in sys.stdin:
        job = json.loads(line)
        start = time.monotonic()
        if (child := os.fork()) == 0:
            os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # the answers' pipe is not the job's
            try:
                do(job)
            except BaseException:
                traceback.print_exc()
                os._exit(1)
            os._exit(0)
        if job["seconds"] is not None:
            time.sleep(job["seconds"])
            os.kill(child, signal.SIGKILL)
        status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        print(json.dumps({"status": status, "seconds": time.monotonic() - start}), flush=True)


# --- trials -------------------------------------------------------------------------------------------


class Warm:
    """A client of the warm process."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._in, self._out = process.stdin, process.stdout

    def do(self, config: RunConfig | None, folder: Path, seconds: float | None = None) -> tuple[int, float]:
        """Run a job and return its exit status (-9 if killed) and duration in seconds."""
        assert self._in and self._out
        folder.mkdir(exist_ok=True)
        job = {"config": config and to_dict(config), "folder": str(folder), "seconds": seconds}
        self._in.write(json.dumps(job) + "\n")
        self._in.flush()
        answer = json.loads(self._out.readline())
        return answer["status"], answer["seconds"]


@pytest.fixture(scope="module")
def warm() -> Iterator[Warm]:
    command = [sys.executable, "-m", "tests.training.test_kill"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with subprocess.Popen(command, cwd=ROOT, env=environment, **pipes) as process:
        yield Warm(process)
        assert process.stdin
        process.stdin.close()


def outcome(folder: Path) -> bytes | list[Any]:
    """Return the final weights, or the embeddings."""
    if (folder / "store").exists():
        return (
            EmbeddingStore(folder / "store", SlowTeacher.space).vectors([text_digest(text) for text in TEXTS]).tolist()
        )
    run = RunFolder(folder / "run")
    assert [record["step"] for record in run.metrics()] == list(range(1, STEPS + 1))
    found = {path.name for path in run.path.iterdir() if not path.name.startswith(".")}
    assert found == {"config.json", "environment.json", "metrics.jsonl", "size.json", "model"}
    return (run.model / "model.safetensors").read_bytes()


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("job", JOBS)
def test_a_run_killed_at_any_moment_ends_with_the_same_result(
    warm: Warm, small_config: ModelConfig, tmp_path: Path, job: str
):
    config = None if job == EMBEDDING else tiny(job, small_config)
    status, seconds = warm.do(config, tmp_path / "whole")
    assert status == 0
    expected, chance, disturbed = outcome(tmp_path / "whole"), numpy_rng(0, f"kill {job}"), 0
    for trial in count():
        folder = tmp_path / str(trial)
        moments = chance.uniform(0, seconds, size=chance.integers(1, 3)).round(3).tolist()
        disturbed += -signal.SIGKILL in [warm.do(config, folder, moment)[0] for moment in moments]
        assert warm.do(config, folder)[0] == 0, f"killed after {moments} of {seconds} seconds"
        same = outcome(folder) == expected
        assert same, f"killed after {moments} of {seconds} seconds"
        if disturbed > TRIALS // len(JOBS):  # others finished before the kill
            break


if __name__ == "__main__":
    serve()
