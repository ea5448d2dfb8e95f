"""Benchmarks with a judge, against a local one that speaks the wire format: sensible, nonsensical, failing."""

from __future__ import annotations

import base64
import json
from dataclasses import replace
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from tests.evaluation.bench import samples
from tests.evaluation.bench.fake_judge import serve

from latentbridge.cli import main
from latentbridge.errors import UserError
from latentbridge.evaluation.bench.benchmark import Result
from latentbridge.evaluation.bench.cached_model import Failure
from latentbridge.evaluation.bench.data_folder import DataFolder
from latentbridge.evaluation.bench.harness import run_benchmark
from latentbridge.evaluation.bench.judge import Judge, Judgement
from latentbridge.evaluation.bench.judged_answers import normal_answer, read_extracted, read_grade
from latentbridge.evaluation.bench.judged_pictures import (
    GEdit,
    UEval,
    Wise,
    read_met,
    read_three_grades,
    read_two_grades,
)
from latentbridge.evaluation.bench.registry import make_benchmark

ANSWERS = {
    "wise": ("Consistency: 2\nRealism: 1\nAesthetic Quality: 0", 0.8),
    "wise-verified": ("Score: 1", 1.0),
    "imgedit": ("Prompt Compliance: 5\nVisual Naturalness: 4\nPhysical & Detail Integrity: 3", 4.0),
    "gedit": ('{"score": [9, 4], "reasoning": "x"}', 4.0),
    "ueval": ('{"criteria_met": true}', 1.0),
    "mm-vet": ("0.5", 0.5),
    "mathvista": ("Answer: 4", 0.5),
}
"""What a sensible judge says, and the first score that follows."""


def editing(model: Any, small_bagel: Any, name: str) -> Any:
    """Return a model that edits where the benchmark does."""
    return small_bagel if name in ("imgedit", "gedit") and "edit" not in model.skills else model


@pytest.mark.parametrize("name", samples.JUDGED)
def test_every_benchmark_runs_for_two_models(name: str, tmp_path: Path, two_models, small_bagel, tools_of, capsys):
    model = editing(two_models, small_bagel, name)
    files = DataFolder(samples.JUDGED[name](tmp_path / "data"))
    answer, value = ANSWERS[name]
    with serve(lambda text: answer) as fake:
        tools = replace(tools_of(model), judge=Judge(fake.url, "fake-1", tmp_path / "judge", (2.0, 8.0)))
        report = run_benchmark(name, make_benchmark(name), files, tools, tmp_path / "run", progress=False)
    first = report["rows"][0]
    assert first["value"] == pytest.approx(value, abs=1e-5) and "(judge fake-1)" in first["metric"]
    assert report["judge"]["model"] == "fake-1" and report["counts"]["missing"] == 0
    shown = capsys.readouterr().err
    assert shown.startswith(f"judge fake-1: {len(fake.requests)} calls, about ") and "about $0.0" in shown
    assert all(request["temperature"] == 0 and request["model"] == "fake-1" for request in fake.requests)
    kept = Judge("http://127.0.0.1:9/v1", "fake-1", tmp_path / "judge")  # nobody answers there
    again = run_benchmark(
        name, make_benchmark(name), files, replace(tools, judge=kept), tmp_path / "run", progress=False
    )
    assert kept.calls == 0 and again["rows"] == report["rows"]


@pytest.mark.parametrize("name", samples.JUDGED)
def test_nonsense_counts_as_failed_and_never_as_a_score(name: str, tmp_path: Path, tiny, tools_of):
    files = DataFolder(samples.JUDGED[name](tmp_path / "data"))
    with serve(lambda text: "Nine point nine, I would say: 9.9 of 10!") as fake:
        tools = replace(tools_of(tiny), judge=Judge(fake.url, "fake-1", tmp_path / "judge"))
        report = run_benchmark(name, make_benchmark(name), files, tools, tmp_path / "run", progress=False)
    assert report["counts"]["unparsed"] == report["items"] and report["counts"]["scored"] == 0
    assert {row["value"] for row in report["rows"]} == {0}
    assert all("could not be read" in failure["reason"] for failure in report["failures"]["unparsed"])
    assert len(fake.requests) % 3 == 0  # three attempts each


def test_one_failure_is_not_averaged_away(tmp_path: Path, tiny, tools_of):
    """Of two pictures one gets full marks and one an answer without numbers: the mean is a half, not 1 or more."""
    files = DataFolder(samples.imgedit(tmp_path / "data"))
    rows = json.loads((files.path / "basic_edit.json").read_text())
    rows["1"]["prompt"] = "make it blue"
    (files.path / "basic_edit.json").write_text(json.dumps(rows))
    with serve(lambda text: "sorry" if "blue" in text else "A: 5\nB: 5\nC: 5") as fake:
        tools = replace(tools_of(tiny), judge=Judge(fake.url, "fake-1", tmp_path / "judge"))
        report = run_benchmark("imgedit", make_benchmark("imgedit"), files, tools, tmp_path / "run", progress=False)
    assert report["rows"][0]["value"] == 2.5 and "1 failed and count as 0" in report["rows"][0]["note"]


