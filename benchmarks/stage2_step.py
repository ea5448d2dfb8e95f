"""A stage-2 step with frozen features from the store, against computing them in every step; side by side in one run.

Three ways a step can get its features: read from the store, recomputed from stored captions, and recomputed after the
captions were sampled anew, which is what the released code does. Two sizes: the shipped tiny model, and the proportions of
the 8B recipe scaled down: all widths by 8 (3584 to 448, of the aligner 2048 to 256), 28 layers to 8 and 24 to 4, which
leaves the backbone 7 times the weights that stage 2 moves, where it is 6 at full size. At full size nothing is timed; there the ratio of FLOPs is
given, by the passes of `training/costs/estimate.py`: of the store's step one forward and backward of projector and aligner, of
the others the vision tower and language model over picture, caption and description, and mT5's encoder, besides. FLOPs
say too little of sampling, which reads all weights once for every token of a batch; how much that is stands beside them.

At the two sizes that are timed FLOPs are counted, too. Scaled down they give 6.2 and 8.4 times (at a batch of 2). What falls
short of that in time is the store's step: the aligner's products are small, and so it gets through fewer FLOPs a second than
the language model, as the rates in the details tell. What goes beyond is sampling, which waits for weights and not for products.
Run: python benchmarks/stage2_step.py
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable
from dataclasses import replace
from statistics import median

import torch
from harness import SMOKE, Target, compare, flops, in_turns, keep, one_thread

from latentbridge.config import AlignerConfig, BackboneConfig, ModelConfig, RunConfig
from latentbridge.models.checkpoint import new_model
from latentbridge.models.omnibridge.modeling_omnibridge import OmniBridge
from latentbridge.recipes import ALIGN
from latentbridge.recipes.real import OMNIBRIDGE_8B_STAGE2
from latentbridge.rng import torch_rng
from latentbridge.training.costs.estimate import build_on_meta, pass_flops
from latentbridge.training.costs.passes import Pass, passes
from latentbridge.training.stages.align import Align

ROUNDS, BATCH = (1, 2) if SMOKE else (6, 16)
SCALED_8B = replace(
    ModelConfig(),
    backbone=BackboneConfig(
        hidden_size=448,
        num_layers=8,
        num_heads=14,
        num_kv_heads=2,
        intermediate_size=2368,
        vision_width=160,
        vision_heads=5,
    ),
    aligner=AlignerConfig(d_model=256, d_ff=640, d_kv=32, num_heads=8, num_layers=4, cross_layers=(0, 2)),
)
CAPTION_TOKENS, PICTURE_TOKENS = 64, (256, 1024)
"""At full size: a caption of about 50 words, and the smallest and largest pictures of the release (spec OmniBridge 2)."""
_EYE, _LANGUAGE = "backbone.model.model.visual.", "backbone.model.model.language_model."


def main() -> None:
    one_thread()
    aims = {"recomputed": 5.0, "recomputed and rewritten": 10.0}
    targets: list[Target] = []
    details: dict[str, object] = {"batch": BATCH}
    for size, config in (("tiny", ModelConfig()), ("8B scaled down", SCALED_8B)):
        seconds, products = measure(config)
        for way, least in aims.items():
            least = None if size == "tiny" else least
            target = compare(f"{size}: {way} / store", seconds[way], seconds["store"], least=least)
            targets.append(target)
            details[target.name] = {"by FLOPs": round(products[way] / products["store"], 2)}
        rates = {way: round(products[way] / min(taken) / 1e9, 1) for way, taken in seconds.items()}
        details[f"{size}: GFLOP a CPU second"] = rates
        details[f"{size}: median CPU s"] = {way: round(median(taken), 4) for way, taken in seconds.items()}
    keep(__file__, targets, {**details, "at full size, by FLOPs": at_full_size()})


def measure(model_config: ModelConfig) -> tuple[dict[str, list[float]], dict[str, int]]:
    """CPU seconds of a step each way, and the FLOPs of its products."""
    config = replace(
        ALIGN,
        model=model_config,
        batch_size=BATCH,
        init=(),
        stage=replace(ALIGN.stage, sources=(("shapes", 1.0),), items=4 * BATCH),
    )
    model = new_model(config.model, 0)
    with tempfile.TemporaryDirectory() as cache:
        os.environ["LATENTBRIDGE_CACHE"] = cache
        stage = Align(config)
        stage.prepare(model)
        stage.setup(model)
        ways: dict[str, Callable[[], None]] = {
            "store": lambda: train_step(stage, model),
            "recomputed": lambda: (recompute(stage, model), train_step(stage, model))[1],
            "recomputed and rewritten": lambda: (
                rewrite(model, config), recompute(stage, model), train_step(stage, model)
            )[2],
        }  # fmt: skip
        return in_turns(ways, ROUNDS), {name: flops(way) for name, way in ways.items()}


def train_step(stage: Align, model: OmniBridge) -> None:
    moving = [p for name, p in model.named_parameters() if stage.trainable(f"model.{name}")]
    outputs = stage.loss(model, stage.batch(model, 0), torch_rng(0, "bench"), None)
    torch.autograd.grad(outputs.loss, moving, allow_unused=True)  # pyright: ignore[reportArgumentType]


def recompute(stage: Align, model: OmniBridge) -> None:
    stage.compute_features(model, range(BATCH))


def rewrite(model: OmniBridge, config: RunConfig) -> None:
    """A caption of the usual length for every item; an untrained model stops only at the limit."""
    model.rewrite(["a red circle left of a blue star"] * config.batch_size)


def at_full_size() -> dict[str, float]:
    """Of a sample of the recipe for the 8B model: the store's step in 10^12 FLOPs, and how many times that the others are."""
    config = OMNIBRIDGE_8B_STAGE2
    network, stage = build_on_meta(config)
    named = {f"model.{name}": p for name, p in network.named_parameters() if stage.trainable(f"model.{name}")}

    def flops(*found: Pass) -> float:
        return sum(pass_flops(network, each, named) for each in found) / 1e12

    store = flops(*passes(config, network, CAPTION_TOKENS, 512))
    found = {"store (TFLOP)": round(store, 2)}
    for picture in PICTURE_TOKENS:
        hidden = flops(
            Pass(f"{_EYE}blocks.", 4 * picture, with_gradient=False),
            Pass(f"{_EYE}merger.", picture, with_gradient=False),
            Pass(_LANGUAGE, picture, with_gradient=False),
            Pass(_LANGUAGE, CAPTION_TOKENS, times=2, with_gradient=False),
            Pass("text_encoder.", config.model.text_length, with_gradient=False),  # pyright: ignore[reportAttributeAccessIssue]
        )
        rewriting = flops(
            Pass(_LANGUAGE, CAPTION_TOKENS, with_gradient=False),
            Pass("backbone.model.lm_head", CAPTION_TOKENS, with_gradient=False),
        )
        found[f"recomputed / store, {picture} image tokens"] = round((hidden + store) / store, 2)
        found[f"recomputed and rewritten / store, {picture} image tokens"] = round(
            (rewriting + hidden + store) / store, 2
        )
    weights = sum(
        p.numel() for name, p in network.named_parameters() if name.startswith((_LANGUAGE, "backbone.model.lm_head"))
    )
    found["weights that sampling a batch's captions reads (GB, bfloat16)"] = round(2 * weights * CAPTION_TOKENS / 1e9)
    return found


if __name__ == "__main__":
    main()
