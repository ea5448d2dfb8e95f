"""The command `describe`: what a model is, what it can do, and its default options."""

from __future__ import annotations

import json
from typing import Annotated, Any

import typer

from latentbridge.cli.arguments import AsJson


def describe(
    model: Annotated[
        str,
        typer.Argument(
            metavar="MODEL", help='"tiny", a release such as bagel-7b-mot, a kind such as harmon, or a folder.'
        ),
    ] = "tiny",
    as_json: AsJson = False,
) -> None:
    """Tell what a model can do, its sizes, and its default options.

    Each option can be changed with --option NAME=VALUE of the command, or as a keyword argument of the method. Named models
    and folders of ours are described without their weights.

    \b
    Examples:
      latentbridge describe
      latentbridge describe bagel-7b-mot
      latentbridge describe runs/finetune --json
    """
    from latentbridge.models.description import describe as described

    document = described(model)
    if as_json:
        from latentbridge.cli.output import print_json

        print_json(document)
    else:
        print("\n".join(_lines(document)))


def _lines(document: dict[str, Any]) -> list[str]:
    def px(side: int | None, other: str) -> str:
        return f"{side}x{side} px" if side else other

    skills = ", ".join(document["skills"])
    lacking = f"; cannot {', '.join(document['lacking'])}" if document["lacking"] else ""
    draws = px(document["draws_px"], "no pictures")
    rows = {
        "kind": document["kind"],
        "skills": skills + lacking,
        "parameters": f"{document['parameters']:,}, in {document['dtype']}",
        **{f"  {name}": f"{count:,}" for name, count in document["parameters_by_part"].items()},
        "reads pictures of": px(document["reads_px"], "any size"),
        "draws": f"{draws} unless told otherwise" if document["draws_px"] else draws,
        "context": f"{document['context_tokens']:,} tokens",
        **(_conversations(document) if "understand" in document["skills"] else {}),
        **({"licence": document["licence"]} if document["licence"] else {}),
    }
    lines = [f"{name:<26}{value}" for name, value in rows.items()]
    for verb, options in document["options"].items():
        lines += ["", f"{verb} (--option NAME=VALUE)"]
        lines += [
            f"  {name + '=' + json.dumps(option['default']):<30}{option['doc']}".rstrip()
            for name, option in options.items()
        ]
    return lines


def _conversations(document: dict[str, Any]) -> dict[str, str]:
    return {
        "pictures": f"{document['pictures_per_conversation'] or 'any number'} in a conversation",
        "system message": "yes" if document["takes_system_message"] else "no",
        "system prompt": json.dumps(document["system_prompt"]) if document["system_prompt"] else "none",
    }