def test_requests_carry_text_pictures_and_key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("OPENAI_API_KEY", "secret")
    shown = samples.pictures(2)
    with serve(lambda text: "yes") as fake:
        answers = Judge(fake.url + "/", "m", tmp_path).ask([Judgement("What?", tuple(shown), 7)], lambda answer: answer)
    assert answers == ["yes"] and fake.keys == ["Bearer secret"] and fake.requests[0]["max_tokens"] == 7
    parts = fake.requests[0]["messages"][0]["content"]
    assert [part["type"] for part in parts] == ["text", "image_url", "image_url"]
    for part, picture in zip(parts[1:], shown, strict=True):
        kind, _, content = part["image_url"]["url"].partition(",")
        assert kind == "data:image/png;base64"
        assert (np.asarray(Image.open(BytesIO(base64.b64decode(content)))) == picture).all()


def test_a_busy_judge_is_asked_again_and_a_lost_one_keeps_what_it_answered(tmp_path: Path):
    statuses = iter([429, 503])
    with serve(lambda text: next(statuses, "fine")) as fake:
        assert Judge(fake.url, "m", tmp_path, wait_s=0.01).ask([Judgement("a")], str) == ["fine"]
    gone = Judge(fake.url, "m", tmp_path, wait_s=0.001)
    assert gone.ask([Judgement("a")], str) == ["fine"]
    with pytest.raises(UserError, match="start again with --resume"):
        gone.ask([Judgement("b")], str)
    with serve(lambda text: 401) as fake, pytest.raises(UserError, match="refuses requests"):
        Judge(fake.url, "m", tmp_path).ask([Judgement("b")], str)
    with serve(lambda text: 400) as fake:  # this request alone, such as a picture it will not look at
        (answer,) = Judge(fake.url, "m", tmp_path).ask([Judgement("b")], str)
    assert isinstance(answer, Failure) and "HTTP 400" in answer.reason


def test_answers_are_kept_by_content_and_judge(tmp_path: Path):
    picture, other = samples.pictures(2)
    with serve(lambda text: text) as fake:

        def calls(model: str, judgement: Judgement) -> int:
            judge = Judge(fake.url, model, tmp_path)
            judge.ask([judgement], str)
            return judge.calls

        assert [calls("m", Judgement("a", (picture,))) for _ in range(2)] == [1, 0]
        assert calls("m", Judgement("a", (other,))) == 1 and calls("n", Judgement("a", (picture,))) == 1


def test_costs_are_estimated_by_hand(tmp_path: Path):
    judge = Judge("http://x", "m", tmp_path, prices=(2.5, 10.0))
    told = judge.estimate([("x" * 400, 1)] * 1_000, max_tokens=100)
    assert told == "judge m: 1,000 calls, about 1,200,000 tokens read and at most 100,000 written, about $4.00"
    assert "give --judge-prices" in Judge("http://x", "m", tmp_path).estimate([("x", 0)])


@pytest.mark.parametrize(
    ("answer", "score"),
    [
        ("Consistency: 2\nRealism: 2\nAesthetic Quality: 2", 1.0), ("**Consistency**: 0\nRealism: 1\nAesthetic Quality: 2", 0.2),
        ("2\n1\n0", 0.8), ("Consistency: 2\nRealism: 1", None), ("Consistency: 9\nRealism: 9\nAesthetic Quality: 9", None),
        ("Consistency: 9.9\nRealism: 1\nAesthetic Quality: 1", None), ("2\n1", None), ("", None), ("2\n1\n0\n1", None),
    ],
)  # fmt: skip
def test_wise_answers(answer: str, score: float | None):
    assert Wise().read(answer) == (pytest.approx(score) if score is not None else None)


def test_wise_verified_is_0_or_1():
    assert [Wise("verified").read(text) for text in ("Score: 1", "0", "Score: 2", "no")] == [1, 0, None, None]


def test_wise_categories_by_release(tmp_path: Path):
    old = Wise().load(DataFolder(samples.wise(tmp_path / "a")))
    new = Wise("verified").load(DataFolder(samples.wise(tmp_path / "b", "_verified")))
    assert [(i.id, i.group) for i in old] == [("401", "time"), ("568", "space")]
    assert [(i.id, i.group) for i in new] == [("401", "time"), ("568", "space")]
    assert Wise("verified")._category(530) == "space" and Wise()._category(530) == "time"


