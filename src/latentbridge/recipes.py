"""Named complete runs. A recipe is one `RunConfig`; a variant is a `replace` over another recipe."""

from __future__ import annotations

from dataclasses import replace

from latentbridge.config import OptimConfig, RunConfig, StageConfig
from latentbridge.errors import unknown_name

PRETRAIN_DECODER = RunConfig(
    name="pretrain-decoder",
    stage=StageConfig("pretrain_decoder", drawings=0.2),
    steps=4100,
    batch_size=64,
    optim=OptimConfig(lr=1e-3, muon_lr=5e-3, warmup_steps=50, ema_decay=0.999),
    threads=1,
)
PRETRAIN_BACKBONE = RunConfig(
    name="pretrain-backbone",
    stage=StageConfig("pretrain_backbone"),
    steps=900,
    batch_size=64,
    optim=OptimConfig(lr=1e-3, muon_lr=4e-3, warmup_steps=50, decay_fraction=0.1),
    bf16=False,
    threads=1,
)
SFT = RunConfig(
    name="sft",
    stage=StageConfig("sft", drawings=0.35),
    steps=1300,
    batch_size=64,
    optim=OptimConfig(lr=1e-3, muon_lr=4e-3, warmup_steps=50, decay_fraction=0.5),
    init=(("backbone.", "pretrain-backbone"),),
    bf16=False,
    threads=1,
)
REFINE_DECODER = replace(
    PRETRAIN_DECODER,
    name="refine-decoder",
    steps=600,
    optim=OptimConfig(lr=1e-3, muon_lr=3e-3, warmup_steps=30, decay_fraction=0.4, ema_decay=0.99),
    init=(("decoder.", "pretrain-decoder"), ("autoencoder.", "pretrain-decoder")),
    threads=2,
)
ALIGN = RunConfig(
    name="align",
    stage=StageConfig("align", drawings=0.3, retrieval_weight=0.1, items=8192),
    steps=800,
    batch_size=96,
    optim=OptimConfig(lr=1e-3, muon_lr=3e-3, warmup_steps=50, decay_fraction=0.5),
    init=(
        ("backbone.", "sft"),
        ("text_encoder.", "refine-decoder"),
        ("decoder.", "refine-decoder"),
        ("autoencoder.", "refine-decoder"),
    ),
    bf16=False,
    threads=2,
)

RECIPES: dict[str, RunConfig] = {
    recipe.name: recipe for recipe in (PRETRAIN_DECODER, PRETRAIN_BACKBONE, SFT, REFINE_DECODER, ALIGN)
}


def recipe(name: str) -> RunConfig:
    """The recipe of that name; raises UserError with the nearest name."""
    if name not in RECIPES:
        raise unknown_name("recipe", name, RECIPES)
    return RECIPES[name]
