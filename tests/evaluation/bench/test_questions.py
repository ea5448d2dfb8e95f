"""Question benchmarks: loaders of the real formats, scores by hand, and whole runs of two models."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from tests.evaluation.bench import samples

from latentbridge.errors import UserError
from latentbridge.evaluation.bench.benchmark import Result
from latentbridge.evaluation.bench.data_folder import DataFolder
from latentbridge.evaluation.bench.harness import run_benchmark
from latentbridge.evaluation.bench.registry import make_benchmark


def results_of(name: str, folder: Path, replies: dict[str, str]) -> tuple[list[Result], dict]:
    """Return results and score values of replies by item id; an id without a reply is missing."""
    benchmark = make_benchmark(name)
    items = benchmark.load(DataFolder(folder))
    results = [
        benchmark.score(item, replies[item.id])  # pyright: ignore[reportAttributeAccessIssue]
        if item.id in replies
        else Result(item.id, "missing", truth=item.truth, group=item.group)
        for item in items
    ]
    return results, {score.metric: score for score in benchmark.aggregate(results)}


@pytest.mark.parametrize("name", samples.QUESTIONS)
def test_every_benchmark_runs_for_two_models(name: str, tmp_path: Path, two_models, tools_of):
    folder = samples.QUESTIONS[name](tmp_path / "data")
    tools = tools_of(two_models)
    benchmark = make_benchmark(name)
    report = run_benchmark(name, benchmark, DataFolder(folder), tools, tmp_path / "run", progress=False)
    items = benchmark.load(DataFolder(folder))
    lines = [json.loads(line) for line in (tmp_path / "run" / "results.jsonl").read_text().splitlines()]
    assert [line["id"] for line in lines] == [item.id for item in items]
    assert sum(report["counts"].values()) == len(items) == report["items"]
    refused = {failure["id"] for failure in report["failures"]["missing"]}
    two_pictures = {"validation_Art_1"} if name == "mmmu" and two_models.max_pictures == 1 else set()
    assert refused == two_pictures
    assert all(0 <= row["low"] <= row["value"] <= row["high"] for row in report["rows"])
    assert report["device"] == "cpu" and report["dtype"] == "float32" and len(report["data_sha256"]) == 64
    assert report["commit"] and report["command"] and report["seed"] == 0 and len(report["model"]) == 16


def test_mme_by_hand(tmp_path: Path):
    """Of existence one picture has both right and one has one right and one unparsed; of artwork nothing came back."""
    folder = samples.mme(tmp_path)
    replies = {
        "existence/0/1": "Yes.", "existence/0/2": "no", "existence/1/1": "yes", "existence/1/2": "perhaps",
        "code_reasoning/0/1": "no", "code_reasoning/0/2": "No, 1",
    }  # fmt: skip
    results, scores = results_of("mme", folder, replies)
    assert scores["acc, existence"].value == 0.75 and scores["acc+, existence"].value == 0.5
    assert scores["acc, artwork"].value == scores["acc+, artwork"].value == 0
    assert scores["MME perception"].value == 75 + 50 and scores["MME perception"].unit == "points"
    assert scores["MME cognition"].value == 50
    assert scores["MME cognition"].note == "of 200; 1 of 4 tasks"
    assert [r.status for r in results].count("missing") == 4
    assert {r.id: r.status for r in results}["existence/1/2"] == "unparsed"


def test_a_missing_picture_breaks_no_pair(tmp_path: Path, tiny, tools_of):
    folder = samples.mme(tmp_path / "data")
    (folder / "existence" / "1.jpg").unlink()
    report = run_benchmark(
        "mme", make_benchmark("mme"), DataFolder(folder), tools_of(tiny), tmp_path / "run", progress=False
    )
    assert report["counts"]["missing"] == 2 and report["items"] == 10
    assert {f["id"] for f in report["failures"]["missing"]} == {"existence/1/1", "existence/1/2"}
    pairs = next(row for row in report["rows"] if row["metric"] == "acc+, existence")
    assert pairs["n"] == 2 and pairs["outcomes"][1] == 0


def test_an_incomplete_pair_in_the_files_is_refused(tmp_path: Path):
    folder = samples.mme(tmp_path)
    (folder / "existence" / "1.txt").write_text("Is there a circle?\tYes\n")
    with pytest.raises(UserError, match="existence/1 has 1 question"):
        make_benchmark("mme").load(DataFolder(folder))


def test_a_limit_completes_pairs_and_rotations(tmp_path: Path):
    for name, limit, complete in (("mme", 3, 4), ("mmbench", 1, 2), ("pope", 3, 3)):
        benchmark = make_benchmark(name)
        items = benchmark.load(DataFolder(samples.QUESTIONS[name](tmp_path / name)))
        assert len(benchmark.first(items, limit)) == complete


def test_pope_by_hand(tmp_path: Path):
    """Of one sampling: yes/yes, no/yes, yes/unparsed, no/no; of another all yes; of the last none."""
    said = {0: "Yes", 1: "yes.", 2: "a dog", 3: "There is not. Yes"}
    replies = {f"random/{n}": text for n, text in said.items()} | {f"popular/{n}": "yes" for n in range(4)}
    results, scores = results_of("pope", samples.pope(tmp_path), replies)
    assert scores["accuracy, random"].value == 0.5
    assert scores["precision, random"].value == 0.5 and scores["recall, random"].value == 0.5
    assert scores["F1, random"].value == 0.5 and scores["answered yes, random"].value == 0.5
    assert scores["recall, popular"].value == 1 and scores["F1, popular"].value == pytest.approx(2 / 3)
    assert scores["F1, adversarial"].value == scores["precision, adversarial"].value == 0
    assert scores["F1, mean of samplings"].value == pytest.approx((0.5 + 2 / 3 + 0) / 3)
    assert next(r for r in results if r.id == "random/2").status == "unparsed"


def test_mmbench_wants_every_rotation(tmp_path: Path):
    folder = samples.mmbench(tmp_path)
    results, scores = results_of("mmbench", folder, {"0": "A", "1000000": "B. circle", "1": "A", "1000001": "A"})
    assert [result.status for result in results] == ["right", "right", "right", "wrong"]
    assert scores["accuracy, circular"].value == 0.5 and scores["accuracy, options unrotated"].value == 1
    assert "2 of 2 questions are rotated" in scores["accuracy, circular"].note
    items = make_benchmark("mmbench").load(DataFolder(folder))
    assert items[0].pictures == items[1].pictures and items[0].pictures[0].startswith(b"\x89PNG")
    assert items[0].prompt == (
        "Question: Which shape?\nOptions:\nA. circle\nB. star\nPlease select the correct answer from the options above."
    )


def test_a_split_without_answers_is_refused(tmp_path: Path):
    samples.write_tsv(
        tmp_path / "MMBench_TEST_EN.tsv", [{"index": 1, "question": "?", "A": "x", "B": "y", "image": "", "answer": ""}]
    )
    with pytest.raises(UserError, match="take a split with answers"):
        make_benchmark("mmbench").load(DataFolder(tmp_path))


def test_mmstar_reads_the_options_of_the_authors_parquet(tmp_path: Path):
    item = make_benchmark("mmstar").load(DataFolder(samples.mmstar(tmp_path)))[0]
    assert item.options == {"A": "one, two", "B": "three", "C": "four", "D": "five"}
    assert results_of("mmstar", tmp_path, {"0": "one, two", "1": "five"})[1]["accuracy"].value == 0.5


def test_scienceqa_scores_the_test_split_with_and_without_pictures(tmp_path: Path):
    results, scores = results_of("scienceqa", samples.scienceqa(tmp_path), {"1": "B. a star", "2": "a rock"})
    assert (scores["accuracy, IMG"].value, scores["accuracy, IMG"].n) == (1, 1)
    assert (scores["accuracy, all"].value, scores["accuracy, all"].n) == (0.5, 2)
    items = make_benchmark("scienceqa").load(DataFolder(tmp_path))
    assert items[0].pictures[0].is_file() and items[1].pictures == ()
    assert items[1].prompt.startswith("Context: Stars shine.\nWhich?\nA. a rock\nB. a star\n")


def test_ai2d_and_mathvista_by_hand(tmp_path: Path):
    assert results_of("ai2d", samples.ai2d(tmp_path / "a"), {"0": "A", "1": "fox"})[1]["accuracy"].value == 0.5
    results, scores = results_of("mathvista-mc", samples.mathvista(tmp_path / "m"), {"1": "n0"})
    assert [r.status for r in results] == ["unparsed"]  # the authors take the nearest option, which would be right
    assert "rules only" in next(iter(scores.values())).note


def test_m3cot_reads_after_answer_and_prefers_brackets(tmp_path: Path):
    folder = samples.m3cot(tmp_path)
    replies = {"science-0": "[Rationale] (A) is not. [Answer] (B) no, (C)", "science-1": "first one, then two"}
    results, _ = results_of("m3cot", folder, replies)
    assert [(r.status, r.answer) for r in results] == [("right", "C"), ("wrong", "B")]


def test_mmmu_shows_every_picture_and_keeps_open_truths(tmp_path: Path):
    folder = samples.mmmu(tmp_path)
    first, second = make_benchmark("mmmu").load(DataFolder(folder))
    assert len(first.pictures) == 2 and first.pictures[0] != first.pictures[1] and len(second.pictures) == 1
    assert first.group == "Art" and "<image 1>" in first.prompt
    results, scores = results_of("mmmu", folder, {"validation_Art_1": "(A)", "validation_Art_2": "There are three."})
    assert [r.status for r in results] == ["wrong", "right"] and scores["accuracy"].value == 0.5
    results, _ = results_of("mmmu", folder, {"validation_Art_1": "hmm", "validation_Art_2": ""})
    assert [r.status for r in results] == ["unparsed", "unparsed"]


def test_mmmu_items_with_pictures_that_are_not_in_the_file_are_missing(tmp_path: Path, small_janus, tools_of):
    benchmark = make_benchmark("mmmu")
    first, _ = benchmark.load(DataFolder(samples.mmmu(tmp_path)))
    lost = replace(first, pictures=(first.pictures[0], tmp_path / "image_2"))
    (result,) = benchmark.evaluate([lost], tools_of(small_janus))
    assert result.status == "missing" and "There is no picture" in result.reason
