"""What a reply to a problem is worth: R1-VL's three rewards over the task's own grading, each from 0 to 1.

Source: R1-VL (arXiv 2503.12937), its released weights as defaults (`RewardWeights`). Ways to be paid without reasoning,
and what stands against each (`tests/training/objectives/test_rewards.py`):

- saying every keyword: a step that names two values of one thing reaches nothing, a step reaches one key step at most,
  and what is said first counts (`data/reasoning.py: key_step_recall`);
- steps without content: the form wants steps that say something, and not twice the same; steps beyond those needed thin
  the share reached;
- hedging: only what follows the last answer header is the answer, and it must be that alone; a second answer, an answer
  before the reasoning or a word after it breaks the form;
- talking on: a reply that does not end by itself is worth nothing, and none of the rewards grows with length.
"""

from __future__ import annotations

from collections.abc import Callable

from latentbridge.config import RewardWeights
from latentbridge.data.reasoning import Problem, is_correct, key_step_recall, read_chain

Reward = Callable[[str, Problem], float]


def accuracy(reply: str, problem: Problem) -> float:
    """1 where the reply ends with the right answer."""
    return float(is_correct(reply, problem))


def key_steps(reply: str, problem: Problem) -> float:
    """StepRAR: the share of the problem's key steps that the reply reaches."""
    return key_step_recall(reply, problem)


def validity(reply: str, problem: Problem) -> float:
    """StepRVR: 1 where the reply has the form of a chain, whatever it says."""
    return float(read_chain(reply) is not None)


REWARDS: dict[str, Reward] = {"accuracy": accuracy, "key_steps": key_steps, "validity": validity}
"""By the name of their weight."""


def grade(reply: str, problem: Problem) -> dict[str, float]:
    """Each reward by its name, before weighting."""
    return {name: reward(reply, problem) for name, reward in REWARDS.items()}


def weigh(graded: dict[str, float], weights: RewardWeights) -> float:
    """The whole reward of a graded reply."""
    return sum(getattr(weights, name) * value for name, value in graded.items())
