"""Options shared by commands, and checks of arguments before any work."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from latentbridge.config import WORLDS
from latentbridge.errors import UserError, unknown_name

ModelName = Annotated[str, typer.Option("--model", help='"tiny", a run folder or a model folder.')]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON document and nothing else.")]
Device = Annotated[
    str,
    typer.Option("--device", help='"cpu", "cuda", or "auto": the accelerator if there is one.'),
]
Seed = Annotated[int, typer.Option("--seed", help="Same seed, same picture.")]
Overrides = Annotated[
    list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Change a setting; may be given several times.")
]
Steps = Annotated[int, typer.Option("--steps", help="Denoising steps: more is slower and finer.")]
Guidance = Annotated[float, typer.Option("--guidance", help="Classifier-free guidance, from 0 to 50.")]
Strict = Annotated[
    bool, typer.Option("--strict", help="Stop at what cannot be used, instead of leaving it out (exit code 3).")
]
OutPicture = Annotated[Path, typer.Option("--out", help="The picture to write.")]

MANIFEST_SUFFIX = ".jsonl"
PICTURE_KINDS = "A picture: PNG, JPEG, WebP, GIF, BMP, TIFF, PPM or AVIF."
PICTURE_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tiff")


def check_world(world: str, or_manifest: bool = False) -> None:
    """Raise UserError for an unknown world; `or_manifest` allows a manifest's path."""
    if world not in WORLDS and not (or_manifest and world.endswith(MANIFEST_SUFFIX)):
        raise unknown_name("world", world, (*WORLDS, f"MANIFEST{MANIFEST_SUFFIX}") if or_manifest else WORLDS)


def is_own_data(world: str) -> bool:
    """Return whether a world is a manifest or a folder of shards, not a world of the library."""
    return world.endswith(MANIFEST_SUFFIX) or (Path(world) / "index.json").is_file()


def check_at_least(option: str, value: int, least: int) -> None:
    """Raise UserError for an option's value below `least`."""
    if value < least:
        raise UserError(f"{option} {value} is too small; give {least} or more.")


def check_out(path: Path, suffixes: tuple[str, ...]) -> None:
    """Raise UserError for a file that cannot be written or has another suffix."""
    if path.suffix.lower() not in suffixes:
        raise UserError(f"--out {path} does not end in {', '.join(suffixes)}; choose such a name.")
    if path.is_dir():
        raise UserError(f"--out {path} is a folder; give the name of a file in it.")
    check_folder(path.parent)


def check_folder(path: Path) -> None:
    """Raise UserError for a folder that can be neither written to nor made."""
    for ancestor in (path, *path.absolute().parents):
        if ancestor.is_dir():
            if not os.access(ancestor, os.W_OK):
                raise UserError(f"The folder {ancestor} is read-only for you; choose another place for --out.")
            return
        if ancestor.exists():
            raise UserError(f"{ancestor} is a file, not a folder; choose another place for --out.")
