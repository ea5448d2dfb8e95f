"""The benchmarks' arithmetic by hand, and that every script runs at toy sizes and stores nothing then."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

FOLDER = Path(__file__).parents[1] / "benchmarks"
SHARED = ("harness", "load_test", "write_page")


@pytest.fixture
def harness(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    return imported("harness", monkeypatch)


@pytest.fixture
def write_page(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    return imported("write_page", monkeypatch)


def imported(name: str, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(FOLDER))
    monkeypatch.delitem(sys.modules, name, raising=False)
    monkeypatch.setattr(sys, "argv", ["benchmark"])
    return __import__(name)


def test_a_ratio_is_of_rounds_and_not_of_sums(harness: Any) -> None:
    target = harness.compare("a / b", [2.0, 9.0], [1.0, 3.0], least=2.5, most=4)
    assert target == ("a / b", "at least 2.5 and at most 4", 2.5, 2.0, 3.0, True)  # 11 / 4 would be 2.75
    assert not harness.compare("a / b", [2.0], [1.0], most=1.5).met
    assert harness.held("x", [3.0, 3.0, 3.0])[1:] == ("none", 3.0, 3.0, 3.0, True)


def test_a_bound_of_nothing_is_a_bound(harness: Any) -> None:
    assert harness.held("waited", [0.1], most=0.0)[1:3] == ("at most 0.0", 0.1)
    assert not harness.held("waited", [0.1], most=0.0).met


def test_a_share_has_wilson_s_interval(harness: Any) -> None:
    target = harness.share("right", [True] * 9 + [False], least=0.95)
    # Wilson, 9 of 10 at z = 1.96: middle (.9 + .19208) / 1.38416, half 1.96 sqrt(.009 + .0096040) / 1.38416
    assert target == ("right", "at least 0.95", 0.9, 0.5958, 0.9821, False)


def test_ways_take_turns_and_the_first_round_does_not_count(harness: Any) -> None:
    order: list[str] = []
    seconds = harness.in_turns({name: lambda name=name: order.append(name) for name in ("a", "b")}, 3)
    assert order == ["a", "b"] * 4 and [len(taken) for taken in seconds.values()] == [3, 3]


def test_flops_are_those_of_products(harness: Any) -> None:
    import torch

    left, right = torch.ones(3, 5, requires_grad=True), torch.ones(5, 7)
    there = 2 * 3 * 5 * 7
    assert harness.flops(lambda: (left @ right).sum().backward()) == 2 * there  # there, and back to `left` alone
    layer, weight = torch.nn.Linear(5, 7), torch.nn.Parameter(torch.ones(1, 5))
    # a view of a weight where gradients are off, which torch's own tracking of modules cannot follow
    assert harness.flops(torch.no_grad()(lambda: layer(weight.expand(3, -1)))) == there


def test_only_intervals_that_lie_apart_are_a_change(harness: Any) -> None:
    stored = [harness.Target("a", "none", 2.0, 1.9, 2.1, True), harness.Target("gone", "none", 1.0, 1.0, 1.0, True)]
    assert harness.changes(stored, [harness.Target("a", "none", 2.2, 2.1, 2.3, True)]) == []
    told = harness.changes(stored, [harness.Target("a", "none", 2.3, 2.2, 2.4, True)])
    assert told == ["Changed: a was 2.0 (1.9 to 2.1) and is 2.3 (2.2 to 2.4)."]


def test_a_smoke_test_keeps_nothing(harness: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    targets = [harness.held("x", [1.0, 2.0])]
    monkeypatch.setattr(harness, "SMOKE", True)
    harness.keep(str(tmp_path / "one.py"), targets, {})
    assert not list(tmp_path.iterdir())
    monkeypatch.setattr(harness, "SMOKE", False)
    harness.keep(str(tmp_path / "one.py"), targets, {})
    assert [path.name for path in tmp_path.iterdir()] == ["one.json"]


def test_what_is_missing_ends_without_an_error(harness: Any, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        harness.not_here("no trl")
    assert not ended.value.code and capsys.readouterr().out == "Not run: no trl\n"


def test_the_page_tells_results_and_where_there_are_none(harness: Any, write_page: Any, tmp_path: Path) -> None:
    script = tmp_path / "one.py"
    script.write_text('"""What it is."""')
    assert write_page.section(script) == "## one\n\nWhat it is.\n\nNo result is stored yet.\n"
    floor = {"FLOPs": {"a": 2, "b": 1}, "batch": 4}
    harness.keep(str(script), [harness.held("a / b", [1.04372], most=1.05), harness.held("c", [361.64])], floor)
    page = write_page.section(script)
    assert "| a / b | at most 1.05 | 1.044 | 1.044 to 1.044 | yes |\n| c |  | 361.6 | 361.6 to 361.6 |  |" in page
    assert "- FLOPs: a 2, b 1\n- batch: 4\n" in page


@pytest.mark.parametrize("path", sorted(FOLDER.glob("*.json")), ids=lambda path: path.stem)
def test_what_is_stored_can_be_shown(path: Path, write_page: Any) -> None:
    assert path.with_suffix(".py").exists()
    assert "| what | aim |" in write_page.section(path.with_suffix(".py"))


@pytest.mark.slow
@pytest.mark.parametrize(
    "script", [path for path in sorted(FOLDER.glob("*.py")) if path.stem not in SHARED], ids=lambda path: path.stem
)
def test_every_script_runs_at_toy_sizes(script: Path) -> None:
    before = stored()
    done = subprocess.run([sys.executable, str(script), "--smoke"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert '"targets"' in done.stdout or done.stdout.startswith("Not run: ")
    assert stored() == before


def stored() -> dict[Path, bytes]:
    pages = FOLDER.parent / "docs"
    return {path: path.read_bytes() for path in (*FOLDER.glob("*.json"), *pages.glob("*.md"), *pages.glob("*.png"))}
