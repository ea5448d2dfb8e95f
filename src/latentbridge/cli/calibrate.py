"""The command `calibrate`: fit a model's check for out-of-distribution inputs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from latentbridge.cli.arguments import AsJson, check_at_least, check_folder
from latentbridge.config import WORLDS
from latentbridge.errors import UserError


def calibrate(
    model: Annotated[str, typer.Argument(metavar="MODEL", help='A run or model folder, or "tiny" with --out.')],
    data: Annotated[
        list[str] | None,
        typer.Option(
            "--data",
            help='Training data: "shapes", "drawings", a manifest or a folder of shards; may be given several times;'
            " both worlds unless given.",
        ),
    ] = None,
    out: Annotated[
        Path | None, typer.Option("--out", help="The folder to write the record into; the model's own unless given.")
    ] = None,
    samples: Annotated[int, typer.Option("--samples", help="Number of samples to read.")] = 12_000,
    as_json: AsJson = False,
) -> None:
    """Fit a model's check for out-of-distribution inputs.

    Reads the training data and writes input_check.safetensors beside the weights: understand, generate, edit, embed,
    loopback and serve then warn of other pictures and words. Takes a few minutes. Training writes none, because a
    trained model knows other data than the one it started from.

    \b
    Examples:
      latentbridge calibrate runs/trial
      latentbridge calibrate runs/mine --data shapes --data my_pictures/manifest.jsonl
    """
    check_at_least("--samples", samples, 100)
    from latentbridge.cli.output import print_json
    from latentbridge.models.checkpoint import TINY, model_folder, shipped

    folder = model_folder(shipped(model))
    if not (folder / "config.json").exists():
        raise UserError(f"{model} holds no model (no config.json); give a run folder or a model folder.")
    if folder == TINY and out is None:
        raise UserError("The shipped model has its record already; say with --out where another one goes.")
    folder = out or folder
    check_folder(folder)
    from latentbridge.models.input_check import FILE
    from latentbridge.training.fits.input_check import fit_input_check

    check = fit_input_check(Path(model).name, data or list(WORLDS), samples=samples)
    check.save(folder)
    if as_json:
        print_json({"out": folder / FILE, "words": len(check.word_keys), "judges_pictures": bool(check.layers)})
    else:
        judged = "" if check.layers else "; its pictures are too much like any other to be told from them"
        print(f"{folder / FILE}: {len(check.word_keys):,} words{judged}")
