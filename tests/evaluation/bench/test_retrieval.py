"""Retrieval benchmarks: ranks and averages by hand, on vectors that are known, and whole runs of two models."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.evaluation.bench import samples

from latentbridge.errors import UserError
from latentbridge.evaluation.bench.benchmark import Result
from latentbridge.evaluation.bench.cached_model import Failure
from latentbridge.evaluation.bench.data_folder import DataFolder
from latentbridge.evaluation.bench.harness import run_benchmark
from latentbridge.evaluation.bench.registry import make_benchmark
from latentbridge.evaluation.bench.retrieval import first_rank, hits, map_at_r
from latentbridge.evaluation.bench.tools import Tools


class KnownVectors:
    """Stands in for a `CachedModel`: vectors by text, or by the last part of a picture's path."""

    class model:
        embedding_size = 3

    def __init__(self, vectors: dict[str, Any]) -> None:
        self.vectors = vectors

    def embed(self, kind: str, items: list[Any]) -> list[Any]:
        made = [self.vectors[item if kind == "text" else item.name] for item in items]
        return [v if isinstance(v, Failure) else np.array(v, np.float32) / np.linalg.norm(v) for v in made]


def run(name: str, folder: Path, vectors: dict[str, Any]) -> tuple[dict[str, Result], dict[str, float]]:
    benchmark = make_benchmark(name)
    tools = Tools(KnownVectors(vectors))  # pyright: ignore[reportArgumentType]
    items = benchmark.load(DataFolder(folder))
    benchmark.prepare(items, tools)
    results = benchmark.evaluate(items, tools)
    return {r.id: r for r in results}, {score.metric: score.value for score in benchmark.aggregate(results)}


@pytest.mark.parametrize("name", samples.RETRIEVAL)
def test_every_benchmark_runs_for_two_models_and_embeds_once(name: str, tmp_path: Path, two_models, tools_of):
    files = DataFolder(samples.RETRIEVAL[name](tmp_path / "data"))
    first = tools_of(two_models)
    report = run_benchmark(name, make_benchmark(name), files, first, tmp_path / "run", progress=False)
    assert report["counts"]["missing"] == report["counts"]["unparsed"] == 0 and first.model.generated > 0
    again = tools_of(two_models)
    assert (
        run_benchmark(name, make_benchmark(name), files, again, tmp_path / "run", progress=False)["rows"]
        == report["rows"]
    )
    assert again.model.generated == 0
    assert all(row["low"] <= row["value"] <= row["high"] for row in report["rows"])
    limited = run_benchmark(
        name, make_benchmark(name), files, tools_of(two_models), tmp_path / "l", limit=1, progress=False
    )
    whole = [json.loads(line) for line in (tmp_path / "run" / "results.jsonl").read_text().splitlines()]
    (line,) = [json.loads(line) for line in (tmp_path / "l" / "results.jsonl").read_text().splitlines()]
    assert line == whole[0] and limited["items"] == 1  # the gallery stays complete


def test_ranks_count_equal_negatives_first():
    similarities = np.array([0.5, 0.9, 0.5, 0.1])
    assert first_rank(similarities, [1]) == 1 and first_rank(similarities, [0]) == 3
    assert first_rank(similarities, [0, 2]) == 2 and first_rank(similarities, [3]) == 4
    assert hits(similarities, [0], 3).tolist() == [False, False, True]
    assert first_rank(np.ones(10), [4]) == 10  # a collapsed model finds nothing


def test_map_at_r_by_hand():
    assert map_at_r(np.array([True, False, True]), 3) == pytest.approx((1 + 2 / 3) / 3)
    assert map_at_r(np.array([False, True]), 2) == pytest.approx((1 / 2) / 2)
    assert map_at_r(np.array([True, True, False, False]), 2) == 1


def karpathy_vectors() -> dict[str, Any]:
    """Picture n lies on axis n; captions too, but picture 1 is nearer to caption 20, and caption 10 is nearest to picture 0."""
    axes = np.eye(3)
    vectors: dict[str, Any] = {f"{n}.jpg": axes[n] for n in range(3)}
    for n in range(3):
        vectors |= {f"a thing {10 * n + k}": axes[n] + 0.1 * (k + 1) * axes[(n + 1) % 3] for k in range(6)}
    vectors["1.jpg"] = axes[1] + 1.2 * axes[2]
    vectors["a thing 10"] = axes[0]
    return vectors


def test_karpathy_by_hand(tmp_path: Path):
    results, scores = run("flickr30k", samples.karpathy(tmp_path, "flickr30k"), karpathy_vectors())
    assert len(results) == 3 + 15  # the sixth caption and the train picture are left out
    assert results["caption 10"].measures["rank"] == 3  # of three pictures the last
    assert "caption 15" not in results
    text, picture = scores["picture to text R@1"], scores["text to picture R@1"]
    assert picture == sum(r.measures["rank"] == 1 for r in results.values() if r.group == "text to picture") / 15
    assert text == sum(r.measures["rank"] == 1 for r in results.values() if r.group == "picture to text") / 3
    depths = (1, 5, 10)
    total = sum(scores[f"{way} R@{k}"] for way in ("picture to text", "text to picture") for k in depths)
    assert scores["RSUM"] == pytest.approx(100 * total) and scores["text to picture R@5"] == 1


