"""Recipes of real sizes: published parameter counts, trained parts and estimated costs."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

from latentbridge.config import (
    OMNIBRIDGE_8B,
    LatentUMMConfig,
    ModelConfig,
    OptimConfig,
    PostTrainSftConfig,
    ReleaseConfig,
    RunConfig,
    SftConfig,
    TaskMix,
    from_dict,
    to_dict,
)
from latentbridge.errors import UserError
from latentbridge.models.checkpoint import outline
from latentbridge.recipes import RECIPES
from latentbridge.recipes.real import OMNIBRIDGE_8B_STAGE2, REAL, RELEASES
from latentbridge.training.costs.estimate import GIB, build_on_meta, estimate
from latentbridge.training.stage import trainable_parameters

real = pytest.mark.parametrize("config", REAL, ids=lambda config: config.name)


def count(config: Any, part: str = "") -> int:
    return sum(p.numel() for name, p in outlined(config).named_parameters() if name.startswith(part))


@cache
def outlined(config: Any) -> Any:
    return outline(config)


# --- real sizes ----------------------------------------------------------------------------------


def test_parameter_counts_equal_the_published_ones() -> None:
    assert count(OMNIBRIDGE_8B) == 9_633_680_899  # spec OmniBridge 1.1
    assert count(OMNIBRIDGE_8B, "aligner.") == 1_275_708_416
    assert count(OMNIBRIDGE_8B, "backbone.model.model.visual.") == 675_759_104
    assert count(ReleaseConfig("bagel-7b-mot")) == pytest.approx(14.6e9, rel=0.005)  # spec LatentUMM 6
    assert count(ReleaseConfig("janus-pro-7b")) == pytest.approx(7.42e9, rel=0.005)  # 14.8 GB in bfloat16
    harmon = ReleaseConfig("harmon-1.5b")
    assert count(harmon, "language_model.") == 1_543_714_304  # Qwen2.5-1.5B
    parts = sum(count(harmon, part) for part in ("encoder.", "decoder.", "head."))
    assert parts == pytest.approx(943e6, rel=0.005)  # MAR-H (arXiv 2406.11838)


MOVES = {
    "omnibridge-8b-stage1": {"backbone.model.model.language_model"},
    "omnibridge-8b-adaption": {"projector", "aligner"},
    "omnibridge-8b-stage2": {"projector", "aligner", "retrieval"},
    "bagel-7b-latentumm": {"language_model.und", "language_model.gen"},
    "janus-pro-7b-latentumm": {"model.model.language_model"},
    "harmon-1.5b-latentumm": {"language_model", "encoder", "decoder", "head", "proj_in", "proj_out"},
}


@real
def test_a_real_recipe_round_trips_and_trains_the_expected_parts(config: RunConfig) -> None:
    assert RECIPES[config.name] is config and from_dict(RunConfig, to_dict(config)) == config
    assert all(source in RELEASES or source in RECIPES for _, source in config.init)
    network, stage = build_on_meta(config)
    assert all(p.device.type == "meta" for p in network.parameters())
    named = trainable_parameters({f"model.{name}": p for name, p in network.named_parameters()}, stage, config)
    assert {next(part for part in MOVES[config.name] if name.startswith(f"model.{part}.")) for name in named} == (
        MOVES[config.name]
    )
    assert all((".lora_" in name) == bool(config.stage.lora_rank) for name in named)


def test_memory_and_hours_are_divided_by_ranks() -> None:
    config = OMNIBRIDGE_8B_STAGE2
    eight = estimate(config, ranks=8)
    assert eight.weights == pytest.approx(4 * eight.parameters / 8 / GIB)
    assert eight.peak == pytest.approx(
        eight.weights + eight.gradients + eight.optimiser + eight.average + eight.copies + eight.activations
    )
    one = estimate(config, ranks=1)
    assert one.peak == pytest.approx(8 * eight.peak) and one.hours == pytest.approx(8 * eight.hours)
    assert one.cost == pytest.approx(eight.cost)
    dearer = estimate(config, ranks=8, tflops=200.0, price=4.0)
    assert dearer.hours == pytest.approx(2 * eight.hours) and dearer.cost == pytest.approx(4 * eight.cost)


def test_without_by_block_each_rank_has_full_weights_and_gradients_too() -> None:
    stage = PostTrainSftConfig(items=8)
    result = estimate(RunConfig("post", stage, steps=1, batch_size=4, bf16=False), ranks=4)
    assert result.weights == pytest.approx(4 * result.parameters * (1 / 4 + 1) / GIB)
    assert result.gradients == pytest.approx(4 * result.moving * (1 / 4 + 1) / GIB)
    assert result.average == pytest.approx(4 * result.moving / 4 / GIB)


# --- the method, against a measured step -------------------------------------------------


def test_trained_weights_take_sixteen_bytes_each_and_adapters_little() -> None:
    run = RunConfig("sft", SftConfig(), steps=1, batch_size=1, optim=OptimConfig(muon_lr=0.0), bf16=False)
    full, lora = (estimate(replace(run, stage=replace(run.stage, lora_rank=rank))) for rank in (0, 2))
    part = count(run.model, "backbone.")
    assert full.moving == part
    assert full.gradients + full.optimiser + full.average == pytest.approx((4 + 8 + 4) * part / GIB)
    widths = {"q": (192, 192), "k": (192, 64), "v": (192, 64), "o": (192, 192), "gate": (192, 512), "up": (192, 512)}
    sides = sum(sum(pair) for pair in (*widths.values(), (512, 192)))
    assert lora.moving == run.model.backbone.num_layers * 2 * sides  # pyright: ignore
    muon = estimate(replace(run, optim=OptimConfig()))
    assert full.optimiser / 2 < muon.optimiser < full.optimiser  # one moment for hidden matrices, two for the rest


def test_the_estimate_matches_a_measured_tiny_step(monkeypatch: pytest.MonkeyPatch) -> None:
    """Within 25 %: norms and activations save more, and the reply's share of a text is an assumption."""
    monkeypatch.syspath_prepend(str(Path(__file__).parents[3] / "benchmarks"))
    monkeypatch.setattr(sys, "argv", ["benchmark"])
    monkeypatch.setenv("LATENTBRIDGE_CACHE", "")  # which the benchmark sets
    look = TaskMix(vqa=1.0, cot=0.0, generation=0.0, editing=0.0)  # each with a picture
    run = RunConfig("sft", SftConfig(tasks=look), 1, 8, model=ModelConfig(parts=("backbone",)), bf16=False)
    flops, saved, text = import_module("estimate").counted(run)
    result = estimate(run, text_tokens=text)
    assert result.step_tflop * 1e12 == pytest.approx(flops, rel=0.25)
    assert result.activations * GIB == pytest.approx(saved, rel=0.25)


