"""The independent judge of drawn pictures: frozen ImageNet features and a ridge classifier over forty concepts.

It never meets the model it judges: the network was trained on photographs, the classifier on the training artists.
State its accuracy on held-out artists beside every score it gives.
"""

from __future__ import annotations

from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

import numpy as np
import torch

from latentbridge.data.drawings.catalogue import FORTY_CONCEPTS, Drawing, Drawings, default_cache
from latentbridge.data.drawings.composer import GROUNDS
from latentbridge.errors import UserError
from latentbridge.models.efficientnet import FEATURE_WIDTH, EfficientNetLite0
from latentbridge.rundir import atomic_write

_INPUT_PX = 160
"""Pictures are enlarged to this. Leaving out a training artist at a time: 0.88 at 96 px, 0.90 at 128, 0.94 at 160."""
_BATCH = 8
"""Small enough for the widest activations to stay near the core: a tenth faster than 64 on a CPU."""
_RIDGE = 1.0


def load_feature_extractor() -> EfficientNetLite0:
    """The frozen EfficientNet-lite0 that sees for the judge; raises UserError where its weights are not installed."""
    return EfficientNetLite0.from_package(_INPUT_PX)


def extract_features(network: EfficientNetLite0, pictures: np.ndarray) -> np.ndarray:
    """What the network sees in uint8 [n, h, w, 3] pictures: float32 [n, 1280], never negative.

    Its roots even out the features that fire strongly: 0.94 against 0.91.
    """
    device = next(network.parameters()).device
    found = [np.empty((0, FEATURE_WIDTH), dtype=np.float32)]
    for start in range(0, len(pictures), _BATCH):
        batch = torch.from_numpy(np.ascontiguousarray(pictures[start : start + _BATCH]))
        found.append(network(batch.to(device)).cpu().numpy())
    return np.concatenate(found)


@dataclass(frozen=True)
class RidgeClassifier:
    """Scores pictures against concepts by their features."""

    labels: tuple[str, ...]
    centre: np.ndarray
    """float32 [1280]"""
    scale: np.ndarray
    """float32 [1280]"""
    weights: np.ndarray
    """float32 [1280, concepts]"""

    def score(self, features: np.ndarray) -> np.ndarray:
        """float32 [n, concepts]; about 1 for the right concept and 0 for the others."""
        return (features - self.centre) / self.scale @ self.weights + 1.0 / len(self.labels)

    def name(self, features: np.ndarray) -> list[str]:
        """The best-scoring label of each picture."""
        return [self.labels[i] for i in self.score(features).argmax(axis=1)]

    def accuracy(self, features: np.ndarray, labels: list[str]) -> float:
        """The share of pictures given their own label."""
        return float(np.mean([found == label for found, label in zip(self.name(features), labels, strict=True)]))


def fit_classifier(features: np.ndarray, labels: list[str], strength: float = _RIDGE) -> RidgeClassifier:
    """A ridge regression from standardised features to one-hot labels, in closed form.

    Solved in the dual, since there are fewer pictures than features; `strength` is the ridge per picture.
    """
    names = tuple(sorted(set(labels)))
    centre, scale = features.mean(axis=0), features.std(axis=0) + 1e-3
    inputs = ((features - centre) / scale).astype(np.float64)
    targets = np.array([[float(label == name) for name in names] for label in labels]) - 1.0 / len(names)
    gram = inputs @ inputs.T
    gram[np.diag_indices_from(gram)] += strength * len(inputs)
    weights = inputs.T @ np.linalg.solve(gram, targets)
    return RidgeClassifier(names, centre, scale, weights.astype(np.float32))


def concept_drawings(drawings: Drawings, split: str) -> list[Drawing]:
    """The drawings of one split that show one of the forty concepts."""
    return [drawing for drawing in drawings.split(split) if drawing.label in FORTY_CONCEPTS]


def drawing_features(
    network: EfficientNetLite0, drawings: Drawings, chosen: list[Drawing], cache_dir: Path | None = None
) -> np.ndarray:
    """Features of drawings on every ground: float32 [grounds, n, 1280], kept in the cache for the next time."""
    key = sha256("".join(drawing.picture_sha256 for drawing in chosen).encode()).hexdigest()[:16]
    path = (cache_dir or default_cache()) / "features" / f"efficientnet-lite0-{_INPUT_PX}px-{key}.npy"
    if path.is_file():
        return np.load(path, allow_pickle=False)
    found = np.stack(
        [
            extract_features(network, np.stack([drawings.on_background(drawing.index, rgb) for drawing in chosen]))
            for rgb in GROUNDS.values()
        ]
    )
    with atomic_write(path) as temporary, temporary.open("wb") as stream:
        np.save(stream, found, allow_pickle=False)
    return found


def train_classifier(
    network: EfficientNetLite0, drawings: Drawings, cache_dir: Path | None = None
) -> tuple[RidgeClassifier, float]:
    """The judge fitted on the training artists, and its accuracy on artists it has not seen."""
    fitted, unseen = (
        concept_drawings(drawings, "train") + concept_drawings(drawings, "val"),
        concept_drawings(drawings, "test_artist"),
    )
    if not fitted:
        raise UserError(
            "There are no training drawings to fit the recogniser on; install `npm` and build the drawings again."
        )
    features = drawing_features(network, drawings, fitted, cache_dir)
    labels = [drawing.label for drawing in fitted] * len(features)
    recogniser = fit_classifier(features.reshape(-1, FEATURE_WIDTH), labels)
    held = drawing_features(network, drawings, unseen, cache_dir)
    return recogniser, recogniser.accuracy(
        held.reshape(-1, FEATURE_WIDTH), [drawing.label for drawing in unseen] * len(held)
    )
