"""What the model is asked, word for word; training data and inference share these."""

from __future__ import annotations

from unicodedata import category

from latentbridge.errors import UserError

IMG_START, IMG_END = "<img>", "</img>"
"""Special tokens around a rewritten caption that is meant to be drawn (spec 2.2 step 3)."""

CAPTION_REQUEST = "Describe the picture."
NAME_REQUEST = "What is this?"
REASONING_REQUEST = "Think step by step."
LONG_REASONING_REQUEST = "Reason at length."

MAX_CHARACTERS = 1_000
"""The longest prompt, question or instruction."""


def check_text(kind: str, text: str, max_characters: int = MAX_CHARACTERS) -> None:
    """Refuses a text that is empty or too long, and one with control characters, which no one types and logs obey."""
    if not text.strip():
        raise UserError(f"The {kind} is empty; say in a few words what you want.")
    if len(text) > max_characters:
        raise UserError(f"The {kind} has {len(text):,} characters; {max_characters:,} are the most, so shorten it.")
    for place, letter in enumerate(text):
        if category(letter) in ("Cc", "Cs") and letter not in "\n\r\t":
            raise UserError(f"The {kind} has a control character (U+{ord(letter):04X}) at place {place}; leave it out.")


def draw_request(prompt: str) -> str:
    """Asks for a prompt to be rewritten as a complete description to draw."""
    return f"Draw: {prompt}"


def edit_request(instruction: str) -> str:
    """Asks for the description of the picture after an edit; the picture comes first."""
    return f"Edit: {instruction}"


def wrap_description(description: str) -> str:
    """A description marked as meant to be drawn."""
    return f"{IMG_START}{description}{IMG_END}"


def unwrap_description(reply: str) -> str:
    """The description inside `<img>...</img>`, or the whole reply where the markers are missing; the inverse of `wrap_description`."""
    return reply.partition(IMG_START)[2].partition(IMG_END)[0] or reply


def with_reasoning(question: str) -> str:
    """Asks for a worked answer instead of a short one."""
    return f"{question} {REASONING_REQUEST}"


def with_long_reasoning(question: str) -> str:
    """Asks for a long chain of sections (`data/reasoning.py`)."""
    return f"{question} {LONG_REASONING_REQUEST}"
