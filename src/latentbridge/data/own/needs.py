"""Checks of a recipe's data from the manifest or the index alone, before any picture is opened."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path

from latentbridge.config import DataStageConfig, RunConfig
from latentbridge.data.own.manifest import is_manifest, outline_manifest
from latentbridge.data.own.shards import ANY_USE, INDEX, KINDS, UNDESCRIBED_USE, ShardFolder, count_fit
from latentbridge.errors import UserError
from latentbridge.recipes import RECIPES

_NEEDS = {
    "sft": ANY_USE,
    "finetune": ANY_USE,
    "step_grpo": "a question",
    **dict.fromkeys(("pretrain_decoder", "pretrain_squares", "pretrain_codes", "pretrain_unified"), "texts"),
    **dict.fromkeys(("adaption", "align", "posttrain_sft", "reca", "unigame", "unicot", "latentumm"), "texts"),
}
"""The use (`USES`) that a stage needs in each source; other stages take built-in worlds only."""


def training_uses(source: str) -> Counter[str]:
    """Return how many training samples of a manifest or of shards are fit for each of `USES`.

    Lines with faults are not counted. Raise UserError if the source does not exist, or is something else.
    """
    if Path(source).is_dir() and not Path(source, INDEX).exists():
        raise UserError(_other_folder(Path(source)))
    if is_manifest(source):
        return Counter(count_fit([record for record in outline_manifest(Path(source)) if record.split == "train"]))
    return sum((Counter(shard.fit) for shard in ShardFolder(source).shards), Counter())


def _other_folder(folder: Path) -> str:
    """Return the sentence about a folder that is not one of shards."""
    names = sorted(path.name for path in folder.iterdir())
    if manifests := [name for name in names if name.endswith(".jsonl")]:
        return f"{folder} is a folder; give the manifest in it: {folder / manifests[0]}"
    if any(name.endswith(KINDS) for name in names):
        return f"{folder} holds shards without an index; write one: latentbridge data shards {folder} --out NEW"
    return (
        f"{folder} holds neither a manifest nor shards; make a manifest of pictures with captions beside them, or of "
        f"another format: latentbridge data convert {folder}"
    )


def check_own_data(config: RunConfig, added: str = "") -> RunConfig:
    """Return the run with the source `added` as half of its samples.

    Raise UserError if its stage cannot train on a source of the user's; the message names a recipe that can.
    """
    stage, sources = config.stage, [added] if added else []
    if isinstance(stage, DataStageConfig):
        sources += stage.own_sources
    if stage.kind == "finetune" and not sources:
        raise UserError(f"{config.name} trains on data of your own; give it with --data, such as manifest.jsonl.")
    for source in sources:
        uses = training_uses(source)
        need, missing = _NEEDS.get(stage.kind), missing_data(source, uses)
        if missing and (stage.kind == "finetune" or not uses[ANY_USE]):
            raise UserError(missing)
        if need and uses[need]:
            continue
        wants = f"needs {need}" if need else "takes no data of your own"
        raise UserError(
            f"{config.name} {wants}, and the training split of {source} has {describe_uses(uses)}; finetune takes it: "
            f"latentbridge train finetune --data {source}"
        )
    if not added or not isinstance(stage, DataStageConfig):
        return config
    half = sum(weight for _, weight in stage.sources)
    return replace(config, stage=replace(stage, sources=((added, half), *stage.sources)))


def accepting_recipes(uses: Counter[str]) -> list[str]:
    """Return the recipes that train the shipped model on such data, `finetune` first."""
    names = [
        name
        for name, recipe in RECIPES.items()
        if recipe.init == (("", "tiny"),) and uses[_NEEDS.get(recipe.stage.kind, "")]
    ]
    if uses[UNDESCRIBED_USE]:
        names = [name for name in names if name != "finetune"]
    return sorted(names, key=lambda name: name != "finetune")


def describe_uses(uses: Counter[str]) -> str:
    """Return the counts in words, such as "12 with a question"."""
    kinds = ("texts", "a question", "a described edit", UNDESCRIBED_USE)
    counts = [f"{uses[kind]:,} with {kind}" for kind in kinds if uses[kind]]
    return " and ".join(counts) or "nothing to train on"


def missing_data(source: str, uses: Counter[str]) -> str:
    """Return in a sentence what `finetune` needs and the source lacks, or an empty text."""
    if uses[UNDESCRIBED_USE]:
        return (
            f"{uses[UNDESCRIBED_USE]:,} training edits of {source} do not say what their target shows, which a model writes "
            'before it draws; give each edit a "description", or its target a line with "texts".'
        )
    if uses[ANY_USE]:
        return ""
    return f'{source} has no training sample; give some lines texts, a question or an edit, and the split "train".'