def test_a_picture_that_cannot_be_read_costs_its_captions_too(tmp_path: Path):
    vectors = karpathy_vectors() | {"2.jpg": Failure("2.jpg is broken")}
    results, scores = run("flickr30k", samples.karpathy(tmp_path, "flickr30k"), vectors)
    lost = [id for id, result in results.items() if result.status == "missing"]
    assert lost == ["picture 2.jpg", *(f"caption {n}" for n in range(20, 25))]
    assert results["caption 21"].reason == "2.jpg is broken"
    assert scores["text to picture R@10"] == pytest.approx(10 / 15)


def test_eccv_by_hand(tmp_path: Path):
    """Picture 0 has the positives 0, 1 and 10; its order is 10, 0, 1. Caption 0 has pictures 0 and 1; its order is 0, 1, 2."""
    results, scores = run("eccv-caption", samples.eccv(tmp_path), karpathy_vectors())
    assert list(results) == ["picture 0", "picture 2", "caption 0", "caption 20"]
    assert results["picture 0"].measures == {"rank": 1, "mAP@R": 1, "R-precision": 1}
    first = results["caption 0"].measures
    order = np.argsort(
        [
            -(np.eye(3)[0] + 0.1 * np.eye(3)[1]) @ v
            for v in (np.eye(3)[0], (np.eye(3)[1] + 1.2 * np.eye(3)[2]) / 1.562, np.eye(3)[2])
        ]
    )
    assert order.tolist() == [0, 1, 2] and first["mAP@R"] == 1
    assert scores["text to picture mAP@R"] == pytest.approx(
        (first["mAP@R"] + results["caption 20"].measures["mAP@R"]) / 2
    )


def test_eccv_counts_positives_that_the_gallery_lacks(tmp_path: Path):
    folder = samples.eccv(tmp_path)
    (folder / "eccv_image_to_caption.json").write_text(json.dumps({"0": [0, 999], "77": [0]}))
    (folder / "eccv_caption_to_image.json").write_text(json.dumps({"888": [0]}))
    vectors = karpathy_vectors() | {"a thing 10": np.eye(3)[1]}  # so that caption 0 is the first of picture 0
    results, _ = run("eccv-caption", folder, vectors)
    assert results["picture 0"].measures["mAP@R"] == 0.5 and results["picture 0"].measures["R-precision"] == 0.5
    assert results["picture 77"].status == results["caption 888"].status == "missing"


def test_cirr_leaves_out_the_reference_and_ranks_the_subset(tmp_path: Path):
    """The text adds the second axis: the target of pair 100 is first; that of 101 comes after dev-1's copy, dev-6."""
    axes = np.eye(3)
    vectors: dict[str, Any] = {f"dev-{n}.png": axes[2] + 0.01 * n * axes[0] for n in range(7)}
    vectors |= {"dev-0.png": axes[0], "dev-1.png": axes[0] + axes[1], "Show one circle more": axes[1]}
    vectors |= {"dev-2.png": 0.2 * axes[0] + axes[1] + 0.4 * axes[2], "dev-6.png": axes[0] + 1.9 * axes[1]}
    results, scores = run("cirr", samples.cirr(tmp_path), vectors)
    assert results["100"].measures == {"rank": 1, "subset rank": 1}
    assert results["101"].measures == {"rank": 2, "subset rank": 1}  # dev-6 is outside the subset
    assert scores["CIRR R@1"] == 0.5 and scores["CIRR R@5"] == 1 and scores["CIRR R@1 in subset"] == 1
    assert scores["CIRR mean of R@5 and R@1 in subset"] == 1
    rows = json.loads((tmp_path / "cap.rc2.val.json").read_text())
    del rows[0]["target_hard"]
    (tmp_path / "cap.rc2.val.json").write_text(json.dumps(rows))
    with pytest.raises(UserError, match="use the split val"):
        make_benchmark("cirr").load(DataFolder(tmp_path))


def test_fashioniq_joins_captions_and_averages_kinds(tmp_path: Path):
    folder = samples.fashioniq(tmp_path)
    benchmark = make_benchmark("fashioniq")
    dress, shirt = benchmark.load(DataFolder(folder))
    assert dress.text == "Is shorter and has a star" and dress.picture.name == "B00.jpg"
    axes = np.eye(3)
    vectors: dict[str, Any] = {dress.text: axes[1], "B00.jpg": axes[0], "B01.png": axes[1], "B02.png": axes[2]}
    vectors |= {"B10.jpg": axes[0], "B11.png": Failure("broken"), "B12.png": axes[2]}
    results, scores = run("fashioniq", folder, vectors)
    assert results["dress 0"].measures["rank"] == 2  # the reference, as near as the target, is ranked and goes first
    assert results["shirt 0"].status == "missing"
    assert scores["dress R@10"] == 1 and scores["shirt R@10"] == 0 and scores["FashionIQ R@10"] == 0.5


def test_parts_that_cancel_out_are_missing(tmp_path: Path):
    folder = samples.fashioniq(tmp_path)
    axes = np.eye(3)
    vectors: dict[str, Any] = {f"B{k}{n}.{'png' if n else 'jpg'}": axes[n] for k in range(2) for n in range(3)}
    results, _ = run("fashioniq", folder, vectors | {"Is shorter and has a star": -axes[0]})
    assert results["dress 0"].status == "missing" and "cancel" in results["dress 0"].reason
