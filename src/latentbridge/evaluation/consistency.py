"""Consistency of a model's understanding with its generation, measured without an external judge.

The spec names the core set (LatentUMM 4 and 5) and defines the first measure, Unified-Bench's; the definitions of the other
three are ours. Items that fail count as wrong.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from latentbridge.data.pairs import Pair
from latentbridge.data.shapes.language import final_answer
from latentbridge.evaluation.encoders import ItemEncoder
from latentbridge.evaluation.loopback import loopback_chain
from latentbridge.evaluation.metrics import Score, average, share
from latentbridge.evaluation.shapes import batched
from latentbridge.evaluation.statistics import mcnemar
from latentbridge.models.trainable import TrainableModel
from latentbridge.prompts import CAPTION_REQUEST
from latentbridge.types import Conversation, Picture

_SKILL = "consistency"


def measure_consistency(
    backbone: TrainableModel,
    pairs: Sequence[Pair],
    encoders: Sequence[ItemEncoder],
    seed: int = 0,
    progress: bool = True,
) -> list[Score]:
    """Return the core set on pairs.

    Each pair's picture is reconstructed from the model's caption of it, and a picture is generated from its text:

    - Unified-Bench cosine, per encoder: similarity of picture and reconstruction.
    - Self-question agreement gap: accuracy on the picture minus accuracy on the picture generated from its text. The note has
      the p-value of McNemar's exact test.
    - Answer flip rate: share of questions whose answer differs on the reconstruction, right or wrong.
    - Prompt-likelihood gap: mean loss per token (`understanding_loss`, in nats) of the text given the generated picture minus
      that given the original. Below 0 the generated picture predicts the text better.
    """
    pictures, texts = [pair.picture for pair in pairs], [pair.text for pair in pairs]
    with tqdm(total=4, desc=_SKILL, unit="measure", disable=not progress) as bar:
        round_trip: Iterator[Any] = loopback_chain(backbone, pictures, 2, seed)
        _, reconstructed = round_trip
        rows = [score_reconstruction(encoder, pictures, reconstructed) for encoder in encoders]
        bar.update()
        generated: Any = next(loopback_chain(backbone, texts, 1, seed))
        bar.update()
        rows += score_answer_agreement(backbone, pairs, generated, reconstructed)
        bar.update()
        rows.append(score_likelihood_gap(backbone, pairs, generated))
        bar.update()
    return rows


def score_reconstruction(encoder: ItemEncoder, pictures: Sequence[Picture], reconstructed: Any) -> Score:
    """Return the mean cosine of pictures and their reconstructions from captions (Unified-Bench, UAE)."""
    cosines = (encoder.encode(pictures) * encoder.encode(reconstructed)).sum(axis=1)
    note = f"lowest {cosines.min():.3f}, highest {cosines.max():.3f}"
    return average(_SKILL, f"Unified-Bench cosine ({encoder.name})", cosines, "cosine", note=note)


def score_answer_agreement(
    backbone: TrainableModel, pairs: Sequence[Pair], generated: Sequence[Picture], reconstructed: Sequence[Picture]
) -> list[Score]:
    """Score answers on pictures, on pictures generated from their texts and on reconstructions; [] without questions."""
    indices = [i for i, pair in enumerate(pairs) if pair.question and pair.answer]
    if not indices:
        return []
    questions = [pairs[i].question or "" for i in indices]
    truth = [final_answer(pairs[i].answer or "") for i in indices]
    original_answers, generated_answers, reconstructed_answers = (
        _answer(backbone, [pictures[i] for i in indices], questions)
        for pictures in ([pair.picture for pair in pairs], generated, reconstructed)
    )
    original, drawn = (
        [a == b for a, b in zip(answers, truth, strict=True)] for answers in (original_answers, generated_answers)
    )
    flips = [a != b for a, b in zip(original_answers, reconstructed_answers, strict=True)]
    gap = np.array(original, dtype=float) - np.array(drawn, dtype=float)
    note = f"only on the picture {int((gap > 0).sum())}, only on the drawing {int((gap < 0).sum())}; McNemar p = {mcnemar(original, drawn):.2g}"
    return [
        share(_SKILL, "right answers on the picture", original),
        share(_SKILL, "right answers on the drawing of its text", drawn),
        average(_SKILL, "self-question agreement gap", gap, better="lower", note=note),
        replace(share(_SKILL, "answer flip rate", flips), better="lower"),
    ]


def _answer(backbone: TrainableModel, pictures: Sequence[Picture], questions: Sequence[str]) -> list[str]:
    batches = zip(batched(pictures), batched(questions), strict=True)
    return [final_answer(reply) for images, texts in batches for reply in backbone.understand(images, texts)]


def score_likelihood_gap(backbone: TrainableModel, pairs: Sequence[Pair], generated: Sequence[Picture]) -> Score:
    """Return the mean prompt-likelihood gap of the pairs' texts."""
    gaps = [
        _caption_loss(backbone, pair.text, picture) - _caption_loss(backbone, pair.text, pair.picture)
        for pair, picture in zip(pairs, generated, strict=True)
    ]
    return average(_SKILL, "prompt-likelihood gap", gaps, "nats", "lower")


@torch.no_grad()
def _caption_loss(backbone: TrainableModel, text: str, picture: Picture) -> float:
    return float(backbone.understanding_loss([Conversation.with_picture(((CAPTION_REQUEST, text),), picture)]))
