"""The quickstart's forecast, and its handling of an earlier run."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from latentbridge.config import to_dict
from latentbridge.files import write_json
from latentbridge.quickstart import describe_forecast, forecast, print_forecast, remove_stale_run
from latentbridge.recipes import QUICKSTART


def test_a_run_with_other_settings_is_removed_and_an_equal_one_kept(tmp_path: Path):
    config = tmp_path / "post-trained" / "config.json"
    for stored, stays in (
        (to_dict(QUICKSTART), True),
        (to_dict(replace(QUICKSTART, steps=30)), False),
        ({"name": "quickstart", "a key of another version": 1}, False),
    ):
        write_json(config, stored)
        remove_stale_run(QUICKSTART, config.parent)
        assert config.exists() is stays
    remove_stale_run(QUICKSTART, tmp_path / "missing")


def test_the_forecast_grows_with_the_probe_and_is_in_minutes(small_model):
    seconds = forecast(small_model)
    assert list(seconds) == ["understand", "draw", "edit", "find", "loopback", "post-train"]
    assert all(value > 0 for value in seconds.values())
    assert seconds["post-train"] > seconds["draw"] > seconds["understand"]
    output = describe_forecast({"draw": 90.0, "find": 60.0})
    assert "about 2.5 minutes" in output and "draw 90 s, find 60 s" in output
    assert "about 45 seconds" in describe_forecast({"draw": 45.0})


def test_post_training_is_left_out_if_it_would_take_too_long(capsys):
    assert print_forecast({"draw": 100.0, "post-train": 200.0})
    assert capsys.readouterr().out.startswith("This will take about 5.0 minutes")
    assert not print_forecast({"draw": 100.0, "post-train": 201.0})
    output = capsys.readouterr().out
    assert "left out, which would take about 3 minutes more" in output and "about 1.7 minutes" in output
    assert "post-train 2" not in output
