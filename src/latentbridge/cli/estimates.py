"""The command `estimate`: memory, time and cost of a run."""

from __future__ import annotations

import math
from dataclasses import asdict
from typing import Annotated

import typer

from latentbridge.cli.arguments import AsJson, Overrides, check_at_least
from latentbridge.errors import UserError
from latentbridge.recipes import recipe


def estimate(
    name: Annotated[str, typer.Argument(metavar="RECIPE", help="A recipe, as for `latentbridge train`.")],
    overrides: Overrides = None,
    ranks: Annotated[int, typer.Option("--ranks", help="Number of GPUs.")] = 1,
    tflops: Annotated[
        float,
        typer.Option(
            "--tflops",
            help="Sustained TFLOPs of a GPU; 400 is two fifths of an H100's peak in bfloat16.",
        ),
    ] = 400.0,
    price: Annotated[float, typer.Option("--price", help="Price of a GPU hour, in any currency.")] = 2.0,
    text_tokens: Annotated[int, typer.Option("--text-tokens", help="Text tokens of a sample.")] = 256,
    picture_px: Annotated[
        int, typer.Option("--picture-px", help="Side of pictures in pixels, if the model reads any size.")
    ] = 512,
    as_json: AsJson = False,
) -> None:
    """Estimate the cost of a run, without weights.

    Parameters, peak memory by part on each GPU (fully sharded), FLOPs of a step, hours and cost. The method is in
    training/costs/estimate.py, its error for tiny models in benchmarks/estimate.py.

    \b
    Examples:
      latentbridge estimate omnibridge-8b-stage2 --ranks 8
      latentbridge estimate bagel-7b-latentumm --ranks 8 --tflops 50 --price 2.5
      latentbridge estimate omnibridge-8b-stage1 --ranks 8 --set stage.lora_rank=0
    """
    from latentbridge.config import with_overrides

    config = with_overrides(recipe(name), overrides or [])
    for option, count in (("--ranks", ranks), ("--text-tokens", text_tokens), ("--picture-px", picture_px)):
        check_at_least(option, count, 1)
    for option, value in (("--tflops", tflops), ("--price", price)):
        if not (math.isfinite(value) and value > 0):
            raise UserError(f"{option} {value} is out of range; give a number above 0.")
    from latentbridge.training.costs.estimate import estimate as estimated

    result = estimated(config, ranks, tflops=tflops, price=price, text_tokens=text_tokens, picture_px=picture_px)
    if as_json:
        from latentbridge.cli.output import print_json

        print_json(asdict(result))
    else:
        print("\n".join(["An estimate:", *result.lines()]))
