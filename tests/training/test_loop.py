from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from tests.training.runs import run, run_until

from latentbridge.config import (
    AlignConfig,
    FinetuneConfig,
    GrpoConfig,
    LatentUMMConfig,
    ModelConfig,
    OptimConfig,
    PostTrainSftConfig,
    PretrainBackboneConfig,
    PretrainDecoderConfig,
    RecaConfig,
    RunConfig,
    SftConfig,
    StepGrpoConfig,
    UniCotConfig,
    UniGameConfig,
    to_dict,
)
from latentbridge.errors import UserError
from latentbridge.files import read_json
from latentbridge.models.adapters import attach_adapter, merge_adapter
from latentbridge.models.checkpoint import load_model, new_model, unique_state
from latentbridge.rng import numpy_rng
from latentbridge.run_folder import RunFolder
from latentbridge.training.loop import train
from latentbridge.training.stages import STAGES, make_stage

POST: dict[str, Any] = {"items": 8, "roundtrip_steps": 1}
LATENTUMM = LatentUMMConfig(**POST, rollouts=2)
STAGE_CONFIGS = {
    "pretrain_decoder": PretrainDecoderConfig(),
    "pretrain_backbone": PretrainBackboneConfig(),
    "sft": SftConfig(),
    "sft with lora": SftConfig(lora_rank=2),
    "finetune": FinetuneConfig(retrieval_weight=0.1, packed=True),
    "adaption": AlignConfig(kind="adaption", items=16),
    "step_grpo": StepGrpoConfig(grpo=GrpoConfig(generations=2, max_tokens=5)),
    "align": AlignConfig(items=16, diffusion_weight=0.1, retrieval_weight=0.1),
    "posttrain_sft": PostTrainSftConfig(**POST),
    "reca": RecaConfig(**POST),
    "unigame": UniGameConfig(**POST),
    "unicot": UniCotConfig(**POST),
    "latentumm": LATENTUMM,
    "latentumm as released": replace(LATENTUMM, objective="reference"),
}
UNIFIED = ("backbone.", "projector.", "aligner.", "decoder.")
MOVES = {
    "pretrain_decoder": (
        "decoder.",
        "text_encoder.",
        "autoencoder.",
    ),  # the autoencoder is fitted before the first step
    "pretrain_backbone": ("backbone.",),
    "sft": ("backbone.",),
    "sft with lora": ("backbone.model.model.language_model.layers.",),
    "finetune": ("backbone.",),
    "adaption": ("projector.", "aligner."),
    "step_grpo": ("backbone.",),
    "align": ("projector.", "aligner.", "retrieval."),
    "posttrain_sft": UNIFIED,
    "reca": UNIFIED,
    "unigame": UNIFIED,
    "unicot": UNIFIED,
    "latentumm": UNIFIED,
    "latentumm as released": UNIFIED,
}
kinds = pytest.mark.parametrize("kind", STAGE_CONFIGS)


