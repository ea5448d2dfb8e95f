"""What any backbone can be asked on held-out scenes: questions, drawings of full descriptions, and which picture is which."""

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
from latentbridge.evaluation.metrics import Score, average, recall_at_1, share
from latentbridge.evaluation.shapes import batched, score_answers
from latentbridge.images import fit_square
from latentbridge.models.backbones.contract import UnifiedBackbone
from latentbridge.rng import numpy_rng


def skill_jobs(backbone: UnifiedBackbone, size: int, seed: int) -> list[Callable[[], list[Score]]]:
    """The scores on the test split, each to be computed when called: `size` questions of each kind, three times as many scenes."""
    return [
        partial(score_answers, backbone.understand, "test", size, seed),
        partial(score_descriptions_drawn, backbone, "test", 3 * size, seed),
        partial(score_latent_retrieval, backbone, "test", 3 * size, seed),
    ]


def score_descriptions_drawn(backbone: UnifiedBackbone, split: Split, count: int, seed: int) -> list[Score]:
    """The share of facts that drawings of full descriptions show, and of drawings that show just the scene."""
    chosen = distinct_scenes(split, numpy_rng(seed, f"descriptions drawn {split}"), count)
    drawn = [
        picture
        for part in batched(list(enumerate(chosen)))
        for picture in backbone.generate([describe(s) for _, s in part], [seed + i for i, _ in part])
    ]
    kept = [facts_kept(picture, scene) for picture, scene in zip(drawn, chosen, strict=True)]
    exact = [
        read_scene(fit_square(picture, IMAGE_SIZE_PX)) == scene for picture, scene in zip(drawn, chosen, strict=True)
    ]
    return [
        average("draw", f"facts of full descriptions ({split})", kept),
        share("draw", f"full descriptions, exactly ({split})", exact),
    ]


def score_latent_retrieval(backbone: UnifiedBackbone, split: Split, count: int, seed: int) -> list[Score]:
    """R@1 both ways among distinct scenes, by the latent of understanding of pictures and of full descriptions."""
    chosen = distinct_scenes(split, numpy_rng(seed, f"own retrieval {split}"), count)
    view, positive = model_encoder(backbone), np.eye(count, dtype=bool)
    images, texts = view.read([render(s) for s in chosen]), view.read([describe(s) for s in chosen])
    note = f"among {count:,} distinct scenes, by the latent of understanding"
    return [
        share("find", f"description to picture R@1 ({split})", recall_at_1(texts, images, positive), note=note),
        share("find", f"picture to description R@1 ({split})", recall_at_1(images, texts, positive), note=note),
    ]
