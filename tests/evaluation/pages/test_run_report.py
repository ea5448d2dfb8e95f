"""The report page of runs shows their status and curves."""

from __future__ import annotations

import json
import os
import re
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from tests.evaluation.pages.checker import check

from latentbridge.errors import UserError
from latentbridge.evaluation.pages.curves import elapsed_seconds, loss_names, measure_names, share_names
from latentbridge.evaluation.pages.run_report import describe_run, write_run_report
from latentbridge.files import write_json
from latentbridge.run_folder import RunFolder

HOSTILE = "<script>alert('1 & 2')</script>"


def row(step: int, **more: float) -> dict[str, Any]:
    """A logged step of 2 s with 32 samples."""
    clock = {"step": step, "seconds": 2.0 * step, "samples": 32 * step, "grad_norm": 1.0, "lr": 1.0}
    return {**clock, "drawing": 1 / step, **more}


@pytest.fixture
def run(tmp_path: Path) -> RunFolder:
    """30 of 90 rows, 20 steps apart, with two terms, a measure every third row, and one sheet."""
    run = RunFolder(tmp_path / "trial")
    write_json(run.path / "config.json", {"name": HOSTILE, "steps": 1800, "optim": {"lr": 0.001}})
    write_json(run.path / "environment.json", {"python": "3.11.9", "packages": {"torch": "2.9"}})
    for index in range(1, 31):
        shares = {"drawing share": 0.75, "telling share": 0.25, "waiting": 0.02}
        measures = {"held-out facts drawn": index / 30, "spread": 0.5} if index % 3 == 0 else {}
        run.log(row(20 * index, telling=2.0, **shares, **measures))
    run.sample(60).parent.mkdir()
    Image.fromarray(np.zeros((5, 7, 3), dtype=np.uint8)).save(run.sample(60))
    write_json(run.prompts, [HOSTILE, "a red circle"])
    return run


def page_of(*runs: RunFolder) -> Any:
    return check(write_run_report([run.path for run in runs], runs[0].path / "report.html"))


def test_names_in_a_log_are_classified(run: RunFolder) -> None:
    records = run.metrics()
    assert loss_names([records]) == ["drawing", "telling"]
    assert measure_names([records]) == ["held-out facts drawn", "spread"]
    assert share_names(records) == ["drawing share", "telling share"]


def test_an_unfinished_run_has_a_remaining_time(run: RunFolder) -> None:
    result = describe_run(run.path)
    assert (result["state"], result["step"], result["steps"], result["samples"]) == ("running", 600, 1800, 19_200)
    assert result["seconds_left"] == 2400  # 1200 steps of 2 s
    assert result["losses"] == {"drawing": 1 / 600, "telling": 2.0}
    assert result["measures"] == {"held-out facts drawn": 1.0, "spread": 0.5}
    long_ago = time.time() - 7200
    os.utime(run.path / "metrics.jsonl", (long_ago, long_ago))
    assert describe_run(run.path)["state"] == "interrupted"


def test_finished_and_stopped_runs_have_no_remaining_time(run: RunFolder) -> None:
    write_json(run.stopped, {"step": 610, "reason": "The loss rose"})
    result = describe_run(run.path)
    assert (result["state"], result["reason"], result["seconds_left"]) == ("stopped", "The loss rose", None)
    assert "The loss rose" in page_of(run).text
    run.log(row(620, telling=2.0))  # it was resumed
    assert describe_run(run.path)["state"] == "running"
    write_json(run.model / "config.json", {})
    assert describe_run(run.path)["state"] == "finished"


def test_the_page_of_a_run_is_complete_and_escapes_names(run: RunFolder) -> None:
    page = page_of(run)
    assert page.text.count(HOSTILE) == 4  # the name twice in titles, once among the settings, and a prompt
    assert "Running: 600 of 1800 steps, 19,200 samples, 20 min. About 40 min are left." in page.text
    for words in (
        "optim.lr = 0.001", 'environment.packages.torch = "2.9"', "after 60 steps", "a red circle",
        "time of a step: 2 s at the end", "drawing 75%", "share of the time spent waiting for batches: 0.02",
        "held-out facts drawn: 1 at the end", "gradient norm",
    ):  # fmt: skip
        assert words in page.text, words
    assert page.seen["img"] == 1 and page.text.count("shares of the gradient") == 2  # over samples and over time
    assert page.seen["input"] == 2


def test_several_runs_share_charts_in_their_own_colours(run: RunFolder, tmp_path: Path) -> None:
    other = RunFolder(tmp_path / "other")
    write_json(other.path / "config.json", {"name": HOSTILE, "steps": 1800, "optim": {"lr": 0.01}})
    for index in range(1, 11):
        other.log(row(20 * index, answer=1.0))
    page = page_of(run, other)
    assert "2 training runs" in page.text and "drawing (log scale), at the end0.0016670.005" in page.text
    assert "answer: 1 at the end" in page.text  # only one of them has it
    table = page.text.split("differing setting", 1)[1]
    assert re.search(r"optim\.lr0\.0010\.01", table) and "steps = 1800" in table


def test_runs_of_equal_name_are_labelled_by_path(run: RunFolder, tmp_path: Path) -> None:
    other = RunFolder(tmp_path / "again" / "trial")
    other.log(row(1))
    other.log(row(2))
    assert str(other.path) in page_of(run, other).text


def test_a_run_without_a_log_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no metrics yet"):
        write_run_report([tmp_path], tmp_path / "report.html")
    assert not list(tmp_path.iterdir())


def test_a_run_of_one_row_has_a_page(tmp_path: Path) -> None:
    run = RunFolder(tmp_path)
    run.log(row(1))
    assert "1 steps" in page_of(run).text and describe_run(tmp_path)["seconds_left"] is None


def test_a_clock_that_restarts_gives_no_negative_time(tmp_path: Path) -> None:
    run = RunFolder(tmp_path)
    for step, seconds in ((20, 50.0), (40, 100.0), (60, 10.0), (80, 60.0)):
        run.log({**row(step), "seconds": seconds})
    assert elapsed_seconds(run.metrics()) == [50.0, 100.0, 110.0, 160.0]
    assert "-" not in "".join(re.findall(r"([-\d.]+) s at the end", page_of(run).text))


def test_a_status_is_json_serializable(run: RunFolder) -> None:
    assert json.loads(json.dumps(describe_run(run.path)))["config"]["optim"] == {"lr": 0.001}
