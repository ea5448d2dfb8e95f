"""Which recipes take which data of a user's own, known from the lines or the index alone, before any picture is opened."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path

from latentbridge.config import DataStageConfig, RunConfig
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


def training_uses(source: str) -> Counter[str]:
    """Return how many training samples of a manifest or of shards are fit for each of `USES`.

    Lines with faults are not counted; `load_manifest` names them. Raises UserError for a source that is not there.
    """
    if is_manifest(source):
        return Counter(count_fit([record for record in outline_manifest(Path(source)) if record.split == "train"]))
    return sum((Counter(shard.fit) for shard in ShardFolder(source).shards), Counter())


def check_own_data(config: RunConfig, added: str = "") -> RunConfig:
    """Return the run with the source `added` as half of its samples.

    Raise UserError if its stage cannot train on a source of the user's, naming what is missing and a recipe that takes it.
    """
    stage, sources = config.stage, [added] if added else []
    if isinstance(stage, DataStageConfig):
        sources += stage.own_sources
    if stage.kind == "finetune" and not sources:
        raise UserError(f"{config.name} trains on data of your own; give it with --data, such as manifest.jsonl.")
    for source in sources:
        found = training_uses(source)
        need, lack = _NEEDS.get(stage.kind), what_to_add(source, found)
        if lack and (stage.kind == "finetune" or not found[_ANYTHING]):
            raise UserError(lack)
        if need and found[need]:
            continue
        wants = f"needs {need}" if need else "takes no data of your own"
        raise UserError(
            f"{config.name} {wants}, and the training split of {source} has {summary_of(found)}; finetune takes it: "
            f"latentbridge train finetune --data {source}"
        )
    if not added or not isinstance(stage, DataStageConfig):
        return config
    half = sum(weight for _, weight in stage.sources)
    return replace(config, stage=replace(stage, sources=((added, half), *stage.sources)))


def takers(found: Counter[str]) -> list[str]:
    """Return the recipes that train the shipped model on data with these uses, `finetune` first."""
    names = [
        name
        for name, recipe in RECIPES.items()
        if recipe.init == (("", "tiny"),) and found[_NEEDS.get(recipe.stage.kind, "")]
    ]
    if found[_UNDESCRIBED]:
        names = [name for name in names if name != "finetune"]
    return sorted(names, key=lambda name: name != "finetune")


def summary_of(found: Counter[str]) -> str:
    """Return in words what there is of each kind, such as "12 with a question"."""
    kinds = ("texts", "a question", "a described edit", _UNDESCRIBED)
    counts = [f"{found[kind]:,} with {kind}" for kind in kinds if found[kind]]
    return " and ".join(counts) or "nothing to train on"


def what_to_add(source: str, found: Counter[str]) -> str:
    """Return what a source lacks that `finetune` needs, in a sentence; empty where it lacks nothing."""
    if found[_UNDESCRIBED]:
        return (
            f"{found[_UNDESCRIBED]:,} training edits of {source} do not say what their target shows, which a model writes "
            'before it draws; give each edit a "description", or its target a line with "texts".'
        )
    if found[_ANYTHING]:
        return ""
    return f'{source} has no training sample; give some lines texts, a question or an edit, and the split "train".'
