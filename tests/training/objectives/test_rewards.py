"""Rewards and known reward hacks."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from latentbridge.config import RewardWeights
from latentbridge.data.reasoning import Problem, read_chain, write_chain
from latentbridge.data.shapes.problems import PROBLEM_KINDS, problems
from latentbridge.data.shapes.scenes import COLOURS, SHAPES, SIZES
from latentbridge.rng import numpy_rng
from latentbridge.training.objectives.rewards import REWARDS, grade, weigh

PUBLISHED = RewardWeights()


def worth(reply: str, problem: Problem) -> float:
    return weigh(grade(reply, problem), PUBLISHED)


def sample(count: int = 11) -> list[Problem]:
    rng = numpy_rng(5, "rewards")
    return [
        problem
        for kind in PROBLEM_KINDS
        for (_, problem), _ in zip(problems("train", rng, kind), range(count), strict=False)
    ]


def wrong(problem: Problem) -> str:
    return {"yes": "no", "no": "yes", "1": "2"}.get(problem.answer, "red" if problem.answer == "blue" else "1")


def with_steps(problem: Problem, *steps: str, answer: str = "") -> str:
    chain = read_chain(problem.chain)
    assert chain is not None
    return write_chain(replace(chain, steps=steps, answer=answer or chain.answer))


def test_the_defaults_are_those_of_r1_vl():
    assert (PUBLISHED.accuracy, PUBLISHED.key_steps, PUBLISHED.validity) == (1.0, 0.1, 1.0)
    assert REWARDS.keys() == {"accuracy", "key_steps", "validity"}


def test_a_correct_chain_gets_every_reward():
    for problem in sample():
        assert worth(problem.chain, problem) == pytest.approx(2.1)
        answered = problem.chain.rpartition("is:")[0] + "is: " + wrong(problem)
        assert grade(answered, problem) == {"accuracy": 0, "key_steps": 1, "validity": 1}
        assert grade(problem.answer, problem) == {"accuracy": 1, "key_steps": 0, "validity": 0}
        unnumbered = problem.chain.replace("### Step 1:", "")
        assert grade(unnumbered, problem)["validity"] == 0
    assert weigh({"accuracy": 1, "key_steps": 0.5, "validity": 1}, PUBLISHED) == pytest.approx(2.05)
    plain = RewardWeights(key_steps=0, validity=0)
    assert weigh({"accuracy": 1, "key_steps": 1, "validity": 1}, plain) == 1


# --- reward hacking --------------------------------------------------------------------------------------


def everything(problem: Problem) -> list[str]:
    """Return a sentence per key step with every possible value, including the correct one."""
    return [" ".join([*key.contradictions, *key.phrases]) for key in problem.key_steps]


def test_listing_keywords_is_not_rewarded():
    vocabulary = " ".join(
        f"{n} {noun}" for n in range(5) for noun in (*SHAPES, *COLOURS, *SIZES, "objects", "object", "column", "row")
    )
    for problem in sample():
        honest = worth(problem.chain, problem)
        for stuffed in (everything(problem), [" ".join(everything(problem))], [vocabulary, vocabulary + " again"]):
            rewards = grade(with_steps(problem, *stuffed), problem)
            assert rewards["key_steps"] <= 1 / len(problem.key_steps), stuffed
            assert worth(with_steps(problem, *stuffed), problem) < honest
        # one guess after the other, each in a step of its own
        guesses = [phrase for key in problem.key_steps for phrase in (*key.contradictions[:7], key.phrases[0])]
        assert grade(with_steps(problem, *guesses), problem)["key_steps"] < 0.2


def test_keywords_outside_steps_are_not_rewarded():
    for problem in sample(3):
        keywords = " ".join(key.phrases[0] for key in problem.key_steps)
        assert grade(f"{keywords}\n### The final answer is: {problem.answer}", problem)["key_steps"] == 0


@pytest.mark.parametrize("filler", ["", "...", "so", "I think step by step"])
def test_empty_steps_are_not_rewarded(filler: str):
    for problem in sample(3):
        empty = "\n".join(f"### Step {i}: {filler}" for i in range(1, 30))
        empty_chain = f"### Image Description: x\n### Rationales: x\n### Let's think step by step.\n{empty}"
        rewards = grade(f"{empty_chain}\n### The final answer is: {problem.answer}", problem)
        assert (rewards["key_steps"], rewards["validity"]) == (0, 0)
        chain = read_chain(problem.chain)
        assert chain is not None
        padded = with_steps(problem, *chain.steps, *(f"{filler} {i}" for i in range(7)))
        assert worth(padded, problem) < worth(problem.chain, problem)


def test_hedging_is_not_rewarded():
    for problem in sample(3):
        body, header, answer = problem.chain.rpartition("### The final answer is: ")
        other = wrong(problem)
        both = (
            f"{answer} or {other}",
            f"{other} {answer}",
            f"{answer}\n{other}",
            f"({answer})",
            f"{answer}, that is {answer}",
        )
        for hedged in both:
            assert grade(body + header + hedged, problem)["accuracy"] == 0
        assert grade(f"{header}{answer}\n{body.rstrip()}", problem) == {"accuracy": 0, "key_steps": 1, "validity": 0}
        twice = f"{body}{header}{other}\n{header}{answer}"
        assert grade(twice, problem)["validity"] == 0
        assert worth(twice, problem) < worth(problem.chain, problem)


def test_length_is_not_rewarded():
    words = " ".join(np.random.default_rng(0).permutation(list("abcdefghijklmnop") * 20))
    for problem in sample(3):
        chain = read_chain(problem.chain)
        assert chain is not None
        longer = replace(
            chain, description=f"{chain.description} {words}", steps=(*chain.steps[:-1], f"{words} {chain.steps[-1]}")
        )
        assert worth(write_chain(longer), problem) <= worth(problem.chain, problem)
        endless = problem.chain.partition("### The final")[0] + words
        assert worth(endless, problem) <= 0.1
        assert worth("", problem) == 0, "what a reply is that does not end in time"
