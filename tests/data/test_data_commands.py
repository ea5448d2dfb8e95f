"""The commands `data`, `index` and `search` over data as people have them: exit codes, sentences, other terminals."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import unicodedata
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
from PIL import Image

from latentbridge.cli import main
from latentbridge.config import ModelConfig
from latentbridge.data.drawings import catalogue

CLI = "import sys\nfrom latentbridge.cli import main\nmain(sys.argv[1:])"

WITHOUT_POSIX = """
import builtins
real = builtins.__import__
def as_on_windows(name, importer=None, *more, **named):
    if name in ("fcntl", "resource", "pwd", "grp", "termios") and (importer or {}).get("__name__", "").startswith("latentbridge"):
        raise ImportError(name)
    return real(name, importer, *more, **named)
builtins.__import__ = as_on_windows
"""


class Result(NamedTuple):
    code: int
    out: str
    err: str


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Callable[..., Result]:
    def call(*arguments: object) -> Result:
        with pytest.raises(SystemExit) as ended:
            main([str(argument) for argument in arguments])
        captured = capsys.readouterr()
        return Result(int(ended.value.code or 0), captured.out, captured.err)

    return call


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory, small_config: ModelConfig) -> Path:
    from latentbridge.models.checkpoint import new_model, save_model

    folder = tmp_path_factory.mktemp("model")
    save_model(new_model(small_config, 0), folder)
    return folder


@pytest.fixture
def album(tmp_path: Path) -> Path:
    folder = tmp_path / "album"
    folder.mkdir()
    rng = np.random.default_rng(2)
    for name in ("a.png", "b.png"):
        Image.fromarray(rng.integers(0, 256, (9, 9, 3), dtype=np.uint8)).save(folder / name)
    (folder / "broken.jpg").write_bytes(b"no")
    (folder / "film.mov").write_bytes(b"no")
    return folder


def test_what_is_left_out_is_told_by_the_exit_code_and_strict_stops(run, album: Path, model: Path):
    strict = run("index", "build", album, "--model", model, "--strict")
    assert strict.code == 2 and strict.err.splitlines()[-1].startswith("error: ") and "broken.jpg" in strict.err
    assert not (album / ".latentbridge-index").exists()
    built = run("index", "build", album, "--model", model)
    assert built.code == 3 and built.out.endswith("1 left out; passed over 1 .mov\n")
    assert run("index", "add", album, album / "broken.jpg", "--model", model).code == 3
    assert run("index", "add", album, album / "broken.jpg", "--model", model, "--strict").code == 2
    (album / "broken.jpg").unlink()
    document = run("index", "build", album, "--model", model, "--json")
    assert document.code == 0 and json.loads(document.out)["passed over"] == {".mov": 1}


def test_a_search_of_a_folder_without_all_its_pictures_says_so(run, album: Path, model: Path):
    found = run("search", album, "a star", "--model", model)
    assert found.code == 3 and len(found.out.splitlines()) == 2 and "broken.jpg" in found.err


def test_conditions_on_unknown_fields_are_told(run, album: Path, model: Path):
    index = album.with_name("index")
    run("index", "build", album, "--out", index, "--model", model, "--field", 'year="2020"', "--field", "owner=anna")

    def warning(condition: str) -> str:
        found = run("search", index, "a star", "--where", condition, "--model", model)
        assert found.code == 0
        return found.err

    assert "no item has the field 'ownr'; the index has folder, height, kind, owner, width, year." in warning(
        "ownr=anna"
    )
    assert "no item has the field 'ownr'" in warning("ownr!=anna")  # which every item meets
    assert """the field 'year' holds text, so write it as --where 'year="2020"'.""" in warning("year=2020")
    assert "the field 'width' holds number." in warning("width=wide")
    assert warning("owner=bert") == "Nothing was found.\n" and warning("owner=anna") == ""
    for condition in ("ownr!=anna", "ownr=anna"):
        refused = run("index", "delete", index, "--where", condition)
        assert refused.code == 2 and "no item has the field 'ownr'" in refused.err.lower()
    assert json.loads(run("index", "info", index, "--json").out)["items"] == 2


def test_fields_of_the_indexs_own_are_refused(run, album: Path, model: Path):
    refused = run("index", "build", album, "--model", model, "--field", "latentbridge.file=/etc/x.png")
    assert refused.code == 2 and "begins like the index's own" in refused.err


def test_items_are_named_in_either_spelling(run, tmp_path: Path, model: Path):
    composed, apart = (unicodedata.normalize(form, "café.png") for form in ("NFC", "NFD"))
    for name, color in ((apart, "red"), ("b.png", "blue")):
        Image.new("RGB", (9, 9), color).save(tmp_path / name)
    assert run("index", "build", tmp_path, "--model", model).code == 0
    for name in (composed, apart):
        assert run("search", tmp_path, "--like", name, "--model", model).out.split()[1] == "b.png"
    assert run("index", "delete", tmp_path, apart).out == "1 removed, 1 left\n"


def test_shards_and_training_go_on_without_broken_lines(run, album: Path, tmp_path: Path):
    lines = [{"image": name, "texts": [f"picture {name}"]} for name in ("a.png", "broken.jpg", "b.png")]
    manifest = album / "m.jsonl"
    manifest.write_text("\n".join(map(json.dumps, lines)))
    written = run("data", "shards", manifest, "--out", tmp_path / "s")
    assert written.code == 3 and written.out.endswith("2 samples in 1 shards, 1 left out\n")
    assert written.err.startswith("left out: ") and "line 2: broken.jpg" in written.err
    assert run("data", "shards", manifest, "--out", tmp_path / "t", "--strict").code == 2
    assert not (tmp_path / "t").exists()
    again = run("data", "shards", tmp_path / "s", "--out", tmp_path / "u")
    assert again.code == 0 and run("data", "check", tmp_path / "u").code == 0
    trained = run("train", "finetune", "--data", manifest, "--out", tmp_path / "run", "--strict")
    assert trained.code == 2 and "line 2: broken.jpg" in trained.err and not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("album/a.png", "is a picture; give a manifest"),
        ("album", "latentbridge data convert"),
        ("with_manifest", "give the manifest in it: with_manifest/m.jsonl"),
        ("with_tars", "latentbridge data shards with_tars --out NEW"),
        ("x.json", "latentbridge data convert x.json"),
        ("none", "There is no none/index.json"),
    ],
)
def test_what_is_no_manifest_is_refused_with_what_to_give(run, album: Path, monkeypatch, source: str, words: str):
    monkeypatch.chdir(album.parent)
    for name in ("with_manifest/m.jsonl", "with_tars/0.tar"):
        (album.parent / name).parent.mkdir()
        (album.parent / name).write_bytes(b"")
    (album.parent / "x.json").write_text('[{"image": "a.png"}]')
    refused = run("train", "finetune", "--data", source, "--out", "run")
    assert refused.code == 2 and words in refused.err and len(refused.err.splitlines()) == 1


def test_a_converted_file_is_a_sound_manifest(run, album: Path):
    source = album / "llava.json"
    turns = [{"from": "human", "value": "<image>\nWhat?"}, {"from": "gpt", "value": "an owl"}]
    source.write_text(json.dumps([{"image": "a.png", "conversations": turns}, {"conversations": turns}]))
    assert run("data", "convert", source, "--strict").code == 2 and not (album / "manifest.jsonl").exists()
    made = run("data", "convert", source)
    assert made.code == 3 and "1 lines, 1 samples left out" in made.out and "record 2 has no pictures" in made.err
    checked = run("data", "check", album / "manifest.jsonl")
    assert checked.code == 0 and "1 with a question" in checked.out
    assert run("data", "convert", source, "--split", "tset").code == 2


def test_fields_of_other_formats_get_the_right_name(run, album: Path):
    entries = [
        {"image": "a.png", "caption": "x"},
        {"file_name": "a.png", "texts": ["x"]},
        {"image": "a.png", "conversations": []},
    ]
    (album / "m.jsonl").write_text("\n".join(map(json.dumps, entries)))
    out = run("data", "check", album / "m.jsonl").out
    for words in (
        "'caption'; did you mean 'texts'?",
        "'file_name'; did you mean 'image'?",
        "latentbridge data convert",
    ):
        assert words in out


def test_drawings_are_built_once(run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.setenv("LATENTBRIDGE_CACHE", str(tmp_path))
    built: list[int] = []

    def build() -> catalogue.Drawings:
        built.append(1)
        (tmp_path / "drawings").mkdir(exist_ok=True)
        (tmp_path / "drawings" / "manifest.jsonl").touch()
        return load()

    def load() -> catalogue.Drawings:
        return catalogue.Drawings((), np.empty((0, 64, 64, 4), np.uint8), "")

    monkeypatch.setattr(catalogue, "build_drawings", build)
    monkeypatch.setattr(catalogue, "load_drawings", load)
    assert "there already" not in run("data", "build", "drawings").out and built == [1]
    assert "there already; --again builds them anew" in run("data", "build", "drawings").out and built == [1]
    run("data", "build", "drawings", "--again")
    assert built == [1, 1]


@pytest.mark.parametrize("encoding", ["ascii", "latin-1"])
def test_terminals_without_all_letters_get_escapes(tmp_path: Path, encoding: str):
    (tmp_path / "m.jsonl").write_text(json.dumps({"image": "猫é.png", "texts": ["x"]}))
    environment = os.environ | {"PYTHONIOENCODING": encoding}
    command = [sys.executable, "-c", CLI, "data", "check", str(tmp_path / "m.jsonl")]
    ended = subprocess.run(command, env=environment, capture_output=True, timeout=120)
    assert ended.returncode == 2 and b"line 1: there is no picture \\u732b" in ended.stdout, ended.stderr


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_full_disk_behind_the_output_is_an_error():
    with open("/dev/full", "w") as full:
        ended = subprocess.run([sys.executable, "-c", CLI, "version"], stdout=full, stderr=subprocess.PIPE, text=True)
    assert ended.returncode == 2
    assert ended.stderr == "error: Cannot write (No space left on device); free some space or choose another folder.\n"


def test_without_posix_modules_data_and_index_commands_run(album: Path, model: Path, tmp_path: Path):
    """As on Windows, where `fcntl` and `resource` are missing."""
    (album / "broken.jpg").unlink()
    code = WITHOUT_POSIX + CLI
    (album / "m.jsonl").write_text(json.dumps({"image": "a.png", "texts": ["x"]}))

    def command(*arguments: object) -> str:
        command = [sys.executable, "-c", code, *map(str, arguments)]
        ended = subprocess.run(command, capture_output=True, text=True, timeout=240)
        assert ended.returncode == 0, ended.stderr
        return ended.stdout

    assert "no faults" in command("data", "check", album / "m.jsonl")
    assert "2 pictures" in command("index", "build", album, "--model", model)
    assert len(command("search", album, "a star", "--model", model).splitlines()) == 2
    refusal = "from pathlib import Path\nfrom latentbridge.processes import folder_lock\n"
    refusal += f"with folder_lock(Path({str(tmp_path)!r})): pass"
    blocked = WITHOUT_POSIX + "import latentbridge.training.loop\n" + refusal
    ended = subprocess.run([sys.executable, "-c", blocked], capture_output=True, text=True, timeout=240)
    assert "UserError: This command shares a folder between processes by POSIX locks" in ended.stderr
