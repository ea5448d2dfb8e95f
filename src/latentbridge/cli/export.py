"""The command `export`: a trained model in its authors' layout, transformers' or peft's, with a model card."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from latentbridge.cli.arguments import AsJson, check_folder
from latentbridge.errors import UserError, unknown_name

_LAYOUTS = ("authors", "transformers", "peft")


def export(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="A run folder, or the folder of a model.")],
    out: Annotated[Path, typer.Option("--out", help="The folder to write.")],
    layout: Annotated[
        str,
        typer.Option("--layout", help='"authors", "transformers", or "peft" for the adapter of a run with lora_rank.'),
    ] = "authors",
    base: Annotated[
        Path | None,
        typer.Option(
            "--base", help="The release it was trained from, for files beside the weights; that of the run by default."
        ),
    ] = None,
    scores: Annotated[
        Path | None, typer.Option("--scores", help="Scores for the model card: a file of `latentbridge eval --out`.")
    ] = None,
    dtype: Annotated[
        str, typer.Option("--dtype", help='Of the weights: "auto" (as they are), "float32", "bfloat16" or "float16".')
    ] = "auto",
    as_json: AsJson = False,
) -> None:
    """Write a trained model as its authors publish theirs, with a model card.

    A BAGEL becomes ema.safetensors, ae.safetensors and configs; a Harmon harmon.pth and kl16.ckpt, or safetensors; a Janus-Pro
    and an OmniBridge the authors' names or those of transformers. The result loads here as the same model, bit for bit.

    \b
    Examples:
      latentbridge export runs/bagel-7b-latentumm --out my-bagel
      latentbridge export runs/janus-pro-7b-latentumm --out my-janus --layout transformers
      latentbridge export runs/adapted --out my-adapter --layout peft
      latentbridge export runs/mine --out my-model --base BAGEL-7B-MoT --scores scores.json
    """
    if layout not in _LAYOUTS:
        raise unknown_name("layout", layout, _LAYOUTS)
    check_folder(out)
    if out.is_dir() and any(out.iterdir()):
        raise UserError(f"{out} is not empty; choose another --out.")
    for folder in (run, *([base] if base else [])):
        if not folder.is_dir():
            raise UserError(f"There is no folder {folder}; check the path.")
    from latentbridge.evaluation.pages.model_card import base_records, run_config, write_model_card
    from latentbridge.files import read_json

    config = run_config(run)
    found = [run.parent / source for _, source in config.init] if config else []
    base = base or next((folder for folder in found if folder.is_dir() and base_records(config)), None)
    document: Any = read_json(scores) if scores else None
    exported = _export_adapter(run, out) if layout == "peft" else _export_model(run, out, layout, base, dtype)
    card = write_model_card(out, exported, run, document)
    if as_json:
        from latentbridge.cli.output import print_json

        print_json({"out": out, "layout": layout, "base": base, "card": card, "left_out": exported.left_out})
    else:
        left_out = f" (without {', '.join(exported.left_out)})" if exported.left_out else ""
        print(f"The model is in {out}{left_out}, its card in {card}")


def _export_model(run: Path, out: Path, layout: str, base: Path | None, dtype: str) -> Any:
    from latentbridge.evaluation.pages.model_card import Exported
    from latentbridge.models.backbones.release_files import write_release
    from latentbridge.models.checkpoint import load
    from latentbridge.models.exporting import release_files

    model = load(run, dtype=dtype)
    files = release_files(model, "authors" if layout == "authors" else "transformers")
    write_release(files, model.tokenizer, out, base)
    skills = model.skills - {"generate", "edit"} if files.left_out else model.skills
    return Exported(out.name, layout, frozenset(skills), files.left_out)


def _export_adapter(run: Path, out: Path) -> Any:
    from latentbridge.evaluation.pages.model_card import Exported, base_records, run_config
    from latentbridge.models.exporting import export_adapter
    from latentbridge.run_folder import RunFolder

    config, adapter = run_config(run), RunFolder(run).adapter
    if config is None or not adapter.is_dir():
        raise UserError(f"{run} holds no adapter; give the folder of a run with stage.lora_rank.")
    base = next((record.repository for record in base_records(config)), "")
    export_adapter(adapter, out, getattr(config.model, "kind", "omnibridge"), base)
    return Exported(out.name, "peft", frozenset())
