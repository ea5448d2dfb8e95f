"""Training and inference on other devices: a fake device everywhere, and the machine's accelerator if it has one.

The fake device (`tests/pretend_device.py`) is registered in a separate process, which runs every stage and writes the
results to a file that the tests read.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import traceback
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tests import pretend_device
from tests.conftest import keep_sizes
from tests.training.runs import run, run_until
from tests.training.test_native import CONFIGS
from tests.training.test_parallel import (
    FAST,
    OTHERS,
    POSTTRAINED,
    SAME_LOSS,
    SAME_WEIGHTS,
    SLOW,
    TIMES,
    distance,
    make_quick,
    run_config,
    start_of,
    weights,
)

import latentbridge as lb
from latentbridge.config import FinetuneConfig, ModelConfig, RunConfig, from_dict, to_dict
from latentbridge.devices import CPU, device_of, resolve_device, to_device
from latentbridge.errors import UserError
from latentbridge.files import read_json, write_json
from latentbridge.models.backbones.loading import starting_network
from latentbridge.models.checkpoint import load_model, new_model, save_model, unique_state
from latentbridge.models.omnibridge.modeling_omnibridge import OmniBridge
from latentbridge.models.options import ReplyOptions
from latentbridge.models.qwen_vl.batch import TokenBatch
from latentbridge.models.qwen_vl.continuous_batching import ContinuousBatch, SamplingParams
from latentbridge.models.qwen_vl.modeling_qwen_vl import QwenVL
from latentbridge.models.qwen_vl.sampling import Replies
from latentbridge.rng import torch_rng
from latentbridge.run_folder import RunFolder
from latentbridge.training.learner import Learner
from latentbridge.training.rollouts import Rollouts
from latentbridge.training.stages import STAGES, make_stage
from latentbridge.training.stages.align import Align
from latentbridge.training.stages.pretrain_decoder import DrawBatch
from latentbridge.types import Conversation

ROOT = Path(__file__).parents[2]
ALL_STAGES = {name: stage for name, stage in (FAST | SLOW | POSTTRAINED | OTHERS).items() if "bfloat16" not in name}
ALL_STAGES["finetune"] = FinetuneConfig(retrieval_weight=0.1)  # which knows no ranks
QUICK = ("align", "step_grpo", "pretrain_unified harmon")
STEPS = 2
SKILLS = ["understand", "generate", "edit", "embed", "slots"]
SKILLS += [f"{kind} {skill}" for kind in CONFIGS for skill in ("understand", "generate")]


class CpuTensorAlign(Align):
    """An alignment stage with a bug: its loss creates a tensor on the CPU instead of the model's device."""

    def loss(self, model: Any, batch: Any, rng: Any, heads: Any) -> Any:
        weights = torch.ones(len(batch.target), 1, 1)
        return super().loss(model, replace(batch, target=batch.target * weights), rng, heads)


# --- what happens in the process with the fake device ----------------------------------------


def steps(config: RunConfig, home_folder: Path, device: torch.device, stage: Any = None) -> dict[str, Any]:
    """Return the metrics of some steps, the held-out metrics, and the sum of absolute final weights."""
    stage = stage or make_stage(config)
    stage.runs = home_folder
    model = starting_network(config.model, config.seed, [(part, home_folder / source) for part, source in config.init])
    learner = Learner(model, stage, config, RunFolder(home_folder / "run"), None, device)
    assert device_of(learner.objective).type == device.type
    losses = []
    for step in range(STEPS):
        losses.append(learner.train_step(stage.batch(model, step), logged=True))
    measures = learner.check()
    learner.finish()
    total = sum(float(tensor.double().abs().sum()) for tensor in unique_state(model).values())
    return {"losses": losses, "measures": measures, "weights": total}


def result_or_error(call: Callable[[], Any]) -> Any:
    """Return the result of a call, or the end of its traceback."""
    try:
        return call()
    except Exception as error:
        where = "".join(traceback.format_tb(error.__traceback__)[-5:])
        return f"{where}{type(error).__name__}: {str(error)[:400]}"


