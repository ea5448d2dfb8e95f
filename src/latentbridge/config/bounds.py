"""The range a number in a config may have."""

from __future__ import annotations

from math import inf

from latentbridge.errors import UserError

Range = tuple[float, float]
"""The least and the most, both allowed."""
NOT_NEGATIVE, AT_LEAST_ONE, SHARE = (0.0, inf), (1.0, inf), (0.0, 1.0)


def check_bounds(config: object, **ranges: Range) -> None:
    """Raises UserError for the first field of the config that is outside its range, or no number at all."""
    for name, (least, most) in ranges.items():
        value = getattr(config, name)
        if not least <= value <= most:
            takes = f"{least:g} or more" if most == inf else f"{least:g} to {most:g}"
            raise UserError(f"{name} is {value}; it takes {takes}.")
