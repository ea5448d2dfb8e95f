"""A writer of small manifests for tests."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image


def write_manifest(folder: Path, count: int, **more: dict[str, Any]) -> Path:
    """Write `count` training lines, each with its own grey picture and text, and `more` lines by the picture's name."""
    lines: dict[str, dict[str, Any]] = {f"p{number}": {"texts": [f"text {number}"]} for number in range(count)} | more
    folder.mkdir(parents=True, exist_ok=True)
    for shade, name in enumerate(lines):
        Image.fromarray(np.full((3, 5, 3), 2 * shade, dtype=np.uint8)).save(folder / f"{name}.png")
    path = folder / "manifest.jsonl"
    path.write_text("".join(json.dumps({"image": f"{name}.png", **line}) + "\n" for name, line in lines.items()))
    return path
