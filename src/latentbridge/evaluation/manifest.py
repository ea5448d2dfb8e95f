"""Scores on a user's own manifest: finding pictures by their texts and back, and answers word for word."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from latentbridge.data.own.manifest import Record, load_manifest
from latentbridge.errors import UserError
from latentbridge.evaluation.metrics import Score, recall_at_1, share
from latentbridge.evaluation.shapes import batched, embed_batched
from latentbridge.models.omnibridge.model import Model


def score_manifest(model: Model, path: Path) -> list[Score]:
    """Scores on the test split of a manifest; UserError where that split is empty."""
    records = [record for record in load_manifest(path) if record.split == "test"]
    if not records:
        raise UserError(f'{path} has no record of the split "test"; mark the lines to score with it.')
    return [*_score_finding(model, records), *_score_answers(model, records)]


def _score_finding(model: Model, records: list[Record]) -> list[Score]:
    captioned = [record for record in records if record.texts]
    if not captioned:
        return []
    texts = [text for record in captioned for text in record.texts]
    owner = np.array([i for i, record in enumerate(captioned) for _ in record.texts])
    pictures = embed_batched(lambda part: model.embed(images=[record.image for record in part]), captioned)
    words = embed_batched(lambda part: model.embed(texts=list(part)), texts)
    positive = owner[:, None] == np.arange(len(captioned))
    note = f"{len(texts)} texts, {len(captioned)} pictures"
    return [
        share("find", "text to picture R@1", recall_at_1(words, pictures, positive), note=note),
        share("find", "picture to text R@1", recall_at_1(pictures, words, positive.T), note=note),
    ]


def _score_answers(model: Model, records: list[Record]) -> list[Score]:
    asked = [(record, record.question, record.answer) for record in records if record.question and record.answer]
    right: list[bool] = []
    for part in batched(asked):
        replies = model.understand([record.image for record, _, _ in part], [question for _, question, _ in part])
        right += [
            reply.strip().lower() == answer.strip().lower() for reply, (_, _, answer) in zip(replies, part, strict=True)
        ]
    return [share("understand", "answers, word for word", right)] if asked else []
