"""Ranges of the numbers in a config, declared in annotations and checked when the config is made."""

from __future__ import annotations

from functools import cache
from math import inf
from typing import Annotated, get_args, get_origin, get_type_hints

from latentbridge.errors import UserError

Range = tuple[float, float]
"""The smallest and the largest value allowed."""
AT_LEAST_ONE: Range = (1.0, inf)
NonNegativeInt = Annotated[int, (0.0, inf)]
PositiveInt = Annotated[int, AT_LEAST_ONE]
Weight = Annotated[float, (0.0, inf)]
Share = Annotated[float, (0.0, 1.0)]


class Bounded:
    """Base of configs that raise UserError for the first number outside the range its annotation declares."""

    def __post_init__(self) -> None:
        for name, (least, most) in _ranges(type(self)).items():
            value = getattr(self, name)
            if not least <= value <= most:
                allowed = f"{least:g} or more" if most == inf else f"{least:g} to {most:g}"
                raise UserError(f"{name} is {value}; it takes {allowed}.")


@cache
def _ranges(kind: type[Bounded]) -> dict[str, Range]:
    hints = get_type_hints(kind, include_extras=True).items()
    return {name: get_args(hint)[1] for name, hint in hints if get_origin(hint) is Annotated}
