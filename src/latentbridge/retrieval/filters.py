"""Filter conditions on metadata (`kind=photo`, `width>=640`), parsed from text and evaluated.

Values compare only with values of the same type: numbers with numbers, text with text (by code points), booleans with
booleans, by `=` and `!=` alone. A list meets a condition if any of its entries does. `!=` negates `=`, so it also holds if
the field is missing; all other operators need the field.
"""

from __future__ import annotations

import json
import operator
import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from latentbridge.errors import UserError

Scalar = str | int | float | bool
SCALAR_TYPES = frozenset({"boolean", "number", "text"})
OPERATORS = {
    "!=": operator.ne,
    "<=": operator.le,
    ">=": operator.ge,
    "=": operator.eq,
    "<": operator.lt,
    ">": operator.gt,
}
_INT64_LIMIT = 1 << 63
_CONDITION = re.compile(r"\s*([\w.-]+)\s*(!=|<=|>=|=|<|>)(.*)", re.DOTALL)


@dataclass(frozen=True)
class Condition:
    """A comparison of one metadata field with a value; raises UserError if no store can evaluate it."""

    field: str
    operator: str
    """One of `OPERATORS`."""
    value: Scalar

    def __post_init__(self) -> None:
        if not re.fullmatch(r"[\w.-]+", self.field):
            raise UserError(f"{self.field!r} is not a field name; use letters, digits, dots, dashes and underscores.")
        if self.operator not in OPERATORS:
            raise UserError(f"{self.operator!r} is not an operator; use one of {' '.join(OPERATORS)}.")
        if scalar_type(self.value) is None:
            raise UserError(f"{self.field} is compared with a text, a number, true or false, not with {self.value!r}.")
        if isinstance(self.value, int) and not -_INT64_LIMIT <= self.value < _INT64_LIMIT:
            raise UserError(f"{self.field} is compared with {self.value}, which exceeds 64 bits; write it as 1e20.")
        if isinstance(self.value, str) and any("\ud800" <= character <= "\udfff" for character in self.value):
            raise UserError(f"{self.field} is compared with {self.value!r}, which is not valid Unicode text.")


def parse_condition(text: str) -> Condition:
    """Parse `FIELD OPERATOR VALUE`; a value that is JSON (number, boolean, quoted text) is decoded, any other is text.

    Accents are composed (NFC), as they are in metadata of indexed pictures.
    """
    match = _CONDITION.fullmatch(unicodedata.normalize("NFC", text))
    if match is None:
        raise UserError(f"The condition {text!r} cannot be read; write it like kind=photo, width>=640 or kind!=photo.")
    field, comparison, value = match[1], match[2], match[3].strip()
    try:
        decoded = json.loads(value)
    except (ValueError, RecursionError):
        decoded = value
    return Condition(field, comparison, value if scalar_type(decoded) is None else decoded)


def matches_all(where: Sequence[Condition], metadata: dict[str, Any]) -> bool:
    """Return whether an item's metadata meets all conditions."""
    return all(_matches(condition, metadata) for condition in where)


def scalar_type(value: Any) -> Literal["boolean", "number", "text"] | None:
    """Return the type a value is compared as; None if it cannot be compared."""
    if isinstance(value, bool):
        return "boolean"
    if isinstance(value, (int, float)) and abs(value) < float("inf"):
        return "number"
    return "text" if isinstance(value, str) else None


def field_types(value: Any) -> set[str]:
    """Return the types by which a field's value is compared: its own or, for a list, its entries'."""
    return {str(kind) for entry in (value if isinstance(value, list) else [value]) if (kind := scalar_type(entry))}


def _matches(condition: Condition, metadata: dict[str, Any]) -> bool:
    value = metadata.get(condition.field)
    negated = condition.operator == "!="
    comparison = "=" if negated else condition.operator
    kind = scalar_type(condition.value)
    if kind == "boolean" and comparison != "=":
        return False
    entries = value if isinstance(value, list) else [value]
    return negated != any(
        scalar_type(entry) == kind and OPERATORS[comparison](entry, condition.value) for entry in entries
    )
