"""Toy studies with handwritten run folders."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from latentbridge import recipes
from latentbridge.config import ModelConfig, PostTrainSftConfig, RunConfig, to_dict
from latentbridge.evaluation.metrics import average, share
from latentbridge.evaluation.run import make_report
from latentbridge.files import write_json
from latentbridge.run_folder import RunFolder
from latentbridge.studies import Arm, MeasurementConfig, Study
from latentbridge.study.documents import CONSISTENCY, LOOPBACK, SCORES, conditions
from latentbridge.study.plan import STARTS, Run, prerequisite_digests, weights_digest

Finish = Callable[..., None]


@pytest.fixture
def toy(small_config: ModelConfig, monkeypatch: pytest.MonkeyPatch) -> Study:
    """Two arms of two steps from one base; the second trains at a rate that no weights survive."""
    sft = RunConfig(
        name="toy-sft",
        stage=PostTrainSftConfig(items=5),
        steps=2,
        batch_size=2,
        model=small_config,
        init=(("", "toy-base"),),
        bf16=False,
        log_every=1,
    )
    monkeypatch.setitem(recipes.RECIPES, "toy-sft", sft)
    monkeypatch.setitem(recipes.RECIPES, "toy-base", replace(sft, name="toy-base", init=()))
    return Study(
        name="toy",
        title="A toy",
        question="Does it run?",
        arms=(Arm("sft", "toy-sft"), Arm("burst", "toy-sft", ("optim.lr=1e30", "optim.muon_lr=1e30"))),
        focus="sft",
        seeds=(0, 1),
        measuring=MeasurementConfig(worlds=("shapes",), size=1, pairs=5, hops=2),
    )


@pytest.fixture
def finish(tmp_path: Path, toy: Study) -> Finish:
    """Writes what a run leaves: a model, its curve, and reports in which every item comes to the values given."""

    def write(run: Run, right: Sequence[bool], kept: Sequence[float], weights: bytes = b"weights") -> None:
        folder = tmp_path / run.name
        write_json(RunFolder(folder).model / "config.json", {})
        (RunFolder(folder).model / "model.safetensors").write_bytes(weights + run.name.encode())
        if run.config and not run.is_base:
            write_json(folder / "config.json", to_dict(run.config))
            write_json(folder / STARTS, prerequisite_digests(run, tmp_path))
            write_json(RunFolder(folder).size, {"moving": 4321, "peak_mib": 1300 + run.config.seed})
        RunFolder(folder).log({"step": 1, "seconds": 900.0, "reply tokens": 17.0})
        RunFolder(folder).log(
            {
                "step": 2,
                "reply tokens": 19.0,
                "seconds": 1800.0,
                "understanding share": 0.75,
                "generation share": 0.25,
                "waiting": 0.5,
            }
        )
        rows = {
            SCORES: [share("understand", "questions", right)],
            CONSISTENCY: [replace(share("consistency", "answer flip rate", [not r for r in right]), better="lower")],
            LOOPBACK: [
                average(f"loopback, {start} first", f"hop {hop}, {kind}: facts kept", kept)
                for start, kinds in (("picture", ("text", "picture")), ("text", ("picture", "text")))
                for hop, kind in enumerate(kinds, start=1)
            ],
        }
        for report, scores in rows.items():
            made = conditions(report, toy.measuring, weights_digest(run.name, tmp_path))
            write_json(folder / "shapes" / report, {**made, "seconds": 60.0, **make_report(scores, world="shapes")})

    return write
