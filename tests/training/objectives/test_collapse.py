from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from latentbridge.errors import UserError
from latentbridge.rng import torch_rng
from latentbridge.training.objectives.collapse import CollapseGuard, CollapseMeasures, measure_collapse

MEASURED = json.loads((Path(__file__).parents[2] / "golden" / "latentumm" / "degeneracy.json").read_text())


def test_measures_of_two_pairs_by_hand() -> None:
    text, image = torch.tensor([[2.0, 0, 0], [0, 2.0, 0]]), torch.tensor([[3.0, 0, 0], [4.0, 0, 0]])
    measures = measure_collapse(text, image, generated=text, targets=torch.tensor([[1.0, 0, 0], [0, 0, 1.0]]))
    # Cosines 1 and 0 of captions and own pictures, 1 and 0 of captions and others'; pictures vary by sqrt(0.5) of 3.5.
    assert measures.separation == pytest.approx(0.0)
    assert measures.spread == pytest.approx(0.5**0.5 / 3.5)
    assert measures.recall == 0.5
    apart = measure_collapse(text, text, generated=text, targets=2 * text)
    assert apart == pytest.approx((1.0, 1.0, 1.0))  # std sqrt(2) in two dimensions, norm 2


def test_the_guard_fires_on_a_constant_and_not_on_healthy_latents() -> None:
    healthy = torch.randn(11, 7, generator=torch_rng(0, "latents"))
    pictures = healthy + 0.2 * torch.randn(11, 7, generator=torch_rng(1, "latents"))
    nearly_constant = torch.ones(11, 7) + 0.001 * healthy
    guard = CollapseGuard(warmup_steps=5)
    guard.check(5, measure_collapse(healthy, pictures, healthy, pictures))
    for constant in (nearly_constant, torch.ones(11, 7), torch.zeros(11, 7)):
        measures = measure_collapse(constant, constant, constant, pictures)
        guard.check(4, measures)
        with pytest.raises(UserError, match="The latents collapsed by step 5: .*; raise the anchor"):
            guard.check(5, measures)
    one_side = measure_collapse(healthy, nearly_constant, nearly_constant, pictures)
    with pytest.raises(UserError, match="collapsed"):
        guard.check(5, one_side)


def test_one_low_measure_alone_is_no_collapse() -> None:
    guard = CollapseGuard(warmup_steps=0)
    guard.check(0, CollapseMeasures(separation=0.006, spread=0.22, recall=0.0))  # a good run when young
    guard.check(0, CollapseMeasures(separation=0.05, spread=0.05, recall=0.0))
    with pytest.raises(UserError):
        guard.check(0, CollapseMeasures(separation=0.006, spread=0.05, recall=1.0))
    with pytest.raises(UserError):
        guard.check(0, CollapseMeasures(float("nan"), float("nan"), 0.0))


@pytest.mark.parametrize("trial, collapsed", [("p1", True), ("p4", False)])
def test_the_guard_separates_the_measured_runs(trial: str, collapsed: bool) -> None:
    runs = MEASURED[trial]["runs"]
    stopped = []
    for run in runs.values():
        for step, row in run.items():
            separation = row["cos_paired"] - row["cos_shuffled"]
            measures = CollapseMeasures(separation, row["std_over_norm"], row["retrieval_R@1_of_generated"])
            try:
                CollapseGuard(warmup_steps=300).check(int(step), measures)
            except UserError:
                stopped.append(int(step))
    assert stopped == ([300, 940] * 3 if collapsed else [])
