"""Exact scores on held-out scenes, whose pictures an oracle reads and whose questions have one right answer."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, TypeVar

import numpy as np

from latentbridge.data.shapes.grading import GENEVAL_CATEGORIES, caption_facts, grade_edit, sample_prompt, satisfies
from latentbridge.data.shapes.language import (
    EDIT_KINDS,
    QUESTION_KINDS,
    final_answer,
    paraphrase,
    parse_description,
    sample_edit,
    sample_question,
)
from latentbridge.data.shapes.oracle import read_scene
from latentbridge.data.shapes.render import render
from latentbridge.data.shapes.scenes import Scene, Split, distinct_scenes, scenes
from latentbridge.evaluation.metrics import Score, retrieval_scores, share
from latentbridge.models.omnibridge.modeling_omnibridge import OmniBridge
from latentbridge.models.unified import expand_seeds
from latentbridge.rng import numpy_rng
from latentbridge.types import Picture

DRAWING_AIMS = dict(zip(GENEVAL_CATEGORIES, (0.95, 0.80, 0.75, 0.90, 0.75, 0.70), strict=True))
_BATCH = 50
T = TypeVar("T")


def batched(items: Sequence[T], size: int = _BATCH) -> Iterator[Sequence[T]]:
    """Yield the items in batches of `size`."""
    for start in range(0, len(items), size):
        yield items[start : start + size]


def score_captions(model: OmniBridge, split: Split, count: int, seed: int) -> list[Score]:
    """Return the shares of captions and of facts that are right."""
    chosen = distinct_scenes(split, numpy_rng(seed, f"captions {split}"), count)
    replies = [r for part in batched(chosen) for r in model.understand([render(s) for s in part])]
    whole = [parse_description(reply) == scene for reply, scene in zip(replies, chosen, strict=True)]
    facts = [caption_facts(reply, scene) for reply, scene in zip(replies, chosen, strict=True)]
    kept = [fact < k for k, total in facts for fact in range(total)]
    by_scene = tuple(round(k / total, 5) for k, total in facts)
    return [
        share("understand", f"whole caption ({split})", whole, aim=0.85 if split == "test" else None),
        replace(share("understand", f"caption facts ({split})", kept), outcomes=by_scene),
    ]


def score_questions(model: OmniBridge, split: Split, per_kind: int, seed: int, reasoning: bool) -> list[Score]:
    """Return the share of right answers, overall and by kind; `reasoning` asks for worked answers and reads their last line."""
    answer = partial(model.understand, reasoning=reasoning)
    return score_answers(answer, split, per_kind, seed, "worked" if reasoning else "direct")


def score_answers(
    answer: Callable[[list[Picture], list[str]], list[str]], split: Split, per_kind: int, seed: int, how: str = "direct"
) -> list[Score]:
    """Return the share of right last lines in the replies of `answer` to pictures and questions, overall and by kind."""
    rng = numpy_rng(seed, f"questions {split}")
    rows = _sample_each(sample_question, QUESTION_KINDS, split, per_kind, rng)
    right: list[bool] = []
    for part in batched(rows):
        replies = answer([render(scene) for scene, _ in part], [q.text for _, q in part])
        right += [final_answer(reply) == q.answer for reply, (_, q) in zip(replies, part, strict=True)]
    scores = [share("understand", f"questions, {how} ({split})", right, aim=0.95 if split == "test" else None)]
    parts = zip(QUESTION_KINDS, batched(right, per_kind), strict=True)
    return scores + [share("understand", f"  {kind}, {how} ({split})", part) for kind, part in parts]


def score_drawing(
    model: OmniBridge, split: Split, per_kind: int, seed: int, conditioning: Any = "query"
) -> list[Score]:
    """Return the mean of GenEval's six categories and those of each. Stricter: nothing extra may be drawn."""
    scores: list[Score] = []
    by_category: list[list[bool]] = []
    for category in GENEVAL_CATEGORIES:
        rng = numpy_rng(seed, f"drawing {category} {split}")
        targets = [sample_prompt(rng, category, split) for _ in range(per_kind)]
        right: list[bool] = []
        for part in batched(targets):
            seeds = expand_seeds(seed + len(right), len(part))
            descriptions = model.rewrite([p.text for p in part], seeds)
            pictures = model.draw_descriptions(descriptions, seeds, conditioning=conditioning)
            right += [satisfies(read_scene(picture), p) for picture, p in zip(pictures, part, strict=True)]
        by_category.append(right)
        aim = DRAWING_AIMS[category] if (split, conditioning) == ("test", "query") else None
        scores.append(share("draw", f"  {category}, {conditioning} ({split})", right, aim=aim))
    aim = 0.80 if (split, conditioning) == ("test", "query") else None
    return [share("draw", f"mean of six, {conditioning} ({split})", sum(by_category, []), aim=aim), *scores]


def score_edits(model: OmniBridge, split: Split, per_kind: int, seed: int) -> list[Score]:
    """Return the share of edits that give exactly the target scene with the rest preserved, overall and by kind."""
    rng = numpy_rng(seed, f"edits {split}")
    rows = _sample_each(sample_edit, EDIT_KINDS, split, per_kind, rng)
    right: list[bool] = []
    preserved: list[bool] = []
    for part in batched(rows):
        sources = [render(scene) for scene, _ in part]
        edited = model.edit(sources, [change.instruction for _, change in part], seed + len(right))
        for (scene, change), before, result in zip(part, sources, edited, strict=True):
            grade = grade_edit(scene, change.target, result.picture, before)
            right.append(grade.right and grade.preserved)
            preserved.append(grade.preserved)
    scores = [
        share("edit", f"right, nothing else changed ({split})", right, aim=0.70 if split == "test" else None),
        share("edit", f"rest preserved ({split})", preserved),
    ]
    parts = zip(EDIT_KINDS, batched(right, per_kind), strict=True)
    return scores + [share("edit", f"  {kind} ({split})", part) for kind, part in parts]


def score_retrieval(model: OmniBridge, split: Split, count: int, seed: int) -> list[Score]:
    """Return R@1 in both directions among distinct scenes, with complete captions in free phrasing."""
    rng = numpy_rng(seed, f"retrieval {split}")
    chosen = distinct_scenes(split, rng, count)
    images = embed_batched(lambda part: model.embed(images=[render(s) for s in part]), chosen)
    texts = embed_batched(lambda part: model.embed(texts=[paraphrase(s, rng) for s in part]), chosen)
    aim = 0.90 if split == "test" else None
    note = f"among {count:,} distinct scenes"
    metrics = f"text to picture R@1 ({split})", f"picture to text R@1 ({split})"
    return retrieval_scores(metrics, texts, images, np.eye(count, dtype=bool), (aim, aim), note)


def embed_batched(embed: Callable[[Sequence[Any]], np.ndarray], items: Sequence[Any]) -> np.ndarray:
    """Return the vectors of many items [n e], computed in batches."""
    return np.concatenate([embed(part) for part in batched(items, 100)])


def _sample_each(
    make: Callable[[Scene, np.random.Generator, str], T],
    kinds: Sequence[str],
    split: Split,
    per_kind: int,
    rng: np.random.Generator,
) -> list[tuple[Scene, T]]:
    """Return (scene, `make` of it) for `per_kind` scenes of each kind; scenes for which `make` raises ValueError are skipped."""
    rows: list[tuple[Scene, T]] = []
    for index, kind in enumerate(kinds, start=1):
        source = scenes(split, rng)
        while len(rows) < index * per_kind:
            scene = next(source)
            try:
                rows.append((scene, make(scene, rng, kind)))
            except ValueError:
                continue
    return rows
