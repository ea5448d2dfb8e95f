"""Checkpoints are whole or absent, the newest good one is found, and trouble with the disk ends in one sentence."""

from __future__ import annotations

import resource
import shutil
import signal
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from tests.training.runs import run, run_until
from tests.training.test_loop import run_config

from latentbridge.config import ModelConfig, RunConfig
from latentbridge.errors import UserError
from latentbridge.files import read_json, staging_path
from latentbridge.run_folder import RunFolder
from latentbridge.training.checkpoints import newest_intact_checkpoint


@pytest.fixture(scope="module")
def config(small_config: ModelConfig) -> Iterator[RunConfig]:
    """Seven steps, and a checkpoint after two, four and six."""
    threads = torch.get_num_threads()
    yield run_config(small_config, "sft", steps=7, batch_size=2)
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def whole(config: RunConfig, tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """The weights of a run to which nothing happened."""
    return run(config, tmp_path_factory.mktemp("whole"))


@pytest.fixture(scope="module")
def cut_off(config: RunConfig, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with a checkpoint after steps 4 and 6; to be copied."""
    folder = tmp_path_factory.mktemp("cut off")
    run_until(config, folder, last=6)
    return folder


@pytest.fixture
def stopped(cut_off: Path, tmp_path: Path) -> Path:
    return shutil.copytree(cut_off, tmp_path / "stopped")


def flip(file: Path) -> None:
    """One bit in the middle, where the numbers are."""
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)


def cut_short(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-7])


def test_damage_of_any_kind_is_told_and_the_newest_good_checkpoint_goes_on(
    config: RunConfig, whole: bytes, stopped: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    kept = RunFolder(stopped).checkpoints()
    assert [folder.name for folder in kept] == ["step_0000006", "step_0000004"]
    names = sorted(file.name for file in kept[0].iterdir())
    assert len(names) == 2 and names[1] == "state.json" and names[0].endswith(".safetensors")
    damages = {
        "a flipped bit": lambda folder: flip(folder / names[0]),
        "a cut-off file": lambda folder: cut_short(folder / names[0]),
        "a missing file": lambda folder: (folder / names[0]).unlink(),
        "a folder in place of a file": lambda folder: ((folder / names[0]).unlink(), (folder / names[0]).mkdir()),
        "a cut-off list": lambda folder: cut_short(folder / "state.json"),
        "a list without checksums": lambda folder: (folder / "state.json").write_text('{"step": 6}'),
    }
    for damage, damaging in damages.items():
        shutil.copytree(stopped, tmp_path / damage)
        damaging(tmp_path / damage / "checkpoints" / "step_0000006")
        assert newest_intact_checkpoint(RunFolder(tmp_path / damage)) == RunFolder(tmp_path / damage).checkpoint(4), (
            damage
        )
        told = capsys.readouterr().err
        assert told.count("\n") == 1 and "step_0000006 is damaged" in told and "using an earlier one" in told
    went_on = run(config, tmp_path / "a flipped bit", resume=True)
    assert went_on == whole


def test_a_run_without_a_good_checkpoint_starts_over(config: RunConfig, whole: bytes, stopped: Path):
    for file in stopped.glob("checkpoints/*/*.safetensors"):
        flip(file)
    assert run(config, stopped, resume=True) == whole


def test_checkpoints_below_damaged_ones_are_kept(config: RunConfig, whole: bytes, stopped: Path):
    """A run that starts over writes lower numbers than those that are damaged, and may be cut off again."""
    for file in stopped.glob("checkpoints/*/*.safetensors"):
        flip(file)
    run_until(config, stopped, last=3, resume=True)
    kept = RunFolder(stopped)
    assert newest_intact_checkpoint(kept) == kept.checkpoint(2)
    assert run(config, stopped, resume=True) == whole


def test_what_a_killed_writer_left_is_not_taken_for_a_checkpoint(config: RunConfig, whole: bytes, stopped: Path):
    kept = RunFolder(stopped)
    kept.checkpoint(6).rename(staging_path(kept.checkpoint(6)))
    assert newest_intact_checkpoint(kept) == kept.checkpoint(4)
    assert run(config, stopped, resume=True) == whole
    assert not (stopped / "checkpoints").exists()


def test_a_checkpoint_holds_every_tensor_once_and_its_files_checksums(cut_off: Path):
    folder = RunFolder(cut_off).checkpoint(4)
    state = read_json(folder / "state.json")
    (name,) = state["sha256"]
    assert state["step"] == 4
    with safe_open(folder / name, "pt") as file:
        names = list(file.keys())
    assert {each.partition(".")[0] for each in names} == {"objective", "average", "optimizer_0", "optimizer_1"}
    assert sum("embed_tokens.weight" in each for each in names if each.startswith("objective")) == 1
    assert not [each for each in names if each.endswith("lm_head.weight")], "tied to the embeddings"


# --- trouble with the disk -----------------------------------------------------------------------


@pytest.fixture
def full_disk(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """No disk is filled: this process may not write files above 100 kB, which fails in the same system call."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE), signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, before[0][1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, before[0])
    signal.signal(signal.SIGXFSZ, before[1])


def test_a_full_disk_is_one_sentence_and_the_run_goes_on_once_there_is_room(
    config: RunConfig, whole: bytes, stopped: Path, tmp_path: Path, request: pytest.FixtureRequest
):
    shutil.rmtree(RunFolder(stopped).checkpoint(6))
    request.getfixturevalue("full_disk")
    with pytest.raises(UserError, match=r"^Cannot write .*step_0000006 \(File too large\); free some space") as trouble:
        run(config, stopped, resume=True)
    assert "\n" not in str(trouble.value)
    assert [path.name for path in (stopped / "checkpoints").iterdir()] == ["step_0000004"]
    with pytest.raises(UserError, match="^Cannot write .*File too large"):
        run(replace(config, checkpoint_every=100), tmp_path / "other")
    assert not (tmp_path / "other" / "model" / "config.json").exists()
    hard = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
    resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
    assert run(config, stopped, resume=True) == whole


def test_a_file_where_checkpoints_belong_is_named(config: RunConfig, whole: bytes, tmp_path: Path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "checkpoints").write_text("in the way")
    with pytest.raises(UserError, match="^Cannot write to .*checkpoints .*choose a folder"):
        run(config, tmp_path / "run")
    (tmp_path / "run" / "checkpoints").unlink()
    assert run(config, tmp_path / "run", resume=True) == whole


def test_a_file_where_the_model_belongs_is_named(config: RunConfig, whole: bytes, stopped: Path):
    (stopped / "model").write_text("in the way")
    with pytest.raises(UserError, match="^Cannot write to .*model"):
        run(config, stopped, resume=True)
    (stopped / "model").unlink()
    assert run(config, stopped, resume=True) == whole
