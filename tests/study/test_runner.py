"""Execution of studies: parallel processes, messages and resuming."""

from __future__ import annotations

import json
import os
import signal
import threading
from pathlib import Path

import pytest

from latentbridge.processes import start_process
from latentbridge.studies import Arm, MeasurementConfig, Study
from latentbridge.study.child_process import run_in_child
from latentbridge.study.runner import run_study

SMALL = ("steps=2", "batch_size=2", "stage.items=5", 'stage.sources=[["shapes",1]]', "log_every=1")
STUDY = Study(
    name="small",
    title="Small",
    question="Does it run?",
    arms=(
        Arm("sft", "post-sft", SMALL),
        Arm("burst", "post-sft", (*SMALL, "optim.lr=1e30", "optim.muon_lr=1e30")),
    ),
    focus="sft",
    seeds=(0,),
    measuring=MeasurementConfig(worlds=("shapes",), size=1, pairs=2, hops=2),
)


def test_a_process_calls_a_function_and_logs_its_output(tmp_path: Path) -> None:
    log = tmp_path / "new" / "log.txt"
    codes = [start_process(print, "a", {"b": [1, None]}, threads=1, log=log).wait() for _ in range(2)]
    assert codes == [0, 0] and log.read_text() == "a {'b': [1, None]}\n" * 2
    assert start_process(json.loads, "{", log=log).wait() == 1


def test_a_user_error_in_a_process_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        run_in_child(("post-none", "post-none", (), False), str(tmp_path), None)
    assert ended.value.code == 2 and capsys.readouterr().out.startswith("error: Unknown recipe 'post-none'")


def test_a_plan_only_prints(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_study(STUDY, tmp_path / "runs", tmp_path / "results.md", plan=True) is None
    said = capsys.readouterr().err.splitlines()
    assert said[0].split() == ["tiny", "3", "reports", "to", "measure"] and said[1].endswith(
        " 2 steps to train, 3 reports to measure"
    )
    assert said[-1] == "3 of 3 runs are left. The time left is unknown until the first runs have finished."
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_a_study_resumes_after_an_interruption(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out, page = tmp_path / "runs", tmp_path / "docs" / "results.md"
    threading.Timer(2, os.kill, (os.getpid(), signal.SIGTERM)).start()
    with pytest.raises(KeyboardInterrupt):
        run_study(STUDY, out, page)
    assert not page.exists() and signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
    assert run_study(STUDY, out, page) == page
    said = capsys.readouterr().err
    assert "is done after" in said and "failed after" in said, said
    assert "| sft | 1 |" in page.read_text() and "optim.lr=1e30" in page.read_text()
    first = page.read_bytes()
    assert run_study(STUDY, out, page) == page and page.read_bytes() == first
    again = capsys.readouterr().err
    assert " starts; " not in again and "failed: The loss" in again, again
