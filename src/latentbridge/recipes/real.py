"""Recipes over released weights of 1.5 to 14.7 billion parameters. None has been run here; `latentbridge estimate` gives their
cost, and a test builds them on the meta device.

Released weights stand beside the runs, under the names of `RELEASES`. Give your own data with `--data` or
`--set stage.sources=...`. Of the papers' settings little is known (spec OmniBridge 3.2, LatentUMM 1.4); settings marked ours
are choices that no experiment has confirmed.
"""

from __future__ import annotations

from dataclasses import replace

from latentbridge.config import OMNIBRIDGE_8B, QWEN2_VL_7B, OptimConfig, RunConfig
from latentbridge.config import model_config as models
from latentbridge.config import stage_config as stages

RELEASES = {
    "Qwen2-VL-7B-Instruct": "transformers' layout, safetensors",
    "HunyuanDiT-v1.2-Diffusers": "diffusers' layout, safetensors",
    "BAGEL-7B-MoT": "ema.safetensors, ae.safetensors, llm_config.json, vit_config.json and the tokenizer",
    "Janus-Pro-7B": "transformers' layout, safetensors",
    "Harmon-1_5B": "safetensors, or harmon_1.5b.pth and kl16.ckpt; the tokenizer of Qwen2.5-1.5B-Instruct",
}
"""Released weights that runs start from: the folder's name beside the runs, and its contents."""

_LORA_RANK = 64
_ADAMW = OptimConfig(
    lr=1e-4, muon_lr=0.0, weight_decay=0.0, warmup_steps=100, decay_fraction=0.9, clip_norm=1.0, ema_decay=0.99
)
"""AdamW alone, for adapters; ours. Muon is for weights trained from random ones."""

OMNIBRIDGE_8B_STAGE1 = RunConfig(
    name="omnibridge-8b-stage1",
    stage=stages.SftConfig(lora_rank=_LORA_RANK, tasks=stages.TaskMix(vqa=0.4, cot=0.2, generation=0.2, editing=0.2)),
    steps=3000,
    batch_size=64,
    model=models.ModelConfig(parts=("backbone",), backbone=QWEN2_VL_7B),
    optim=_ADAMW,
    init=(("", "Qwen2-VL-7B-Instruct"),),
    recompute="blocks",
)
"""SFT of Qwen2-VL-7B: an adapter of the language model, a frozen vision tower (spec OmniBridge 3.2). The paper has fewer
than 100,000 samples, which are two epochs here; rank, rate, batch size and task mix are ours. Step-GRPO comes between this
run and the next: start a run of that stage from this one, and `OMNIBRIDGE_8B_ADAPTION` from it."""
OMNIBRIDGE_8B_ADAPTION = RunConfig(
    name="omnibridge-8b-adaption",
    stage=stages.AlignConfig(kind="adaption", items=65536),
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
    stage=stages.AlignConfig(items=65536, retrieval_weight=0.1),
    steps=1000,
    init=(
        *OMNIBRIDGE_8B_ADAPTION.init,
        *((part, OMNIBRIDGE_8B_ADAPTION.name) for part in ("projector.", "aligner.", "retrieval.")),
    ),
)
"""Second half of stage 2: the aligner too. The released checkpoints are from steps 800 and 1000 (spec OmniBridge 3.1)."""
_LATENTUMM = RunConfig(
    name="latentumm",
    stage=stages.LatentUMMConfig(
        lora_rank=_LORA_RANK,
        tasks=stages.TaskMix(vqa=1.0, cot=0.0, generation=0.0, editing=0.0),
        items=16384,
        rollouts=2,
        weights=stages.LatentUMMWeights(modal=0.1, task=0.1, preference=0.1, anchor=0.1, contrast=0.1),
    ),
    steps=1000,
    batch_size=16,
    model=models.ReleaseConfig("bagel-7b-mot"),
    optim=_ADAMW,
    bf16=False,
    recompute="blocks",
)
"""Our objective at the weights tuned on the tiny model; post-training refuses bfloat16."""
BAGEL_7B_LATENTUMM = replace(_LATENTUMM, name="bagel-7b-latentumm", init=(("", "BAGEL-7B-MoT"),))
JANUS_PRO_7B_LATENTUMM = replace(
    _LATENTUMM, name="janus-pro-7b-latentumm", model=models.ReleaseConfig("janus-pro-7b"), init=(("", "Janus-Pro-7B"),)
)
HARMON_1_5B_LATENTUMM = replace(
    _LATENTUMM,
    name="harmon-1.5b-latentumm",
    stage=replace(_LATENTUMM.stage, lora_rank=0),
    batch_size=8,
    model=models.ReleaseConfig("harmon-1.5b"),
    optim=replace(_ADAMW, lr=1e-5),
    init=(("", "Harmon-1_5B"),),
)
"""Small enough for full fine-tuning; but a drawing has 64 steps, all with gradient, so eight samples fill eight GPUs of 80 GB."""
REAL = (
    OMNIBRIDGE_8B_STAGE1,
    OMNIBRIDGE_8B_ADAPTION,
    OMNIBRIDGE_8B_STAGE2,
    BAGEL_7B_LATENTUMM,
    JANUS_PRO_7B_LATENTUMM,
    HARMON_1_5B_LATENTUMM,
)
