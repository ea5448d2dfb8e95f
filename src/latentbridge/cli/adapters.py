"""The command `adapters`: merging of LoRA adapters."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from latentbridge.cli.arguments import check_folder
from latentbridge.errors import UserError

_HELP = """Merge LoRA adapters of runs with stage.lora_rank.

\b
Examples:
  latentbridge adapters merge tiny runs/trial/adapter --out merged
"""
app = typer.Typer(help=_HELP, rich_markup_mode=None, no_args_is_help=True)


@app.command()
def merge(
    model: Annotated[
        str, typer.Argument(metavar="MODEL", help="The model it was trained on, as for --model elsewhere.")
    ],
    adapter: Annotated[
        Path, typer.Argument(metavar="ADAPTER", help="The adapter's folder, such as runs/trial/adapter.")
    ],
    out: Annotated[Path, typer.Option("--out", help="The folder of the merged model.")],
) -> None:
    """Merge an adapter into its model's weights.

    \b
    Examples:
      latentbridge adapters merge tiny runs/trial/adapter --out merged
    """
    check_folder(out)
    if (out / "config.json").exists():
        raise UserError(f"{out} holds a model already; choose another --out.")
    from latentbridge.models.adapters import attach_adapter, merge_adapter
    from latentbridge.models.checkpoint import load, save_model

    network = load(model)
    attach_adapter(network, adapter)
    merge_adapter(network)
    save_model(network, out)
    print(f"The merged model is in {out}")
