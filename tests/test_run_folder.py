from __future__ import annotations

import json
from pathlib import Path

from latentbridge.files import write_json
from latentbridge.run_folder import RunFolder


def test_metrics_has_each_step_once_and_skips_an_incomplete_line(tmp_path: Path):
    run = RunFolder(tmp_path / "run")
    assert run.metrics() == []
    run.log({"step": 1, "loss": 3.0})
    run.log({"step": 2, "loss": 2.0})
    run.log({"step": 2, "loss": 1.5})
    with open(run.path / "metrics.jsonl", "a") as file:
        file.write('{"step": 3, "lo')
    assert run.metrics() == [{"step": 1, "loss": 3.0}, {"step": 2, "loss": 1.5}]


def test_a_record_after_an_incomplete_line_is_kept(tmp_path: Path):
    run = RunFolder(tmp_path)
    (tmp_path / "metrics.jsonl").write_text('{"step": 1}\n{"step": 2, "lo')
    run.log({"step": 3})
    assert [record["step"] for record in run.metrics()] == [1, 3]


def test_checkpoints_lists_complete_ones_only(tmp_path: Path):
    run = RunFolder(tmp_path)
    assert run.newest_checkpoint() is None
    for step in (200, 1_000):
        write_json(run.checkpoint(step) / "state.json", {"step": step})
    run.checkpoint(9_000).mkdir()
    (run.path / "checkpoints" / ".step_0009999.unfinished").mkdir()
    assert run.checkpoints() == [run.checkpoint(1_000), run.checkpoint(200)]
    newest = run.newest_checkpoint()
    assert newest == run.checkpoint(1_000)
    assert json.loads((newest / "state.json").read_text()) == {"step": 1_000}
