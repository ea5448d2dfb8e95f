"""Settings that had other names before 2026-12-01: the new key for an old one, and stages as old runs stored them."""

from __future__ import annotations

import dataclasses
from typing import Any, get_args

_SOURCES = "stage.sources, (source, weight) pairs"
_TASKS = {
    "look": "vqa",
    "reason": "cot",
    "draw": "generation",
    "edit": "editing",
    "relation": "relations",
    "deliberate": "long_cot",
}
_WEIGHTS = {name: f"{name}_weight" for name in ("understanding", "generation", "reconstruction", "self_play")}
_RENAMED = {
    "stage.drawings": _SOURCES,
    "stage.manifest": _SOURCES,
    **{f"stage.tasks.{old}": f"stage.tasks.{new}" for old, new in _TASKS.items()},
    **{f"stage.posttrain.{old}": f"stage.{new}" for old, new in _WEIGHTS.items()},
    "stage.posttrain.weights.telling": "stage.weights.cycle",
    "stage.weights.telling": "stage.weights.cycle",
}
_OLD_KEYS = {"drawings", "manifest", "posttrain"}
"""Every old stage has all of them, or the first two; no new one has any."""


def new_key(key: str) -> str:
    """Return what a setting is called today, "" unless it was renamed."""
    if key.startswith("stage.posttrain.") and key not in _RENAMED:
        return "stage." + key.removeprefix("stage.posttrain.")
    return _RENAMED.get(key, "")


def upgrade_stage(values: dict[str, Any], kind: type, union: Any) -> dict[str, Any]:
    """Return a stored stage as the dataclass `kind` of `union` takes it.

    Old stages stored the settings of all kinds; those their own kind never read are left out.
    """
    if not _OLD_KEYS & values.keys():
        return values
    posttrain = _renamed(values.get("posttrain", {}), _WEIGHTS)
    if "weights" in posttrain:
        posttrain["weights"] = _renamed(posttrain["weights"], {"telling": "cycle"})
    stage = {name: value for name, value in values.items() if name not in _OLD_KEYS} | posttrain | _sources(values)
    if "tasks" in stage:
        stage["tasks"] = _renamed(stage["tasks"], _TASKS)
    known = {field.name for variant in get_args(union) for field in dataclasses.fields(variant)}
    own = {field.name for field in dataclasses.fields(kind)}
    return {name: value for name, value in stage.items() if name in own or name not in known}


def _sources(values: dict[str, Any]) -> dict[str, Any]:
    """The mixture of an old stage: `sources` in turns, or a manifest as half of the samples, beside a share of drawings."""
    if sources := values.get("sources"):
        return {"sources": sources, "interleave": True}
    drawings, manifest = float(values.get("drawings", 0.0)), values.get("manifest", "")
    weights = {manifest: 1.0 * bool(manifest), "shapes": round(1.0 - drawings, 12), "drawings": drawings}
    return {"sources": [[name, weight] for name, weight in weights.items() if weight]}


def _renamed(values: dict[str, Any], names: dict[str, str]) -> dict[str, Any]:
    return {names.get(name, name): value for name, value in values.items()}
