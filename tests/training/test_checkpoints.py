"""Atomic checkpoints, detection of damage, and disk errors."""

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
    """Return a run of seven steps with checkpoints after two, four and six."""
    threads = torch.get_num_threads()
    yield run_config(small_config, "sft", steps=7, batch_size=2)
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def whole(config: RunConfig, tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """Return the weights of an uninterrupted run."""
    return run(config, tmp_path_factory.mktemp("whole"))


@pytest.fixture(scope="module")
def cut_off(config: RunConfig, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with checkpoints after steps 4 and 6; tests copy it."""
    folder = tmp_path_factory.mktemp("cut off")
    run_until(config, folder, last=6)
    return folder


@pytest.fixture
def stopped(cut_off: Path, tmp_path: Path) -> Path:
    return shutil.copytree(cut_off, tmp_path / "stopped")


def flip(file: Path) -> None:
    """Flip one bit in the middle of a file."""
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)


def cut_short(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-7])


def test_any_damage_is_reported_and_the_newest_intact_checkpoint_resumes(
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
        message = capsys.readouterr().err
        assert message.count("\n") == 1 and "step_0000006 is damaged" in message and "using an earlier one" in message
    resumed = run(config, tmp_path / "a flipped bit", resume=True)
    assert resumed == whole


def test_a_run_without_an_intact_checkpoint_starts_over(config: RunConfig, whole: bytes, stopped: Path):
    for file in stopped.glob("checkpoints/*/*.safetensors"):
        flip(file)
    assert run(config, stopped, resume=True) == whole


def test_checkpoints_before_damaged_ones_are_kept(config: RunConfig, whole: bytes, stopped: Path):
    """A run that starts over writes checkpoints of lower steps than the damaged ones, and may be interrupted again."""
    for file in stopped.glob("checkpoints/*/*.safetensors"):
        flip(file)
    run_until(config, stopped, last=3, resume=True)
    kept = RunFolder(stopped)
    assert newest_intact_checkpoint(kept) == kept.checkpoint(2)
    assert run(config, stopped, resume=True) == whole


def test_an_incomplete_checkpoint_is_ignored(config: RunConfig, whole: bytes, stopped: Path):
    kept = RunFolder(stopped)
    kept.checkpoint(6).rename(staging_path(kept.checkpoint(6)))
    assert newest_intact_checkpoint(kept) == kept.checkpoint(4)
    assert run(config, stopped, resume=True) == whole
    assert not (stopped / "checkpoints").exists()


def test_a_checkpoint_has_every_tensor_once_and_checksums(cut_off: Path):
    folder = RunFolder(cut_off).checkpoint(4)
    state = read_json(folder / "state.json")
    (name,) = state["sha256"]
    assert state["step"] == 4
    with safe_open(folder / name, "pt") as file:
        keys = list(file.keys())
    assert {key.partition(".")[0] for key in keys} == {"objective", "average", "optimizer_0", "optimizer_1"}
    assert sum("embed_tokens.weight" in key for key in keys if key.startswith("objective")) == 1
    assert not [key for key in keys if key.endswith("lm_head.weight")], "tied to the embeddings"


# --- disk errors -----------------------------------------------------------------------


@pytest.fixture
def full_disk(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Limit files of this process to 100 kB, which fails in the same system call as a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE), signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, before[0][1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, before[0])
    signal.signal(signal.SIGXFSZ, before[1])


def test_a_full_disk_is_an_error_and_the_run_can_be_resumed(
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


def test_a_file_in_place_of_the_checkpoints_folder_is_an_error(config: RunConfig, whole: bytes, tmp_path: Path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "checkpoints").write_text("in the way")
    with pytest.raises(UserError, match="^Cannot write to .*checkpoints .*choose a folder"):
        run(config, tmp_path / "run")
    (tmp_path / "run" / "checkpoints").unlink()
    assert run(config, tmp_path / "run", resume=True) == whole


def test_a_file_in_place_of_the_model_folder_is_an_error(config: RunConfig, whole: bytes, stopped: Path):
    (stopped / "model").write_text("in the way")
    with pytest.raises(UserError, match="^Cannot write to .*model"):
        run(config, stopped, resume=True)
    (stopped / "model").unlink()
    assert run(config, stopped, resume=True) == whole
