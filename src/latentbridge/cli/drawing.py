"""Options of the commands that draw, as keyword arguments of `generate` and `edit`."""

from __future__ import annotations

import json
import re
from typing import Annotated, Any

import typer

from latentbridge.errors import UserError
from latentbridge.sampling_limits import check_sampling

Steps = Annotated[
    int | None,
    typer.Option("--steps", show_default="the model's own", help="Sampling steps: more is slower and finer."),
]
Guidance = Annotated[
    float | None,
    typer.Option(
        "--guidance", show_default="the model's own", help="How strictly the words are followed, from 0 to 50."
    ),
]
Size = Annotated[
    str | None,
    typer.Option("--size", metavar="WxH", show_default="the model's own", help="Width and height in pixels."),
]
Options = Annotated[
    list[str] | None,
    typer.Option(
        "--option",
        metavar="NAME=VALUE",
        help="An option that this model has (`latentbridge describe` lists them); may be given several times.",
    ),
]


_OWN_FLAGS = ("seed", "steps", "guidance", "size")


def drawing_options(
    seed: int, steps: int | None, guidance: float | None, size: str | None, option: list[str] | None
) -> dict[str, Any]:
    """Return the options given; raise UserError for one that no model can have."""
    check_sampling(seed, steps, guidance, prefix="--")
    options: dict[str, Any] = {}
    for each in option or []:
        name, value = _parsed(each)
        if name in _OWN_FLAGS or name in options:
            advice = f"use --{name}" if name in _OWN_FLAGS else "give it once"
            raise UserError(f"--option {name}=... is not taken here; {advice}.")
        options[name] = value
    if size is not None:
        match = re.fullmatch(r"(\d{1,5})x(\d{1,5})", size)
        if not match:
            raise UserError(f"--size {size!r} is not a size; give width and height, such as 1024x768.")
        options["size"] = (int(match[1]), int(match[2]))
    given = {"steps": steps, "guidance": guidance}
    return options | {name: value for name, value in given.items() if value is not None}


def _parsed(option: str) -> tuple[str, Any]:
    """Return name and value; a value that is not JSON is a text."""
    name, equals, text = option.partition("=")
    if not equals:
        raise UserError(f"--option has the form NAME=VALUE, not {option!r}.")
    try:
        return name, json.loads(text)
    except json.JSONDecodeError:
        return name, text
