"""Conditions on metadata, as people write them (`kind=photo`, `width>=640`), and what they mean.

A condition compares like with like: a number with numbers, text with texts (by code points), true and false with
themselves. A field that is a list meets it where any of its entries does. `!=` holds wherever `=` does not, so also where
the field is missing; all others need the field.
"""

from __future__ import annotations

import json
import operator
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from latentbridge.errors import UserError

Scalar = str | int | float | bool
OPERATORS = {
    "!=": operator.ne,
    "<=": operator.le,
    ">=": operator.ge,
    "=": operator.eq,
    "<": operator.lt,
    ">": operator.gt,
}
_PAST_WHOLE = 1 << 63
"""The first whole number that databases do not have."""
_WRITTEN = re.compile(r"\s*([\w.-]+)\s*(!=|<=|>=|=|<|>)(.*)", re.DOTALL)


@dataclass(frozen=True)
class Condition:
    """A field of the metadata held against a value."""

    field: str
    operator: str
    """One of `OPERATORS`."""
    value: Scalar

    def __post_init__(self) -> None:
        if not re.fullmatch(r"[\w.-]+", self.field):
            raise UserError(f"{self.field!r} is no name of a field; use letters, digits, dots, dashes and underscores.")
        if self.operator not in OPERATORS:
            raise UserError(f"{self.operator!r} compares nothing; use one of {' '.join(OPERATORS)}.")
        if scalar_type(self.value) is None:
            raise UserError(f"{self.field} is compared with a text, a number, true or false, not with {self.value!r}.")
        if isinstance(self.value, int) and not -_PAST_WHOLE <= self.value < _PAST_WHOLE:
            raise UserError(f"{self.field} is compared with {self.value}, and 64 bits are the most; write it as 1e20.")
        if isinstance(self.value, str) and any("\ud800" <= sign <= "\udfff" for sign in self.value):
            raise UserError(
                f"{self.field} is compared with {self.value!r}, which is no text; leave half characters out."
            )


def parse_condition(text: str) -> Condition:
    """`FIELD OPERATOR VALUE`; a value that is a number, true or false in JSON is one, and quotes make it text."""
    written = _WRITTEN.fullmatch(text)
    if written is None:
        raise UserError(f"The condition {text!r} cannot be read; write it like kind=photo, width>=640 or kind!=photo.")
    field, sign, value = written.groups()
    return Condition(field, sign, parse_value(value.strip()))


def parse_value(text: str) -> Scalar:
    """A number, true, false or quoted text as JSON has them; any other text as it stands."""
    try:
        value = json.loads(text)
    except ValueError:
        return text
    return value if scalar_type(value) else text


def matches(condition: Condition, metadata: dict[str, Any]) -> bool:
    """Whether an item's metadata meets a condition."""
    found = metadata.get(condition.field)
    entries = found if isinstance(found, list) else [found]
    if condition.operator == "!=":
        return not any(_compares(entry, "=", condition.value) for entry in entries)
    return any(_compares(entry, condition.operator, condition.value) for entry in entries)


def matches_all(where: Sequence[Condition], metadata: dict[str, Any]) -> bool:
    """Whether an item's metadata meets all conditions."""
    return all(matches(condition, metadata) for condition in where)


def scalar_type(value: Any) -> str | None:
    """What a value is compared as: "truth", "number" or "text"; None for what is not compared."""
    if isinstance(value, bool):
        return "truth"
    if isinstance(value, (int, float)) and abs(value) < float("inf"):
        return "number"
    return "text" if isinstance(value, str) else None


def _compares(found: Any, sign: str, value: Scalar) -> bool:
    kind = scalar_type(value)
    if scalar_type(found) != kind or (kind == "truth" and sign != "="):
        return False
    return bool(OPERATORS[sign](found, value))
