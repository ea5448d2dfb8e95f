"""Registry of the teachers of LatentUMM: frozen embedding models that fulfil `types.Teacher`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from latentbridge.errors import UserError, unknown_name
from latentbridge.models.teachers.dual_encoder import Clip, Scene, Siglip
from latentbridge.models.teachers.gemini import Gemini
from latentbridge.models.teachers.package import Package
from latentbridge.run_folder import RunFolder
from latentbridge.types import Teacher

TEACHERS: dict[str, Callable[[str], Teacher]] = {
    "clip": Clip,
    "siglip": Siglip,
    "gemini": Gemini,
    "package": Package,
    "scene": Scene,
}
"""Constructors by kind; each takes what follows the colon in a teacher's name."""
TRAINED = {"scene": "scene-teacher"}
"""Recipes of the teachers that are trained here, also the names of their runs."""


def load_teacher(name: str, runs: Path = Path("runs")) -> Teacher:
    """Load the teacher "clip:FOLDER", "siglip:FOLDER", "gemini[:DIMENSION]", "package[:MODEL]" or "scene[:FOLDER]".

    A "scene" without a folder is the finished run of its recipe in `runs`.
    """
    kind, _, source = name.partition(":")
    if kind not in TEACHERS:
        raise unknown_name("teacher", kind, TEACHERS)
    if kind in TRAINED and not source:
        source = str(runs / TRAINED[kind])
        if not (RunFolder(source).model / "config.json").exists():
            raise UserError(
                f"The teacher {kind!r} is too large to ship, and {source} holds no finished run; train it first: "
                f"latentbridge train {TRAINED[kind]} --out {source} --resume"
            )
    return TEACHERS[kind](source)
