"""An index large enough for cells: what they find, what they leave out, and that losing them loses nothing."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from tests.retrieval.unit_vectors import unit

from latentbridge.retrieval import disk_index
from latentbridge.retrieval.disk_index import DiskIndex
from latentbridge.retrieval.filters import Condition
from latentbridge.retrieval.health_check import LEAST_RECALL, check_health

pytest.importorskip("faiss", reason="cells need faiss; pip install 'latentbridge[index]'")

COUNT, DIMENSION = 4001, 24


@pytest.fixture
def large(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> DiskIndex:
    """An index of 4,001 items in 19 clusters, with cells over all of them; items know their number and whether it is odd."""
    monkeypatch.setattr(disk_index, "IVF_MIN_ITEMS", 1000)
    monkeypatch.setattr(disk_index, "_FEW", 100)
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


def test_cells_find_what_is_best_with_exact_scores(large: DiskIndex) -> None:
    assert "cells of 4,001 items" in large.description()["search"]
    found = check_health(large)
    assert found.faults == () and found.recall >= LEAST_RECALL
    queries = clustered(1, 23)
    for quick, exact in zip(large.search(queries), large.search(queries, exact=True), strict=True):
        known = {hit.id: hit.score for hit in exact}
        assert all(known.get(hit.id, hit.score) == hit.score for hit in quick)  # bit for bit
        assert quick == sorted(quick, key=lambda hit: -hit.score)


def test_late_removed_and_replaced_items_are_found_as_they_are_now(large: DiskIndex) -> None:
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
    assert "cells of 4,001 items" in large.description()["search"] and check_health(large).faults == ()


def test_cells_of_a_newer_file_than_the_one_that_was_put_back_do_no_harm(large: DiskIndex, tmp_path: Path) -> None:
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
def test_filters_hold_whether_many_or_few_remain(large: DiskIndex, where: list[Condition]) -> None:
    allowed = set(large.ids(where))
    queries = clustered(3, 31)
    quick, exact = large.search(queries, 10, where), large.search(queries, 10, where, exact=True)
    assert {hit.id for row in quick for hit in row} <= allowed
    shared = sum(len({h.id for h in a} & {h.id for h in b}) for a, b in zip(quick, exact, strict=True))
    assert shared >= LEAST_RECALL * sum(map(len, exact))
    assert all(len(row) == min(10, len(allowed)) for row in exact)


def test_growing_extends_the_cells_and_growing_fourfold_makes_new_ones(large: DiskIndex) -> None:
    centres = large.description()["search"].split(" of ")[1].split()[0]
    large.add([f"more {i}" for i in range(400)], clustered(4, 400))
    large.refresh()
    assert f"{centres} cells of 4,401 items" in large.description()["search"].replace(
        " of " + centres, f" {centres}", 1
    )
    large.add([f"far more {i}" for i in range(13_000)], clustered(5, 13_000))
    large.refresh()
    assert f" {centres} cells" not in large.description()["search"]
    assert check_health(large).recall >= LEAST_RECALL


@pytest.mark.parametrize("damage", ["cut", "remove"])
def test_without_its_cells_the_index_is_slower_and_nothing_else(large: DiskIndex, damage: str) -> None:
    query = clustered(6, 5)
    expected = large.search(query, exact=True)
    (kept,) = large.folder.glob("cells-*.faiss")
    kept.unlink() if damage == "remove" else kept.write_bytes(kept.read_bytes()[:-1000])
    again = DiskIndex(large.folder)
    assert again.search(query) == expected
    assert again.faults() == [] and "quicker after `latentbridge index compact`" in again.description()["search"]
    again.compact()
    assert "cells of 4,001 items" in again.description()["search"]
