"""Scores of any backbone on held-out scenes: questions, generation from full descriptions, and retrieval."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np

from latentbridge.data.shapes.language import describe
from latentbridge.data.shapes.oracle import read_scene
from latentbridge.data.shapes.render import IMAGE_SIZE_PX, render
from latentbridge.data.shapes.scenes import Split, distinct_scenes
from latentbridge.evaluation.encoders import model_encoder
from latentbridge.evaluation.loopback import facts_kept
from latentbridge.evaluation.metrics import Score, average, retrieval_scores, share
from latentbridge.evaluation.shapes import batched, score_answers
from latentbridge.images import fit_square
from latentbridge.models.trainable import TrainableModel
from latentbridge.rng import numpy_rng


def skill_jobs(backbone: TrainableModel, size: int, seed: int) -> list[Callable[[], list[Score]]]:
    """Return functions that compute the scores on the test split: `size` questions of each kind, three times as many scenes."""
    return [
        partial(score_answers, backbone.understand, "test", size, seed),
        partial(score_descriptions_drawn, backbone, "test", 3 * size, seed),
        partial(score_latent_retrieval, backbone, "test", 3 * size, seed),
    ]


def score_descriptions_drawn(backbone: TrainableModel, split: Split, count: int, seed: int) -> list[Score]:
    """Return the share of facts shown in pictures generated from full descriptions, and of pictures that are exactly right."""
    chosen = distinct_scenes(split, numpy_rng(seed, f"descriptions drawn {split}"), count)
    drawn = [
        picture
        for part in batched(list(enumerate(chosen)))
        for picture in backbone.draw_descriptions([describe(s) for _, s in part], [seed + i for i, _ in part])
    ]
    kept = [facts_kept(picture, scene) for picture, scene in zip(drawn, chosen, strict=True)]
    exact = [
        read_scene(fit_square(picture, IMAGE_SIZE_PX)) == scene for picture, scene in zip(drawn, chosen, strict=True)
    ]
    return [
        average("draw", f"facts of full descriptions ({split})", kept),
        share("draw", f"full descriptions, exactly ({split})", exact),
    ]


def score_latent_retrieval(backbone: TrainableModel, split: Split, count: int, seed: int) -> list[Score]:
    """Return R@1 in both directions among distinct scenes, by the understanding latents of pictures and full descriptions."""
    chosen = distinct_scenes(split, numpy_rng(seed, f"own retrieval {split}"), count)
    encoder = model_encoder(backbone)
    images, texts = encoder.encode([render(s) for s in chosen]), encoder.encode([describe(s) for s in chosen])
    note = f"among {count:,} distinct scenes, by the latent of understanding"
    metrics = f"description to picture R@1 ({split})", f"picture to description R@1 ({split})"
    return retrieval_scores(metrics, texts, images, np.eye(count, dtype=bool), note=note)
