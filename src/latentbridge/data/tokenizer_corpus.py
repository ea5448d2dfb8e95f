"""Training texts of the tiny tokenizer."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice

from latentbridge import prompts
from latentbridge.data.drawings.catalogue import Drawings
from latentbridge.data.shapes.language import (
    describe,
    paraphrase,
    partial_prompt,
    reasoning_chain,
    sample_edit,
    sample_question,
)
from latentbridge.data.shapes.scenes import scenes
from latentbridge.rng import numpy_rng

_NUM_SCENES = 4000


def vocabulary_texts(drawings: Drawings, seed: int = 0) -> Iterator[str]:
    """Yield all kinds of texts of training scenes, and the labels (eightfold) and tags of training drawings."""
    yield from ["user", "assistant", "system"] * 1000
    rng = numpy_rng(seed, "vocabulary")
    for scene in islice(scenes("train", rng), _NUM_SCENES):
        question, edit = sample_question(scene, rng), sample_edit(scene, rng)
        yield from (describe(scene), paraphrase(scene, rng), partial_prompt(scene, rng))
        yield from (question.text, question.answer, reasoning_chain(scene, question), edit.instruction)
        yield from (prompts.draw_request(""), prompts.NAME_REQUEST)
    for label, tags in sorted({(drawing.label, drawing.tags) for drawing in drawings.split("train")}):
        yield from [label] * 8
        yield from (tag for tag in tags for _ in range(2))
