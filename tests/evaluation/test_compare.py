"""Verdicts on two models, worked by hand."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from latentbridge.errors import UserError
from latentbridge.evaluation.compare import Difference, compare
from latentbridge.evaluation.metrics import Score, average, share
from latentbridge.evaluation.run import make_report
from latentbridge.files import write_json


def right(metric: str, outcomes: str) -> Score:
    return share("understand", metric, [digit == "1" for digit in outcomes])


def store(folder: Path, rows: list[Score], name: str = "scores.json", **conditions: Any) -> Path:
    write_json(folder / name, make_report(rows, **{"world": "shapes", "size": 50, "seed": 1, **conditions}))
    return folder


@pytest.fixture
def folders(tmp_path: Path) -> tuple[Path, Path]:
    return tmp_path / "a", tmp_path / "b"


def compared(folders: tuple[Path, Path], first: list[Score], second: list[Score]) -> dict[str, Difference]:
    store(folders[0], first)
    store(folders[1], second)
    return {row.metric: row for row in compare(*folders)}


def test_the_same_scores_are_noise(folders: tuple[Path, Path]):
    rows = [right("questions", "0110100110011"), average("loopback", "drift", [0.5, 0.25], "cosine", "lower")]
    result = compared(folders, rows, rows)
    assert [(row.verdict, row.p, row.test) for row in result.values()] == [
        ("noise", 1.0, "McNemar"),
        ("noise", 1.0, "permutation"),
    ]


def test_items_are_compared_one_by_one(folders: tuple[Path, Path]):
    # the same shares, 50 and 60 of 100; only the pairing tells ten new right answers from noise among thirty
    base, gained = "1" * 50 + "0" * 50, "1" * 60 + "0" * 40
    shuffled = "1" * 40 + "0" * 10 + "1" * 20 + "0" * 30
    assert compared(folders, [right("q", base)], [right("q", gained)])["q"].p == 2 / 2**10
    result = compared(folders, [right("q", base)], [right("q", shuffled)])["q"]
    assert result.verdict == "noise" and result.p == pytest.approx(0.0987, abs=1e-4)  # 10 against 20 of 30 coins
    assert (result.before, result.after) == (0.5, 0.6)


def test_verdicts_follow_the_measures_direction(folders: tuple[Path, Path]):
    low, high = [0.1] * 11, [0.2] * 11
    first = [right("up", "0" * 11), right("down", "1" * 11), average("l", "drift", low, "cosine", "lower")]
    second = [right("up", "1" * 11), right("down", "0" * 11), average("l", "drift", high, "cosine", "lower")]
    assert {m: d.verdict for m, d in compared(folders, first, second).items()} == {
        "up": "better",
        "down": "worse",
        "drift": "worse",
    }


def test_many_measures_are_corrected_for(folders: tuple[Path, Path]):
    six = right("only", "0" * 6), right("only", "1" * 6)  # p = 1/32
    assert compared(folders, [six[0]], [six[1]])["only"].verdict == "better"
    same = right("same", "01")
    result = compared(folders, [six[0], same], [six[1], same])
    assert result["only"].p == 1 / 32 and result["only"].verdict == "noise"  # 2/32 among two


def test_scores_without_outcomes_are_compared_as_shares(folders: tuple[Path, Path]):
    store(folders[0], [right("q", "1" * 8 + "0" * 3)])
    write_json(folders[1] / "scores.json", {"rows": [old_row("q", 3 / 13, 13)]})
    (row,) = compare(*folders)
    assert row.test == "Fisher" and row.p == pytest.approx(0.0377, abs=1e-4) and row.verdict == "worse"


def old_row(metric: str, value: float, n: int) -> dict[str, Any]:
    return {"skill": "understand", "metric": metric, "value": value, "low": 0.0, "high": 1.0, "n": n}


def test_all_shared_reports_are_read_also_in_a_runs_model_folder(folders: tuple[Path, Path]):
    store(folders[0], [right("q", "01")])
    store(folders[1] / "model", [right("q", "01")])
    for folder in folders:
        store(folder, [right("gap", "01")], "consistency.json", encoder="package")
    store(folders[0], [right("hop 1", "01")], "loopback.json")
    assert [row.metric for row in compare(*folders)] == ["q", "gap"]


def test_incomparable_reports_raise_user_errors(folders: tuple[Path, Path]):
    first, second = folders
    with pytest.raises(UserError, match="There is no folder"):
        compare(first, second)
    first.mkdir(), second.mkdir()
    with pytest.raises(UserError, match="no report in common"):
        compare(first, second)
    store(first, [right("q", "01")])
    for key, value in (("seed", 2), ("size", 100), ("world", "drawings")):
        store(second, [right("q", "01")], **{key: value})
        with pytest.raises(UserError, match=f"different conditions \\({key} .* and {value}\\)"):
            compare(first, second)
    store(second, [right("other", "01")])
    with pytest.raises(UserError, match="no measure in common"):
        compare(first, second)
    store(second, [right("q", "011")])
    with pytest.raises(UserError, match="on 2 items and on 3"):
        compare(first, second)
    write_json(second / "scores.json", [1])
    with pytest.raises(UserError, match="holds no rows"):
        compare(first, second)
