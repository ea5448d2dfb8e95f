"""Reports of loopback and consistency on held-out pairs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from latentbridge.data.pairs import Pair
from latentbridge.evaluation.consistency import measure_consistency
from latentbridge.evaluation.encoders import ItemEncoder, model_encoder
from latentbridge.evaluation.loopback import Loopback, Start, measure_loopback
from latentbridge.evaluation.run import make_report
from latentbridge.models.trainable import TrainableModel


def evaluate_loopback(
    backbone: TrainableModel,
    pairs: Sequence[Pair],
    external: ItemEncoder,
    *,
    hops: int,
    seed: int,
    starts: Sequence[Start] = ("picture", "text"),
    progress: bool = True,
    **conditions: Any,
) -> tuple[dict[str, Any], list[Loopback]]:
    """Return the report and the chains it is about; `conditions` are stored in it beside the arguments."""
    encoders = [external, model_encoder(backbone)]
    results = [measure_loopback(backbone, pairs, start, hops, encoders, seed, progress) for start in starts]
    report = make_report(
        [row for result in results for row in result.rows],
        **conditions,
        size=len(pairs),
        seed=seed,
        hops=hops,
        half_life={f"{result.start} first": result.half_life for result in results},
    )
    return report, results


def evaluate_consistency(
    backbone: TrainableModel,
    pairs: Sequence[Pair],
    external: ItemEncoder,
    *,
    seed: int,
    progress: bool = True,
    **conditions: Any,
) -> dict[str, Any]:
    """Return the report; `conditions` are stored in it beside the arguments."""
    rows = measure_consistency(backbone, pairs, [external, model_encoder(backbone)], seed, progress)
    return make_report(rows, **conditions, size=len(pairs), seed=seed)
