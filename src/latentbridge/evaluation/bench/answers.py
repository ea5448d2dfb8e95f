"""Answers read from replies by rules. None is an answer that cannot be read; it never counts as one of the options."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

LETTERS = "ABCDEFGHIJ"
_ANNOUNCED = re.compile(r"(?i:answer|option|choice)\s*(?i:is)?\s*:?\s*[\(\[\"'*]*([A-J])\b(?!')")
_FORMS = [
    re.compile(form) for form in (r"\(([A-J])\)", r"(?<!\w)([A-J])(?=\s)", r"(?<!\w)([A-J])\.", r"(?<!\w)([A-J])[):]")
]
_MOST_WORDS_BESIDE_A = 3
"""In a longer reply a lone "A" may be the article (VLMEvalKit)."""
_NUMBERS = re.compile(r"-?\d{1,3}(?:,\d{3})+(?:\.\d+)?|-?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?")


def lettered(options: Sequence[str]) -> dict[str, str]:
    """Return options by their letters, A first."""
    return dict(zip(LETTERS, options, strict=False))


def option_lines(options: Mapping[str, str]) -> str:
    """Return a line "A. text" per option."""
    return "\n".join(f"{letter}. {text}" for letter, text in options.items())


def read_letter(reply: str, options: Mapping[str, str]) -> str | None:
    """Return the letter of the option that a reply names.

    In this order: the whole reply is a letter or an option; it announces one ("the answer is (B)"); exactly one is in
    brackets; it begins with one ("B. text"); exactly one letter stands alone in it; exactly one option's text occurs in it.
    """
    text = reply.strip().strip(".,;:!\"'*()[] ")
    if text.upper() in options:
        return text.upper()
    if equal := [letter for letter, option in options.items() if option.strip(". ").lower() == text.lower() and text]:
        return equal[0]
    announced = [letter for letter in _ANNOUNCED.findall(reply) if letter in options]
    if announced:
        return announced[-1]
    if bracketed := {letter for letter in re.findall(r"\(([A-J])\)", reply) if letter in options}:
        return bracketed.pop() if len(bracketed) == 1 else None
    if (leading := re.match(r"\s*[\(\[*]*([A-J])(?:[.):\]]|\*\*|\n)", reply)) and leading[1] in options:
        return leading[1]
    words = re.sub(r"[.()\[\],:;!*#{}?\"]", " ", reply).split()
    alone = {word for word in words if word in options}
    if "A" in alone and len(words) > _MOST_WORDS_BESIDE_A:
        alone.discard("A")
    if len(alone) == 1:
        return alone.pop()
    stated = [letter for letter, option in options.items() if option and _holds(reply, option)]
    return stated[0] if len(stated) == 1 else None


def read_last_letter(reply: str, options: Mapping[str, str]) -> str | None:
    """Return the letter that a reply names last, by MMMU's order of rules; None where its authors draw one at random.

    "(A)" goes before "A ", that before "A.", and that before "A)" and "A:", which the authors do not read; a reply of more
    than five words may name an option by its text.
    """
    text = f" {reply.strip().strip(',.!?;:').strip(chr(39))} "
    for form in _FORMS:
        if named := [match[1] for match in form.finditer(text) if match[1] in options]:
            return named[-1]
    if len(text.split()) > 5:
        found = {letter: text.lower().rfind(option.lower()) for letter, option in options.items() if option}
        if any(position >= 0 for position in found.values()):
            return max(found, key=lambda letter: found[letter])
    return None


def read_yes_no(reply: str) -> str | None:
    """Return "yes" or "no" if one begins within the first four characters, MME's rule; "Yes." and "**Yes" are yes."""
    text = reply.lower().strip(" *\"'([\n\t")
    if text.strip(". ") in ("y", "n"):
        return "yes" if text[0] == "y" else "no"
    start = text.replace(".", "")[:4]
    return "yes" if "yes" in start else "no" if "no" in start else None


def read_pope(reply: str) -> str | None:
    """Return "no" if the first sentence has "no" or "not", else "yes" if it has "yes".

    POPE's authors count every other reply as yes; here it has no answer.
    """
    words = re.findall(r"[a-z]+", reply.strip().lower().split(".")[0])
    if "no" in words or "not" in words:
        return "no"
    return "yes" if "yes" in words else None


def read_open(reply: str) -> list[str | float]:
    """Return what an open reply may answer, by MMMU's rules: the ends of lines after words such as "is", and numbers.

    The authors mean to split at full stops too, but look for a capital after one in text that has none left.
    """
    text = reply.strip().strip(".").lower()
    lines = [line for line in text.split("\n") if line.strip()]
    cues = ["could be ", "so ", "is ", "thus ", "therefore ", "final ", "answer ", "result "]
    parts: list[str] = []
    for number, line in enumerate(lines, start=1):
        known = [*cues, "="] if number == len(lines) else cues
        ends = [line.rsplit(cue, 1)[1].strip() for cue in known if cue in line]
        ends = [end for end in ends if end.strip(":,.!?;'")]
        parts += [min(ends, key=len)] if ends else []
    parts = parts or ([text] if text else [])
    numbers = [number for part in parts for number in _NUMBERS.findall(part)]
    return list(dict.fromkeys(value for part in [*parts, *numbers] for value in normal_forms(part)))


def normal_forms(text: str) -> list[str | float]:
    """Return a number rounded to two decimals, or lower-case text; one character gets a space before or after it."""
    text = text.strip()
    try:
        return [round(float(text.replace(",", "")), 2)]
    except ValueError:
        lower = text.lower()
        return [f" {lower}", f"{lower} "] if len(lower) == 1 else [lower] if lower else []


def open_answer_is_right(candidates: Sequence[str | float], truths: Sequence[str]) -> bool:
    """Return whether a candidate equals a true number or contains a true text, by MMMU's rule."""
    wanted = [form for truth in truths for form in normal_forms(truth)]
    for candidate in candidates:
        if isinstance(candidate, str):
            if any(isinstance(form, str) and form in candidate for form in wanted):
                return True
        elif candidate in wanted:
            return True
    return False


def _holds(reply: str, option: str) -> bool:
    """Return whether an option's text occurs in a reply as whole words."""
    text = option.strip().strip(".").lower()
    return bool(text) and re.search(rf"(?<!\w){re.escape(text)}(?!\w)", reply.lower()) is not None
