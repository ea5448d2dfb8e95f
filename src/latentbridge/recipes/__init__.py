"""Recipes: complete run configs by name. A variant is a `replace` over another recipe."""

from __future__ import annotations

from dataclasses import replace

from latentbridge.config import OptimConfig, RunConfig
from latentbridge.config import model_config as models
from latentbridge.config import stage_config as stages
from latentbridge.errors import unknown_name
from latentbridge.recipes.real import REAL

PRETRAIN_DECODER = RunConfig(
    name="pretrain-decoder",
    stage=stages.PretrainDecoderConfig(sources=(("shapes", 0.8), ("drawings", 0.2))),
    steps=3000,
    batch_size=64,
    optim=OptimConfig(lr=1e-3, muon_lr=5e-3, warmup_steps=50, decay_fraction=0.2, ema_decay=0.998),
    threads=1,
)
SCENE_TEACHER = RunConfig(
    name="scene-teacher",
    stage=stages.PretrainTeacherConfig(sources=(("shapes", 0.6), ("drawings", 0.4))),
    steps=520,
    batch_size=256,
    model=models.SceneConfig(),
    optim=OptimConfig(lr=1e-3, muon_lr=4e-3, warmup_steps=40, decay_fraction=0.6, ema_decay=0.99),
    checkpoint_every=100,
    threads=1,
)
"""The teacher `scene` of post-training; larger than its student and too large to ship."""
PRETRAIN_BACKBONE = RunConfig(
    name="pretrain-backbone",
    stage=stages.PretrainBackboneConfig(),
    steps=1000,
    batch_size=64,
    optim=OptimConfig(lr=1e-3, muon_lr=4e-3, warmup_steps=50, decay_fraction=0.1),
    threads=1,
)
SFT = RunConfig(
    name="sft",
    stage=stages.SftConfig(sources=(("shapes", 0.75), ("drawings", 0.25))),
    steps=1000,
    batch_size=64,
    optim=OptimConfig(lr=1e-3, muon_lr=4e-3, warmup_steps=50, decay_fraction=0.0),
    init=(("backbone.", "pretrain-backbone"),),
    threads=1,
)
SFT_BINDING = replace(
    SFT,
    name="sft-binding",
    stage=stages.SftConfig(
        sources=(("shapes", 0.8), ("drawings", 0.2)),
        tasks=stages.TaskMix(vqa=0.35, cot=0.20, generation=0.25, editing=0.20, relations=0.3),
    ),
    steps=2000,
    optim=OptimConfig(lr=1e-3, muon_lr=4e-3, warmup_steps=50, decay_fraction=0.5),
    init=(("backbone.", "sft"),),
)
"""More of what a tiny model learns last: attribute binding and spatial relations."""
_EDITS = stages.TaskMix(vqa=0.3, cot=0.2, generation=0.2, editing=0.3, relations=0.3)
SFT_EDITS = replace(
    SFT_BINDING,
    name="sft-edits",
    stage=stages.SftConfig(sources=(("shapes", 0.8), ("drawings", 0.2)), tasks=_EDITS),
    steps=2400,
    init=(("backbone.", "sft-binding"),),
)
"""More edits: describing an edited picture takes perception, binding and rewriting at once."""
ALIGN = RunConfig(
    name="align",
    stage=stages.AlignConfig(sources=(("shapes", 0.7), ("drawings", 0.3)), retrieval_weight=0.1, items=32768),
    steps=3000,
    batch_size=96,
    model=models.ModelConfig(
        aligner=models.AlignerConfig(cross_bias=True),
        second_view=models.AuxiliaryEmbeddingConfig(words=3200, more_words=7000, own_words=54),
    ),
    optim=OptimConfig(lr=1e-3, muon_lr=3e-3, warmup_steps=50, decay_fraction=0.5),
    init=(
        ("backbone.", "sft-edits"),
        ("text_encoder.", "pretrain-decoder"),
        ("decoder.", "pretrain-decoder"),
        ("autoencoder.", "pretrain-decoder"),
    ),
    bf16=False,
)
_HALF_DRAWINGS = (("shapes", 0.5), ("drawings", 0.5))
POST_SFT = RunConfig(
    name="post-sft",
    stage=stages.PostTrainSftConfig(sources=_HALF_DRAWINGS, tasks=_EDITS, items=4096),
    steps=100,
    batch_size=16,
    model=ALIGN.model,
    optim=OptimConfig(lr=1e-4, muon_lr=3e-4, warmup_steps=20, decay_fraction=0.5, ema_decay=0.98),
    init=(("", "tiny"),),
    bf16=False,
    checkpoint_every=100,
)
"""Post-training of the shipped model; the recipes after it change the method and nothing else. Half of the items are
drawings, because loops lose almost nothing of `shapes` before post-training."""
DRAWINGS_SFT = replace(
    POST_SFT,
    name="drawings-sft",
    stage=stages.SftConfig(sources=(("shapes", 0.1), ("drawings", 0.9)), tasks=_EDITS),
    optim=replace(POST_SFT.optim, muon_lr=0.0),
)
"""A short SFT of the shipped model on its weakest world, to compare adapters with full fine-tuning; AdamW alone."""
FINETUNE = replace(
    POST_SFT,
    name="finetune",
    stage=stages.FinetuneConfig(
        sources=(("shapes", 0.7), ("drawings", 0.3)), tasks=_EDITS, retrieval_weight=0.1, packed=True
    ),
    steps=1000,
    optim=OptimConfig(lr=3e-4, muon_lr=0.0, warmup_steps=20, decay_fraction=0.8, ema_decay=0.98),
    threads=1,
)
"""The shipped model on a user's own data, half of the samples by `--data`; 35 % are `shapes` and 15 % drawings, replayed
against forgetting. AdamW alone, which costs about the same on every processor."""
POST_RECA = replace(
    POST_SFT, name="post-reca", stage=stages.RecaConfig(sources=_HALF_DRAWINGS, tasks=_EDITS, items=4096)
)
POST_UNIGAME = replace(
    POST_SFT, name="post-unigame", stage=stages.UniGameConfig(sources=_HALF_DRAWINGS, tasks=_EDITS, items=4096)
)
POST_UNICOT = replace(
    POST_SFT, name="post-unicot", stage=stages.UniCotConfig(sources=_HALF_DRAWINGS, tasks=_EDITS, items=4096)
)
_LATENTUMM = stages.LatentUMMConfig(
    sources=_HALF_DRAWINGS,
    tasks=_EDITS,
    items=4096,
    teacher="package",
    rollouts=2,
    weights=stages.LatentUMMWeights(modal=0.1, task=0.1, preference=0.1, anchor=0.1, contrast=0.1),
)
POST_LATENTUMM = replace(POST_SFT, name="post-latentumm", stage=_LATENTUMM)
"""The cycle loss has the largest weight: with all weights at 1 the terms on latents outweigh it, and retention of drawings
after four hops falls below plain SFT's (docs/LOG.md, 2026-11-23)."""
QUICKSTART = replace(
    POST_LATENTUMM,
    name="quickstart",
    stage=stages.LatentUMMConfig(
        sources=_HALF_DRAWINGS,
        tasks=_EDITS,
        items=256,
        weights=stages.LatentUMMWeights(modal=0.0, task=0.0, preference=0.0, anchor=0.0, contrast=0.0),
    ),
    steps=16,
    optim=OptimConfig(lr=2e-4, muon_lr=6e-4, warmup_steps=5, decay_fraction=0.5, ema_decay=0.9),
)
"""Post-training in a minute or two, with the cycle loss alone. AdamW alone, half the denoising steps or half the batch cost
less and teach less (docs/LOG.md, 2026-12-01)."""
REASON_SFT = RunConfig(
    name="reason-sft",
    stage=stages.SftConfig(tasks=stages.TaskMix(vqa=0.1, cot=0.1, generation=0.1, editing=0.1, long_cot=0.6)),
    steps=600,
    batch_size=32,
    model=ALIGN.model,
    optim=OptimConfig(lr=5e-4, muon_lr=2e-3, warmup_steps=10, decay_fraction=0.3, ema_decay=0.98),
    init=(("", "tiny"),),
    bf16=False,
    log_every=10,
    checkpoint_every=50,
    threads=1,
)
"""R1 distillation: SFT of the shipped model on long chains, exact on `shapes`, with the other tasks replayed.

After 200 steps chains have the right form, but their steps do not lead to the answer, which is guessed; rewards for the
answer then teach better guessing (docs/LOG.md, 2026-11-28)."""
REASON_SFT_MORE = replace(REASON_SFT, name="reason-sft-more", init=(("", "reason-sft"),), steps=200)
"""The control of `reason-grpo` and `reason-step-grpo`: as many more tokens of SFT as they process."""
REASON_STEP_GRPO = replace(
    REASON_SFT,
    name="reason-step-grpo",
    stage=stages.StepGrpoConfig(grpo=stages.GrpoConfig(max_tokens=176)),
    steps=60,
    batch_size=16,
    optim=OptimConfig(lr=1e-4, muon_lr=3e-4, warmup_steps=5, decay_fraction=0.3, ema_decay=0.9),
    init=(("", "reason-sft"),),
    log_every=1,
    checkpoint_every=20,
)
REASON_GRPO = replace(
    REASON_STEP_GRPO,
    name="reason-grpo",
    stage=stages.StepGrpoConfig(
        grpo=stages.GrpoConfig(max_tokens=176, rewards=stages.RewardWeights(key_steps=0.0, validity=0.0))
    ),
)
RELEASED_WEIGHTS = {
    "stage1": stages.LatentUMMWeights(preference=0.0, anchor=0.0, contrast=0.0, cycle=0.0),
    "stage2": stages.LatentUMMWeights(preference=0.1, anchor=0.0, contrast=0.0, cycle=0.0),
    "bagel": stages.LatentUMMWeights(modal=0.01, task=0.01, preference=0.001, anchor=0.01, contrast=0.0, cycle=0.0),
}
"""Default weights of each released trainer of LatentUMM (spec LatentUMM 1.2 to 1.4); its stage 1 script anchors with 0.1."""
POST_LATENTUMM_REFERENCE = replace(
    POST_LATENTUMM,
    name="post-latentumm-reference",
    stage=replace(_LATENTUMM, objective="reference", weights=RELEASED_WEIGHTS["bagel"]),
)
"""The objective with which the release trains BAGEL (spec LatentUMM 1.4)."""

