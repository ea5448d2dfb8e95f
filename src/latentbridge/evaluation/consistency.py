"""Consistency: does a model draw what it says, and see what it drew? Nothing here needs a judge.

The spec names the core set (LatentUMM 4 and 5) and defines the first measure, Unified-Bench's; the definitions of the
other three are ours. An item that fails counts as wrong and is never left out.
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
from latentbridge.models.backbones.contract import UnifiedBackbone
from latentbridge.prompts import CAPTION_REQUEST
from latentbridge.types import Conversation, Picture

_SKILL = "consistency"


def measure_consistency(
    backbone: UnifiedBackbone, pairs: Sequence[Pair], views: Sequence[ItemEncoder], seed: int = 0, progress: bool = True
) -> list[Score]:
    """The core set on pairs.

    Each pair's picture is redrawn from the model's own words for it, and its text is drawn:

    - Unified-Bench cosine, per view: of the picture and the redrawn one.
    - Self-question agreement gap: right answers on the picture less right answers on the drawing of its text, where the
      same answers are right. Whether it could be 0 says McNemar's exact test, in the note.
    - Answer flip rate: questions answered otherwise on the redrawn picture, right or wrong.
    - Prompt-likelihood gap: how much less likely the model finds the text on seeing its drawing than on seeing the
      picture, in nats by `understanding_loss`, hence a mean over tokens. Below 0 the drawing tells more than the picture.
    """
    pictures, texts = [pair.picture for pair in pairs], [pair.text for pair in pairs]
    with tqdm(total=4, desc=_SKILL, unit="measure", disable=not progress) as bar:
        round_trip: Iterator[Any] = loopback_chain(backbone, pictures, 2, seed)
        _, redrawn = round_trip
        rows = [score_reconstruction(view, pictures, redrawn) for view in views]
        bar.update()
        drawn: Any = next(loopback_chain(backbone, texts, 1, seed))
        bar.update()
        rows += score_answer_agreement(backbone, pairs, drawn, redrawn)
        bar.update()
        rows.append(score_likelihood_gap(backbone, pairs, drawn))
        bar.update()
    return rows


def score_reconstruction(view: ItemEncoder, pictures: Sequence[Picture], redrawn: Any) -> Score:
    """Cosines of pictures and of the same ones redrawn from words (Unified-Bench, UAE), as a view sees them."""
    cosines = (view.read(pictures) * view.read(redrawn)).sum(axis=1)
    note = f"lowest {cosines.min():.3f}, highest {cosines.max():.3f}"
    return average(_SKILL, f"Unified-Bench cosine ({view.name})", cosines, "cosine", note=note)


def score_answer_agreement(
    backbone: UnifiedBackbone, pairs: Sequence[Pair], drawn: Sequence[Picture], redrawn: Sequence[Picture]
) -> list[Score]:
    """Answers about pictures, about drawings of their texts and about redrawn pictures; nothing where nothing is asked."""
    asked = [i for i, pair in enumerate(pairs) if pair.question and pair.answer]
    if not asked:
        return []
    questions = [pairs[i].question or "" for i in asked]
    truth = [final_answer(pairs[i].answer or "") for i in asked]
    on_picture, on_drawing, on_redrawn = (
        _answer(backbone, [shown[i] for i in asked], questions)
        for shown in ([pair.picture for pair in pairs], drawn, redrawn)
    )
    seen, read = ([a == b for a, b in zip(answers, truth, strict=True)] for answers in (on_picture, on_drawing))
    flips = [a != b for a, b in zip(on_picture, on_redrawn, strict=True)]
    gap = np.array(seen, dtype=float) - np.array(read, dtype=float)
    note = f"only on the picture {int((gap > 0).sum())}, only on the drawing {int((gap < 0).sum())}; McNemar p = {mcnemar(seen, read):.2g}"
    return [
        share(_SKILL, "right answers on the picture", seen),
        share(_SKILL, "right answers on the drawing of its text", read),
        average(_SKILL, "self-question agreement gap", gap, better="lower", note=note),
        replace(share(_SKILL, "answer flip rate", flips), better="lower"),
    ]


def _answer(backbone: UnifiedBackbone, pictures: Sequence[Picture], questions: Sequence[str]) -> list[str]:
    parts = zip(batched(pictures), batched(questions), strict=True)
    return [final_answer(reply) for shown, asked in parts for reply in backbone.understand(shown, asked)]


def score_likelihood_gap(backbone: UnifiedBackbone, pairs: Sequence[Pair], drawn: Sequence[Picture]) -> Score:
    """The prompt-likelihood gap of texts, each as the description of its picture and of its drawing."""
    gaps = [
        _surprise(backbone, pair.text, drawing) - _surprise(backbone, pair.text, pair.picture)
        for pair, drawing in zip(pairs, drawn, strict=True)
    ]
    return average(_SKILL, "prompt-likelihood gap", gaps, "nats", "lower")


@torch.no_grad()
def _surprise(backbone: UnifiedBackbone, text: str, picture: Picture) -> float:
    return float(backbone.understanding_loss([Conversation(((CAPTION_REQUEST, text),), picture)]))
