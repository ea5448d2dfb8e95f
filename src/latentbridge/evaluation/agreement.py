"""Loopback and consistency of a model on held-out pairs, each as a document of scores that names its own conditions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from latentbridge.data.pairs import Pair
from latentbridge.evaluation.consistency import measure_consistency
from latentbridge.evaluation.encoders import View, own_view
from latentbridge.evaluation.loopback import Loopback, Start, measure_loopback
from latentbridge.evaluation.run import tabulate
from latentbridge.models.trainable import TrainableModel


def evaluate_loopback(
    backbone: TrainableModel,
    pairs: Sequence[Pair],
    judge: View,
    *,
    hops: int,
    seed: int,
    starts: Sequence[Start] = ("picture", "text"),
    progress: bool = True,
    **conditions: Any,
) -> tuple[dict[str, Any], list[Loopback]]:
    """The document, and the walks it tells of; `conditions` are told in it beside what is asked for here."""
    views = [judge, own_view(backbone)]
    measured = [measure_loopback(backbone, pairs, start, hops, views, seed, progress) for start in starts]
    document = tabulate(
        [row for each in measured for row in each.rows],
        **conditions,
        size=len(pairs),
        seed=seed,
        hops=hops,
        half_life={f"{each.start} first": each.half_life for each in measured},
    )
    return document, measured


def evaluate_consistency(
    backbone: TrainableModel,
    pairs: Sequence[Pair],
    judge: View,
    *,
    seed: int,
    progress: bool = True,
    **conditions: Any,
) -> dict[str, Any]:
    """The document; `conditions` are told in it beside what is asked for here."""
    rows = measure_consistency(backbone, pairs, [judge, own_view(backbone)], seed, progress)
    return tabulate(rows, **conditions, size=len(pairs), seed=seed)
