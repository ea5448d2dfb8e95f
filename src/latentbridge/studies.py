"""Named studies: their arms, seeds and measurements."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from latentbridge.errors import unknown_name


@dataclass(frozen=True)
class MeasurementConfig:
    """The measurements of each model of a study; items depend on world, size and seed only, so all models get the same."""

    worlds: tuple[Literal["shapes", "drawings"], ...] = ("shapes", "drawings")
    size: int = 20
    """Size of the samples of `latentbridge eval` in per cent; 0 leaves it out."""
    pairs: int = 60
    """Number of pairs of each world for loopback and consistency; 0 leaves them out."""
    hops: int = 4
    """Hops of loopback; an even number, so that a chain ends with the kind of item it starts with."""
    encoder: str = "package"
    problems: int = 0
    """Number of reasoning problems of each kind, on shapes; 0 leaves them out."""
    seed: int = 1


@dataclass(frozen=True)
class Arm:
    """A treatment: a recipe with overrides."""

    name: str
    recipe: str
    overrides: tuple[str, ...] = ()


@dataclass(frozen=True)
class Study:
    """A comparison of arms with the models that their recipes start from.

    Arms with the same base model are also compared with the `focus` among them. An arm with the settings of the focus is not
    trained twice, so a sweep may list all its values.
    """

    name: str
    title: str
    question: str
    arms: tuple[Arm, ...]
    focus: str
    seeds: tuple[int, ...]
    measuring: MeasurementConfig = MeasurementConfig()


_ANCHORED = Arm("anchored", "post-latentumm")


def _varied(key: str, *values: str) -> tuple[Arm, ...]:
    return tuple(Arm(f"{key}={value}", _ANCHORED.recipe, (f"stage.{key}={value}",)) for value in values)


def _without(name: str, *terms: str) -> Arm:
    return Arm(name, _ANCHORED.recipe, tuple(f"stage.weights.{term}=0" for term in terms))


METHODS = Study(
    name="methods",
    title="What each way of post-training does",
    question="Does LatentUMM as ours make understanding and drawing agree better than the baselines, and at what cost in skill?",
    arms=(
        Arm("sft", "post-sft"),
        Arm("reca", "post-reca"),
        Arm("unigame", "post-unigame"),
        Arm("unicot", "post-unicot"),
        Arm("reference", "post-latentumm-reference"),
        _ANCHORED,
        Arm("anchored, half-way", _ANCHORED.recipe, ("blend=0.5",)),
    ),
    focus=_ANCHORED.name,
    seeds=(0, 1, 2),
)
BACKBONES = Study(
    name="backbones",
    title="Other backbones",
    question="Does it hold for models that are built otherwise?",
    arms=tuple(
        Arm(arm, f"{backbone}-{recipe}")
        for backbone in ("janus", "bagel", "harmon")
        for arm, recipe in (("sft", "post-sft"), (_ANCHORED.name, _ANCHORED.recipe))
    )
    + (Arm("anchored, through pixels", "harmon-post-latentumm", ("stage.through_pixels=true",)),),
    focus=_ANCHORED.name,
    seeds=(0, 1),
    measuring=MeasurementConfig(worlds=("shapes",)),
)
ABLATIONS = Study(
    name="ablations",
    title="What the parts of LatentUMM do",
    question="Which of teacher, round trip, number of rollouts and size of their noise does the work? One is changed at a time.",
    arms=(
        _ANCHORED,
        *_varied("teacher", "none", "package", "scene"),
        _without("roundtrip=none", "task", "preference", "cycle"),
        _without("roundtrip=latents", "cycle"),
        _without("roundtrip=words", "task", "preference"),
        *_varied("rollouts", "2", "4"),
        *_varied("sigma", "0", "0.05", "0.2"),
    ),
    focus=_ANCHORED.name,
    seeds=(0,),
    measuring=MeasurementConfig(worlds=("drawings",), size=0),
)
"""Agreement on drawings only, where the shipped model loses most. A round trip may return latents (the terms task and
preference), words (cycle), both or nothing. An OmniBridge's round trip always passes through pixels; Harmon can also read
image latents directly (`BACKBONES`)."""


def _adapted(rank: int) -> Arm:
    return Arm(f"rank {rank}", "drawings-sft", (f"stage.lora_rank={rank}", "optim.lr=1e-3"))


LORA = Study(
    name="lora",
    title="LoRA against full fine-tuning",
    question="What does a short SFT on drawings teach, and what of shapes does it cost, when adapters move instead of all weights?",
    arms=(Arm("full", "drawings-sft"), _adapted(4), _adapted(16), _adapted(64)),
    focus="full",
    seeds=(0,),
    measuring=MeasurementConfig(pairs=16),
)
"""Adapters use ten times the learning rate of full fine-tuning, the best in published comparisons."""

REASONING = Study(
    name="reasoning",
    title="What rewards teach about reasoning",
    question="Does Step-GRPO reason better than plain GRPO, and either better than as much more SFT on the same kind of chains?",
    arms=(
        Arm("more SFT", "reason-sft-more"),
        Arm("GRPO", "reason-grpo"),
        Arm("Step-GRPO", "reason-step-grpo"),
    ),
    focus="Step-GRPO",
    seeds=(0, 1, 2),
    measuring=MeasurementConfig(worlds=("shapes",), size=0, pairs=0, problems=50),
)
"""All arms start from the same model (`reason-sft`) and take about as long."""

STUDIES: dict[str, Study] = {study.name: study for study in (METHODS, BACKBONES, ABLATIONS, LORA, REASONING)}


def study_named(name: str) -> Study:
    """Return the study of that name; raises UserError with the nearest name."""
    if name not in STUDIES:
        raise unknown_name("study", name, STUDIES)
    return STUDIES[name]