# --- the command ------------------------------------------------------------------------------------


def test_the_estimate_command(call: Callable[..., tuple[int, str, str]]) -> None:
    code, out, _ = call("estimate", "omnibridge-8b-stage1", "--ranks", "8")
    assert code == 0 and out.startswith("An estimate:\n") and "GiB a rank" in out
    code, out, _ = call("estimate", "omnibridge-8b-stage1", "--json", "--set", "stage.lora_rank=0")
    assert code == 0 and json.loads(out)["moving"] == json.loads(out)["parameters"] == 8_291_375_616


def test_invalid_arguments_are_errors(call: Callable[..., tuple[int, str, str]]) -> None:
    for arguments, message in (
        (("omnibridge-8b-stage3",), "did you mean"),
        (("sft", "--ranks", "0"), "--ranks 0 is too small"),
        (("sft", "--price", "nan"), "--price nan is out of range"),
        (("post-unigame",), "No estimate is made for the stage unigame"),
    ):
        code, out, err = call("estimate", *arguments)
        assert code == 2 and not out and message in err and len(err.splitlines()) == 1


def test_a_network_without_a_decoder_has_no_latentumm_estimate() -> None:
    with pytest.raises(UserError):
        estimate(replace(REAL[0], stage=LatentUMMConfig(), bf16=False))
