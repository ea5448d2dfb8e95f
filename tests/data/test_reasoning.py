from __future__ import annotations

import pytest

from latentbridge.data.reasoning import Chain, KeyStep, Problem, is_correct, key_step_recall, read_chain, write_chain

CIRCLES = KeyStep(("2 circles", "two circles"), ("1 circle", "3 circles"))
STARS = KeyStep(("1 star", "one star"), ("2 stars",))
SUM = KeyStep(("2 plus 1 is 3", "2 + 1 = 3"), ("2 plus 1 is 4",))
PROBLEM = Problem("How many circles and stars are there?", "3", (CIRCLES, STARS, SUM))
CHAIN = Chain("two red circles", "count, then add.", ("2 circles.", "1 star.", "2 plus 1 is 3."), "3")


def with_steps(*steps: str) -> str:
    return write_chain(Chain("two red circles", "count, then add.", steps, "3"))


def test_writing_and_reading_are_inverse():
    assert read_chain(write_chain(CHAIN)) == CHAIN
    spread = Chain("a room\nwith a lamp", "look.", ("one\nline more", "two"), "4")
    assert read_chain(write_chain(spread)) == spread


TEXT = write_chain(CHAIN)


@pytest.mark.parametrize(
    "invalid",
    [
        "",
        "3",
        TEXT.replace("### Rationales: count, then add.\n", ""),
        TEXT.replace("### Let's think step by step.\n", ""),
        TEXT.replace("Step 2", "Step 3", 1),
        TEXT.replace("Step 1", "Step 0"),
        TEXT.replace("### Step 1: 2 circles.\n### Step 2: 1 star.", "### Step 2: 1 star.\n### Step 1: 2 circles."),
        TEXT.replace(" 1 star.", ""),  # an empty step
        TEXT.replace("1 star.", "2 circles."),  # a repeated step
        TEXT.replace("### The final answer is: 3", "### The final answer is:"),
        TEXT + "\nor 4",
        TEXT + "\n### The final answer is: 3",
        "### The final answer is: 3\n" + TEXT.removesuffix("\n### The final answer is: 3"),
        "Well. " + TEXT,
        TEXT.replace("\n### ", " ### "),  # headers inside a line
    ],
)
def test_an_invalid_format_is_not_a_chain(invalid: str):
    assert read_chain(invalid) is None


def test_the_final_answer_is_the_last():
    assert is_correct(TEXT, PROBLEM) and is_correct("3.", PROBLEM)
    assert not is_correct(TEXT.replace("is: 3", "is: 2"), PROBLEM)
    assert is_correct(TEXT, Problem("?", "3.")), "a manifest's answer may end with a full stop"


def test_key_steps_are_matched_softly():
    assert key_step_recall(TEXT, PROBLEM) == 1
    assert (
        key_step_recall(with_steps("2 + 1 = 3", "there is ONE star!", "I see two circles"), PROBLEM) == 1
    )  # any order
    assert key_step_recall(with_steps("2 circles", "none", "so 3"), PROBLEM) == pytest.approx(1 / 3)
    assert key_step_recall("2 circles, 1 star, 2 plus 1 is 3", PROBLEM) == 0  # no steps
    assert key_step_recall(TEXT, Problem("?", "3")) == 0  # no key steps


def test_only_whole_words_count():
    assert key_step_recall(with_steps("12 circles", "1 starfish", "2 plus 1 is 33"), PROBLEM) == 0
    assert key_step_recall(with_steps("(2 circles)", "1 star,", "2 plus 1 is 3."), PROBLEM) == 1


def test_a_contradicting_step_reaches_nothing():
    assert key_step_recall(
        with_steps("1 circle 2 circles 3 circles", "1 star", "2 plus 1 is 3"), PROBLEM
    ) == pytest.approx(2 / 3)


def test_the_first_mention_decides_a_key_step():
    corrected = with_steps("1 circle", "2 circles", "1 star", "2 plus 1 is 3")
    assert key_step_recall(corrected, PROBLEM) == pytest.approx(2 / 4)


def test_a_step_reaches_one_key_step_at_most():
    at_once = "2 circles and 1 star, and 2 plus 1 is 3"
    assert key_step_recall(with_steps(at_once), PROBLEM) == pytest.approx(1 / 3)
    assert key_step_recall(with_steps(at_once, at_once + ".", at_once + "!"), PROBLEM) == pytest.approx(1 / 3)
    recalled = with_steps("2 circles", "1 star", "2 circles and 1 star: 2 plus 1 is 3")
    assert key_step_recall(recalled, PROBLEM) == 1, "results may be repeated"


def test_superfluous_steps_lower_the_recall():
    padded = with_steps(*CHAIN.steps, "so", "so it is", "indeed")
    assert key_step_recall(padded, PROBLEM) == pytest.approx(3 / 6)
