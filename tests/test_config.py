"""Overrides and the round trip: the right types come in, and everything else is refused in one sentence."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest

from latentbridge.config import (
    AlignConfig,
    LatentUMMConfig,
    MarConfig,
    ModelConfig,
    NetworkConfig,
    OptimConfig,
    RunConfig,
    SftConfig,
    StageConfig,
    StepGrpoConfig,
    TinyBagelConfig,
    TinyHarmonConfig,
    TinyJanusConfig,
    from_dict,
    to_dict,
    with_overrides,
)
from latentbridge.errors import UserError
from latentbridge.models.checkpoint import TINY
from latentbridge.recipes import recipe

RUN = RunConfig("trial", SftConfig(), steps=10, batch_size=4, init=(("backbone", "runs/a"), ("decoder", "b")))


def test_overrides_reach_every_kind_of_field():
    changed = with_overrides(
        RUN,
        [
            "steps=3",
            "optim.lr=2",
            "bf16=False",
            "model.aligner.cross_layers=[0, 2]",
            "name=a=b",
            "stage.packed=true",
            'init=[["", "runs/x"]]',
            'stage.sources=[["shapes", 1], ["s3://bucket/own", 0.5]]',
            "steps=5",
        ],
    )
    assert changed.steps == 5
    assert changed.optim.lr == 2.0 and isinstance(changed.optim.lr, float)
    assert changed.bf16 is False
    assert changed.model.aligner.cross_layers == (0, 2)
    assert changed.name == "a=b"
    assert changed.stage.packed is True
    assert changed.init == (("", "runs/x"),)
    assert changed.stage.sources == (("shapes", 1.0), ("s3://bucket/own", 0.5))
    assert from_dict(RunConfig, to_dict(changed)) == changed
    assert RUN.steps == 10


def test_an_override_changes_nothing_else():
    changed = with_overrides(RUN, ["model.decoder.width=96"])
    decoder = dataclasses.replace(RUN.model.decoder, width=96)
    assert changed == dataclasses.replace(RUN, model=dataclasses.replace(RUN.model, decoder=decoder))


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("stepss=3", "did you mean 'steps'?"),
        ("optim.lrs=3", "did you mean 'lr'?"),
        ("zzzz=3", "choose one of: batch_size"),
        ("=3", "Unknown key ''"),
        ("steps", "has the form key=value"),
        ("optim=3", "for example optim.lr="),
        ("steps.more=3", "single setting"),
        ("steps=many", "takes a whole number"),
        ("steps=3.5", "takes a whole number"),
        ("steps=true", "takes a whole number"),
        ("steps=", "takes a whole number"),
        ("steps=0", "1 or more"),
        ("batch_size=-1", "1 or more"),
        ("seed=-1", "it takes 0 to"),
        ("log_every=0", "1 or more"),
        ("optim.lr=-1", "lr is -1.0; it takes 0 to 1e+38"),
        ("optim.lr=1e300", "0 to 1e+38"),
        ("optim.clip_norm=-1", "clip_norm is -1.0"),
        ("optim.ema_decay=2", "0 to 1"),
        ("optim.decay_fraction=3", "0 to 1"),
        ("optim.warmup_steps=-5", "0 or more"),
        ('stage.sources=[["shapes", 0]]', "a number above 0"),
        ("stage.sources=[]", "stage.sources is empty"),
        ("stage.lora_rank=-4", "lora_rank is -4; it takes 0 or more."),
        ("stage.items=0", "Unknown key 'items'; sft has interleave, lora_rank, packed, sources, tasks."),
        ("stage.grpo.clip=0.1", "Unknown key 'grpo'; sft has interleave, lora_rank, packed, sources, tasks."),
        ("stage.kind=align", "Unknown value for kind 'align'"),
        ("stage.tasks.vqa=-3", "0 or more"),
        ("optim.lr=fast", "takes a number"),
        ("optim.lr=NaN", "a finite number"),
        ("optim.lr=-Infinity", "a finite number"),
        ("bf16=1", "true or false"),
        ("bf16=yes", "true or false"),
        ("model.aligner.cross_layers=3", "a list"),
        ("model.aligner.cross_layers=[0.5]", "takes a whole number"),
        ('init=[["backbone"]]', "a list"),
    ],
)
def test_a_wrong_override_is_one_sentence(override: str, words: str):
    with pytest.raises(UserError) as caught:
        with_overrides(RUN, [override])
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("stage", "override", "words"),
    [
        (LatentUMMConfig(), "stage.items=0", "1 or more"),
        (LatentUMMConfig(), "stage.roundtrip_steps=0", "1 or more"),
        (LatentUMMConfig(), "stage.rollouts=-2", "2 or more"),
        (LatentUMMConfig(), "stage.rollouts=0", "2 or more"),
        (LatentUMMConfig(), "stage.sigma=-1", "0 or more"),
        (LatentUMMConfig(), "stage.weights.task=-1", "0 or more"),
        (LatentUMMConfig(), "stage.perturbation=0.1", "Unknown key 'perturbation'; latentumm has generation_weight, "),
        (StepGrpoConfig(), "stage.grpo.beta=-1", "0 or more"),
        (StepGrpoConfig(), "stage.grpo.rewards.accuracy=-1", "0 or more"),
        (
            StepGrpoConfig(),
            "stage.teacher=scene",
            "Unknown key 'teacher'; step_grpo has grpo, interleave, lora_rank, sources",
        ),
        (AlignConfig(), "stage.beta_schedule=cosin", "did you mean 'cosine'?"),
    ],
)
def test_a_wrong_setting_of_a_stage_is_one_sentence(stage: StageConfig, override: str, words: str):
    with pytest.raises(UserError) as caught:
        with_overrides(dataclasses.replace(RUN, stage=stage), [override])
    assert words in str(caught.value)


# --- settings under their names before 2026-12-01 --------------------------------------------------

OLD_STAGE: dict[str, Any] = {
    "kind": "latentumm",
    "drawings": 0.5,
    "tasks": {"look": 0.3, "reason": 0.2, "draw": 0.2, "edit": 0.3, "relation": 0.3, "deliberate": 0.0},
    "lora_rank": 0,
    "beta_schedule": "linear",
    "diffusion_weight": 0.0,
    "distillation_weight": 1.0,
    "retrieval_weight": 0.0,
    "items": 4096,
    "manifest": "",
    "sources": [],
    "packed": False,
    "posttrain": {
        "understanding": 1.0,
        "generation": 1.0,
        "reconstruction": 1.0,
        "self_play": 1.0,
        "perturbation": 0.02,
        "objective": "anchored",
        "weights": {"modal": 0.1, "task": 0.1, "preference": 0.1, "anchor": 0.1, "contrast": 0.1, "telling": 1.0},
        "teacher": "package",
        "rollouts": 2,
        "roundtrip_steps": 4,
        "through_pixels": False,
        "sigma": 0.05,
        "guard_warmup_steps": 100,
    },
    "grpo": {"generations": 4, "temperature": 1.2, "max_tokens": 1024, "rewards": {}, "beta": 0.04, "clip": 0.2},
}
"""The stage of `post-latentumm` as its runs stored it."""


@pytest.mark.parametrize(
    ("key", "renamed"),
    [
        ("stage.drawings", "stage.sources, "),
        ("stage.manifest", "stage.sources, "),
        ("stage.tasks.look", "stage.tasks.vqa."),
        ("stage.posttrain.teacher", "stage.teacher."),
        ("stage.posttrain.understanding", "stage.understanding_weight."),
        ("stage.posttrain.weights.task", "stage.weights.task."),
        ("stage.posttrain.weights.telling", "stage.weights.cycle."),
    ],
)
def test_an_old_key_is_answered_with_the_new_one(key: str, renamed: str):
    with pytest.raises(UserError) as caught:
        with_overrides(recipe("post-latentumm"), [f"{key}=1"])
    assert str(caught.value).startswith(f"{key!r} is now called {renamed}")


@pytest.mark.parametrize("folder", sorted((TINY / "training").iterdir()), ids=lambda folder: folder.name)
def test_the_runs_behind_the_shipped_model_still_load(folder: Path):
    stored = from_dict(RunConfig, json.loads((folder / "config.json").read_text()))
    assert stored.stage == recipe(folder.name).stage and stored.init == recipe(folder.name).init


def test_an_old_stage_becomes_todays():
    assert from_dict(StageConfig, OLD_STAGE) == recipe("post-latentumm").stage
    reca = from_dict(StageConfig, OLD_STAGE | {"kind": "reca"})
    assert reca == recipe("post-reca").stage and not hasattr(reca, "weights")
    with pytest.raises(UserError, match="key in LatentUMMConfig 'itemz'; did you mean 'items'"):
        from_dict(StageConfig, OLD_STAGE | {"itemz": 3})


@pytest.mark.parametrize(
    ("old", "sources", "interleave"),
    [
        ({}, (("shapes", 0.5), ("drawings", 0.5)), False),
        ({"drawings": 0.0}, (("shapes", 1.0),), False),
        ({"drawings": 1.0}, (("drawings", 1.0),), False),
        ({"manifest": "m.jsonl", "drawings": 0.3}, (("m.jsonl", 1.0), ("shapes", 0.7), ("drawings", 0.3)), False),
        ({"drawings": 0.0, "sources": [["shapes", 2.0], ["m.jsonl", 1.0]]}, (("shapes", 2.0), ("m.jsonl", 1.0)), True),
    ],
)
def test_the_three_old_ways_to_mix_data_become_sources(old: dict[str, Any], sources: Any, interleave: bool):
    stage = from_dict(StageConfig, OLD_STAGE | {"kind": "sft"} | old)
    assert (stage.sources, stage.interleave) == (sources, interleave)


# --- through JSON ------------------------------------------------------------------------------------


@pytest.mark.parametrize("config", [RUN, ModelConfig(), OptimConfig(lr=1e-5)])
def test_a_config_survives_the_way_through_json(config: RunConfig | ModelConfig | OptimConfig):
    values = json.loads(json.dumps(to_dict(config)))
    assert from_dict(type(config), values) == config


def test_what_is_missing_takes_its_default():
    assert from_dict(ModelConfig, {"text_length": 32}) == ModelConfig()


def test_a_damaged_config_is_named():
    values = to_dict(RUN)
    with pytest.raises(UserError, match="key in OptimConfig 'lrr'; did you mean 'lr'"):
        from_dict(RunConfig, values | {"optim": {"lrr": 1.0}})
    with pytest.raises(UserError, match="'fast' is not a value for 'lr'"):
        from_dict(RunConfig, values | {"optim": {"lr": "fast"}})
    with pytest.raises(UserError, match="3 cannot be read as OptimConfig"):
        from_dict(RunConfig, values | {"optim": 3})
    with pytest.raises(UserError, match="RunConfig needs a value for 'steps'"):
        from_dict(RunConfig, {name: value for name, value in values.items() if name != "steps"})


@pytest.mark.parametrize("model", [ModelConfig(), TinyJanusConfig(width=96), TinyBagelConfig(), TinyHarmonConfig()])
def test_a_run_knows_whose_sizes_it_has(model: NetworkConfig):
    run = dataclasses.replace(RUN, model=model)
    assert from_dict(RunConfig, json.loads(json.dumps(to_dict(run)))) == run
    assert with_overrides(run, ["steps=11"]).model == model


def test_sizes_of_one_kind_can_be_set_and_those_of_another_cannot():
    run = dataclasses.replace(RUN, model=TinyHarmonConfig())
    changed = with_overrides(run, ["model.width=96", "model.mar.grid=5"])
    assert changed.model == TinyHarmonConfig(width=96, mar=MarConfig(grid=5))
    with pytest.raises(UserError, match="Unknown key 'codebook_size'"):
        with_overrides(run, ["model.codebook_size=96"])
    with pytest.raises(UserError, match="for example model.width="):
        with_overrides(run, ["model=3"])
    with pytest.raises(UserError, match="Unknown value for kind 'bagel'"):
        with_overrides(run, ["model.kind=bagel"])


def test_a_model_without_a_kind_is_an_omnibridge_and_an_unknown_kind_is_named():
    values = to_dict(RUN)
    del values["model"]["kind"]
    assert from_dict(RunConfig, values) == RUN
    with pytest.raises(UserError, match="Unknown kind of model 'janos'; did you mean 'janus'"):
        from_dict(RunConfig, values | {"model": {"kind": "janos"}})
    with pytest.raises(UserError, match="3 cannot be read as ModelConfig"):
        from_dict(RunConfig, values | {"model": 3})
