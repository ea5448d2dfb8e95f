"""Overrides and the round trip: the right types come in, and everything else is refused in one sentence."""

from __future__ import annotations

import dataclasses
import json

import pytest

from latentbridge.config import (
    MarConfig,
    ModelConfig,
    NetworkConfig,
    OptimConfig,
    RunConfig,
    StageConfig,
    TinyBagelConfig,
    TinyHarmonConfig,
    TinyJanusConfig,
    from_dict,
    to_dict,
    with_overrides,
)
from latentbridge.errors import UserError

RUN = RunConfig("trial", StageConfig("sft"), steps=10, batch_size=4, init=(("backbone", "runs/a"), ("decoder", "b")))


def test_overrides_reach_every_kind_of_field():
    changed = with_overrides(
        RUN,
        [
            "steps=3",
            "optim.lr=2",
            "bf16=False",
            "model.aligner.cross_layers=[0, 2]",
            "stage.beta_schedule=cosine",
            "stage.manifest=a=b.jsonl",
            'init=[["", "runs/x"]]',
            'stage.sources=[["shapes", 1], ["s3://bucket/own", 0.5]]',
            "steps=5",
        ],
    )
    assert changed.steps == 5
    assert changed.optim.lr == 2.0 and isinstance(changed.optim.lr, float)
    assert changed.bf16 is False
    assert changed.model.aligner.cross_layers == (0, 2)
    assert changed.stage.beta_schedule == "cosine"
    assert changed.stage.manifest == "a=b.jsonl"
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
        ("seed=-1", "0 or more"),
        ("log_every=0", "1 or more"),
        ("optim.lr=-1", "lr is -1.0; it takes 0 to 1e+38"),
        ("optim.lr=1e300", "0 to 1e+38"),
        ("optim.clip_norm=-1", "clip_norm is -1.0"),
        ("optim.ema_decay=2", "0 to 1"),
        ("optim.decay_fraction=3", "0 to 1"),
        ("optim.warmup_steps=-5", "0 or more"),
        ("stage.drawings=2", "0 to 1"),
        ("stage.lora_rank=-4", "lora_rank is -4; it takes 0 or more."),
        ("stage.items=0", "1 or more"),
        ("stage.tasks.look=-3", "0 or more"),
        ("stage.posttrain.roundtrip_steps=0", "1 or more"),
        ("stage.posttrain.rollouts=-2", "2 or more"),
        ("stage.posttrain.rollouts=0", "2 or more"),
        ("stage.posttrain.sigma=-1", "0 or more"),
        ("stage.posttrain.weights.task=-1", "0 or more"),
        ("stage.grpo.beta=-1", "0 or more"),
        ("stage.grpo.rewards.accuracy=-1", "0 or more"),
        ("optim.lr=fast", "takes a number"),
        ("optim.lr=NaN", "a finite number"),
        ("optim.lr=-Infinity", "a finite number"),
        ("bf16=1", "true or false"),
        ("bf16=yes", "true or false"),
        ("model.aligner.cross_layers=3", "a list"),
        ("model.aligner.cross_layers=[0.5]", "takes a whole number"),
        ('init=[["backbone"]]', "a list"),
        ("stage.beta_schedule=cosin", "did you mean 'cosine'?"),
    ],
)
def test_a_wrong_override_is_one_sentence(override: str, words: str):
    with pytest.raises(UserError) as caught:
        with_overrides(RUN, [override])
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


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
