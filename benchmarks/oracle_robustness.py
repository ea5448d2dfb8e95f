"""How far the oracle can be trusted: share of scenes read exactly right, clean and under noise, blur and JPEG.

Run: python benchmarks/oracle_robustness.py (about a minute on one core). Writes benchmarks/oracle_robustness.json and
docs/oracle_robustness.png.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from io import BytesIO
from itertools import islice
from math import sqrt
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from PIL import Image
from scipy import ndimage

from latentbridge.data.shapes.oracle import read_scene
from latentbridge.data.shapes.render import render
from latentbridge.data.shapes.scenes import SPLITS, Scene, scenes
from latentbridge.rng import numpy_rng
from latentbridge.rundir import atomic_write

NUM_CLEAN, NUM_DEGRADED = 10_000, 500
ROOT = Path(__file__).parents[1]


def add_noise(image: np.ndarray, sigma: float) -> np.ndarray:
    """Gaussian noise of `sigma` levels; the same noise for the same picture."""
    noise = numpy_rng(int(image.sum()), "oracle robustness noise").normal(0.0, sigma, image.shape)
    return np.clip(np.rint(image + noise), 0, 255).astype(np.uint8)


def blur(image: np.ndarray, radius_px: float) -> np.ndarray:
    """Gaussian blur whose standard deviation is `radius_px`."""
    return np.rint(ndimage.gaussian_filter(image.astype(np.float32), (radius_px, radius_px, 0))).astype(np.uint8)


def compress(image: np.ndarray, quality: float) -> np.ndarray:
    """The picture after JPEG with 4:2:0 chroma."""
    buffer = BytesIO()
    Image.fromarray(image).save(buffer, "JPEG", quality=int(quality))
    return np.asarray(Image.open(buffer))


DEGRADATIONS: dict[str, tuple[str, Callable[[np.ndarray, float], np.ndarray], tuple[float, ...]]] = {
    "noise": ("noise sigma (levels)", add_noise, (8, 16, 24, 32, 48, 64, 80)),
    "blur": ("blur sigma (px)", blur, (0.5, 1.0, 1.5, 2.0, 2.5, 3.0, 3.5)),
    "jpeg": ("JPEG quality", compress, (95, 75, 50, 30, 20, 10)),
}


def draw_scenes(count: int) -> list[Scene]:
    """`count` scenes, as many of each split."""
    share = count // len(SPLITS)
    return [scene for split in SPLITS for scene in islice(scenes(split, numpy_rng(0, f"oracle {split}")), share)]


def wilson(right: int, total: int) -> tuple[float, float]:
    """The 95 % Wilson interval of a share."""
    z, share = 1.96, right / total
    middle, half = share + z * z / (2 * total), z * sqrt(share * (1 - share) / total + z * z / (4 * total * total))
    return (middle - half) / (1 + z * z / total), (middle + half) / (1 + z * z / total)


def measure(truth: list[Scene], images: list[np.ndarray]) -> dict[str, Any]:
    """Accuracy with its interval."""
    right = sum(read_scene(image) == scene for scene, image in zip(truth, images, strict=True))
    return {"accuracy": right / len(truth), "interval": [round(bound, 5) for bound in wilson(right, len(truth))]}


def plot(results: dict[str, dict[str, Any]], clean: float, path: Path) -> None:
    """One panel a degradation."""
    figure = Figure(figsize=(9, 2.8), layout="constrained")
    for axis, (name, points) in zip(figure.subplots(1, len(results), sharey=True), results.items(), strict=True):
        levels = [float(level) for level in points]
        axis.fill_between(levels, *zip(*(point["interval"] for point in points.values()), strict=True), alpha=0.2)
        axis.plot(levels, [point["accuracy"] for point in points.values()], marker="o", markersize=3)
        axis.axhline(clean, color="gray", linewidth=0.8, linestyle=":")
        axis.set(xlabel=DEGRADATIONS[name][0], ylim=(0, 1.03))
        axis.grid(alpha=0.3)
        if name == "jpeg":
            axis.invert_xaxis()
        if name == "noise":
            axis.set_ylabel("scenes read exactly right")
    figure.savefig(path, dpi=90, format="png")


def main() -> None:
    truth = draw_scenes(NUM_CLEAN)
    images = [render(scene) for scene in truth]
    read_scene(images[0])
    start = time.process_time()
    clean = measure(truth, images)
    cost_ms = (time.process_time() - start) / NUM_CLEAN * 1000
    few = draw_scenes(NUM_DEGRADED)
    few_images = [render(scene) for scene in few]
    results = {
        name: {str(level): measure(few, [degrade(image, level) for image in few_images]) for level in levels}
        for name, (_, degrade, levels) in DEGRADATIONS.items()
    }
    report = {
        "num_clean": NUM_CLEAN,
        "num_degraded": NUM_DEGRADED,
        "cpu_ms_per_picture": round(cost_ms, 2),
        "clean": clean,
        **results,
    }
    with atomic_write(ROOT / "benchmarks" / "oracle_robustness.json") as path:
        path.write_text(json.dumps(report, indent=2) + "\n")
    with atomic_write(ROOT / "docs" / "oracle_robustness.png") as path:
        plot(results, clean["accuracy"], path)
    print(json.dumps(report, indent=2))


if __name__ == "__main__":
    main()
