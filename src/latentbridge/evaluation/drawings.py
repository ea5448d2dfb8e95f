"""Scores on real drawings: finding and naming unseen pictures, and drawing forty concepts before an independent judge."""

from __future__ import annotations

import numpy as np

from latentbridge import prompts
from latentbridge.data.drawings.catalogue import FORTY_CONCEPTS, Drawings, DrawingSplit, search_text, with_article
from latentbridge.data.drawings.tasks import show
from latentbridge.evaluation.image_classifier import extract_features, load_feature_extractor, train_classifier
from latentbridge.evaluation.metrics import Score, recall_at_1, share
from latentbridge.evaluation.shapes import batched, embed_batched
from latentbridge.models.omnibridge.modeling_omnibridge import Model
from latentbridge.rng import numpy_rng

SPLIT_MEANING: dict[DrawingSplit, str] = {
    "val": "unseen pictures of known concepts",
    "test_artist": "unseen artists",
    "test_concept": "unseen concepts",
}
BASELINE: dict[DrawingSplit, float] = {"val": 0.59, "test_artist": 0.46, "test_concept": 0.17}
"""Text-to-picture R@1 of a frozen EfficientNet-lite0 with a ridge map to MiniLM, on a trial's object splits (specs/data.md): the aim."""


def score_drawing_retrieval(model: Model, drawings: Drawings, split: DrawingSplit) -> list[Score]:
    """R@1 both ways over the objects of a split; every drawing of a concept is a right answer to its label and tags."""
    chosen = [drawing for drawing in drawings.split(split) if drawing.tier == "object"]
    labels = sorted({drawing.label for drawing in chosen})
    queries = {drawing.label: search_text(drawing) for drawing in chosen}
    pictures = embed_batched(lambda part: model.embed(images=[show(drawings, d, "white") for d in part]), chosen)
    texts = embed_batched(lambda part: model.embed(texts=[queries[label] for label in part]), labels)
    positive = np.array([[drawing.label == label for drawing in chosen] for label in labels])
    meaning = SPLIT_MEANING[split]
    note = f"{len(labels)} texts, {len(chosen)} pictures"
    return [
        share(
            "find",
            f"drawings: text to picture R@1, {meaning}",
            recall_at_1(texts, pictures, positive),
            BASELINE[split],
            note,
        ),
        share(
            "find", f"drawings: picture to text R@1, {meaning}", recall_at_1(pictures, texts, positive.T), None, note
        ),
    ]


def score_naming(model: Model, drawings: Drawings, split: DrawingSplit, count: int, seed: int) -> list[Score]:
    """The share of drawings whose label the model says, word for word."""
    known = drawings.split(split)
    chosen = [known[i] for i in numpy_rng(seed, f"naming {split}").permutation(len(known))[:count]]
    right: list[bool] = []
    for part in batched(chosen):
        replies = model.understand([show(drawings, d, "white") for d in part], prompts.NAME_REQUEST)
        right += [reply == drawing.label for reply, drawing in zip(replies, part, strict=True)]
    return [share("understand", f"drawings: name, {SPLIT_MEANING[split]}", right)]


def score_concepts(model: Model, drawings: Drawings, each: int, seed: int) -> list[Score]:
    """Forty single concepts drawn, and named by the judge among the forty."""
    network = load_feature_extractor()
    recogniser, accuracy = train_classifier(network, drawings)
    wanted = [label for label in FORTY_CONCEPTS for _ in range(each)]
    right: list[bool] = []
    for part in batched(wanted):
        pictures = model.generate([with_article(label) for label in part], seed + len(right))
        right += [
            name == label
            for name, label in zip(recogniser.name(extract_features(network, np.stack(pictures))), part, strict=True)
        ]
    note = f"judge: EfficientNet-lite0, itself right on {accuracy:.0%} of unseen artists"
    return [share("draw", "drawings: forty concepts, by a judge", right, note=note)]
