"""The command line as a user meets it: output, exit codes, and one sentence for every mistake."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import matplotlib
import numpy as np
import pytest
from PIL import Image

from latentbridge.cli import main
from latentbridge.config import ModelConfig
from latentbridge.data.shapes.render import render
from latentbridge.data.shapes.scenes import distinct_scenes
from latentbridge.rng import numpy_rng

VERBS = (
    "understand", "generate", "edit", "embed", "loopback", "search", "index", "index build", "index add",
    "index delete", "index compact", "index check", "index info", "index duplicates", "train", "eval",
    "consistency", "reasoning", "bench", "compare", "study", "report",
    "quickstart", "reproduce", "version", "data", "data build", "data check", "data convert", "data embed", "data sample",
    "adapters", "adapters merge", "calibrate", "estimate", "plan", "describe", "doctor", "export", "serve", "mcp",
)  # fmt: skip


class Result(NamedTuple):
    code: int
    out: str
    err: str


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Callable[..., Result]:
    """Runs one verb in this process."""

    def call(*arguments: str | Path) -> Result:
        with pytest.raises(SystemExit) as ended:
            main([str(argument) for argument in arguments])
        captured = capsys.readouterr()
        code = ended.value.code
        return Result(code if isinstance(code, int) else 0, captured.out, captured.err)

    return call


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory, small_config: ModelConfig) -> Path:
    """A tiny model of random weights: everything but sense."""
    from latentbridge.models.checkpoint import new_model, save_model

    folder = tmp_path_factory.mktemp("model")
    save_model(new_model(small_config, 0), folder)
    return folder


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    path = tmp_path / "in.png"
    Image.new("RGB", (80, 40), "red").save(path)
    return path


def is_one_error_line(result: Result) -> bool:
    return (
        result.code == 2
        and result.out == ""
        and result.err.startswith("error: ")
        and result.err.count("\n") == 1
        and "Traceback" not in result.err
    )


# --- help and mistyped words ---


def test_help_is_quick_and_imports_nothing_heavy():
    code = (
        "import sys\nfrom latentbridge.cli import main\ntry: main(sys.argv[1:])\nexcept SystemExit: pass\n"
        "print(sorted({'torch', 'transformers', 'diffusers', 'numpy', 'PIL'} & set(sys.modules)))"
    )
    for arguments in (["--help"], ["generate", "--help"]):
        began = time.process_time(), os.times().children_user + os.times().children_system
        result = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=True)
        seconds = os.times().children_user + os.times().children_system - began[1]
        assert "Examples:" in result.stdout
        assert result.stdout.endswith("[]\n")
        # Processor seconds, so that a busy machine does not matter: 0.25 measured, torch alone would take 3.
        assert seconds < 2


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_has_help_with_examples(run: Callable[..., Result], verb: str):
    result = run(*verb.split(), "--help")
    assert result.code == 0 and result.err == ""
    if verb not in ("index", "data", "adapters"):
        assert f"Examples:\n    {'' if verb.startswith('data build') else 'latentbridge ' + verb}" in result.out


def test_the_help_lists_all_verbs(run: Callable[..., Result]):
    listed = run("--help").out
    assert all(f"  {verb} " in listed for verb in VERBS if " " not in verb)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["genrate", "x"], "Did you mean 'generate'?"),
        (["data", "chek", "x"], "Did you mean 'check'?"),
        (["generate", "x", "--sed", "3"], "--seed"),
        (["generate", "x"], "--out"),
        (["generate", "x", "--out", "a.png", "--steps", "many"], "--steps"),
    ],
)
def test_mistyped_words_are_told_apart(run: Callable[..., Result], arguments: list[str], words: str):
    result = run(*arguments)
    assert result.code == 2 and result.out == "" and words in result.err and "Traceback" not in result.err


def test_version(run: Callable[..., Result]):
    from latentbridge import __version__

    assert run("version") == Result(0, f"{__version__}\n", "")


# --- mistakes found before any work ---


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ("generate PROMPT --out a.png --seed -1", "--seed -1"),
        (f"generate PROMPT --out a.png --seed {2**63}", "out of range"),
        ("generate PROMPT --out a.png --steps 0", "--steps 0"),
        ("generate PROMPT --out a.png --steps 1001", "--steps 1001"),
        ("generate PROMPT --out a.png --guidance nan", "--guidance nan"),
        ("generate PROMPT --out a.png --guidance -1", "--guidance -1"),
        ("generate PROMPT --out a.png --guidance inf", "--guidance inf"),
        ("generate EMPTY --out a.png", "The prompt is empty"),
        ("generate LONG --out a.png", "1,001 characters"),
        ("generate PROMPT --out a.xyz", "does not end in .png"),
        ("generate PROMPT --out a", "does not end in .png"),
        ("generate PROMPT --out in.png/a.png", "is a file, not a folder"),
        ("generate PROMPT --out folder.png", "is a folder"),
        ("generate PROMPT --out a.png --model none", "holds no model"),
        ("generate PROMPT --out a.png --device xpu:9", "There is no device xpu:9 here; set device to one of auto, cpu"),
        ("understand in.png --device gpu", "There is no device gpu here"),
        ("understand none.png", "There is no picture none.png"),
        ("understand .", "is a folder"),
        ("understand text.png", "text.png is not a picture"),
        ("understand cut.png", "broken or cut short"),
        ("understand in.png EMPTY", "The question is empty"),
        ("understand in.png --model in.png", "holds no model"),
        ("edit in.png EMPTY --out a.png", "The instruction is empty"),
        ("edit none.png PROMPT --out a.png", "There is no picture"),
        ("embed --json", "nothing to embed"),
        ("embed in.png", "Say where the vectors go"),
        ("embed in.png --json --out v.npz", "Say where the vectors go"),
        ("embed in.png --out v.txt", "does not end in .npz"),
        ("search .", "Give something to look for"),
        ("search . --not PROMPT", "Give something to look for"),
        ("search . EMPTY", "The query is empty"),
        ("search . PROMPT --also night:0", "The weight of 'night' is out of range"),
        ("search . PROMPT --where kind", "write it like kind=photo"),
        ("search . PROMPT --out a.txt", "does not end in .html"),
        ("search ftp://x/y PROMPT", "ftp:// addresses are not supported"),
        ("search . PROMPT -k 0", "-k 0"),
        ("search none PROMPT", "neither an index nor a folder"),
        ("search folder.png PROMPT", "There are no pictures"),
        ("index build none", "neither an index nor a folder"),
        ("index build none.jsonl", "There is no manifest"),
        ("index build . --store in.png/x", "is a file, not a folder"),
        ("index build . --field size<3", "no value to store"),
        ("index add . in.png", "holds no index"),
        ("index delete .", "either their ids, or --where"),
        ("index delete . a --where kind=b", "either their ids, or --where"),
        ("index compact .", "holds no index"),
        ("index check . --sample 0", "--sample 0"),
        ("index info none", "holds no index"),
        ("index duplicates . --above 1.5", "--above 1.5"),
        ("loopback in.png --rounds 0", "--rounds 0"),
        ("loopback", "Give either a picture or --data"),
        ("loopback in.png --data shapes", "Give either a picture or --data"),
        ("loopback in.png --hops 3", "--hops goes with --data"),
        ("loopback --data shapes --rounds 3", "--rounds goes with a picture"),
        ("loopback --data shaps", "did you mean 'shapes'?"),
        ("loopback --data shapes --size 1", "--size 1"),
        ("loopback --data shapes --hops 0", "--hops 0"),
        ("loopback --data shapes --start txt", "did you mean 'text'?"),
        ("loopback --data none.jsonl", "There is no manifest"),
        ("consistency --data shaps", "did you mean 'shapes'?"),
        ("consistency --size 1", "--size 1"),
        ("consistency --out scores.txt", "does not end in .json"),
        ("consistency --size 2 --encoder packag", "did you mean 'package'?"),
        ("reasoning --data shaps", "did you mean 'shapes'?"),
        ("reasoning --data drawings", "have no multi-step problems"),
        ("reasoning --size 0", "--size 0"),
        ("compare none folder.png", "There is no folder none"),
        ("compare folder.png folder.png", "no report in common"),
        ("train pretrain-decodr", "did you mean 'pretrain-decoder'?"),
        ("train pretrain-decoder --set stepps=3", "did you mean 'steps'?"),
        ("train pretrain-decoder --set steps", "key=value"),
        ("train pretrain-decoder --out in.png", "is a file, not a folder"),
        ("train finetune", "give it with --data"),
        ("train finetune --data a.jsonl --set stage.manifest=a.jsonl", "now called stage.sources"),
        ("train finetune --data none.jsonl", "There is no manifest at none.jsonl"),
        ("train finetune --data none", "There is no none/index.json"),
        ('train sft --set stage.sources=[["shapes",1]] --set device=xpu:9', "There is no device xpu:9 here"),
        ("train pretrain-decoder --sample-every -1", "--sample-every -1"),
        ("train scene-teacher --sample-every 5", "leave out --sample-every"),
        ("train pretrain-decoder --track tensorbord", "did you mean 'tensorboard'?"),
        ("edit in.png PROMPT --out o.png --option method=maskd", "did you mean 'masked'?"),
        ("generate PROMPT --out o.png --option steps=3", "use --steps"),
        ("generate PROMPT --out o.png --option conditioning=text --option conditioning=query", "give it once"),
        ("eval --out scores.txt", "does not end in .json"),
        ("eval --world shaps", "did you mean 'shapes'?"),
        ("eval --size 0", "--size 0"),
        ("eval --model none", "holds no model"),
        ("study methds", "did you mean 'methods'?"),
        ("study methods --jobs 0", "--jobs 0"),
        ("study methods --only anchord", "did you mean 'anchored'?"),
        ("study methods --out in.png", "is a file, not a folder"),
        ("study methods --results results.txt", "does not end in .md"),
        ("report none", "There is no run folder none"),
        ("report folder.png --out page.txt", "does not end in .html"),
        ("report folder.png", "holds no metrics yet"),
        ("plan bagle-7b-mot", "did you mean 'bagel-7b-mot'?"),
        ("plan none/here", "Unknown model 'none/here'"),
        ("plan folder.png", "no model"),
        ("plan janus --gpu much", "'much' is no size of a GPU's memory"),
        ("plan janus --gpu -4GB", "no size of a GPU's memory"),
        ("plan janus --size 10y10", "--size '10y10' is not a size"),
        ("plan janus --size 100x100", "draws 64x64, not 100x100"),
        ("plan janus --verb edit", "cannot edit"),
        ("plan janus --verb generat", "did you mean 'generate'?"),
        ("plan janus --batch 0", "--batch 0"),
        ("plan janus --tflops 0", "--tflops 0"),
        ("plan janus --train snt", "Unknown recipe 'snt'"),
        ("describe harmn", "did you mean 'harmon'?"),
        ("data build drawngs", "did you mean 'drawings'?"),
        ("data sample shaps", "did you mean 'shapes'?"),
        ("data sample shapes --count 0", "--count 0"),
        ("data sample shapes --out a.xyz", "does not end in .png"),
        ("data check none.jsonl", "There is no manifest"),
        ("data shards none.jsonl --out shards", "There is no manifest"),
        ("data shards . --out shards", "There are no shards in"),
        ("data shards none --out shards", "There are no shards in"),
        ("data shards none.jsonl --out in.png", "is a file, not a folder"),
        ('train sft --set stage.sources=[["shapes","x"]] --out run', "takes a number"),
        ('train sft --set stage.sources=[["none",1]] --out run', "There is no none/index.json"),
        (
            "train sft --set stage.grpo.clip=0.1",
            "Unknown key 'grpo'; sft has interleave, lora_rank, packed, sources, tasks.",
        ),
        ("data embed --recipe sft", "The recipe sft has no teacher; name one with --teacher"),
        ("data embed --recipe sft --teacher package", "choose one of post-training"),
        ("data embed --teacher packige", "did you mean 'package'?"),
    ],
)
def test_a_mistake_is_one_line(
    run: Callable[..., Result], picture: Path, monkeypatch: pytest.MonkeyPatch, arguments: str, words: str
):
    folder = picture.parent
    (folder / "text.png").write_text("not a picture")
    (folder / "cut.png").write_bytes(picture.read_bytes()[:-30])
    (folder / "folder.png").mkdir()
    monkeypatch.chdir(folder)
    before = sorted(folder.rglob("*"))
    special = {"PROMPT": "a red circle", "EMPTY": " ", "LONG": "x" * 1_001}
    result = run(*(special.get(word, word) for word in arguments.split()))
    assert is_one_error_line(result), result
    assert words in result.err
    assert sorted(folder.rglob("*")) == before


# --- the skills ---


def test_understand(run: Callable[..., Result], picture: Path, model: Path):
    plain = run("understand", picture, "What is this?", "--model", model)
    assert plain.code == 0 and plain.err == ""
    document = json.loads(run("understand", picture, "What is this?", "--model", model, "--json").out)
    answer = plain.out.removesuffix("\n")
    assert document == {"image": str(picture), "question": "What is this?", "answer": answer, "warnings": []}


def test_the_shipped_model_warns_of_what_it_was_not_trained_on(run: Callable[..., Result], tmp_path: Path):
    photograph = Path(matplotlib.get_data_path()) / "sample_data" / "grace_hopper.jpg"
    asked = run("understand", photograph, "How many people are there?")
    assert asked.code == 0 and asked.out.count("\n") == 1
    about_picture, about_words = asked.err.splitlines()
    assert about_picture.startswith("warning: this picture is unlike the coloured shapes and simple drawings")
    assert about_words == 'warning: "tiny" was not trained on questions with the word "people".'
    told = json.loads(run("understand", photograph, "How many people are there?", "--json").out)["warnings"]
    assert [f"warning: {each}" for each in told] == [about_picture, about_words]

    drawn = run("generate", "a cat", "--out", tmp_path / "out.png", "--steps", "1")
    assert drawn.code == 0 and drawn.err == 'warning: "tiny" was not trained on prompts with the word "cat".\n'
    edited = run("edit", photograph, "remove the star", "--out", tmp_path / "out.png", "--steps", "1", "--json")
    assert (
        json.loads(edited.out)["warnings"][1:]
        == ["the change was drawn at 64 x 64 px and scaled up; the rest keeps its own pixels."]
        and edited.err == ""
    )
    walked = run("loopback", photograph, "--rounds", "1", "--json")
    assert json.loads(walked.out)["warnings"] == told[:1]
    embedded = run("embed", photograph, "--text", "zxqv", "--json")
    assert [each.split(": ")[0] for each in json.loads(embedded.out)["warnings"]] == [str(photograph), "'zxqv'"]


def test_the_shipped_model_does_not_warn_of_its_own_world(run: Callable[..., Result], tmp_path: Path):
    picture = tmp_path / "scene.png"
    Image.fromarray(render(distinct_scenes("test", numpy_rng(0, "own world"), 1)[0])).save(picture)
    for arguments in (["understand", picture], ["loopback", picture, "--rounds", "1"]):
        assert run(*arguments).err == ""
        assert json.loads(run(*arguments, "--json").out)["warnings"] == []


def test_calibrate_lets_a_model_of_ones_own_warn(
    run: Callable[..., Result], picture: Path, tmp_path: Path, model: Path
):
    folder = tmp_path / "mine"
    shutil.copytree(model, folder)
    assert json.loads(run("understand", picture, "Any zxqv?", "--json").out)["warnings"] != []
    assert run("understand", picture, "Any zxqv?", "--model", folder).err == ""
    made = json.loads(run("calibrate", folder, "--data", "shapes", "--samples", "150", "--json").out)
    assert made["judges_pictures"] and made["out"] == str(folder / "input_check.safetensors")
    told = run("understand", picture, "Any zxqv?", "--model", folder).err
    assert 'warning: "mine" was not trained on questions with the word "zxqv".' in told
    assert is_one_error_line(run("calibrate", "tiny"))
    assert is_one_error_line(run("calibrate", tmp_path / "nothing"))


def test_generate_writes_a_picture_that_depends_on_the_seed(run: Callable[..., Result], tmp_path: Path, model: Path):
    drawn = []
    for name, seed in (("a.png", 7), ("b.png", 7), ("c.png", 8)):
        result = run(
            "generate",
            "a red circle",
            "--out",
            tmp_path / name,
            "--seed",
            seed,
            "--steps",
            2,
            "--model",
            model,
            "--json",
        )
        assert result.code == 0 and result.err == ""
        document = json.loads(result.out)
        assert (document["prompt"], document["seed"], document["out"]) == ("a red circle", seed, str(tmp_path / name))
        drawn.append(np.asarray(Image.open(tmp_path / name)))
    assert drawn[0].shape == (64, 64, 3)
    assert np.array_equal(drawn[0], drawn[1])
    assert not np.array_equal(drawn[0], drawn[2])


def test_the_description_told_is_the_one_that_was_drawn(run: Callable[..., Result], tmp_path: Path, model: Path):
    from latentbridge.models.checkpoint import load

    out = tmp_path / "a.png"
    told = json.loads(run("generate", "a star", "--out", out, "--steps", 2, "--model", model, "--json").out)
    painter = load(model)
    assert told["description"] == painter.rewrite("a star", 7)
    assert np.array_equal(np.asarray(Image.open(out)), painter.generate("a star", 7, steps=2).picture)


def test_edit_tells_before_and_after(run: Callable[..., Result], picture: Path, model: Path):
    out = picture.with_name("out.png")
    result = run("edit", picture, "make it green", "--out", out, "--steps", 2, "--model", model, "--json")
    document = json.loads(result.out)
    assert result.code == 0 and result.err == ""
    assert {"before", "after", "changed_share", "seed", "out"} <= document.keys()
    with Image.open(picture) as before, Image.open(out) as after:
        assert after.size == before.size == (80, 40)
        changed = (np.asarray(before.convert("RGB")) != np.asarray(after)).any(axis=-1)
    assert changed.mean() <= document["changed_share"]


def test_embed_gives_unit_vectors_both_ways(run: Callable[..., Result], picture: Path, model: Path):
    out = picture.with_name("v.npz")
    asked = ["embed", picture, picture, "--text", "a star", "--model", model]
    assert run(*asked, "--out", out).code == 0
    stored = np.load(out, allow_pickle=False)
    assert stored["images"].shape == (2, 16) and stored["texts"].shape == (1, 16)
    assert stored["text_names"].tolist() == ["a star"]
    # float32 vectors normalised once are within 1e-6 of unit length.
    assert np.allclose(np.linalg.norm(stored["images"], axis=1), 1, atol=1e-5)
    document = json.loads(run(*asked, "--json").out)
    assert np.allclose(document["texts"][0]["embedding"], stored["texts"][0], atol=1e-6)


def test_embed_writes_nothing_where_one_picture_is_missing(run: Callable[..., Result], picture: Path, model: Path):
    assert is_one_error_line(run("embed", picture, "none.png", "--out", picture.with_name("v.npz"), "--model", model))
    assert os.listdir(picture.parent) == [picture.name]


def test_loopback_writes_every_round_and_a_sheet(run: Callable[..., Result], picture: Path, model: Path):
    out = picture.with_name("walk")
    result = run("loopback", picture, "--rounds", 2, "--out", out, "--model", model, "--json")
    assert result.code == 0
    assert len(json.loads(result.out)["rounds"]) == 2
    assert sorted(os.listdir(out)) == ["round_1.png", "round_2.png", "sheet.png"]


# --- measures ---


def test_loopback_measures_data_hop_by_hop(run: Callable[..., Result], tmp_path: Path, model: Path):
    asked = ["loopback", "--data", "shapes", "--size", 3, "--hops", 2, "--model", model, "--out", tmp_path]
    printed = run(*asked, "--start", "text")
    assert printed.code == 0
    assert "text first: facts kept" in printed.out and "hop 1, picture: drift (package)" in printed.out
    document = json.loads((tmp_path / "loopback.json").read_text())
    conditions = {"world": "shapes", "size": 3, "seed": 7, "hops": 2, "encoder": "package"}
    assert {name: document[name] for name in conditions} == conditions
    assert {row["skill"] for row in document["rows"]} == {"loopback, text first"}
    assert len(document["rows"]) == (1 + 2 * 4) + (1 + 4)  # two views see the picture, one the text
    # three walks of a picture and one drawing
    assert Image.open(tmp_path / "loopback_text_first.png").width == 12 + 2 * 204
    assert set(document["half_life"]) == {"text first"}


def test_consistency_is_one_document(run: Callable[..., Result], tmp_path: Path, model: Path):
    out = tmp_path / "consistency.json"
    result = run("consistency", "--size", 2, "--model", model, "--json", "--out", out)
    assert result.code == 0
    document = json.loads(result.out)
    assert document == json.loads(out.read_text()) and document["size"] == 2
    assert [row["metric"] for row in document["rows"]][:2] == [
        f"Unified-Bench cosine ({v})" for v in ("package", "own")
    ]


def test_reasoning_is_one_document(run: Callable[..., Result], tmp_path: Path, model: Path):
    out = tmp_path / "reasoning.json"
    result = run("reasoning", "--size", 1, "--model", model, "--json", "--out", out)
    assert result.code == 0
    document = json.loads(result.out)
    assert document == json.loads(out.read_text()) and document["size"] == 1
    assert [row["metric"] for row in document["rows"]][:3] == ["answers", "key steps reached", "valid form"]


def test_compare_says_better_worse_and_noise(run: Callable[..., Result], tmp_path: Path):
    from latentbridge.evaluation.metrics import share
    from latentbridge.evaluation.run import make_report
    from latentbridge.files import write_json

    for name, flip in (("a", False), ("b", True)):
        marks = {"gained": [flip] * 11, "lost": [not flip] * 11, "kept": [True, False] * 5}
        rows = [share("draw", metric, right) for metric, right in marks.items()]
        write_json(tmp_path / name / "scores.json", make_report(rows, world="shapes", seed=1))
    result = run("compare", tmp_path / "a", tmp_path / "b")
    assert result.code == 0 and result.err == ""
    verdicts = [line.split()[0] for line in result.out.splitlines()]
    assert verdicts[:3] == ["better", "worse", "noise"]
    assert result.out.endswith("1 better, 1 worse, 1 noise, of 3 measures\n")
    assert run("compare", tmp_path / "a", tmp_path / "b", "--fail-on-worse").code == 1
    assert run("compare", tmp_path / "a", tmp_path / "a", "--fail-on-worse").code == 0
    document = json.loads(run("compare", tmp_path / "a", tmp_path / "b", "--json").out)
    assert [row["verdict"] for row in document["rows"]] == ["better", "worse", "noise"]


# --- search ---


@pytest.fixture
def album(tmp_path: Path) -> Path:
    """Three pictures, one of them in a subfolder, and one broken file."""
    folder = tmp_path / "album"
    (folder / "sub").mkdir(parents=True)
    rng = np.random.default_rng(2)
    for name in ("a.png", "b.png", "sub/c.png"):
        Image.fromarray(rng.integers(0, 256, (40, 40, 3), dtype=np.uint8)).save(folder / name)
    (folder / "broken.jpg").write_bytes(b"no")
    return folder


def test_a_picture_is_found_by_itself_with_and_without_an_index(run: Callable[..., Result], album: Path, model: Path):
    asked = ["search", album, "--image", album / "sub" / "c.png", "--model", model, "-k", 2, "--json"]
    passing = run(*asked)
    assert "left out" in passing.err and "broken.jpg" in passing.err
    built = run("index", "build", album, "--model", model)
    assert built.code == 3 and "3 pictures, 3 embedded at" in built.out and "1 left out" in built.out
    assert "broken.jpg" in (album / ".latentbridge-index" / "left_out.txt").read_text()
    indexed = run(*asked)
    assert indexed.err == ""
    for result in (passing, indexed):
        hits = json.loads(result.out)["hits"]
        assert len(hits) == 2
        assert hits[0]["id"] == "sub/c.png" and hits[0]["metadata"]["folder"] == "sub"
        assert abs(hits[0]["score"] - 1) < 1e-5


def test_search_by_words_pictures_items_weights_and_filters(run: Callable[..., Result], album: Path, model: Path):
    index = album.with_name("index")
    assert run("index", "build", album, "--out", index, "--model", model, "--field", "owner=anna").code == 3

    def found(*arguments: str | Path) -> list[str]:
        result = run("search", index, *arguments, "--model", model)
        assert result.code == 0
        return [line.split()[1] for line in result.out.splitlines()]

    assert len(found("a star")) == 3
    assert found("a star", "--where", "folder=sub") == ["sub/c.png"]
    assert found("a star", "--where", "owner!=anna") == []
    assert sorted(found("--like", "a.png")) == ["b.png", "sub/c.png"]
    assert found("--image", album / "b.png", "--also", "red:.001", "--not", "blue: 0.001")[0] == "b.png"


def test_search_reports_unknown_words(run: Callable[..., Result], album: Path, tmp_path: Path):
    (album / "broken.jpg").unlink()
    run("index", "build", album, "--model", "tiny")
    partly = run("search", album, "a zxqv guitar")
    assert partly.err == 'warning: the model does not know "zxqv"; ranked by the rest.\n'
    assert partly.code == 0 and partly.out == run("search", album, "a guitar").out != ""
    none = run("search", album, "zxqv blorp")
    assert (none.code, none.out) == (0, "")
    assert none.err == (
        'warning: the model knows no word of "zxqv blorp", so nothing was looked for; '
        "allow unknown words to get a guess.\nNothing was found.\n"
    )
    told = json.loads(run("search", album, "zxqv blorp", "--json").out)
    assert told["hits"] == [] and told["unknown_words"] == ["zxqv", "blorp"] and "no word" in told["warnings"][0]
    guess = json.loads(run("search", album, "zxqv blorp", "--allow-unknown", "--json").out)
    assert len(guess["hits"]) == 3 and "a guess" in guess["warnings"][0]
    known = json.loads(run("search", album, "a guitar", "--json").out)
    assert known["warnings"] == known["unknown_words"] == []
    sheet = run("search", album, "zxqv", "--out", tmp_path / "none.png")
    assert sheet.code == 2 and "no word" in sheet.err and not (tmp_path / "none.png").exists()


def test_results_are_written_as_a_page_or_a_grid(run: Callable[..., Result], album: Path, model: Path, tmp_path: Path):
    run("index", "build", album, "--model", model)
    (album / "b.png").unlink()  # a deleted picture is shown as a grey square
    page, sheet = tmp_path / "results.html", tmp_path / "results.png"
    assert run("search", album, "a <star>", "--model", model, "--out", page).code == 0
    assert run("search", album, "a star", "--model", model, "--out", sheet).code == 0
    html = page.read_text()
    assert html.count("<img") == 3 and "sub/c.png" in html and "a &lt;star&gt;" in html and "http" not in html
    assert Image.open(sheet).size == (3 * 168 + 8, 168 + 8)


def test_building_again_adds_new_and_changed_pictures_and_drops_deleted_ones(
    run: Callable[..., Result], album: Path, model: Path
):
    def build(*more: str | Path) -> dict:
        return json.loads(run("index", "build", album, "--model", model, "--json", *more).out)

    def counts(document: dict) -> tuple[int, ...]:
        return tuple(document[name] for name in ("items", "embedded", "unchanged", "dropped"))

    assert counts(build()) == (3, 3, 0, 0)
    assert counts(build()) == (3, 0, 3, 0)
    Image.new("RGB", (31, 17), "red").save(album / "b.png")
    Image.new("RGB", (7, 7), "blue").save(album / "d.png")
    (album / "a.png").unlink()
    assert counts(build()) == (3, 2, 1, 1)
    assert counts(build("--field", "owner=anna")) == (3, 0, 3, 0)  # only the metadata change
    hits = json.loads(run("search", album, "red", "--where", "width>7", "--model", model, "--json").out)["hits"]
    assert {hit["id"]: hit["metadata"]["height"] for hit in hits} == {"b.png": 17, "sub/c.png": 40}


def test_a_changed_picture_is_replaced(run: Callable[..., Result], album: Path, model: Path):
    run("index", "build", album, "--model", model)
    Image.new("RGB", (9, 9), "red").save(album / "a.png")
    assert "3 pictures, 1 embedded" in run("index", "add", album, album / "a.png", "--model", model).out
    assert "3 pictures, none of them new" in run("index", "build", album, "--model", model).out


@pytest.mark.parametrize("weighed", ["night:nan", "night:inf", "night:1e400", "night:0"])
def test_invalid_weights_are_refused(run: Callable[..., Result], album: Path, weighed: str):
    assert "out of range" in run("search", album, "x", "--also", weighed).err


def test_no_hits_are_reported(run: Callable[..., Result], album: Path, model: Path):
    found = run("search", album, "a star", "--where", "nofield>3", "--model", model)
    assert (found.code, found.out) == (3, "") and "Nothing was found." in found.err  # 3: the broken file is left out


@pytest.mark.parametrize("place", ["in.png", "qdrant://h", "postgres://u@127.0.0.1:1/db"])
def test_a_place_that_holds_no_indexes_is_refused_before_the_model_is_loaded(
    run: Callable[..., Result], tmp_path: Path, place: str
):
    (tmp_path / "in.png").write_bytes(b"")
    where = place if "://" in place else str(tmp_path / place)
    for verb in ("serve", "mcp"):
        assert is_one_error_line(run(verb, "--indexes", where, "--model", "nowhere"))


def test_index_commands_maintain_an_index(run: Callable[..., Result], album: Path, model: Path, tmp_path: Path):
    run("index", "build", album, "--model", model)
    twin = tmp_path / "twin.png"
    twin.write_bytes((album / "a.png").read_bytes())
    assert "4 pictures, 1 embedded" in run("index", "add", album, twin, "--model", model).out
    pairs = json.loads(run("index", "duplicates", album, "--above", "0.9999", "--json").out)["pairs"]
    assert [pair["ids"] for pair in pairs] == [["a.png", str(twin)]]
    checked = run("index", "check", album)
    assert checked.code == 0 and "4 items, 0 errors, recall@10 1.000" in checked.out
    assert json.loads(run("index", "info", album, "--json").out)["items"] == 4
    assert is_one_error_line(run("index", "delete", album, "a.png", "nobody"))
    assert run("index", "delete", album, "a.png").out == "1 removed, 3 left\n"
    assert run("index", "delete", album, "--where", "folder=sub").out == "1 removed, 2 left\n"
    assert run("index", "compact", album).out.startswith("2 items")
    assert (
        "4 pictures, 2 embedded" in run("index", "build", album, "--model", model).out
    )  # the twin belongs to no source


def test_a_manifest_is_indexed_with_its_fields_as_metadata(run: Callable[..., Result], album: Path, model: Path):
    lines = [
        '{"image": "a.png", "texts": ["an owl"], "year": 2020}',
        '{"image": "sub/c.png", "year": 2026}',
        '{"image": "none.png"}',
        '{"image": "../x.png"}',
        "nonsense",
    ]
    (album / "m.jsonl").write_text("\n".join(lines))
    refused = run("index", "build", album / "m.jsonl", "--model", model)
    assert is_one_error_line(refused) and "--store" in refused.err
    built = json.loads(run("index", "build", album / "m.jsonl", "--store", album / "i", "--model", model, "--json").out)
    assert (built["items"], len(built["left out"])) == (2, 3)
    late = run("search", album / "i", "x", "--where", "year>2020", "--model", model)
    assert late.out.split()[1] == "sub/c.png" and len(late.out.splitlines()) == 1


def test_an_index_of_another_model_is_refused(
    run: Callable[..., Result], album: Path, model: Path, tmp_path: Path, small_config: ModelConfig
):
    from latentbridge.models.checkpoint import new_model, save_model

    run("index", "build", album, "--model", model)
    save_model(new_model(small_config, 1), tmp_path / "other")
    for verb in (["search", album, "a star"], ["index", "build", album], ["index", "add", album, album / "a.png"]):
        result = run(*verb, "--model", tmp_path / "other")
        assert is_one_error_line(result) and "another model" in result.err


def test_a_folder_of_broken_pictures_has_no_index(run: Callable[..., Result], tmp_path: Path, model: Path):
    (tmp_path / "a.png").write_bytes(b"no")
    result = run("index", "build", tmp_path, "--model", model)
    assert result.code == 2 and "None of the 1 pictures" in result.err
    assert os.listdir(tmp_path) == ["a.png"]


# --- data ---


def test_data_sample_draws_a_sheet_and_says_what_is_on_it(run: Callable[..., Result], tmp_path: Path):
    out = tmp_path / "sheet.png"
    result = run("data", "sample", "shapes", "--out", out, "--count", 9, "--seed", 3)
    assert result.code == 0 and result.err == ""
    assert len(result.out.splitlines()) == 10
    # Eight columns and two rows of 64 px drawn twice as large, 8 px apart.
    assert Image.open(out).size == (8 * 136 + 8, 2 * 136 + 8)


def test_data_check_prints_a_line_a_fault(run: Callable[..., Result], picture: Path):
    manifest = picture.with_name("m.jsonl")
    good = json.dumps({"image": "in.png", "texts": ["a red wall"]})
    manifest.write_text(good + "\n")
    result = run("data", "check", manifest)
    assert (result.code, result.err) == (0, "")
    first, holds, recipes = result.out.splitlines()
    assert first == f"{manifest}: no faults" and holds == "for training: 1 with texts"
    assert recipes.startswith("recipes that take it: finetune, post-sft, ")
    manifest.write_text(f'{good}\n{{"image": "none.png", "texts": ["x"]}}\nnot json\n')
    result = run("data", "check", manifest)
    assert result.code == 2
    assert [line.split(":")[0] for line in result.out.splitlines()] == ["line 2", "line 3"]


def test_data_shards_says_what_it_wrote_and_writes_it_once(run: Callable[..., Result], picture: Path):
    manifest, out = picture.with_name("m.jsonl"), picture.with_name("shards")
    manifest.write_text(json.dumps({"image": "in.png", "texts": ["a red wall"]}) + "\n")
    result = run("data", "shards", manifest, "--out", out)
    assert (result.code, result.out) == (0, f"{out}: 1 samples in 1 shards\n")
    assert sorted(path.name for path in out.iterdir()) == ["index.json", "train-000000.tar"]
    assert is_one_error_line(run("data", "shards", manifest, "--out", out))


def test_data_embed_fills_the_store_that_runs_look_into(
    run: Callable[..., Result], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    from latentbridge.models.teachers import TEACHERS
    from latentbridge.types import EmbeddingSpace, Teacher

    class Counting(Teacher):
        """Says how much it was shown; its answers are not free."""

        space = EmbeddingSpace("counting", 2, "none")

        def embed_pictures(self, pictures):
            return np.array([[picture.sum(), 0] for picture in pictures], np.float32)

        def embed_texts(self, texts):
            return np.array([[0, len(text)] for text in texts], np.float32)

        def cost(self, pictures: int, texts) -> str:
            return f"{pictures} pictures and {len(texts)} texts cost a fortune." if pictures else ""

    monkeypatch.setenv("LATENTBRIDGE_CACHE", str(tmp_path))
    monkeypatch.setitem(TEACHERS, "counting", lambda source: Counting())
    asked = [
        "data",
        "embed",
        "--teacher",
        "counting",
        "--set",
        'stage.sources=[["shapes",1]]',
        "--set",
        "stage.items=17",
        "--json",
    ]
    first = run(*asked)
    assert first.code == 0 and "17 pictures and 17 texts cost a fortune." in first.err
    document = json.loads(first.out)
    assert document["known pairs"] == document["pairs"] == 17 and document["teacher"] == "counting"
    assert document["embeddings"] == document["new embeddings"] == 34
    assert (Path(document["store"]) / "vectors.rows").stat().st_size == 34 * 2 * 4
    again = run(*asked)
    assert json.loads(again.out)["new embeddings"] == 0 and "fortune" not in again.err
    assert "34 embeddings by counting, 0 of them new" in run(*asked[:-1]).out


# --- training ---


def test_train_leaves_a_model_that_the_other_verbs_take(run: Callable[..., Result], picture: Path):
    folder = picture.with_name("trial")
    settings = [
        "steps=1", "batch_size=2", 'stage.sources=[["shapes",1]]', "model.text_length=4",
        "model.backbone.num_layers=1", "model.backbone.vision_layers=1", "model.aligner.num_layers=1",
        "model.aligner.num_queries=4", "model.aligner.cross_layers=[0]", "model.decoder.num_layers=2",
    ]  # fmt: skip
    settings = [word for setting in settings for word in ("--set", setting)]
    result = run("train", "pretrain-decoder", "--out", folder, *settings, "--sample-every", 1)
    assert result.code == 0, result.err
    assert (folder / "samples" / "step_000001.png").exists()
    assert str(folder / "model") in result.out
    assert run("understand", picture, "--model", folder).code == 0
    assert run("report", folder).out == f"{folder / 'report.html'}\n"
    assert (folder / "report.html").exists()
    told = json.loads(run("report", folder, folder, "--out", folder / "two.html", "--json").out)
    assert [each["state"] for each in told["runs"]] == ["finished", "finished"] and Path(told["page"]).exists()


def test_a_run_on_own_data_ends_with_how_to_score_it(run: Callable[..., Result], picture: Path):
    manifest, folder = picture.with_name("m.jsonl"), picture.with_name("mine")
    question = {"image": "in.png", "question": "Who?", "answer": "me"}
    manifest.write_text(json.dumps(question) + "\n")
    settings = ("--set", "steps=1", "--set", "batch_size=4", "--set", 'stage.sources=[["shapes",1]]')
    result = run("train", "finetune", "--data", manifest, "--out", folder, *settings)
    assert result.code == 0, result.err
    assert result.out.endswith(f"; try: latentbridge eval --model {folder} --world {manifest}\n")
    manifest.write_text(json.dumps({**question, "split": "test"}) + "\n")
    (row,) = json.loads(run("eval", "--model", folder, "--world", manifest, "--json").out)["rows"]
    assert (row["metric"], row["n"], row["note"]) == ("answers, word for word", 1, "1 of 1 test lines")
    shards = picture.with_name("shards")
    run("data", "shards", manifest, "--out", shards)
    assert json.loads(run("eval", "--model", folder, "--world", shards, "--json").out)["rows"][0] == row
    assert is_one_error_line(run("eval", "--model", folder, "--world", manifest, "--size", 101))


def test_a_run_that_diverges_leaves_its_report(run: Callable[..., Result], tmp_path: Path):
    settings = [
        "steps=9",
        "batch_size=1",
        "log_every=1",
        "optim.lr=1e30",
        "optim.muon_lr=0",
        "optim.warmup_steps=0",
        "bf16=false",
    ]
    words = [word for setting in settings for word in ("--set", setting)]
    result = run("train", "pretrain-backbone", "--out", tmp_path / "wild", *words)
    assert (
        result.code == 2
        and "error: The loss of pretrain-backbone became" in result.err
        and "Traceback" not in result.err
    )
    assert "stopped" in (tmp_path / "wild" / "report.html").read_text()


# --- trouble on the way ---


def test_trouble_leaves_the_old_picture_alone(run: Callable[..., Result], picture: Path, tmp_path: Path):
    before = picture.read_bytes()
    result = run("generate", "a star", "--out", picture, "--model", tmp_path / "none")
    assert is_one_error_line(result)
    assert picture.read_bytes() == before
    assert os.listdir(tmp_path) == [picture.name]


def test_ctrl_c_is_one_line_and_exit_code_130(run: Callable[..., Result], picture: Path, model: Path):
    out = picture.with_name("walk")
    heeded = signal.signal(signal.SIGINT, signal.default_int_handler)  # a job in the background starts with it ignored
    threading.Timer(1.5, os.kill, (os.getpid(), signal.SIGINT)).start()
    try:
        result = run("loopback", picture, "--rounds", 1_000_000, "--out", out, "--model", model)
    finally:
        signal.signal(signal.SIGINT, heeded)
    assert result == Result(130, "", "interrupted\n")
    assert not out.exists()
