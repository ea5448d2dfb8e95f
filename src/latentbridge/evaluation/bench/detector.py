"""Object detection with a transformers model: boxes, or masks of Mask2Former and its kind. float32, thresholds given."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from latentbridge.errors import UserError
from latentbridge.models.teachers.dual_encoder import folder_digest
from latentbridge.types import Picture

ALIASES = {"mouse": "computer mouse", "remote": "tv remote", "keyboard": "computer keyboard"}
"""COCO's names of classes that GenEval calls otherwise."""
_LOWEST = 0.05
"""Score below which no object is returned; GenEval's own thresholds are 0.3 and 0.9."""
_SEGMENTERS = ("mask2former", "maskformer", "oneformer", "eomt")


@dataclass(frozen=True)
class Detected:
    """An object in a picture."""

    name: str
    score: float
    box: tuple[float, float, float, float]
    """Left, top, right and bottom in pixels."""
    mask: np.ndarray | None = None
    """bool [h w]; None from a model that finds boxes alone."""


class Detector:
    """A detector of COCO's 80 classes from a folder in transformers' layout; it computes in float32 on the CPU."""

    def __init__(self, folder: Path) -> None:
        from transformers import AutoConfig, AutoImageProcessor, AutoModelForObjectDetection
        from transformers import AutoModelForUniversalSegmentation as Segmenter

        if not any(folder.glob("*.safetensors")):
            raise UserError(f"There is no safetensors model in {folder}; give --detector FOLDER.")
        options: dict[str, Any] = {"local_files_only": True, "use_safetensors": True, "dtype": torch.float32}
        try:
            self._has_masks = AutoConfig.from_pretrained(folder, local_files_only=True).model_type in _SEGMENTERS
            kind: Any = Segmenter if self._has_masks else AutoModelForObjectDetection
            self._model = kind.from_pretrained(folder, **options).eval()
            self._processor = AutoImageProcessor.from_pretrained(folder, local_files_only=True)
        except (OSError, ValueError, RuntimeError) as error:
            raise UserError(f"{folder} cannot be read as a detector ({error}); give its complete folder.") from error
        self.name = f"{self._model.config.model_type}:{folder_digest(folder)}"
        labels: dict[int, str] = self._model.config.id2label
        self._names = {int(id): ALIASES.get(name.lower(), name.lower()) for id, name in labels.items()}

    @property
    def classes(self) -> frozenset[str]:
        """Names of the classes it knows, as GenEval writes them."""
        return frozenset(self._names.values())

    def describe(self) -> dict[str, Any]:
        """Return what the confidence of an object depends on."""
        return {"model": self.name, "dtype": "float32", "device": "cpu", "masks": self._has_masks, "lowest": _LOWEST}

    @torch.no_grad()
    def detect(self, picture: Picture) -> list[Detected]:
        """Return the objects in a picture, the surest first."""
        inputs = self._processor(images=[Image.fromarray(picture)], return_tensors="pt")
        outputs = self._model(**inputs)
        size = picture.shape[:2]
        found = self._masks(outputs, size) if self._has_masks else self._boxes(outputs, size)
        return sorted(found, key=lambda each: -each.score)

    def _boxes(self, outputs: Any, size: tuple[int, int]) -> list[Detected]:
        (found,) = self._processor.post_process_object_detection(outputs, threshold=_LOWEST, target_sizes=[size])
        rows = zip(found["labels"].tolist(), found["scores"].tolist(), found["boxes"].tolist(), strict=True)
        return [Detected(self._names.get(label, ""), score, tuple(box)) for label, score, box in rows]

    def _masks(self, outputs: Any, size: tuple[int, int]) -> list[Detected]:
        (found,) = self._processor.post_process_instance_segmentation(
            outputs, threshold=_LOWEST, target_sizes=[size], return_binary_maps=True
        )
        masks = found["segmentation"]
        results: list[Detected] = []
        for place, segment in enumerate(found["segments_info"]):
            mask = masks[place].bool().numpy()
            if mask.any():
                name = self._names.get(segment["label_id"], "")
                results.append(Detected(name, segment["score"], box_of(mask), mask))
        return results


def box_of(mask: np.ndarray) -> tuple[float, float, float, float]:
    """Return the box around a mask that is not empty, its right and bottom behind the last pixel."""
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    return float(columns[0]), float(rows[0]), float(columns[-1] + 1), float(rows[-1] + 1)


def surest(objects: Sequence[Detected], threshold: float, most: int) -> dict[str, list[Detected]]:
    """Return the objects above a threshold by class, at most so many each, the surest first."""
    kept: dict[str, list[Detected]] = {}
    for each in objects:
        members = kept.setdefault(each.name, [])
        if each.score > threshold and len(members) < most:
            members.append(each)
    return {name: members for name, members in kept.items() if members}