def skills(device: str) -> dict[str, Any]:
    """Return results of the shipped model and of a small one of each other kind on a device, as plain values."""
    model: Any = lb.load("tiny", device=device)
    picture = np.full((64, 64, 3), 255, np.uint8)
    picture[20:44, 20:44] = (255, 0, 0)
    calls: dict[str, Callable[[], Any]] = {
        "understand": lambda: model.understand(picture, max_tokens=9),
        "generate": lambda: model.generate("a red circle", seed=7, steps=2).picture.tolist(),
        "edit": lambda: model.edit(picture, "make the square blue", seed=7, steps=2).picture.tolist(),
        "embed": lambda: [model.embed(images=picture).tolist(), model.embed(texts="a red square").tolist()],
        "slots": lambda: slot_tokens(model.backbone),
    }
    for kind, sizes in CONFIGS.items():
        network: Any = new_model(sizes, seed=0)
        keep_sizes(network, torch_rng(0, "small"))
        network.to(device_of(model))
        network.reply_options = replace(network.reply_options, max_tokens=3)
        network.drawing_options = replace(network.drawing_options, steps=3)
        calls[f"{kind} understand"] = lambda network=network: network.understand([picture], ["Is there a star?"])[0]
        calls[f"{kind} generate"] = lambda network=network: network.draw_descriptions(["a red circle"], [5])[0].tolist()
    return {name: result_or_error(call) for name, call in calls.items()}


def slot_tokens(backbone: QwenVL) -> list[int]:
    """Return the first tokens of a reply generated in a slot."""
    slots = ContinuousBatch(backbone, count=2, length=64)
    prompt = slots.tokenize(Conversation((("What is there?", ""),)))
    (slot,) = slots.add([prompt], [SamplingParams(ReplyOptions(temperature=0.7), torch_rng(3, "reply"))])
    return [slots.step()[slot] for _ in range(5)]


def resumed(config: RunConfig, folder: Path) -> bool:
    """Return whether an interrupted run ends bitwise equal on the device; another is resumed on the CPU."""
    whole = run(config, folder / "whole")
    run_until(config, folder / "cut", last=3)
    shutil.copytree(folder / "cut", folder / "elsewhere")
    run(replace(config, device="cpu"), folder / "elsewhere", resume=True)
    return run(config, folder / "cut", resume=True) == whole


def work(folder: Path) -> None:
    """Run every config of `runs.json` on the device and on the CPU."""
    runs = {name: from_dict(RunConfig, values) for name, values in read_json(folder / "runs.json").items()}
    torch.set_num_threads(1)
    results: dict[str, Any] = {}
    with pytest.MonkeyPatch.context() as patch:
        make_quick(patch)
        computes = pretend_device.begin()
        on_device = resolve_device("auto")
        for place in (CPU, on_device):
            patch.setenv("LATENTBRIDGE_CACHE", str(folder / f"cache of {place.type}"))
            with nullcontext() if place == CPU else computes:
                for name, config in runs.items():
                    results[f"{name} {place.type}"] = result_or_error(partial(steps, config, folder / name, place))
                if "align" not in runs:
                    results[f"skills {place.type}"] = result_or_error(partial(skills, place.type))
        if config := runs.get("align"):
            with computes:
                sft = replace(config, name="sft", stage=FAST["sft"])
                results["resumed"] = result_or_error(partial(resumed, sft, folder / "sft"))
                results["cpu tensor"] = result_or_error(
                    partial(steps, config, folder, on_device, CpuTensorAlign(config))
                )
            results["auto"] = str(on_device)
            results["cuda"] = result_or_error(partial(resolve_device, "cuda"))
            patch.setenv("LOCAL_RANK", "1")
            results["local rank 1"] = result_or_error(partial(resolve_device, "auto"))
    write_json(folder / "results.json", results)


# --- in the process of the tests ---------------------------------------------------------------------------


def run_in_subprocess(folder: Path, configs: dict[str, RunConfig], small_model: OmniBridge) -> dict[str, Any]:
    for name, config in configs.items():
        if config.init:
            save_model(start_of(config, small_model), RunFolder(folder / name / "start").model)
    write_json(folder / "runs.json", {name: to_dict(config) for name, config in configs.items()})
    command = [sys.executable, "-m", "tests.training.test_devices", str(folder)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-4000:]
    return {**read_json(folder / "results.json"), "folder": folder}


@pytest.fixture(scope="module")
def results(
    tmp_path_factory: pytest.TempPathFactory, small_config: ModelConfig, small_model: OmniBridge
) -> dict[str, Any]:
    configs = {name: run_config(small_config, name, ALL_STAGES[name]) for name in QUICK}
    return run_in_subprocess(tmp_path_factory.mktemp("devices"), configs, small_model)


