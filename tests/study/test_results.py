"""Results pages of studies with invented scores, computed by hand."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from latentbridge.files import write_json
from latentbridge.studies import Study
from latentbridge.study.plan import FAILURE, arm_run, base_run
from latentbridge.study.results import render, write_results
from latentbridge.study.table import study_document

LOW, HIGH = [False] * 13, [True] * 13


@pytest.fixture
def document(tmp_path: Path, toy: Study, finish: Any) -> dict[str, Any]:
    """Of the first arm two seeds, of the second one that failed and one that is not there yet."""
    finish(base_run("toy-base"), LOW, [0.5] * 13)
    finish(arm_run(toy.arms[0], 0), HIGH, [0.5] * 13)
    finish(arm_run(toy.arms[0], 1), [True] * 6 + [False] * 7, [0.75] * 13)
    write_json(tmp_path / arm_run(toy.arms[1], 0).name / FAILURE, {"reason": "it burst."})
    result = study_document(toy, tmp_path)
    assert result is not None
    return result


def test_a_study_is_tabulated(document: dict[str, Any]) -> None:
    (group,) = document["groups"]
    base, sft, burst = group["arms"]
    assert base["values"]["shapes: questions"] == {"mean": 0, "lowest": 0, "highest": 0}
    assert sft["values"]["shapes: questions"] == {"mean": 0.730769, "lowest": 0.461538, "highest": 1}  # 19, 6, 13 of 13
    assert sft["facts"] == {"shapes": [0.625, 0.625]} and sft["shares"] == {"understanding": 0.75, "generation": 0.25}
    assert sft["curves"] == {"reply tokens": [[1, 17], [2, 19]]}
    assert (base["size"], sft["size"], burst["size"]) == ({}, {"moving": 4321, "peak_mib": 1301}, {})  # of two seeds
    assert (burst["finished"], burst["planned"]) == (0, 2)
    assert list(burst["failures"].values()) == ["it burst."]
    rows = {row["measure"]: row for row in group["differences"]}
    # the base never flips less: every one of 13 items gains, which one of 2^13 signs and its mirror give
    assert rows["shapes: flip rate"]["difference"] == -0.730769 and rows["shapes: flip rate"]["verdict"] == "better"
    assert rows["shapes: facts kept, hop 2"]["difference"] == 0.125
    assert rows["shapes: questions"]["p"] == pytest.approx(2 / 2**13, abs=1e-6)
    assert rows["shapes: questions"]["holm"] == pytest.approx(3 * 2 / 2**13, abs=1e-6)
    assert {row["arm"] for row in group["differences"]} == {"sft"} and group["against"] == []
    assert document["hours"] == {"training": 1.5, "measuring": 0.15}  # 3 half hours; 9 minutes


def test_arms_that_do_not_differ_are_noise_against_the_focus(tmp_path: Path, toy: Study, finish: Any) -> None:
    for run in (base_run("toy-base"), *(arm_run(arm, seed) for arm in toy.arms for seed in toy.seeds)):
        finish(run, HIGH, [0.5] * 13)
    document = study_document(toy, tmp_path)
    assert document is not None
    against = document["groups"][0]["against"]
    assert [row["measure"] for row in against] == ["shapes: facts kept, hop 2", "shapes: flip rate"]
    assert all((row["arm"], row["p"], row["verdict"]) == ("burst", 1.0, "noise") for row in against)


def test_there_are_no_results_before_the_base_is_measured(tmp_path: Path, toy: Study, finish: Any) -> None:
    finish(arm_run(toy.arms[0], 0), HIGH, [0.5] * 13)
    assert study_document(toy, tmp_path) is None


def test_the_page_lists_failures_and_keeps_other_studies(tmp_path: Path, document: dict[str, Any]) -> None:
    page = tmp_path / "docs" / "results.md"
    write_results({**document, "name": "methods", "title": "Kept as it is"}, page)
    write_results(document, page)
    text = page.read_text()
    assert text.index("## Kept as it is") < text.index("## A toy")
    assert "toy-sft_optim.lr=1e30_optim.muon_lr=1e30_seed=0 failed: it burst." in text
    assert "- burst: 1 of 2 runs are not finished" in text
    assert "| sft | 2 | 73.1 ▲ |" in text and "| toy-base |  | 0.0 |" in text
    assert "- sft: `toy-sft`; 4,321 trainable parameters, peak memory 1,301 MiB\n" in text
    assert "`latentbridge study toy`" in text
    assert "![reply tokens, step by step](results/toy_toy-base_reply_tokens.svg)" in text
    assert (
        "seeds 0, 1; measured on shapes with 5 pairs, 2 hops, encoder package, samples of `eval` at 1 %, seed 1" in text
    )
    for line in text.splitlines():
        if line.startswith("!["):
            figure = page.parent / line.split("(")[1].removesuffix(")")
            assert ElementTree.parse(figure).getroot().tag.endswith("svg")
    stored = {path: path.read_bytes() for path in page.parent.rglob("*") if path.is_file()}
    write_results(document, page)
    assert stored == {path: path.read_bytes() for path in page.parent.rglob("*") if path.is_file()}


def test_tables_have_as_many_cells_as_titles(document: dict[str, Any]) -> None:
    width = 0
    for line in render([document]).splitlines():
        width = (width or line.count("|")) if line.startswith("|") else 0
        assert not line.startswith("|") or line.count("|") == width