@pytest.mark.parametrize(
    ("answer", "grade"),
    [("A: 5\nB: 4\nC: 3", 4), ("Reasoning: it fits.\nA: 5\nB: **4**\nC: 3/5", 4), ("A: 5\nB: 4", None),
     ("A: 6\nB: 4\nC: 3", None), ("A: 5\nB: 4\nC: 3\nD: 2", None), ("", None)],
)  # fmt: skip
def test_imgedit_answers(answer: str, grade: float | None):
    assert read_three_grades(answer) == grade


@pytest.mark.parametrize(
    ("answer", "grades"),
    [('{"score": [7, 8]}', [7, 8]), ('Here: {"score": [7], "reasoning": "a {b}"}', [7]), ('{"score": [11, 1]}', None),
     ('{"score": 7}', None), ('{"score": [true, 1]}', None), ("[7, 8]", None), ('{"score": []}', None)],
)  # fmt: skip
def test_gedit_answers(answer: str, grades: list[float] | None):
    assert read_two_grades(answer) == grades


@pytest.mark.parametrize(
    ("answer", "met"),
    [('{"criteria_met": true}', True), ('```json\n{"criteria_met": "not sure"}\n```', False), ('{"criteria_met": "yes"}', True),
     ('{"criteria_met": 1}', None), ("true", None), ('{"met": true}', None)],
)  # fmt: skip
def test_ueval_answers(answer: str, met: bool | None):
    assert read_met(answer) is met


@pytest.mark.parametrize(
    ("answer", "grade"),
    [("0.7", 0.7), ("1.0", 1), ("0", 0), ("1.", 1), ("1.1", None), ("0.5 because", 0.5), ("ten", None), ("", None)],
)
def test_mmvet_answers(answer: str, grade: float | None):
    assert read_grade(answer) == grade


def test_gedit_is_the_root_of_the_worst_grades_by_group():
    rows = [
        Result("1", "scored", 6.0, group="en/a", measures={"semantic": 9.0, "perceptual": 4.0}),
        Result("2", "missing", group="en/a"),
        Result("3", "scored", 10.0, group="en/b", measures={"semantic": 10.0, "perceptual": 10.0}),
        Result("4", "scored", 2.0, group="cn/a", measures={"semantic": 2.0, "perceptual": 2.0}),
    ]
    benchmark = GEdit()
    benchmark.judge_name = "j"
    scores = {score.metric: score.value for score in benchmark.aggregate(rows)}
    assert scores["GEdit en overall (judge j)"] == (3 + 10) / 2 and scores["GEdit cn overall (judge j)"] == 2
    assert scores["GEdit en semantic (judge j)"] == (4.5 + 10) / 2


def test_ueval_counts_rubrics_of_texts_and_pictures(tmp_path: Path, tiny, tools_of):
    """Red is met and blue is not: texts 1 of 2, pictures 1 of 1."""
    files = DataFolder(samples.ueval(tmp_path / "data"))
    with serve(lambda text: json.dumps({"criteria_met": "red" in text or "not sure"})) as fake:
        tools = replace(tools_of(tiny), judge=Judge(fake.url, "j", tmp_path / "judge"))
        report = run_benchmark("ueval", UEval(), files, tools, tmp_path / "run", progress=False)
    values = {row["metric"]: row["value"] for row in report["rows"]}
    assert values["UEval, rubrics met (judge j)"] == 0.75
    assert values["UEval, rubrics met, text (judge j)"] == 0.5 and values["UEval, rubrics met, image (judge j)"] == 1


def test_mathvista_answers_take_the_form_of_the_truth():
    choices = {"question_type": "multi_choice", "choices": ["yes", "no"], "answer_type": "text"}
    assert normal_answer("(B)", choices) == "no" and normal_answer("n0", choices) is None
    number = {"question_type": "free_form", "answer_type": "float", "precision": 1.0}
    assert normal_answer("1,234.56", number) == "1234.6" and normal_answer("many", number) is None
    assert normal_answer("4.0", {"question_type": "free_form", "answer_type": "integer"}) == "4"
    assert normal_answer("", {"question_type": "free_form", "answer_type": "list"}) is None
    assert read_extracted("Answer: 4") == "4" and read_extracted("Answer: none") == "" and read_extracted("4") is None


def test_the_command_shows_the_cost_first_and_resumes(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    data = samples.mmvet(tmp_path / "data")
    with serve(lambda text: "0.5") as fake:
        command = ["bench", "mm-vet", "--data", str(data), "--out", str(tmp_path / "run"), "--max-tokens", "4"]
        command += ["--judge", fake.url, "--judge-model", "fake-1", "--judge-prices", "2", "8", "--json"]
        for extra in ([], ["--resume"]):
            with pytest.raises(SystemExit) as ended:
                main([*command, *extra])
            assert not ended.value.code
            out, err = capsys.readouterr()
            assert json.loads(out)["rows"][0]["metric"] == "MM-Vet (judge fake-1)"
            assert ("judge fake-1: 2 calls" in err) == (not extra)
    assert len(fake.requests) == 2