@pytest.fixture(scope="module")
def more_results(
    tmp_path_factory: pytest.TempPathFactory, small_config: ModelConfig, small_model: OmniBridge
) -> dict[str, Any]:
    rest = {name: stage for name, stage in ALL_STAGES.items() if name not in QUICK}
    configs = {name: run_config(small_config, name, stage) for name, stage in rest.items()}
    return run_in_subprocess(tmp_path_factory.mktemp("more devices"), configs, small_model)


def check(results: dict[str, Any], name: str) -> None:
    """Compare results; the fake device uses other CPU kernels, and differences in noise would be visible from the first step."""
    on_cpu, on_device = results[f"{name} cpu"], results[f"{name} pretend"]
    assert isinstance(on_cpu, dict), on_cpu
    assert isinstance(on_device, dict), on_device
    rows = [[*result["losses"], result["measures"]] for result in (on_cpu, on_device)]
    for expected, row in zip(*([flat(row) for row in result] for result in rows), strict=True):
        assert row == pytest.approx(expected, rel=SAME_LOSS, abs=SAME_LOSS)
    assert on_device["weights"] == pytest.approx(on_cpu["weights"], rel=1e-4)


def flat(row: Any) -> dict[str, float]:
    """Return the metrics of one step without times."""
    parts = row if isinstance(row, dict) else row[0] | row[1]
    return {name: value for name, value in parts.items() if name not in TIMES}


@pytest.mark.parametrize("name", QUICK)
def test_a_stage_trains_on_another_device_as_on_the_cpu(results: dict[str, Any], name: str):
    check(results, name)


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("name", [name for name in ALL_STAGES if name not in QUICK])
def test_more_stages_train_on_another_device_as_on_the_cpu(more_results: dict[str, Any], name: str):
    check(more_results, name)


def test_every_stage_is_tested():
    assert {stage.kind for stage in ALL_STAGES.values()} == STAGES.keys()


def test_a_tensor_left_on_the_cpu_is_noticed(results: dict[str, Any]):
    assert "MixedDevices" in results["cpu tensor"]


def test_a_run_resumes_bitwise_on_its_device_and_on_the_cpu(results: dict[str, Any]):
    assert results["resumed"] is True, results["resumed"]
    folder = results["folder"] / "sft"
    assert read_json(folder / "whole" / "environment.json")["device"] == "pretend:0"
    whole, elsewhere = weights(folder / "whole"), weights(folder / "elsewhere")
    config = from_dict(RunConfig, read_json(folder / "whole" / "config.json"))
    update_norm = distance(whole, unique_state(new_model(config.model, config.seed)))
    assert distance(whole, elsewhere) < SAME_WEIGHTS * update_norm


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("skill", SKILLS)
def test_models_give_the_same_results_on_another_device(more_results: dict[str, Any], skill: str):
    alike(more_results["skills cpu"][skill], more_results["skills pretend"][skill], 1e-3)


def alike(on_cpu: Any, on_device: Any, apart: float) -> None:
    """Assert that texts are equal, and pixels and embeddings close on average."""
    if isinstance(on_cpu, str):
        assert on_device == on_cpu
    else:
        assert np.abs(np.subtract(on_device, on_cpu)).mean() < apart


def test_local_rank_selects_the_accelerator_and_errors_list_the_devices(results: dict[str, Any]):
    assert results["auto"] == "pretend:0"
    assert "There is no device cuda:0 here; set device to one of auto, cpu, pretend:0." in results["cuda"]
    assert "There is no device pretend:1 here" in results["local rank 1"]


def test_without_an_accelerator_auto_is_the_cpu(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda check_available: None)
    assert resolve_device("auto") == resolve_device("cpu") == CPU
    for name in ("cuda", "cuda:1", "gpu"):
        with pytest.raises(UserError, match="There is no device .* here; set device to one of auto, cpu"):
            resolve_device(name)


