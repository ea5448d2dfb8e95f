"""Checks of users' texts."""

from __future__ import annotations

import pytest

from latentbridge.errors import UserError
from latentbridge.prompts import MAX_CHARACTERS, check_text


@pytest.mark.parametrize(
    "text", ["a red circle", "两个圆\n和一颗星\t!\r\n", "e\u0301 👩‍🎨 \u202b", "x" * MAX_CHARACTERS]
)
def test_ordinary_texts_are_accepted(text: str):
    check_text("prompt", text)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "empty"),
        (" \n\t ", "empty"),
        ("x" * (MAX_CHARACTERS + 1), "1,001 characters"),
        ("red\0circle", "U+0000"),
        ("\x1b[2J", "U+001B"),
        ("red \x7f", "at 4"),
        ("\x85x", "U+0085"),
        ("\ud800", "U+D800"),
    ],
)
def test_empty_long_and_control_texts_are_refused(text: str, words: str):
    with pytest.raises(UserError, match="The prompt") as caught:
        check_text("prompt", text)
    assert words in str(caught.value)
    str(caught.value).encode()
