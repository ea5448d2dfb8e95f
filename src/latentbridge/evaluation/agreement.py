"""Loopback and consistency of a model on held-out pairs, each as a document of scores that names its own conditions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from latentbridge.data.pairs import Pair
from latentbridge.evaluation.consistency import measure_consistency
from latentbridge.evaluation.encoders import ItemEncoder, model_encoder
from latentbridge.evaluation.loopback import Loopback, Start, measure_loopback
from latentbridge.evaluation.run import make_report
from latentbridge.models.backbones.contract import UnifiedBackbone


def evaluate_loopback(
    backbone: UnifiedBackbone,
    pairs: Sequence[Pair],
    judge: ItemEncoder,
    *,
    hops: int,
    seed: int,
    starts: Sequence[Start] = ("picture", "text"),
    progress: bool = True,
    **conditions: Any,
) -> tuple[dict[str, Any], list[Loopback]]:
    """The document, and the walks it tells of; `conditions` are told in it beside what is asked for here."""
    views = [judge, model_encoder(backbone)]
    measured = [measure_loopback(backbone, pairs, start, hops, views, seed, progress) for start in starts]
    document = make_report(
        [row for each in measured for row in each.rows],
        **conditions,
        size=len(pairs),
        seed=seed,
        hops=hops,
        half_life={f"{each.start} first": each.half_life for each in measured},
    )
    return document, measured


def evaluate_consistency(
    backbone: UnifiedBackbone,
    pairs: Sequence[Pair],
    judge: ItemEncoder,
    *,
    seed: int,
    progress: bool = True,
    **conditions: Any,
) -> dict[str, Any]:
    """The document; `conditions` are told in it beside what is asked for here."""
    rows = measure_consistency(backbone, pairs, [judge, model_encoder(backbone)], seed, progress)
    return make_report(rows, **conditions, size=len(pairs), seed=seed)
