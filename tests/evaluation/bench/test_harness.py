"""The harness: a killed run loses and doubles nothing, what was generated is kept, and failures stay with their item."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.evaluation.bench import samples

from latentbridge.cli import main
from latentbridge.errors import UserError
from latentbridge.evaluation.bench.cached_model import CachedModel, Failure, Question
from latentbridge.evaluation.bench.data_folder import DataFolder
from latentbridge.evaluation.bench.harness import run_benchmark
from latentbridge.evaluation.bench.json_log import JsonLog
from latentbridge.evaluation.bench.registry import BENCHMARKS, make_benchmark
from latentbridge.evaluation.compare import compare


def lines_of(run: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run / "results.jsonl").read_text().splitlines()]


def bench(capsys: pytest.CaptureFixture[str], *arguments: str | Path) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as ended:
        main(["bench", *map(str, arguments)])
    captured = capsys.readouterr()
    return int(ended.value.code or 0), captured.out, captured.err


def test_a_killed_run_continues_without_loss_or_repetition(tmp_path: Path):
    """SIGKILL while items are being scored, and a torn last line as a power cut leaves it."""
    data, run = samples.pope(tmp_path / "data", 8), tmp_path / "run"
    command = [
        *(sys.executable, "-m", "latentbridge", "bench", "pope", "--data", str(data), "--out", str(run)),
        *("--batch", "1", "--max-tokens", "8"),
    ]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL)
    results = run / "results.jsonl"
    for _ in range(2_400):
        if results.exists() and results.read_bytes().count(b"\n") >= 3:
            break
        assert process.poll() is None, "ended before it was killed"
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.wait()
    kept = lines_of(run)
    assert 3 <= len(kept) < 48
    with results.open("ab") as file:
        file.write(b'{"id": "random/15", "status": "rig')
    (run / "generations" / "replies.jsonl").open("ab").write(b'{"key": "1')
    subprocess.run([*command, "--resume"], env=environment, check=True, capture_output=True)
    again = lines_of(run)
    assert again[: len(kept)] == kept
    ids = [line["id"] for line in again]
    assert len(ids) == len(set(ids)) == 48
    whole = tmp_path / "whole"
    subprocess.run([*command[:-5], str(whole), *command[-4:]], env=environment, check=True, capture_output=True)
    assert lines_of(whole) == again
    first, second = (json.loads((folder / "bench.json").read_text())["rows"] for folder in (run, whole))
    assert first == second


def test_a_changed_scorer_generates_nothing_again(
    tmp_path: Path, small_janus, tools_of, monkeypatch: pytest.MonkeyPatch
):
    files = DataFolder(samples.pope(tmp_path / "data"))
    tools = tools_of(small_janus)
    run_benchmark("pope", make_benchmark("pope"), files, tools, tmp_path / "run", progress=False)
    assert tools.model.generated == 4  # three samplings ask the same four questions
    monkeypatch.setattr("latentbridge.evaluation.bench.pope.read_pope", lambda reply: "yes")
    again = tools_of(small_janus)
    report = run_benchmark("pope", make_benchmark("pope"), files, again, tmp_path / "run", progress=False)
    assert again.model.generated == 0
    assert report["counts"] == {"right": 6, "wrong": 6, "scored": 0, "unparsed": 0, "missing": 0}


def test_what_is_kept_depends_on_everything_a_reply_depends_on(tmp_path: Path, small_janus, tiny):
    shown = samples.pictures(2)
    question = Question("What is this?", (shown[0],))

    def generated(model, question: Question, **settings: Any) -> int:
        cached = CachedModel(model, tmp_path, **{"reply_options": {"max_tokens": 3}, **settings})
        cached.reply([question])
        return cached.generated

    assert generated(small_janus, question) == 1 and generated(small_janus, question) == 0
    assert generated(small_janus, Question("What is that?", (shown[0],))) == 1
    assert generated(small_janus, Question("What is this?", (shown[1],))) == 1
    assert generated(small_janus, question, seed=1) == 1
    assert generated(small_janus, question, reply_options={"max_tokens": 4}) == 1
    assert generated(tiny, question) == 1


def test_replies_of_a_batch_are_those_of_single_questions(tmp_path: Path, two_models):
    questions = [
        Question(f"How many {word}?", (picture,)) for word, picture in zip("ab", samples.pictures(2), strict=True)
    ]
    together = CachedModel(two_models, tmp_path / "a", reply_options={"max_tokens": 5}).reply(questions)
    alone = CachedModel(two_models, tmp_path / "b", reply_options={"max_tokens": 5}, batch_size=1)
    assert together == [alone.reply([question])[0] for question in questions]


def test_one_broken_picture_takes_no_other_item_with_it(tmp_path: Path, small_janus):
    good = samples.pictures(1)[0]
    cached = CachedModel(small_janus, tmp_path, reply_options={"max_tokens": 3})
    replies = cached.reply(
        [Question("?", (good,)), Question("?", (b"no picture",)), Question("?", (tmp_path / "none",))]
    )
    assert isinstance(replies[0], str)
    assert isinstance(replies[1], Failure) and "not a picture" in replies[1].reason
    assert isinstance(replies[2], Failure) and "There is no picture" in replies[2].reason
    vectors = cached.embed("image", [b"no picture", good])
    assert isinstance(vectors[0], Failure) and isinstance(vectors[1], np.ndarray)


def test_a_question_with_more_pictures_than_the_model_takes_is_missing(tmp_path: Path, tiny):
    cached = CachedModel(tiny, tmp_path)
    (reply,) = cached.reply([Question("?", tuple(samples.pictures(2)))])
    assert isinstance(reply, Failure) and "2 pictures and this model looks at 1" in reply.reason


def test_an_option_that_no_item_can_have_ends_the_run(tmp_path: Path, tiny):
    cached = CachedModel(tiny, tmp_path, drawing_options={"size": (10, 20)})
    with pytest.raises(UserError, match="draws 64x64"):
        cached.draw(["a circle"], [0])
    with pytest.raises(UserError, match="Unknown option"):
        CachedModel(tiny, tmp_path, drawing_options={"stepps": 1}).draw(["a circle"], [0])


def test_resuming_with_other_conditions_is_refused(tmp_path: Path, small_janus, tools_of):
    files, run = DataFolder(samples.pope(tmp_path / "data")), tmp_path / "run"
    benchmark = make_benchmark("pope")
    run_benchmark("pope", benchmark, files, tools_of(small_janus), run, limit=2, progress=False)
    with pytest.raises(UserError, match="holds results with items 2, not 12"):
        run_benchmark("pope", benchmark, files, tools_of(small_janus), run, resume=True, progress=False)
    with pytest.raises(UserError, match="benchmark 'pope', not 'mme'"):
        data = DataFolder(samples.mme(tmp_path / "mme"))
        run_benchmark("mme", make_benchmark("mme"), data, tools_of(small_janus), run, progress=False)


def test_two_processes_do_not_share_a_run_folder(tmp_path: Path, small_janus, tools_of):
    from latentbridge.processes import folder_lock

    files = DataFolder(samples.pope(tmp_path / "data"))
    with folder_lock(tmp_path / "run"), pytest.raises(UserError, match="Another process uses"):
        run_benchmark("pope", make_benchmark("pope"), files, tools_of(small_janus), tmp_path / "run", progress=False)


def test_a_log_keeps_whole_lines_and_each_key_once(tmp_path: Path):
    log = JsonLog(tmp_path / "log.jsonl", "id")
    log.append([{"id": "1", "text": "a\nb\u2028c"}, {"id": "2"}])
    log.append([{"id": "1", "text": "other"}, {"id": "3"}])
    with log.path.open("ab") as file:
        file.write(b'{"id": "4"}')  # no end of line: not known to be complete
    again = JsonLog(tmp_path / "log.jsonl", "id")
    assert list(again.records) == ["1", "2", "3"] and again.records["1"]["text"] == "a\nb\u2028c"
    again.append([{"id": "4", "whole": True}])
    assert [record["id"] for record in JsonLog(tmp_path / "log.jsonl", "id")] == ["1", "2", "3", "4"]


def test_the_command_prints_scores_counts_and_the_report(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    data, run = samples.mme(tmp_path / "data"), tmp_path / "run"
    code, out, err = bench(capsys, "mme", "--data", data, "--out", run, "--limit", "2", "--max-tokens", "4")
    assert code == 0 and err == ""
    assert "acc, existence" in out and out.splitlines()[-1] == str(run / "bench.json")
    assert sum(int(part.split()[0]) for part in out.splitlines()[-2].split(", ")) == 2
    code, out, _ = bench(
        capsys, "mme", "--data", data, "--out", run, "--limit", "2", "--max-tokens", "4", "--resume", "--json"
    )
    report = json.loads(out)
    assert code == 0 and report == json.loads((run / "bench.json").read_text())
    assert report["items"] == 2 and report["items_of_benchmark"] == 10 and report["model_name"] == "tiny"


def test_the_list_tells_format_size_licence_and_judge(capsys: pytest.CaptureFixture[str]):
    code, out, _ = bench(capsys, "--list")
    assert code == 0
    for name, entry in BENCHMARKS.items():
        assert name in out and entry.format in out and entry.licence in out and entry.size in out
    listed = json.loads(bench(capsys, "--list", "--json")[1])
    assert list(listed) == list(BENCHMARKS) and all(entry["citation"].startswith("arXiv:") for entry in listed.values())


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["mmme", "--data", "."], "did you mean 'mme'?"),
        (["mme"], "--data FOLDER"),
        (["mme", "--data", "nowhere"], "There is no folder nowhere"),
        (["mme", "--data", "."], "has none of MME's tasks"),
        (["mme", "--data", ".", "--limit", "0"], "--limit 0 is too small"),
        (["mme", "--data", ".", "--size", "big"], "is not a size"),
        (["mmmu", "--data", "."], "holds no"),
    ],
)
def test_a_mistake_is_one_line(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    arguments: list[str],
    words: str,
):
    monkeypatch.chdir(tmp_path)
    code, out, err = bench(capsys, *arguments)
    assert code == 2 and out == "" and err.startswith("error: ") and err.count("\n") == 1 and words in err


def test_two_runs_are_compared_item_by_item(tmp_path: Path, small_janus, tiny, tools_of):
    files = DataFolder(samples.mme(tmp_path / "data"))
    for name, model in (("a", tiny), ("b", small_janus)):
        run_benchmark("mme", make_benchmark("mme"), files, tools_of(model), tmp_path / name, progress=False)
    rows = compare(tmp_path / "a", tmp_path / "b")
    assert {row.metric for row in rows} >= {"acc, existence", "acc+, artwork"}
    assert "MME perception" not in {row.metric for row in rows}  # a total has no items to pair
    assert {row.test for row in rows} == {"permutation"}
