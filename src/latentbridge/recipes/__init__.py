"""Named complete runs. A recipe is one `RunConfig`; a variant is a `replace` over another recipe."""

from __future__ import annotations

from dataclasses import replace

from latentbridge.config import (
    AlignerConfig,
    AuxiliaryEmbeddingConfig,
    GrpoConfig,
    LatentUMMWeights,
    MarConfig,
    ModelConfig,
    OptimConfig,
    PostTrainConfig,
    RewardWeights,
    RunConfig,
    SceneConfig,
    StageConfig,
    TaskMix,
    TinyBagelConfig,
    TinyHarmonConfig,
    TinyJanusConfig,
)
from latentbridge.errors import unknown_name
from latentbridge.recipes.real import REAL

PRETRAIN_DECODER = RunConfig(
    name="pretrain-decoder",
    stage=StageConfig("pretrain_decoder", drawings=0.2),
    steps=3000,
    batch_size=64,
    optim=OptimConfig(lr=1e-3, muon_lr=5e-3, warmup_steps=50, decay_fraction=0.2, ema_decay=0.998),
    threads=1,
)
SCENE_TEACHER = RunConfig(
    name="scene-teacher",
    stage=StageConfig("pretrain_teacher", drawings=0.4),
    steps=520,
    batch_size=256,
    model=SceneConfig(),
    optim=OptimConfig(lr=1e-3, muon_lr=4e-3, warmup_steps=40, decay_fraction=0.6, ema_decay=0.99),
    checkpoint_every=100,
    threads=1,
)
"""The teacher `scene` of post-training, larger than the model it teaches and too large to ship."""
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
    model=ModelConfig(
        aligner=AlignerConfig(cross_bias=True),
        second_view=AuxiliaryEmbeddingConfig(words=3200, more_words=7000, own_words=54),
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
POST_SFT = RunConfig(
    name="post-sft",
    stage=StageConfig("posttrain_sft", drawings=0.5, tasks=SFT_EDITS.stage.tasks, items=4096),
    steps=100,
    batch_size=16,
    model=ALIGN.model,
    optim=OptimConfig(lr=1e-4, muon_lr=3e-4, warmup_steps=20, decay_fraction=0.5, ema_decay=0.98),
    init=(("", "tiny"),),
    bf16=False,
    checkpoint_every=100,
)
"""Post-training of the shipped model; the recipes after it change the method and nothing else. Half of the items are
drawings, for of `shapes` the shipped model already keeps nearly all."""
DRAWINGS_SFT = replace(
    POST_SFT,
    name="drawings-sft",
    stage=StageConfig("sft", drawings=0.9, tasks=SFT_EDITS.stage.tasks),
    optim=replace(POST_SFT.optim, muon_lr=0.0),
)
"""A short SFT of the shipped model on what it knows least, for comparing adapters with full fine-tuning; AdamW alone."""
FINETUNE = replace(
    POST_SFT,
    name="finetune",
    stage=StageConfig("finetune", drawings=0.3, tasks=SFT_EDITS.stage.tasks, retrieval_weight=0.1, packed=True),
    steps=600,
    optim=OptimConfig(lr=3e-4, muon_lr=0.0, warmup_steps=20, decay_fraction=0.8, ema_decay=0.98),
    threads=1,
)
"""The shipped model on a user's own data: half of a step is theirs, 35 % `shapes` and 15 % drawings, which rehearse what it
could do. AdamW alone, which costs about the same on every processor."""
POST_RECA = replace(POST_SFT, name="post-reca", stage=replace(POST_SFT.stage, kind="reca"))
POST_UNIGAME = replace(POST_SFT, name="post-unigame", stage=replace(POST_SFT.stage, kind="unigame"))
POST_UNICOT = replace(POST_SFT, name="post-unicot", stage=replace(POST_SFT.stage, kind="unicot"))
POST_LATENTUMM = replace(
    POST_SFT,
    name="post-latentumm",
    stage=replace(
        POST_SFT.stage,
        kind="latentumm",
        posttrain=PostTrainConfig(
            teacher="package",
            rollouts=2,
            weights=LatentUMMWeights(modal=0.1, task=0.1, preference=0.1, anchor=0.1, contrast=0.1),
        ),
    ),
)
"""Words lead: at weight 1 the terms on latents outweigh them, and what is kept of drawings after four hops falls below
what plain SFT keeps (docs/LOG.md, 2026-11-23)."""
QUICKSTART = replace(
    POST_LATENTUMM,
    name="quickstart",
    stage=replace(
        POST_LATENTUMM.stage,
        items=256,
        posttrain=PostTrainConfig(
            weights=LatentUMMWeights(modal=0.0, task=0.0, preference=0.0, anchor=0.0, contrast=0.0)
        ),
    ),
    steps=16,
    optim=OptimConfig(lr=2e-4, muon_lr=6e-4, warmup_steps=5, decay_fraction=0.5, ema_decay=0.9),
)
"""Post-training in a minute or two: drawings are told in words, and nothing else of LatentUMM acts. AdamW alone, half the
denoising steps or half the pairs a step cost less and teach less (docs/LOG.md, 2026-12-01)."""
REASON_SFT = RunConfig(
    name="reason-sft",
    stage=StageConfig("sft", tasks=TaskMix(look=0.1, reason=0.1, draw=0.1, edit=0.1, deliberate=0.6)),
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
"""R1 distillation: the shipped model learns long chains, exact on `shapes`, and keeps what it knows by a little of the rest.

After 200 steps chains have the right form but their steps do not lead to the answer, which is guessed; rewards for the answer
then teach better guessing (docs/LOG.md, 2026-11-28)."""
REASON_SFT_MORE = replace(
    REASON_SFT,
    name="reason-sft-more",
    init=(("", "reason-sft"),),
    steps=200,
)
"""As much more of the same as the two runs of rewards after it take, by the tokens that pass: the control."""
REASON_STEP_GRPO = replace(
    REASON_SFT,
    name="reason-step-grpo",
    stage=StageConfig("step_grpo", grpo=GrpoConfig(max_tokens=176)),
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
    stage=replace(
        REASON_STEP_GRPO.stage,
        grpo=replace(REASON_STEP_GRPO.stage.grpo, rewards=RewardWeights(key_steps=0.0, validity=0.0)),
    ),
)
RELEASED_WEIGHTS = {
    "stage1": LatentUMMWeights(preference=0.0, anchor=0.0, contrast=0.0, telling=0.0),
    "stage2": LatentUMMWeights(preference=0.1, anchor=0.0, contrast=0.0, telling=0.0),
    "bagel": LatentUMMWeights(modal=0.01, task=0.01, preference=0.001, anchor=0.01, contrast=0.0, telling=0.0),
}
"""What each released trainer of LatentUMM uses unless told otherwise (spec LatentUMM 1.2 to 1.4); the shell script of its
stage 1 anchors with 0.1."""
POST_LATENTUMM_REFERENCE = replace(
    POST_LATENTUMM,
    name="post-latentumm-reference",
    stage=replace(
        POST_LATENTUMM.stage,
        posttrain=PostTrainConfig(
            objective="reference", teacher="package", weights=RELEASED_WEIGHTS["bagel"], rollouts=2
        ),
    ),
)
"""The objective with which the release trains BAGEL (spec LatentUMM 1.4)."""

_PRETRAIN = RunConfig(
    name="pretrain",
    stage=StageConfig("pretrain_unified", tasks=TaskMix(look=1.0, reason=0.0, draw=0.0, edit=0.0), items=65536),
    steps=2000,
    batch_size=32,
    optim=OptimConfig(lr=1e-3, muon_lr=4e-3, warmup_steps=50, decay_fraction=0.4),
    threads=1,
)
"""What backbones learn from nothing: to look, and to draw full descriptions. They are asked neither to rewrite nor to edit."""
PRETRAIN_JANUS_SQUARES = replace(
    _PRETRAIN,
    name="pretrain-janus-squares",
    stage=replace(_PRETRAIN.stage, kind="pretrain_squares"),
    steps=1000,
    model=TinyJanusConfig(image_size_px=32, patch_size_px=4),
    bf16=False,
)
PRETRAIN_JANUS_CODES = replace(
    PRETRAIN_JANUS_SQUARES,
    name="pretrain-janus-codes",
    stage=replace(_PRETRAIN.stage, kind="pretrain_codes"),
    init=(("model.model.vqmodel.", "pretrain-janus-squares"),),
)
PRETRAIN_JANUS = replace(
    _PRETRAIN,
    name="pretrain-janus",
    steps=1200,
    model=PRETRAIN_JANUS_CODES.model,
    init=(("model.model.vqmodel.", "pretrain-janus-codes"),),
)
PRETRAIN_BAGEL = replace(_PRETRAIN, name="pretrain-bagel", model=TinyBagelConfig(image_size_px=32))
PRETRAIN_HARMON = replace(
    _PRETRAIN, name="pretrain-harmon", model=TinyHarmonConfig(mar=MarConfig(grid=4, channels=64, num_buffers=8))
)
PRETRAINED = (PRETRAIN_JANUS, PRETRAIN_BAGEL, PRETRAIN_HARMON)
POST_OF_OTHERS = tuple(
    replace(
        post,
        name=f"{base.model.kind}-{post.name}",
        stage=replace(
            base.stage,
            kind=post.stage.kind,
            items=post.stage.items,
            posttrain=replace(post.stage.posttrain, teacher="none"),
        ),
        model=base.model,
        init=(("", base.name),),
    )
    for base in PRETRAINED
    for post in (POST_SFT, POST_LATENTUMM)
)
"""Post-training as of the shipped model, on what the backbones were pretrained on. LatentUMM has no teacher there: the
shipped one knows the words of drawings only."""

RECIPES: dict[str, RunConfig] = {
    recipe.name: recipe
    for recipe in (
        PRETRAIN_DECODER,
        PRETRAIN_BACKBONE,
        SFT,
        SFT_BINDING,
        SFT_EDITS,
        ALIGN,
        SCENE_TEACHER,
        POST_SFT,
        FINETUNE,
        DRAWINGS_SFT,
        POST_RECA,
        POST_UNIGAME,
        POST_UNICOT,
        POST_LATENTUMM,
        POST_LATENTUMM_REFERENCE,
        QUICKSTART,
        REASON_SFT,
        REASON_SFT_MORE,
        REASON_GRPO,
        REASON_STEP_GRPO,
        PRETRAIN_JANUS_SQUARES,
        PRETRAIN_JANUS_CODES,
        *PRETRAINED,
        *POST_OF_OTHERS,
        *REAL,
    )
}


def recipe(name: str) -> RunConfig:
    """The recipe of that name; raises UserError with the nearest name."""
    if name not in RECIPES:
        raise unknown_name("recipe", name, RECIPES)
    return RECIPES[name]
