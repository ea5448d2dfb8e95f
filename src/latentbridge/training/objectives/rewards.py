"""Rewards of a reply to a problem, each from 0 to 1: accuracy and the two step rewards of R1-VL (arXiv 2503.12937).

The default weights are the release's (`RewardWeights`). Countermeasures against reward hacking, tested in
`tests/training/objectives/test_rewards.py`:

- listing keywords: a step that names two values of one thing reaches no key step, a step reaches at most one, and the
  first mention counts (`data/reasoning.py: key_step_recall`);
- empty or repeated steps break the form, and more steps than needed lower the share reached;
- hedging: only the text after the last answer header is the answer; a second answer, an answer before the reasoning or text
  after it breaks the form;
- long replies: a reply without an end token gets no reward, and no reward grows with length.
"""

from __future__ import annotations

from collections.abc import Callable

from latentbridge.config import RewardWeights
from latentbridge.data.reasoning import Problem, is_correct, key_step_recall, read_chain

Reward = Callable[[str, Problem], float]


def accuracy(reply: str, problem: Problem) -> float:
    """Return 1 if the reply ends with the correct answer, else 0."""
    return float(is_correct(reply, problem))


def validity(reply: str, problem: Problem) -> float:
    """Return StepRVR: 1 if the reply is a well-formed chain of reasoning, else 0."""
    return float(read_chain(reply) is not None)


REWARDS: dict[str, Reward] = {"accuracy": accuracy, "key_steps": key_step_recall, "validity": validity}
"""Rewards by the name of their weight; `key_steps` is StepRAR, the fraction of the problem's key steps reached."""


def grade(reply: str, problem: Problem) -> dict[str, float]:
    """Return the unweighted rewards by name."""
    return {name: reward(reply, problem) for name, reward in REWARDS.items()}


def weigh(rewards: dict[str, float], weights: RewardWeights) -> float:
    """Return the weighted sum of rewards."""
    return sum(getattr(weights, name) * value for name, value in rewards.items())
