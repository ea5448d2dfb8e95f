"""Classifier of generated drawings: a ridge classifier over forty concepts on frozen ImageNet features.

It is independent of the graded model: the network was trained on photographs, the classifier on the training artists.
Report its accuracy on held-out artists beside every score it gives.
"""

from __future__ import annotations

from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

import numpy as np
import torch

from latentbridge.data.drawings.catalogue import FORTY_CONCEPTS, Drawing, Drawings, default_cache
from latentbridge.data.drawings.composer import COMPOSITION_BACKGROUNDS
from latentbridge.errors import UserError
from latentbridge.files import atomic_write
from latentbridge.models.efficientnet import FEATURE_WIDTH, EfficientNetLite0

_INPUT_PX = 160
"""Input side. Accuracy with one training artist left out at a time: 0.88 at 96 px, 0.90 at 128, 0.94 at 160."""
_BATCH = 8
"""Small enough for the widest activations to stay in cache: a tenth faster than 64 on a CPU."""
_RIDGE = 1.0


def load_feature_extractor() -> EfficientNetLite0:
    """Return the frozen EfficientNet-lite0; raises UserError if its weights are not installed."""
    return EfficientNetLite0.from_package(_INPUT_PX)


def extract_features(network: EfficientNetLite0, pictures: np.ndarray) -> np.ndarray:
    """Return the features of uint8 [n, h, w, 3] pictures: float32 [n, 1280], never negative.

    The network returns roots, which dampen strong features: accuracy 0.94 against 0.91.
    """
    device = next(network.parameters()).device
    features = [np.empty((0, FEATURE_WIDTH), dtype=np.float32)]
    for start in range(0, len(pictures), _BATCH):
        batch = torch.from_numpy(np.ascontiguousarray(pictures[start : start + _BATCH]))
        features.append(network(batch.to(device)).cpu().numpy())
    return np.concatenate(features)


@dataclass(frozen=True)
class RidgeClassifier:
    """A ridge regression from picture features to concepts."""

    labels: tuple[str, ...]
    centre: np.ndarray
    """float32 [1280]"""
    scale: np.ndarray
    """float32 [1280]"""
    weights: np.ndarray
    """float32 [1280, concepts]"""

    def score(self, features: np.ndarray) -> np.ndarray:
        """Return float32 [n, concepts], about 1 for the right concept and 0 for the others."""
        return (features - self.centre) / self.scale @ self.weights + 1.0 / len(self.labels)

    def predict(self, features: np.ndarray) -> list[str]:
        """Return the label with the highest score for each picture."""
        return [self.labels[i] for i in self.score(features).argmax(axis=1)]

    def accuracy(self, features: np.ndarray, labels: list[str]) -> float:
        return float(np.mean([a == b for a, b in zip(self.predict(features), labels, strict=True)]))


def fit_classifier(features: np.ndarray, labels: list[str], strength: float = _RIDGE) -> RidgeClassifier:
    """Fit one-hot labels to standardised features in closed form.

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
    """Return the drawings of a split that show one of the forty concepts."""
    return [drawing for drawing in drawings.split(split) if drawing.label in FORTY_CONCEPTS]


def drawing_features(
    network: EfficientNetLite0, drawings: Drawings, chosen: list[Drawing], cache_dir: Path | None = None
) -> np.ndarray:
    """Return cached features of drawings on every background: float32 [backgrounds, n, 1280]."""
    key = sha256("".join(drawing.picture_sha256 for drawing in chosen).encode()).hexdigest()[:16]
    path = (cache_dir or default_cache()) / "features" / f"efficientnet-lite0-{_INPUT_PX}px-{key}.npy"
    if path.is_file():
        return np.load(path, allow_pickle=False)
    features = np.stack(
        [
            extract_features(network, np.stack([drawings.on_background(drawing.index, rgb) for drawing in chosen]))
            for rgb in COMPOSITION_BACKGROUNDS.values()
        ]
    )
    with atomic_write(path) as temporary, temporary.open("wb") as stream:
        np.save(stream, features, allow_pickle=False)
    return features


def train_classifier(
    network: EfficientNetLite0, drawings: Drawings, cache_dir: Path | None = None
) -> tuple[RidgeClassifier, float]:
    """Return the classifier fitted on the training artists, and its accuracy on held-out artists."""
    training = concept_drawings(drawings, "train") + concept_drawings(drawings, "val")
    if not training:
        raise UserError(
            "There are no training drawings to fit the classifier on; install `npm` and build the drawings again."
        )

    def load(chosen: list[Drawing]) -> tuple[np.ndarray, list[str]]:
        features = drawing_features(network, drawings, chosen, cache_dir)
        return features.reshape(-1, FEATURE_WIDTH), [drawing.label for drawing in chosen] * len(features)

    classifier = fit_classifier(*load(training))
    return classifier, classifier.accuracy(*load(concept_drawings(drawings, "test_artist")))
