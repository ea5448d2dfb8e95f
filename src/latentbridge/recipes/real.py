"""Runs over released weights of 1.5 to 14.7 billion parameters. None of them has been run here; `latentbridge estimate` tells what
they take, and a test builds them on the meta device.

Released weights stand beside the runs, under the names of `RELEASES`. The data is the user's own: give it with
`--set stage.manifest=...`. Of the papers' settings little is known (spec OmniBridge 3.2, LatentUMM 1.4); what is not says
so below, and is a choice of ours that no experiment has confirmed.
"""

from __future__ import annotations

from dataclasses import replace

from latentbridge.config import (
    OMNIBRIDGE_8B,
    QWEN2_VL_7B,
    LatentUMMWeights,
    ModelConfig,
    OptimConfig,
    PostTrainConfig,
    ReleaseConfig,
    RunConfig,
    StageConfig,
    TaskMix,
)

RELEASES = {
    "Qwen2-VL-7B-Instruct": "transformers' layout, safetensors",
    "HunyuanDiT-v1.2-Diffusers": "diffusers' layout, safetensors",
    "BAGEL-7B-MoT": "ema.safetensors, ae.safetensors, llm_config.json, vit_config.json and the tokenizer",
    "Janus-Pro-7B": "transformers' layout, safetensors",
    "Harmon-1_5B": "safetensors and the tokenizer",
}
"""What runs start from that no recipe makes, by the name its folder must have beside the runs; and what lies in it."""

_LORA_RANK = 64
_ADAMW = OptimConfig(
    lr=1e-4, muon_lr=0.0, weight_decay=0.0, warmup_steps=100, decay_fraction=0.9, clip_norm=1.0, ema_decay=0.99
)
"""AdamW alone, for adapters; ours. Muon is for weights trained from nothing."""

OMNIBRIDGE_8B_STAGE1 = RunConfig(
    name="omnibridge-8b-stage1",
    stage=StageConfig(
        "sft", lora_rank=_LORA_RANK, tasks=TaskMix(look=0.4, reason=0.2, draw=0.2, edit=0.2, relation=0.0)
    ),
    steps=3000,
    batch_size=64,
    model=ModelConfig(parts=("backbone",), backbone=QWEN2_VL_7B),
    optim=_ADAMW,
    init=(("", "Qwen2-VL-7B-Instruct"),),
    recompute="blocks",
)
"""SFT of Qwen2-VL-7B: the language model moves through an adapter, the vision tower stays (spec OmniBridge 3.2). The
paper has fewer than 100,000 samples, which are two epochs here; rank, rate, batch and shares of tasks are ours. Step-GRPO belongs between this run and the next:
a recipe of that stage starts from this one, and takes its place in `OMNIBRIDGE_8B_ADAPTION.init`."""
OMNIBRIDGE_8B_ADAPTION = RunConfig(
    name="omnibridge-8b-adaption",
    stage=StageConfig("adaption", items=65536),
    steps=300,
    batch_size=64,
    model=OMNIBRIDGE_8B,
    optim=replace(_ADAMW, lr=1e-3),
    init=(("backbone.", OMNIBRIDGE_8B_STAGE1.name), ("decoder.", "HunyuanDiT-v1.2-Diffusers")),
)
"""First half of stage 2: projector and queries. Steps and rate are ours."""
OMNIBRIDGE_8B_STAGE2 = replace(
    OMNIBRIDGE_8B_ADAPTION,
    name="omnibridge-8b-stage2",
    stage=StageConfig("align", items=65536, retrieval_weight=0.1),
    steps=1000,
    init=(
        *OMNIBRIDGE_8B_ADAPTION.init,
        *((part, OMNIBRIDGE_8B_ADAPTION.name) for part in ("projector.", "aligner.", "retrieval.")),
    ),
)
"""Second half: the aligner too. The released checkpoints are from steps 800 and 1000 (spec OmniBridge 3.1)."""
_LATENTUMM = RunConfig(
    name="latentumm",
    stage=StageConfig(
        "latentumm",
        lora_rank=_LORA_RANK,
        tasks=TaskMix(look=1.0, reason=0.0, draw=0.0, edit=0.0),
        items=16384,
        posttrain=PostTrainConfig(
            rollouts=2, weights=LatentUMMWeights(modal=0.1, task=0.1, preference=0.1, anchor=0.1, contrast=0.1)
        ),
    ),
    steps=1000,
    batch_size=16,
    model=ReleaseConfig("bagel-7b-mot"),
    optim=_ADAMW,
    bf16=False,
    recompute="blocks",
)
"""Our objective at the weights that the tiny model was tuned to; bfloat16 is refused by all post-training."""
BAGEL_7B_LATENTUMM = replace(_LATENTUMM, name="bagel-7b-latentumm", init=(("", "BAGEL-7B-MoT"),))
JANUS_PRO_7B_LATENTUMM = replace(
    _LATENTUMM, name="janus-pro-7b-latentumm", model=ReleaseConfig("janus-pro-7b"), init=(("", "Janus-Pro-7B"),)
)
HARMON_1_5B_LATENTUMM = replace(
    _LATENTUMM,
    name="harmon-1.5b-latentumm",
    stage=replace(_LATENTUMM.stage, lora_rank=0),
    batch_size=8,
    model=ReleaseConfig("harmon-1.5b"),
    optim=replace(_ADAMW, lr=1e-5),
    init=(("", "Harmon-1_5B"),),
)
"""Small enough to move whole; but a drawing has 64 steps, all with gradient, so eight samples fill eight GPUs of 80 GB."""
REAL = (
    OMNIBRIDGE_8B_STAGE1,
    OMNIBRIDGE_8B_ADAPTION,
    OMNIBRIDGE_8B_STAGE2,
    BAGEL_7B_LATENTUMM,
    JANUS_PRO_7B_LATENTUMM,
    HARMON_1_5B_LATENTUMM,
)
