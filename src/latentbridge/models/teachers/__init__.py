"""Stronger embedding models that LatentUMM learns from, by name; each fulfils `types.Teacher`."""

from __future__ import annotations

from collections.abc import Callable

from latentbridge.errors import unknown_name
from latentbridge.models.teachers.dual_encoder import Clip, Siglip
from latentbridge.models.teachers.gemini import Gemini
from latentbridge.models.teachers.package import Package
from latentbridge.types import Teacher

TEACHERS: dict[str, Callable[[str], Teacher]] = {
    "clip": Clip,
    "siglip": Siglip,
    "gemini": Gemini,
    "package": Package,
}
"""Kind of teacher: how to make it from what follows the colon in its name, or from nothing."""


def load_teacher(name: str) -> Teacher:
    """The teacher called "clip:FOLDER", "siglip:FOLDER", "gemini", "gemini:DIMENSION", "package" or "package:MODEL"."""
    kind, _, source = name.partition(":")
    if kind not in TEACHERS:
        raise unknown_name("teacher", kind, TEACHERS)
    return TEACHERS[kind](source)
