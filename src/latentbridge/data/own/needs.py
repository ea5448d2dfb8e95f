"""Which recipes take which data of a user's own, known from the lines or the index alone, before any picture is opened."""

from __future__ import annotations

import math
from collections import Counter
from pathlib import Path

from latentbridge.config import RunConfig, StageConfig
from latentbridge.data.own.manifest import is_manifest, outline_manifest
from latentbridge.data.own.shards import ShardFolder, count_fit
from latentbridge.errors import UserError
from latentbridge.recipes import RECIPES

_ANYTHING = "texts, a question or a described edit"
_NEEDS = {
    "sft": _ANYTHING,
    "finetune": _ANYTHING,
    "step_grpo": "a question",
    **dict.fromkeys(("pretrain_decoder", "pretrain_squares", "pretrain_codes", "pretrain_unified"), "texts"),
    **dict.fromkeys(("adaption", "align", "posttrain_sft", "reca", "unigame", "unicot", "latentumm"), "texts"),
}
"""The use (`USES`) a stage must find in each source; a stage that is not here reads worlds of the library alone."""
_UNDESCRIBED = "an edit without a description"
_BUILT_IN = ("shapes", "drawings")


def check_sources(stage: StageConfig) -> None:
    """Raise UserError where a stage names its data twice, or gives a source a weight that is no share."""
    if stage.sources and (stage.manifest or stage.drawings):
        raise UserError(
            "stage.sources stands in place of stage.manifest and stage.drawings; set those to nothing and 0."
        )
    if any(not math.isfinite(weight) or weight <= 0 for _, weight in stage.sources):
        raise UserError("A weight in stage.sources is a number above 0; leave out what is not wanted.")


def own_sources(stage: StageConfig) -> list[str]:
    """Return the user's manifests and shards that a stage is fed from."""
    named = [name for name, _ in stage.sources if name not in _BUILT_IN]
    return [stage.manifest, *named] if stage.manifest else named


def training_uses(source: str) -> Counter[str]:
    """Return how many training samples of a manifest or of shards are fit for each of `USES`.

    Lines with faults are not counted; `load_manifest` names them. Raises UserError for a source that is not there.
    """
    if is_manifest(source):
        return Counter(count_fit([record for record in outline_manifest(Path(source)) if record.split == "train"]))
    return sum((Counter(shard.fit) for shard in ShardFolder(source).shards), Counter())


def check_own_data(config: RunConfig) -> None:
    """Raise UserError where a run's recipe cannot train on its sources, naming what is missing and a recipe that takes it."""
    check_sources(config.stage)
    sources = own_sources(config.stage)
    if config.stage.kind == "finetune" and not sources:
        raise UserError(f"{config.name} trains on data of your own; give it with --data, such as manifest.jsonl.")
    for source in sources:
        found = training_uses(source)
        need, lack = _NEEDS.get(config.stage.kind), missing_data(source, found)
        if lack and (config.stage.kind == "finetune" or not found[_ANYTHING]):
            raise UserError(lack)
        if need and found[need]:
            continue
        wants = f"needs {need}" if need else "takes no data of your own"
        raise UserError(
            f"{config.name} {wants}, and the training split of {source} has {describe_uses(found)}; finetune takes it: "
            f"latentbridge train finetune --data {source}"
        )


def accepting_recipes(found: Counter[str]) -> list[str]:
    """Return the recipes that train the shipped model on data with these uses, `finetune` first."""
    names = [
        name
        for name, recipe in RECIPES.items()
        if recipe.init == (("", "tiny"),) and found[_NEEDS.get(recipe.stage.kind, "")]
    ]
    if found[_UNDESCRIBED]:
        names = [name for name in names if name != "finetune"]
    return sorted(names, key=lambda name: name != "finetune")


def describe_uses(found: Counter[str]) -> str:
    """Return in words what there is of each kind, such as "12 with a question"."""
    kinds = ("texts", "a question", "a described edit", _UNDESCRIBED)
    counts = [f"{found[kind]:,} with {kind}" for kind in kinds if found[kind]]
    return " and ".join(counts) or "nothing to train on"


def missing_data(source: str, found: Counter[str]) -> str:
    """Return what a source lacks that `finetune` needs, in a sentence; empty where it lacks nothing."""
    if found[_UNDESCRIBED]:
        return (
            f"{found[_UNDESCRIBED]:,} training edits of {source} do not say what their target shows, which a model writes "
            'before it draws; give each edit a "description", or its target a line with "texts".'
        )
    if found[_ANYTHING]:
        return ""
    return f'{source} has no training sample; give some lines texts, a question or an edit, and the split "train".'