@pytest.fixture(autouse=True)
def restore_threads_and_use_a_temporary_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("LATENTBRIDGE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("latentbridge.training.stages.posttrain._HELD_OUT_PAIRS", 3)
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def quick_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fit autoencoders to few images; 3,000 take seconds."""
    monkeypatch.setattr("latentbridge.training.fits.autoencoder._FIT_PICTURES", 64)


def run_config(small_config: ModelConfig, kind: str, **changes: Any) -> RunConfig:
    run = RunConfig(
        name=kind,
        stage=STAGE_CONFIGS[kind],
        steps=6,
        batch_size=4,
        model=small_config,
        optim=OptimConfig(warmup_steps=1),
        bf16=False,
        log_every=1,
        checkpoint_every=2,
        threads=1,
    )
    return replace(run, **changes)


def test_every_stage_is_tested_here():
    # the others in test_native.py and test_scene_teacher.py
    elsewhere = {"pretrain_squares", "pretrain_codes", "pretrain_unified", "pretrain_teacher"}
    assert {stage.kind for stage in STAGE_CONFIGS.values()} == STAGES.keys() - elsewhere


# --- trained parameters ----------------------------------------------------------------------------------


@kinds
def test_an_interrupted_run_ends_bitwise_equal_and_only_the_stages_parameters_change(
    small_config, tmp_path, quick_fit, kind
):
    config = run_config(small_config, kind)
    whole = run(config, tmp_path / "whole")
    run_until(config, tmp_path / "stopped", last=5)
    assert RunFolder(tmp_path / "stopped").newest_checkpoint() == tmp_path / "stopped" / "checkpoints" / "step_0000004"
    assert run(config, tmp_path / "stopped", resume=True) == whole
    assert [record["step"] for record in RunFolder(tmp_path / "stopped").metrics()] == [1, 2, 3, 4, 5, 6]
    assert not (tmp_path / "stopped" / "checkpoints").exists()

    before = unique_state(new_model(small_config, config.seed))
    after = unique_state(load_model(tmp_path / "whole"))
    assert before.keys() == after.keys()
    moved = {name for name in before if not torch.equal(before[name], after[name])}
    assert {prefix for prefix in MOVES[kind] if any(name.startswith(prefix) for name in moved)} == set(MOVES[kind])
    assert not [name for name in moved if not name.startswith(MOVES[kind])]


def test_bfloat16_is_used_if_fast_and_recorded(small_config, tmp_path, monkeypatch, capsys):
    weights = {}
    for fast in (False, True):
        for module in ("learner", "loop"):
            monkeypatch.setattr(f"latentbridge.training.{module}.has_fast_bfloat16", lambda device, fast=fast: fast)
        weights[fast] = run(run_config(small_config, "sft", bf16=True, steps=2), tmp_path / str(fast))
        assert read_json(RunFolder(tmp_path / str(fast)).environment)["bfloat16"] is fast
    monkeypatch.setattr("latentbridge.training.learner.has_fast_bfloat16", lambda device: False)
    assert weights[False] == run(run_config(small_config, "sft", steps=2), tmp_path / "float32") != weights[True]
    assert capsys.readouterr().err == ""


def test_resuming_with_another_precision_warns(small_config, tmp_path, monkeypatch, capsys):
    config = run_config(small_config, "sft")
    monkeypatch.setattr("latentbridge.training.loop.has_fast_bfloat16", lambda device: True)
    run_until(config, tmp_path / "run", last=3)
    assert capsys.readouterr().err == ""
    monkeypatch.setattr("latentbridge.training.loop.has_fast_bfloat16", lambda device: False)
    run(config, tmp_path / "run", resume=True)
    message = capsys.readouterr().err
    assert message.count("\n") == 1 and "fast, and here they are slow: its weights will differ by rounding" in message


def test_threads_default_to_idle_cores_and_are_kept_on_resume(small_config, tmp_path, monkeypatch):
    torch.set_num_threads(2)
    config = run_config(small_config, "sft", threads=0)
    for idle, resume in ((1, False), (2, True)):
        monkeypatch.setattr("latentbridge.training.loop.idle_cores", lambda idle=idle: idle)
        if resume:
            run(config, tmp_path / "run", resume=True)
        else:
            run_until(config, tmp_path / "run", last=3)
        assert torch.get_num_threads() == read_json(RunFolder(tmp_path / "run").environment)["threads"] == 1


def test_a_bfloat16_run_interrupted_after_a_checkpoint_ends_bitwise_equal(small_config, tmp_path, monkeypatch):
    monkeypatch.setattr("latentbridge.training.learner.has_fast_bfloat16", lambda device: True)
    config = run_config(small_config, "sft", bf16=True)
    whole = run(config, tmp_path / "whole")
    run_until(config, tmp_path / "stopped", last=4)
    assert run(config, tmp_path / "stopped", resume=True) == whole
    assert run(run_config(small_config, "sft"), tmp_path / "float32") != whole


def test_a_run_interrupted_before_its_first_checkpoint_starts_over(small_config, tmp_path):
    config = run_config(small_config, "sft")
    run_until(config, tmp_path / "stopped", last=1)
    assert run(config, tmp_path / "stopped", resume=True) == run(config, tmp_path / "whole")


def test_a_run_depends_on_the_seed_only(small_config, tmp_path):
    config = run_config(small_config, "sft", steps=2)
    assert run(config, tmp_path / "a") == run(config, tmp_path / "b")
    assert run(replace(config, seed=1), tmp_path / "c") != run(config, tmp_path / "d")


def test_init_loads_the_named_parts(small_config, tmp_path):
    run(run_config(small_config, "sft", steps=2), tmp_path / "first")
    config = run_config(small_config, "align", steps=1, init=(("backbone.", str(tmp_path / "first")),))
    run(config, tmp_path / "second")
    first, second = (load_file(tmp_path / name / "model" / "model.safetensors") for name in ("first", "second"))
    backbone = [name for name in first if name.startswith("backbone.")]
    assert backbone and all(torch.equal(first[name], second[name]) for name in backbone)


def test_init_loads_the_shipped_model_by_name(small_config, tmp_path):
    config = run_config(small_config, "sft", init=(("", "tiny"),))
    with pytest.raises(UserError, match="assets/tiny/model.safetensors does not fit this model"):
        run(config, tmp_path / "run")


def test_a_missing_init_run_is_an_error_and_leaves_no_folder(small_config, tmp_path):
    config = run_config(small_config, "sft", steps=1, init=(("backbone.", "first"),))
    with pytest.raises(UserError, match="latentbridge train first --out .*first"):
        train(config, make_stage(config), tmp_path / "second", progress=False)
    assert not (tmp_path / "second").exists()


@pytest.mark.parametrize(("kind", "part"), [("align", "aligner."), ("pretrain_decoder", "autoencoder.")])
def test_inherited_parts_are_not_initialized_again(small_config, quick_fit, kind, part):
    for init, kept in (((), False), (((part, "x"),), True), ((("", "x"),), True), ((("backbone.", "x"),), False)):
        model, fresh = new_model(small_config, 0), unique_state(new_model(small_config, 0))
        make_stage(run_config(small_config, kind, init=init)).prepare(model)
        state = unique_state(model)
        assert all(torch.equal(state[name], fresh[name]) for name in state if name.startswith(part)) == kept


def test_decoder_pretraining_trains_decoder_and_text_encoder_only(small_config, tmp_path, quick_fit):
    run(run_config(small_config, "pretrain_decoder", steps=2), tmp_path)
    before, after = unique_state(new_model(small_config, 0)), unique_state(load_model(tmp_path))
    moved = {name.partition(".")[0] for name in before if not torch.equal(before[name], after[name])}
    assert moved == {"decoder", "text_encoder", "autoencoder"}


# --- LoRA ----------------------------------------------------------------------------------------

adapted = pytest.mark.parametrize("kind", ["sft", "posttrain_sft", "latentumm"])


@adapted
def test_only_the_adapter_is_trained_and_it_is_saved_beside_the_model(kind, small_config, tmp_path):
    config = run_config(small_config, kind, steps=2)
    config = replace(config, stage=replace(config.stage, lora_rank=2))
    run(config, tmp_path)
    before, after = unique_state(new_model(small_config, 0)), unique_state(load_model(tmp_path))
    moved = {name for name in before if not torch.equal(before[name], after[name])}
    assert moved and all(name.startswith("backbone.model.model.language_model.layers.") for name in moved)
    model = new_model(small_config, 0)
    attach_adapter(model, tmp_path / "adapter")
    merge_adapter(model)
    assert all(torch.equal(tensor, after[name]) for name, tensor in unique_state(model).items())


@pytest.mark.parametrize("kind", ["align", "pretrain_decoder"])
def test_an_adapter_without_a_trained_language_model_is_an_error(kind, small_config, tmp_path, quick_fit):
    config = run_config(small_config, kind)
    with pytest.raises(UserError, match="no language model.*lora_rank=0"):
        run(replace(config, stage=replace(config.stage, lora_rank=2)), tmp_path)


# --- errors -----------------------------------------------------------------------------


def test_a_nonfinite_loss_stops_the_run(small_config, tmp_path):
    config = run_config(small_config, "sft", optim=OptimConfig(lr=1e30, muon_lr=0.0, warmup_steps=1))
    with pytest.raises(UserError, match="loss of sft became .*lower optim.lr"):
        run(config, tmp_path)
    assert not (tmp_path / "model").exists()


def test_a_run_is_neither_resumed_with_other_settings_nor_overwritten(small_config, tmp_path):
    config = run_config(small_config, "sft")
    run_until(config, tmp_path, last=3)
    changed = replace(config, batch_size=5, optim=replace(config.optim, lr=0.5))
    old_rate = config.optim.lr
    words = (
        rf"other settings: batch_size was {config.batch_size} and is now 5; optim.lr was {old_rate} and is now 0.5; "
    )
    with pytest.raises(UserError, match=words):
        run(changed, tmp_path, resume=True)
    with pytest.raises(UserError, match="already holds a run"):
        run(config, tmp_path)
    weights = run(config, tmp_path, resume=True)
    with pytest.raises(UserError, match="already holds a run"):
        run(config, tmp_path)
    lines = (tmp_path / "metrics.jsonl").read_text()
    assert run(config, tmp_path, resume=True) == weights
    assert (tmp_path / "metrics.jsonl").read_text() == lines
    with pytest.raises(UserError, match=rf"finished after its {config.steps} steps .* another folder"):
        run(replace(config, steps=config.steps + 1), tmp_path, resume=True)


def test_the_steps_of_an_unfinished_run_may_only_grow(small_config, tmp_path):
    config = run_config(small_config, "sft")
    run_until(config, tmp_path, last=3)
    with pytest.raises(
        UserError, match=rf"steps was {config.steps} and is now {config.steps - 1} \(steps may only grow"
    ):
        run(replace(config, steps=config.steps - 1), tmp_path, resume=True)
    run(replace(config, steps=config.steps + 2), tmp_path, resume=True)
    assert RunFolder(tmp_path).metrics()[-1]["step"] == config.steps + 2


def test_a_full_disk_is_named_where_metrics_are_written(tmp_path, monkeypatch):
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "open", full)
    with pytest.raises(UserError, match=r"Cannot write .*metrics.jsonl \(No space left on device\); free some space"):
        RunFolder(tmp_path).log({"step": 1})


def test_two_checkpoints_are_kept(small_config, tmp_path):
    config = run_config(small_config, "sft", checkpoint_every=1)
    run_until(config, tmp_path, last=5)
    assert sorted(path.name for path in (tmp_path / "checkpoints").iterdir()) == ["step_0000004", "step_0000005"]


# --- alignment's cache ---------------------------------------------------------------------------


def test_runs_that_differ_in_losses_only_share_features(small_config, tmp_path):
    stores = tmp_path / "cache" / "features"
    config = run_config(small_config, "align", steps=1)
    run(config, tmp_path / "a")
    run(replace(config, stage=replace(config.stage, beta_schedule="none", diffusion_weight=0.0)), tmp_path / "b")
    assert len(list(stores.iterdir())) == 1
    run(replace(config, seed=1), tmp_path / "c")
    other_prompt = replace(small_config, backbone=replace(small_config.backbone, system_prompt="Be kind."))
    run(replace(config, model=other_prompt), tmp_path / "d")
    assert len(list(stores.iterdir())) == 3


def test_a_batch_larger_than_the_alignment_set_is_an_error(small_config):
    with pytest.raises(UserError, match="batch_size"):
        make_stage(run_config(small_config, "align", batch_size=17))


def test_an_epoch_of_alignment_sees_every_item_once(small_config, tmp_path):
    config = run_config(small_config, "align")
    stage: Any = make_stage(config)
    model = new_model(small_config, 0)
    stage.setup(model)
    for epoch in range(2):
        seen = [stage.batch(model, 4 * epoch + step).image_latents for step in range(4)]
        assert len(torch.cat(seen).flatten(1).unique(dim=0)) == 16
    batch = stage.batch(model, 2)
    assert batch.progress == pytest.approx(2 / 6)
    assert batch.draw.shape[:2] == batch.draw_mask.shape and batch.image.shape == (4, 16, 32)
    assert (batch.target - model.text_encoder(input_ids=batch.target_ids).last_hidden_state).abs().max() < 1e-2


# --- killed processes ----------------------------------------------------------------------------

_PROGRAM = """
import json, sys
from pathlib import Path
from latentbridge.config import RunConfig, from_dict
from latentbridge.training.loop import train
from latentbridge.training.stages import make_stage
config = from_dict(RunConfig, json.loads(sys.argv[1]))
train(config, make_stage(config), Path(sys.argv[2]), resume=True, progress=False)
"""


def run_and_kill(config: RunConfig, folder: Path, awaited: Path, lines: int = 0) -> None:
    """Start a run in a process and kill it when a file exists and has `lines` lines."""
    process = subprocess.Popen([sys.executable, "-c", _PROGRAM, json.dumps(to_dict(config)), str(folder)])
    try:
        while not (awaited.exists() and awaited.read_bytes().count(b"\n") >= lines):
            assert process.poll() is None, "the run ended before it could be killed"
            time.sleep(0.002)
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert process.returncode == -signal.SIGKILL


@pytest.mark.timeout(900)  # another interpreter that imports torch, perhaps on a busy machine
def test_a_killed_run_ends_bitwise_equal(small_config, tmp_path):
    config = run_config(small_config, "sft", steps=30, checkpoint_every=3)
    run_and_kill(config, tmp_path / "killed", tmp_path / "killed" / "metrics.jsonl", lines=8)
    assert RunFolder(tmp_path / "killed").newest_checkpoint()
    assert run(config, tmp_path / "killed", resume=True) == run(config, tmp_path / "whole")


@pytest.mark.slow
@pytest.mark.timeout(1800)
@kinds
def test_a_run_killed_twice_ends_bitwise_equal(small_config, tmp_path, kind):
    config = run_config(small_config, kind, steps=40, checkpoint_every=5)
    killed = tmp_path / "killed"
    run_and_kill(config, killed, killed / "checkpoints" / "step_0000010" / "state.json")
    lines = int(numpy_rng(os.getpid(), "kill").integers(15, 36))
    run_and_kill(config, killed, killed / "metrics.jsonl", lines=lines)
    assert run(config, killed, resume=True) == run(config, tmp_path / "whole"), f"killed after {lines} lines"
