"""Answers by hand, and the known defects of public scorers that ours do not share."""

from __future__ import annotations

import pytest

from latentbridge.evaluation.bench.answers import (
    open_answer_is_right,
    read_last_letter,
    read_letter,
    read_open,
    read_pope,
    read_yes_no,
)

OPTIONS = {"A": "a circle", "B": "a star", "C": "two stars", "D": "none of them"}


@pytest.mark.parametrize(
    ("reply", "letter"),
    [
        ("B", "B"), ("b", "B"), ("B.", "B"), ("(B)", "B"), ("**B**", "B"), ("B. a star", "B"), ("B: a star", "B"),
        ("a star", "B"), ("A star.", "B"), ("The answer is B", "B"), ("The correct answer is: (B)", "B"),
        ("Answer: **B**. A is wrong", "B"), ("I think (B) fits", "B"), ("It must be C here", "C"),
        ("the picture shows none of them", "D"), ("Option A is not it; the answer is C.", "C"),
        ("", None), ("I cannot tell", None), ("E", None), ("(A) or (B)", None), ("A picture shows something odd", None),
        ("a circle and two stars", None), ("answer is a dog", None),
    ],
)  # fmt: skip
def test_letters(reply: str, letter: str | None):
    assert read_letter(reply, OPTIONS) == letter


@pytest.mark.parametrize(
    ("reply", "letter"),
    [
        ("B", "B"), ("(A) is wrong, so (C)", "C"), ("A is wrong and B is right", "B"), ("Answer:\nC", "C"), ("C)", "C"),
        ("it is quite clear that two stars are there", "C"), ("DNA is a molecule", None), ("?", None), ("", None),
    ],
)  # fmt: skip
def test_mmmu_takes_the_last_letter_and_never_draws_one(reply: str, letter: str | None):
    assert read_last_letter(reply, OPTIONS) == letter


@pytest.mark.parametrize(
    ("reply", "answer"),
    [("Yes", "yes"), ("yes.", "yes"), ("YES, it is", "yes"), ("**Yes**", "yes"), ("y", "yes"), ("no", "no"),
     ("No.", "no"), ("N.", "no"), ("not at all", "no"), ("maybe", None), ("", None), ("I say yes", None)],
)  # fmt: skip
def test_yes_and_no_within_four_characters(reply: str, answer: str | None):
    assert read_yes_no(reply) == answer


@pytest.mark.parametrize(
    ("reply", "answer"),
    [("yes.", "yes"), ("Yes, there is", "yes"), ("There is not. Yes", "no"), ("No, there isn't", "no"),
     ("There is one, yes", "yes"), ("a dog", None), ("", None), ("nothing known", None)],
)  # fmt: skip
def test_pope_reads_the_first_sentence(reply: str, answer: str | None):
    assert read_pope(reply) == answer


@pytest.mark.parametrize(
    ("reply", "truths", "right"),
    [
        ("The answer is 3.", ["3"], True), ("3", ["three"], False), ("It is three", ["3", "three"], True),
        ("1,234.5", ["1234.50"], True), ("x = 0.333", ["0.33"], True), ("x = 0.34", ["0.33"], False),
        ("the speed is 12 m/s", ["12"], True), ("so the result is 7. But 8", ["8"], True), ("-5", ["5"], False),
        ("a cat", ["t"], False), ("vitamin c deficiency", ["c"], True), ("", ["3"], False),
    ],
)  # fmt: skip
def test_open_answers_by_the_rules_of_mmmu(reply: str, truths: list[str], right: bool):
    assert open_answer_is_right(read_open(reply), truths) == right
