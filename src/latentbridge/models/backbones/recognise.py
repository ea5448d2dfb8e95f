"""Descriptions of folders that no loader takes: the model that they look like, and the files that they lack."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Layout:
    """The files of one model's release; patterns are those of `Path.glob`, and "|" separates alternatives."""

    name: str
    needed: tuple[str, ...]
    telling: tuple[str, ...] = ()
    """Files that no other release has."""
    types: tuple[str, ...] = ()
    """Values of `model_type` in its config.json."""
    processors: tuple[str, ...] = ()
    """Values of `image_processor_type` in its preprocessor_config.json."""

    def evidence(self, folder: Path) -> int:
        """Return how much in a folder speaks for this model; 0 is nothing."""
        config, processor = _read(folder / "config.json"), _read(folder / "preprocessor_config.json")
        named = (config.get("model_type") in self.types) + (processor.get("image_processor_type") in self.processors)
        return 2 * named + sum(_holds(folder, pattern) for pattern in self.telling)

    def lacking(self, folder: Path) -> list[str]:
        """Return the needed files that a folder lacks."""
        return [pattern.replace("|", " or ") for pattern in self.needed if not _holds(folder, pattern)]


_WEIGHTS = "*.safetensors"
LAYOUTS = (
    Layout(
        "BAGEL",
        ("llm_config.json", "vit_config.json", "ema.safetensors", "ae.safetensors", "tokenizer.json"),
        telling=("llm_config.json", "vit_config.json", "ema.safetensors", "ae.safetensors"),
    ),
    Layout(
        "Harmon",
        (f"harmon*.pth|{_WEIGHTS}", f"kl16.ckpt|{_WEIGHTS}", "tokenizer.json"),
        telling=("harmon*.pth", "kl16.ckpt", "harmon*.safetensors"),
    ),
    Layout(
        "Janus-Pro",
        (
            "config.json",
            "model*.safetensors|pytorch_model*.bin",
            "tokenizer.json",
            "preprocessor_config.json|processor_config.json",
        ),
        types=("multi_modality", "janus"),
        processors=("VLMImageProcessor", "JanusImageProcessor"),
    ),
    Layout(
        "Qwen-VL or OmniBridge",
        ("config.json", _WEIGHTS, "tokenizer.json"),
        types=("qwen2_vl", "qwen2_5_vl", "qwen3_vl"),
        processors=("Qwen2VLImageProcessor",),
    ),
)


def describe_folder(folder: Path) -> str:
    """Return the rest of a sentence that begins with the folder: what it looks like, what it lacks, and what to do."""
    if not folder.is_dir():
        return f"holds no model, {'but is a file' if folder.exists() else 'nor does it exist'}; check the path"
    if special := _other_use(folder):
        return special
    layout = max(LAYOUTS, key=lambda layout: layout.evidence(folder))
    if layout.evidence(folder):
        lacking = layout.lacking(folder)
        return (
            f"looks like {layout.name} but lacks {_listed(lacking)}; download what is missing"
            if lacking
            else f"looks like {layout.name}, but its files do not belong together; download it again"
        )
    known = ", ".join(layout.name for layout in LAYOUTS)
    if kind := _read(folder / "config.json").get("model_type"):
        return f"holds a model of the type {kind!r}, which is not one that this package knows ({known})"
    if _holds(folder, f"{_WEIGHTS}|*.bin|*.pth|*.ckpt"):
        return f"holds no model, only weights without a config.json; give the whole folder of a release ({known})"
    return "holds no model (no config.json); give a model folder, a run folder or 'tiny'"


def _other_use(folder: Path) -> str:
    """Return the advice for a folder that is given in another way, or one above the model's; empty for any other."""
    if _holds(folder, "adapter_config.json"):
        return "is a LoRA adapter; give the folder of its model, and this one as the adapter"
    if _holds(folder, "transformer/config.json"):
        return (
            "is a drawing decoder in diffusers' layout; give the folder of an OmniBridge, and this one as the decoder"
        )
    inner = sorted(path.parent for path in folder.glob("snapshots/*/*.json")) or sorted(
        path.parent for path in folder.glob("*/config.json")
    )
    if inner and not any(path.suffix == ".json" for path in folder.iterdir()):
        return f"holds a model one level down; give {inner[-1]}"
    return ""


def _holds(folder: Path, patterns: str) -> bool:
    return any(any(folder.glob(pattern)) for pattern in patterns.split("|"))


def _read(path: Path) -> dict[str, Any]:
    """Return the values of a JSON file; none if it is missing or damaged, which is not what the caller reports."""
    try:
        values = json.loads(path.read_text())
    except (OSError, ValueError):
        return {}
    return values if isinstance(values, dict) else {}


def _listed(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
