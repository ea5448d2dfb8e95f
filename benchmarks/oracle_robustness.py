"""How far the oracle can be trusted: share of scenes read exactly right, clean and under noise, blur and JPEG.

Draws docs/oracle_robustness.png beside it. Run: python benchmarks/oracle_robustness.py
"""

from __future__ import annotations

import time
from collections.abc import Callable
from io import BytesIO
from itertools import islice
from pathlib import Path

import numpy as np
from harness import SMOKE, Target, keep, one_thread, share
from matplotlib.figure import Figure
from PIL import Image
from scipy import ndimage

from latentbridge.data.shapes.oracle import read_scene
from latentbridge.data.shapes.render import render
from latentbridge.data.shapes.scenes import SPLITS, Scene, scenes
from latentbridge.files import atomic_write
from latentbridge.rng import numpy_rng

NUM_CLEAN, NUM_DEGRADED = (20, 10) if SMOKE else (10_000, 500)
PLOT = Path(__file__).parents[1] / "docs" / "oracle_robustness.png"


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
    each = count // len(SPLITS)
    return [scene for split in SPLITS for scene in islice(scenes(split, numpy_rng(0, f"oracle {split}")), each)]


def right(truth: list[Scene], images: list[np.ndarray]) -> list[bool]:
    return [read_scene(image) == scene for scene, image in zip(truth, images, strict=True)]


def plot(results: dict[str, dict[float, Target]], clean: float, path: Path) -> None:
    """One panel a degradation."""
    figure = Figure(figsize=(9, 2.8), layout="constrained")
    for axis, (name, points) in zip(figure.subplots(1, len(results), sharey=True), results.items(), strict=True):
        shares = points.values()
        axis.fill_between(list(points), [each.low for each in shares], [each.high for each in shares], alpha=0.2)
        axis.plot(list(points), [each.measured for each in shares], marker="o", markersize=3)
        axis.axhline(clean, color="gray", linewidth=0.8, linestyle=":")
        axis.set(xlabel=DEGRADATIONS[name][0], ylim=(0, 1.03))
        axis.grid(alpha=0.3)
        if name == "jpeg":
            axis.invert_xaxis()
        if name == "noise":
            axis.set_ylabel("scenes read exactly right")
    figure.savefig(path, dpi=90, format="png")


def main() -> None:
    one_thread()
    truth = draw_scenes(NUM_CLEAN)
    images = [render(scene) for scene in truth]
    read_scene(images[0])
    began = time.process_time()
    clean = share("clean", right(truth, images), least=0.999)
    cost_ms = (time.process_time() - began) / len(truth) * 1000
    few = draw_scenes(NUM_DEGRADED)
    few_images = [render(scene) for scene in few]
    results = {
        name: {
            level: share(f"{words} {level:g}", right(few, [degrade(image, level) for image in few_images]))
            for level in levels
        }
        for name, (words, degrade, levels) in DEGRADATIONS.items()
    }
    targets = [clean, *(target for points in results.values() for target in points.values())]
    counts = {"clean pictures": len(truth), "pictures at each level": len(few)}
    keep(__file__, targets, counts | {"a picture (CPU ms)": round(cost_ms, 2)})
    if not SMOKE:
        with atomic_write(PLOT) as path:
            plot(results, clean.measured, path)


if __name__ == "__main__":
    main()
