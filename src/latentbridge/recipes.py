"""Named complete runs. A recipe is one `RunConfig`; a variant is a `replace` over another recipe."""

from __future__ import annotations

from dataclasses import replace

from latentbridge.config import (
    AlignerConfig,
    ModelConfig,
    OptimConfig,
    RunConfig,
    SecondViewConfig,
    StageConfig,
    TaskMix,
)
from latentbridge.errors import unknown_name

PRETRAIN_DECODER = RunConfig(
    name="pretrain-decoder",
    stage=StageConfig("pretrain_decoder", drawings=0.2),
    steps=3000,
    batch_size=64,
    optim=OptimConfig(lr=1e-3, muon_lr=5e-3, warmup_steps=50, decay_fraction=0.2, ema_decay=0.998),
    threads=1,
)
PRETRAIN_BACKBONE = RunConfig(
    name="pretrain-backbone",
    stage=StageConfig("pretrain_backbone"),
    steps=1000,
    batch_size=64,
    optim=OptimConfig(lr=1e-3, muon_lr=4e-3, warmup_steps=50, decay_fraction=0.1),
    threads=1,
)
SFT = RunConfig(
    name="sft",
    stage=StageConfig("sft", drawings=0.25),
    steps=1000,
    batch_size=64,
    optim=OptimConfig(lr=1e-3, muon_lr=4e-3, warmup_steps=50, decay_fraction=0.0),
    init=(("backbone.", "pretrain-backbone"),),
    threads=1,
)
SFT_BINDING = replace(
    SFT,
    name="sft-binding",
    stage=StageConfig("sft", drawings=0.2, tasks=TaskMix(look=0.35, reason=0.20, draw=0.25, edit=0.20, relation=0.3)),
    steps=2000,
    optim=OptimConfig(lr=1e-3, muon_lr=4e-3, warmup_steps=50, decay_fraction=0.5),
    init=(("backbone.", "sft"),),
    threads=2,
)
"""More of what takes a tiny model longest: which word belongs to which, and how two things lie to each other."""
SFT_EDITS = replace(
    SFT_BINDING,
    name="sft-edits",
    stage=StageConfig("sft", drawings=0.2, tasks=TaskMix(look=0.3, reason=0.2, draw=0.2, edit=0.3, relation=0.3)),
    steps=2400,
    init=(("backbone.", "sft-binding"),),
)
"""More edits: describing a changed picture takes seeing, binding and rewriting at once."""
ALIGN = RunConfig(
    name="align",
    stage=StageConfig("align", drawings=0.3, retrieval_weight=0.1, items=32768),
    steps=3000,
    batch_size=96,
    model=ModelConfig(aligner=AlignerConfig(cross_bias=True), second_view=SecondViewConfig(words=3200)),
    optim=OptimConfig(lr=1e-3, muon_lr=3e-3, warmup_steps=50, decay_fraction=0.5),
    init=(
        ("backbone.", "sft-edits"),
        ("text_encoder.", "pretrain-decoder"),
        ("decoder.", "pretrain-decoder"),
        ("autoencoder.", "pretrain-decoder"),
    ),
    bf16=False,
    threads=2,
)

RECIPES: dict[str, RunConfig] = {
    recipe.name: recipe for recipe in (PRETRAIN_DECODER, PRETRAIN_BACKBONE, SFT, SFT_BINDING, SFT_EDITS, ALIGN)
}


def recipe(name: str) -> RunConfig:
    """The recipe of that name; raises UserError with the nearest name."""
    if name not in RECIPES:
        raise unknown_name("recipe", name, RECIPES)
    return RECIPES[name]
