"""Prompt templates shared by training data and inference."""

from __future__ import annotations

from unicodedata import category

from latentbridge.errors import UserError

IMG_START, IMG_END = "<img>", "</img>"
"""Special tokens around a description to draw (spec 2.2 step 3)."""

CAPTION_REQUEST = "Describe the picture."
NAME_REQUEST = "What is this?"
REASONING_REQUEST = "Think step by step."
LONG_REASONING_REQUEST = "Reason at length."

MAX_CHARACTERS = 1_000
"""Largest length of a prompt, question or instruction."""


def check_text(kind: str, text: str, max_characters: int = MAX_CHARACTERS) -> None:
    """Raise UserError if a text is empty, too long, or has control characters, which terminals interpret."""
    if not text.strip():
        raise UserError(f"The {kind} is empty; say in a few words what you want.")
    if len(text) > max_characters:
        raise UserError(f"The {kind} has {len(text):,} characters; {max_characters:,} are the most, so shorten it.")
    for position, character in enumerate(text):
        if category(character) in ("Cc", "Cs") and character not in "\n\r\t":
            raise UserError(f"The {kind} has a control character (U+{ord(character):04X}) at {position}; leave it out.")


def draw_request(prompt: str) -> str:
    """Return the request to rewrite a prompt as a complete description to draw."""
    return f"Draw: {prompt}"


def edit_request(instruction: str) -> str:
    """Return the request for the description after an edit; the picture comes first."""
    return f"Edit: {instruction}"


def wrap_description(description: str) -> str:
    """Return a description inside `<img>...</img>`."""
    return f"{IMG_START}{description}{IMG_END}"


def unwrap_description(reply: str) -> str:
    """Return the description inside `<img>...</img>`, or the whole reply if there is none."""
    return reply.partition(IMG_START)[2].partition(IMG_END)[0] or reply


def with_reasoning(question: str) -> str:
    """Return the question with a request to think step by step."""
    return f"{question} {REASONING_REQUEST}"


def with_long_reasoning(question: str) -> str:
    """Return the question with a request for a reasoning chain (`data/reasoning.py`)."""
    return f"{question} {LONG_REASONING_REQUEST}"
