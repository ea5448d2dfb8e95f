"""Tests of an index with IVF lists: recall, exclusion of removed items, and rebuilding after loss."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from tests.retrieval.unit_vectors import unit

from latentbridge.retrieval import disk_index
from latentbridge.retrieval.disk_index import DiskIndex
from latentbridge.retrieval.filters import Condition
from latentbridge.retrieval.health_check import LEAST_RECALL, check_health

pytest.importorskip("faiss", reason="IVF lists need faiss; pip install 'latentbridge[index]'")

COUNT, DIMENSION = 4001, 24


@pytest.fixture
def large(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> DiskIndex:
    """An index of 4,001 items in 19 clusters with IVF lists; the metadata hold each item's number and whether it is odd."""
    monkeypatch.setattr(disk_index, "IVF_MIN_ITEMS", 1000)
    monkeypatch.setattr(disk_index, "_EXACT_FILTER_ITEMS", 100)
    index = DiskIndex.create(tmp_path, DIMENSION)
    index.add([str(i) for i in range(COUNT)], clustered(0, COUNT), [{"n": i, "odd": i % 2 == 1} for i in range(COUNT)])
    index.refresh()
    return index


def clustered(seed: int, count: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    mixed = unit(np.random.default_rng(99), 19, DIMENSION)[rng.integers(19, size=count)] + 0.6 * unit(
        rng, count, DIMENSION
    )
    return (mixed / np.linalg.norm(mixed, axis=1, keepdims=True)).astype(np.float32)


def test_lists_find_the_best_with_exact_scores(large: DiskIndex) -> None:
    assert "IVF lists of 4,001 items" in large.description()["search"]
    report = check_health(large)
    assert report.errors == () and report.recall >= LEAST_RECALL
    queries = clustered(1, 23)
    for approximate, exact in zip(large.search(queries), large.search(queries, exact=True), strict=True):
        exact_scores = {hit.id: hit.score for hit in exact}
        assert all(exact_scores.get(hit.id, hit.score) == hit.score for hit in approximate)  # bit for bit
        assert approximate == sorted(approximate, key=lambda hit: -hit.score)


def test_new_removed_and_replaced_items_are_up_to_date(large: DiskIndex) -> None:
    query = clustered(2, 1)
    first, second, third = (hit.id for hit in large.search(query, 3)[0])
    large.delete([first])
    large.add([second], -query)
    large.add(["late"], query)
    assert [hit.id for hit in large.search(query, 2)[0]] == ["late", third]
    assert large.search(-query, 1)[0][0].id == second
    large.refresh()  # too little has changed
    large.compact()
    assert [hit.id for hit in large.search(query, 2)[0]] == ["late", third]
    assert "IVF lists of 4,001 items" in large.description()["search"] and check_health(large).errors == ()


def test_lists_newer_than_a_restored_file_are_harmless(large: DiskIndex, tmp_path: Path) -> None:
    large.compact()  # all of it is in the one file
    before = (tmp_path / disk_index.FILE).read_bytes()
    query = clustered(5, 1)
    large.add([f"new {i}" for i in range(300)], np.repeat(query, 300, axis=0))
    large.refresh()
    large.close()
    for path in tmp_path.glob(f"{disk_index.FILE}*"):
        path.unlink()
    (tmp_path / disk_index.FILE).write_bytes(before)
    hits = DiskIndex(tmp_path).search(query)[0]
    assert not any(hit.id.startswith("new") for hit in hits)


@pytest.mark.parametrize("where", [[Condition("odd", "=", True)], [Condition("n", "<", 77)], [Condition("n", "<", 0)]])
def test_filters_work_for_many_and_few_matches(large: DiskIndex, where: list[Condition]) -> None:
    allowed = set(large.ids(where))
    queries = clustered(3, 31)
    approximate, exact = large.search(queries, 10, where), large.search(queries, 10, where, exact=True)
    assert {hit.id for row in approximate for hit in row} <= allowed
    shared = sum(len({h.id for h in a} & {h.id for h in b}) for a, b in zip(approximate, exact, strict=True))
    assert shared >= LEAST_RECALL * sum(map(len, exact))
    assert all(len(row) == min(10, len(allowed)) for row in exact)


def test_growth_extends_the_lists_and_fourfold_growth_rebuilds_them(large: DiskIndex) -> None:
    num_lists = large.description()["search"].split(" of ")[1].split()[0]
    large.add([f"more {i}" for i in range(400)], clustered(4, 400))
    large.refresh()
    assert f" of {num_lists} IVF lists of 4,401 items" in large.description()["search"]
    large.add([f"far more {i}" for i in range(13_000)], clustered(5, 13_000))
    large.refresh()
    assert f" {num_lists} IVF lists" not in large.description()["search"]
    assert check_health(large).recall >= LEAST_RECALL


@pytest.mark.parametrize("damage", ["cut", "remove"])
def test_search_works_without_lists(large: DiskIndex, damage: str) -> None:
    query = clustered(6, 5)
    expected = large.search(query, exact=True)
    (path,) = large.folder.glob("cells-*.faiss")
    path.unlink() if damage == "remove" else path.write_bytes(path.read_bytes()[:-1000])
    reopened = DiskIndex(large.folder)
    assert reopened.search(query) == expected and reopened.check_integrity() == []
    assert "quicker after `latentbridge index compact`" in reopened.description()["search"]
    reopened.compact()
    assert "IVF lists of 4,001 items" in reopened.description()["search"]
