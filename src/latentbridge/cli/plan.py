"""The command `plan`: what a model needs before it is downloaded."""

from __future__ import annotations

import math
import re
from typing import TYPE_CHECKING, Annotated

import typer

from latentbridge.cli.arguments import AsJson, check_at_least
from latentbridge.errors import UserError, unknown_name

if TYPE_CHECKING:
    from latentbridge.types import Skill

_VERBS: tuple[Skill, ...] = ("understand", "generate", "edit", "embed")


def plan(
    model: Annotated[
        str,
        typer.Argument(metavar="MODEL", help="A release such as bagel-7b-mot, a kind such as harmon, or a folder."),
    ],
    gpu: Annotated[str, typer.Option("--gpu", help="Memory of the GPU, such as 24GB.")] = "24GB",
    verb: Annotated[
        str, typer.Option("--verb", help='"understand", "generate", "edit" or "embed".', show_default="what it can")
    ] = "",
    size: Annotated[
        str | None,
        typer.Option("--size", metavar="WxH", show_default="the model's own", help="Pictures, in pixels."),
    ] = None,
    batch: Annotated[int, typer.Option("--batch", help="Pictures or prompts at once.")] = 1,
    text_tokens: Annotated[int, typer.Option("--text-tokens", help="Tokens of each prompt or question.")] = 64,
    train: Annotated[str | None, typer.Option("--train", metavar="RECIPE", help="Plan a run of a recipe.")] = None,
    ranks: Annotated[int, typer.Option("--ranks", help="Number of GPUs of the run.")] = 1,
    tflops: Annotated[float, typer.Option("--tflops", help="Sustained TFLOPs of the GPU in bfloat16.")] = 100.0,
    memory_gb: Annotated[float, typer.Option("--memory-gb", help="GB/s of the GPU's memory.")] = 800.0,
    link_gb: Annotated[float, typer.Option("--link-gb", help="GB/s between host and GPU.")] = 20.0,
    as_json: AsJson = False,
) -> None:
    """Tell what a model needs on a GPU before it is downloaded.

    For each precision and offload: device and host memory at peak, whether it fits, and about how long it takes. The model's
    own code runs over sizes alone, without weights.

    \b
    Examples:
      latentbridge plan bagel-7b-mot --gpu 24GB
      latentbridge plan bagel-7b-mot --verb edit --size 1024x768 --batch 2 --gpu 80GB
      latentbridge plan janus-pro-1b --verb understand --json
      latentbridge plan bagel-7b-mot --train bagel-7b-latentumm --ranks 8 --gpu 80GB
    """
    if verb and verb not in _VERBS:
        raise unknown_name("verb", verb, _VERBS)
    for option, count in (("--batch", batch), ("--text-tokens", text_tokens), ("--ranks", ranks)):
        check_at_least(option, count, 1)
    for option, value in (("--tflops", tflops), ("--memory-gb", memory_gb), ("--link-gb", link_gb)):
        if not (math.isfinite(value) and value > 0):
            raise UserError(f"{option} {value} is out of range; give a number above 0.")
    pixels = _parse_size(size)
    from latentbridge.models.memory.plan import Rates, parse_memory

    gpu_bytes = parse_memory(gpu)
    if train is not None:
        _plan_run(model, train, ranks, gpu_bytes, tflops, text_tokens, as_json)
        return
    from latentbridge.models.memory.known import outlined
    from latentbridge.models.memory.plan import plan as planned
    from latentbridge.models.memory.requests import Request
    from latentbridge.models.memory.tables import plan_document, plan_lines

    chosen = verb or next(each for each in ("generate", "understand", "embed") if each in outlined(model).skills)
    rates = Rates(tflops, memory_gb, link_gb)
    result = planned(model, Request(chosen, pixels, batch, text_tokens), rates)  # pyright: ignore[reportArgumentType]
    if as_json:
        from latentbridge.cli.output import print_json

        print_json(plan_document(result, gpu_bytes))
    else:
        print("\n".join(plan_lines(result, gpu_bytes, rates)))


def _plan_run(model: str, name: str, ranks: int, gpu: float, tflops: float, text_tokens: int, as_json: bool) -> None:
    """Print the estimate of a training run of a model."""
    from dataclasses import asdict, replace

    from latentbridge.models.memory.known import known_config
    from latentbridge.models.memory.plan import GIB, RESERVED
    from latentbridge.recipes import recipe
    from latentbridge.training.costs.estimate import estimate

    config, sizes = recipe(name), known_config(model)
    if sizes is None:
        raise UserError(f"{model} has no published sizes; name a release such as bagel-7b-mot, or a folder of ours.")
    result = estimate(replace(config, model=sizes), ranks, tflops=tflops, text_tokens=text_tokens)
    fits = result.peak * GIB + RESERVED <= gpu
    if as_json:
        from latentbridge.cli.output import print_json

        print_json({"model": model, "recipe": name, "ranks": ranks, "fits": fits, **asdict(result)})
    else:
        verdict = "fits" if fits else "does not fit; take more --ranks, or an adapter (--set stage.lora_rank=16)"
        print("\n".join([*result.lines(), f"{gpu / GIB:.0f} GiB a GPU: {verdict}."]))


def _parse_size(text: str | None) -> tuple[int, int] | None:
    """Return width and height; one number is a square."""
    if text is None:
        return None
    match = re.fullmatch(r"([1-9]\d{0,4})(?:x([1-9]\d{0,4}))?", text)
    if not match:
        raise UserError(f"--size {text!r} is not a size; give width and height, such as 1024x768.")
    return int(match[1]), int(match[2] or match[1])
