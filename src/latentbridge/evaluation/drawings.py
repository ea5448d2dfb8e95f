"""Scores on real drawings: retrieval and naming of unseen pictures, and generation of forty concepts graded by a classifier."""

from __future__ import annotations

import numpy as np

from latentbridge import prompts
from latentbridge.data.drawings.catalogue import FORTY_CONCEPTS, Drawings, DrawingSplit, search_text, with_article
from latentbridge.data.drawings.tasks import render_drawing
from latentbridge.evaluation.image_classifier import extract_features, load_feature_extractor, train_classifier
from latentbridge.evaluation.metrics import Score, retrieval_scores, share
from latentbridge.evaluation.shapes import batched, embed_batched
from latentbridge.models.omnibridge.modeling_omnibridge import OmniBridge
from latentbridge.rng import numpy_rng

SPLIT_MEANING: dict[DrawingSplit, str] = {
    "val": "unseen pictures of known concepts",
    "test_artist": "unseen artists",
    "test_concept": "unseen concepts",
}
BASELINE: dict[DrawingSplit, float] = {"val": 0.59, "test_artist": 0.46, "test_concept": 0.17}
"""Aims: text-to-picture R@1 of a frozen EfficientNet-lite0 with a ridge map to MiniLM, on object splits (specs/data.md)."""


def score_drawing_retrieval(model: OmniBridge, drawings: Drawings, split: DrawingSplit) -> list[Score]:
    """Return R@1 in both directions over the objects of a split; every drawing of a concept matches its label and tags."""
    chosen = [drawing for drawing in drawings.split(split) if drawing.tier == "object"]
    labels = sorted({drawing.label for drawing in chosen})
    queries = {drawing.label: search_text(drawing) for drawing in chosen}
    pictures = embed_batched(
        lambda part: model.embed(images=[render_drawing(drawings, d, "white") for d in part]), chosen
    )
    texts = embed_batched(lambda part: model.embed(texts=[queries[label] for label in part]), labels)
    positive = np.array([[drawing.label == label for drawing in chosen] for label in labels])
    meaning = SPLIT_MEANING[split]
    note = f"{len(labels)} texts, {len(chosen)} pictures"
    metrics = f"drawings: text to picture R@1, {meaning}", f"drawings: picture to text R@1, {meaning}"
    return retrieval_scores(metrics, texts, pictures, positive, (BASELINE[split], None), note)


def score_naming(model: OmniBridge, drawings: Drawings, split: DrawingSplit, count: int, seed: int) -> list[Score]:
    """Return the share of drawings whose label the model says, word for word."""
    available = drawings.split(split)
    chosen = [available[i] for i in numpy_rng(seed, f"naming {split}").permutation(len(available))[:count]]
    right: list[bool] = []
    for part in batched(chosen):
        replies = model.understand([render_drawing(drawings, d, "white") for d in part], prompts.NAME_REQUEST)
        right += [reply == drawing.label for reply, drawing in zip(replies, part, strict=True)]
    return [share("understand", f"drawings: name, {SPLIT_MEANING[split]}", right)]


def score_concepts(model: OmniBridge, drawings: Drawings, per_concept: int, seed: int) -> list[Score]:
    """Return the share of generated pictures of forty concepts that the classifier assigns to their concept."""
    network = load_feature_extractor()
    classifier, accuracy = train_classifier(network, drawings)
    labels = [label for label in FORTY_CONCEPTS for _ in range(per_concept)]
    right: list[bool] = []
    for part in batched(labels):
        results = model.generate([with_article(label) for label in part], seed + len(right))
        pictures = [result.picture for result in results]
        right += [
            name == label
            for name, label in zip(classifier.predict(extract_features(network, np.stack(pictures))), part, strict=True)
        ]
    note = f"judge: EfficientNet-lite0, itself right on {accuracy:.0%} of unseen artists"
    return [share("draw", "drawings: forty concepts, by a judge", right, note=note)]
