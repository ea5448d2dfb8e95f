from __future__ import annotations

import math

import pytest
import torch

from latentbridge.training.objectives.grpo import group_advantages, grpo_loss, k3_divergence

MASK = torch.tensor([[True, True, True], [True, False, False]])
LOGS = torch.tensor([[-1.0, -2.0, -3.0], [-0.5, 0.0, 0.0]])
ADVANTAGES = torch.tensor([2.0, -1.0])


def test_advantages_are_within_the_group():
    found = group_advantages(torch.tensor([[0.0, 0, 0, 0, 1.0], [3.0, 3, 3, 3, 3]]))
    # mean .2, sample variance (4 * .04 + .64) / 4 = .2
    spread = math.sqrt(0.2) + 1e-4
    assert found[0].tolist() == pytest.approx([-0.2 / spread] * 4 + [0.8 / spread])
    assert found[1].tolist() == [0] * 5, "a group of equals teaches nothing"


@pytest.mark.parametrize("reward", [2.1, 0.1, 1.0, 0.7])
@pytest.mark.parametrize("count", [2, 3, 5, 7, 8, 16])
def test_equal_rewards_have_advantage_zero_despite_rounding(reward: float, count: int):
    assert group_advantages(torch.full((3, count), reward)).tolist() == [[0.0] * count] * 3


def test_a_fresh_batch_has_the_policy_gradient():
    logs = LOGS.clone().requires_grad_()
    found = grpo_loss(logs, LOGS, ADVANTAGES, MASK, clip=0.2)
    assert found.total.item() == pytest.approx(-(2.0 - 1.0) / 2) and found.clipped == 0 and found.divergence == 0
    found.total.backward()
    # - A / (replies * tokens of the reply)
    assert logs.grad is not None
    assert logs.grad.tolist() == [pytest.approx([-2 / 6] * 3), pytest.approx([1 / 2, 0, 0])]


def test_the_clip_limits_gains_and_not_losses():
    moved = LOGS + torch.tensor([[math.log(1.5), math.log(0.5), 0.0], [math.log(1.5), 9.0, 9.0]])
    logs = moved.requires_grad_()
    found = grpo_loss(logs, LOGS, ADVANTAGES, MASK, clip=0.2)
    # reply 1 (A = 2): min(1.5, 1.2) 2, min(.5, .8) 2, 2; reply 2 (A = -1): min(-1.5, -1.2)
    assert found.total.item() == pytest.approx(-((2.4 + 1.0 + 2.0) / 3 - 1.5) / 2)
    assert found.clipped.item() == pytest.approx(1 / 4)
    found.total.backward()
    assert logs.grad is not None and logs.grad[0, 0] == 0 and logs.grad[0, 1] != 0


def test_the_divergence_follows_the_equation():
    reference = LOGS + torch.tensor([[0.0, math.log(2), 0.0], [math.log(0.5), 5.0, 5.0]])
    found = grpo_loss(LOGS, LOGS, ADVANTAGES, MASK, 0.2, reference, beta=0.1)
    first, second = (2 - math.log(2) - 1) / 3, 0.5 + math.log(2) - 1
    assert found.divergence.item() == pytest.approx((first + second) / 2)
    assert found.total.item() == pytest.approx(-0.5 + 0.1 * (first + second) / 2)


def test_the_estimate_is_unbiased():
    policy, reference = (torch.tensor(p).log() for p in ([0.2, 0.3, 0.5], [0.6, 0.3, 0.1]))
    exact = (policy.exp() * (policy - reference)).sum()
    assert (policy.exp() * k3_divergence(policy, reference)).sum().item() == pytest.approx(exact.item())
    assert (k3_divergence(policy, reference) >= 0).all()


def test_long_and_short_replies_have_equal_weight():
    mask = torch.zeros(2, 101, dtype=torch.bool)
    mask[0], mask[1, :1] = True, True
    logs = torch.zeros(2, 101, requires_grad=True)
    grpo_loss(logs, torch.zeros(2, 101), torch.tensor([1.0, 1.0]), mask, 0.2).total.backward()
    assert logs.grad is not None
    assert logs.grad.sum(dim=1).tolist() == pytest.approx([-0.5, -0.5])