def test_to_device_moves_nested_dataclasses():
    ones: Any = torch.ones(2, 3)
    prompts = TokenBatch(ones, ones, ones, ones, ones, None, None)
    rollouts = to_device(
        Rollouts(prompts, Replies(ones, ones, ones, ones), ones, {"reward": 0.5}), torch.device("meta")
    )
    parts = (rollouts.prompts.input_ids, rollouts.prompts.weights, rollouts.replies.mask, rollouts.rewards)
    assert {part.device.type for part in parts} == {"meta"}
    assert rollouts.prompts.pixel_values is None and rollouts.metrics == {"reward": 0.5}
    pictures = np.zeros((1, 2, 2, 3), np.uint8)
    assert to_device(DrawBatch(pictures, ["a"]), torch.device("meta")).pictures is pictures


# --- the machine's accelerator ----------------------------------------------------------------------

AGREEING = {
    name: ALL_STAGES[name] for name in ("sft", "sft with lora", "align", "pretrain_decoder", "pretrain_teacher")
} | {name: stage for name, stage in OTHERS.items() if stage.kind == "pretrain_unified"}
"""Stages whose steps do not depend on the model's own samples, where rounding may select another rollout."""
needs_accelerator = pytest.mark.skipif(not torch.accelerator.is_available(), reason="no accelerator")


@pytest.mark.accelerator
@needs_accelerator
@pytest.mark.parametrize("name", ALL_STAGES)
def test_a_stage_trains_on_the_accelerator(
    tmp_path: Path, small_config: ModelConfig, small_model: OmniBridge, monkeypatch: pytest.MonkeyPatch, name: str
):
    make_quick(monkeypatch)
    monkeypatch.setenv("LATENTBRIDGE_CACHE", str(tmp_path / "cache"))
    config = run_config(small_config, name, ALL_STAGES[name])
    if config.init:
        save_model(start_of(config, small_model), RunFolder(tmp_path / "start").model)
    results = steps(config, tmp_path, resolve_device("auto"))
    assert np.isfinite(results["weights"]) and all(
        np.isfinite(list(parts.values())).all() for _, parts in results["losses"]
    )


@pytest.mark.accelerator
@needs_accelerator
@pytest.mark.parametrize("name", AGREEING)
def test_accelerator_and_cpu_train_alike_and_resume_each_others_checkpoints(
    tmp_path: Path, small_config: ModelConfig, monkeypatch: pytest.MonkeyPatch, name: str
):
    """Within the tolerances of two ranks against one: float32 sums are in another order, and optimizers normalize gradients.

    TF32, with three digits less, is off."""
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)
    monkeypatch.setenv("LATENTBRIDGE_CACHE", str(tmp_path / "cache"))
    make_quick(monkeypatch)
    on_device = replace(run_config(small_config, name, AGREEING[name]), steps=3, device="auto")
    on_cpu = replace(on_device, device="cpu")
    run(on_cpu, tmp_path / "on_cpu")
    run(on_device, tmp_path / "on_device")
    for first, second in ((on_cpu, on_device), (on_device, on_cpu), (on_device, on_device)):
        folder = tmp_path / f"{first.device} then {second.device}"
        run_until(first, folder, last=2)
        run(second, folder, resume=True)
    expected_weights = weights(tmp_path / "on_cpu")
    update_norm = distance(expected_weights, unique_state(new_model(on_cpu.model, on_cpu.seed)))
    for folder in ("on_device", "cpu then auto", "auto then cpu", "auto then auto"):
        assert distance(expected_weights, weights(tmp_path / folder)) < SAME_WEIGHTS * update_norm, folder
    logs = [RunFolder(tmp_path / folder).metrics() for folder in ("on_cpu", "on_device")]
    for alone, other in zip(*logs, strict=True):
        named = {name for name in alone if name not in TIMES and not name.endswith(" share")}
        expected = pytest.approx({key: alone[key] for key in named}, rel=SAME_LOSS, abs=SAME_LOSS)
        assert {key: other[key] for key in named} == expected
    assert device_of(load_model(tmp_path / "on_device")) == CPU


@pytest.mark.accelerator
@needs_accelerator
def test_the_shipped_model_gives_the_same_results_on_the_accelerator():
    on_cpu, on_device = skills("cpu"), skills("auto")
    alike(on_cpu["understand"], on_device["understand"], 0)
    alike(on_cpu["embed"], on_device["embed"], 1e-3)
    alike(on_cpu["generate"], on_device["generate"], 2)


if __name__ == "__main__":
    work(Path(sys.argv[1]))