_VQA = stages.TaskMix(vqa=1.0, cot=0.0, generation=0.0, editing=0.0)
_PRETRAIN = RunConfig(
    name="pretrain",
    stage=stages.PretrainUnifiedConfig(tasks=_VQA, items=65536),
    steps=2000,
    batch_size=32,
    optim=OptimConfig(lr=1e-3, muon_lr=4e-3, warmup_steps=50, decay_fraction=0.4),
    threads=1,
)
"""Backbones from random weights: questions about pictures, and generation from full descriptions; neither rewriting nor editing."""
PRETRAIN_JANUS_SQUARES = replace(
    _PRETRAIN,
    name="pretrain-janus-squares",
    stage=stages.PretrainCodesConfig(kind="pretrain_squares"),
    steps=1000,
    model=models.TinyJanusConfig(image_size_px=32, patch_size_px=4),
    bf16=False,
)
PRETRAIN_JANUS_CODES = replace(
    PRETRAIN_JANUS_SQUARES,
    name="pretrain-janus-codes",
    stage=stages.PretrainCodesConfig(),
    init=(("model.model.vqmodel.", "pretrain-janus-squares"),),
)
PRETRAIN_JANUS = replace(
    _PRETRAIN,
    name="pretrain-janus",
    steps=1200,
    model=PRETRAIN_JANUS_CODES.model,
    init=(("model.model.vqmodel.", "pretrain-janus-codes"),),
)
PRETRAIN_BAGEL = replace(_PRETRAIN, name="pretrain-bagel", model=models.TinyBagelConfig(image_size_px=32))
PRETRAIN_HARMON = replace(
    _PRETRAIN,
    name="pretrain-harmon",
    model=models.TinyHarmonConfig(mar=models.MarConfig(grid=4, channels=64, num_buffers=8)),
)
PRETRAINED = (PRETRAIN_JANUS, PRETRAIN_BAGEL, PRETRAIN_HARMON)
POST_OF_OTHERS = tuple(
    replace(post, name=f"{base.model.kind}-{post.name}", stage=stage, model=base.model, init=(("", base.name),))
    for base in PRETRAINED
    for post, stage in (
        (POST_SFT, stages.PostTrainSftConfig(tasks=_VQA, items=4096)),
        (POST_LATENTUMM, stages.LatentUMMConfig(tasks=_VQA, items=4096, rollouts=2, weights=_LATENTUMM.weights)),
    )
)
"""Post-training on the backbones' pretraining data. LatentUMM has no teacher here: the shipped one knows the words of
drawings only."""

_NAMED = [value for key, value in globals().items() if isinstance(value, RunConfig) and not key.startswith("_")]
RECIPES: dict[str, RunConfig] = {run.name: run for run in (*_NAMED, *POST_OF_OTHERS, *REAL)}
"""All recipes by name: every public `RunConfig` above."""


def recipe(name: str) -> RunConfig:
    """Return the recipe of that name; raise UserError with the nearest name if there is none."""
    if name not in RECIPES:
        raise unknown_name("recipe", name, RECIPES)
    return RECIPES[name]
