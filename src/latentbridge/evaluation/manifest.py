"""Scores on a user's manifest or shards: retrieval, captions and answers by exact match, and edits by pixel difference."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from latentbridge.data.own.manifest import Record, is_manifest, load_manifest
from latentbridge.data.own.shards import ShardFolder
from latentbridge.errors import UserError
from latentbridge.evaluation.metrics import Score, average, retrieval_scores, share
from latentbridge.evaluation.shapes import batched, embed_batched
from latentbridge.images import picture_digest
from latentbridge.models.omnibridge.modeling_omnibridge import OmniBridge
from latentbridge.rng import numpy_rng


def score_manifest(model: OmniBridge, path: Path, size: int = 100, seed: int = 1) -> list[Score]:
    """Return the scores on a random `size` per cent, at least one record, of the test split of a manifest or shards.

    Raises UserError if that split is empty or `size` is above 100.
    """
    if size > 100:
        raise UserError(f"--size {size} is more than the whole test split; give 100 or less.")
    if is_manifest(str(path)):
        records = [record for record in load_manifest(path) if record.split == "test"]
    else:
        folder = ShardFolder(str(path), "test")
        records = [record for shard in folder.shards for record in folder.read(shard)]
    if not records:
        raise UserError(f'{path} has no record of the split "test"; mark what is to be scored with it.')
    chosen = sample_lines(records, size, seed)
    note = f"{len(chosen):,} of {len(records):,} test lines"
    return [
        *_score_captions(model, chosen, note),
        *_score_answers(model, chosen, note),
        *_score_edits(model, chosen, note),
    ]


def sample_lines(records: Sequence[Record], size: int, seed: int) -> list[Record]:
    """Return `size` per cent of the records, rounded and at least one, in their own order."""
    count = max(1, round(len(records) * size / 100))
    return [records[index] for index in np.sort(numpy_rng(seed, "test lines").permutation(len(records))[:count])]


def find_positives(records: Sequence[Record]) -> tuple[list[Record], list[str], np.ndarray]:
    """Return one record per distinct picture [p], the distinct texts [t], and bool [t p]: which belong together.

    Pictures are equal if their pixels are, texts if they differ only in case and whitespace.
    """
    pictures: dict[str, Record] = {}
    texts: dict[str, str] = {}
    pairs: set[tuple[str, str]] = set()
    for record in records:
        digest = picture_digest(record.image)
        pictures.setdefault(digest, record)
        for text in record.texts:
            texts.setdefault(_normalize(text), text)
            pairs.add((_normalize(text), digest))
    positive = np.array([[(text, picture) in pairs for picture in pictures] for text in texts], dtype=bool)
    return list(pictures.values()), list(texts.values()), positive


def _score_captions(model: OmniBridge, records: list[Record], sample: str) -> list[Score]:
    captioned = [record for record in records if record.texts]
    if not captioned:
        return []
    pictures, texts, positive = find_positives(captioned)
    images = embed_batched(lambda part: model.embed(images=[record.image for record in part]), pictures)
    words = embed_batched(lambda part: model.embed(texts=list(part)), texts)
    note = f"{len(texts):,} different texts, {len(pictures):,} different pictures; {sample}"
    references = [{_normalize(texts[i]) for i in np.flatnonzero(column)} for column in positive.T]
    replies = [reply for part in batched(pictures) for reply in model.understand([record.image for record in part])]
    right = [_normalize(reply) in texts for reply, texts in zip(replies, references, strict=True)]
    return [
        *retrieval_scores(("text to picture R@1", "picture to text R@1"), words, images, positive, note=note),
        share("understand", "captions, word for word", right, note=note),
    ]


def _score_answers(model: OmniBridge, records: list[Record], note: str) -> list[Score]:
    items = [(record, record.question, record.answer) for record in records if record.question and record.answer]
    right: list[bool] = []
    for part in batched(items):
        replies = model.understand([record.image for record, _, _ in part], [question for _, question, _ in part])
        right += [
            reply.strip().lower() == answer.strip().lower() for reply, (_, _, answer) in zip(replies, part, strict=True)
        ]
    return [share("understand", "answers, word for word", right, note=note)] if items else []


def _score_edits(model: OmniBridge, records: list[Record], note: str) -> list[Score]:
    """Score edits by the pixel difference of result and target, against that of source and target."""
    edits = [
        (record.image, record.instruction, record.target) for record in records if record.instruction and record.target
    ]
    before: list[float] = []
    after: list[float] = []
    for part in batched(edits):
        made = model.edit([source for source, _, _ in part], [words for _, words, _ in part], seed=len(after))
        for (source, _, target), result in zip(part, made, strict=True):
            fitted = model.fit(target)
            before.append(pixel_difference(model.fit(source), fitted))
            after.append(pixel_difference(model.fit(result.picture), fitted))
    if not edits:
        return []
    nearer = [new < old for old, new in zip(before, after, strict=True)]
    unedited = f"{100 * float(np.mean(before)):.1f} % unedited; {note}"
    return [
        share("edit", "nearer to the target than unedited", nearer, note=note),
        average("edit", "pixel difference to the target", after, better="lower", note=unedited),
    ]


def pixel_difference(one: np.ndarray, other: np.ndarray) -> float:
    """Return the mean absolute difference, in [0, 1], of two pictures of one size."""
    return float(np.abs(one.astype(np.float64) - other).mean() / 255)


def _normalize(text: str) -> str:
    return " ".join(text.lower().split())
