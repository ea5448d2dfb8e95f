"""The oracle against hand-worked and brute-force results, its refusals, and how queries are combined."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
from tests.retrieval.reader_threads import looking
from tests.retrieval.unit_vectors import compass, unit

from latentbridge.errors import UserError
from latentbridge.retrieval.exact_index import ExactIndex
from latentbridge.retrieval.vector_rows import _BLOCK_ROWS, VectorRows, combine_vectors


def test_search_ranks_hand_worked_cosines() -> None:
    hits = compass(ExactIndex(2)).search(np.array([0.8, 0.6]), k=3)
    assert [[hit.id for hit in row] for row in hits] == [["north-east", "east", "north"]]
    # 0.6 * 0.8 + 0.8 * 0.6; the stored numbers are float32
    assert [hit.score for hit in hits[0]] == pytest.approx([0.96, 0.8, 0.6], abs=1e-7)


def test_search_agrees_with_sorting_everything() -> None:
    rng = np.random.default_rng(0)
    vectors, queries = unit(rng, 211, 17), unit(rng, 13, 17)
    index = ExactIndex(17)
    index.add([str(i) for i in range(211)], vectors)
    expected = np.argsort(-(queries.astype(np.float64) @ vectors.T.astype(np.float64)), axis=1)[:, :7]
    assert [[int(hit.id) for hit in row] for row in index.search(queries, 7)] == expected.tolist()


def test_results_do_not_depend_on_the_batch() -> None:
    rng = np.random.default_rng(1)
    vectors, queries = unit(rng, 300, 64), unit(rng, 29, 64)
    index = ExactIndex(64)
    index.add([str(i) for i in range(300)], vectors)
    together = index.search(queries, 5)
    assert together == [index.search(query, 5)[0] for query in queries]  # bit for bit: scores are compared, too


def test_equal_scores_keep_the_order_of_adding() -> None:
    vector = unit(np.random.default_rng(2), 1, 33)
    index = ExactIndex(33)
    index.add([f"{i:02d}" for i in range(40)], np.repeat(vector, 40, axis=0))
    assert [hit.id for hit in index.search(vector, 6)[0]] == ["00", "01", "02", "03", "04", "05"]


@pytest.mark.parametrize("count", [1, 7, 64, 65, 1009])
def test_the_best_are_found_whatever_their_number_and_however_many_are_equal(count: int) -> None:
    vectors = unit(np.random.default_rng(count), count, 3).round(1) + 0.01
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    rows, query = VectorRows(3), vectors[:1]
    rows.append(np.arange(count), vectors)
    scores = (vectors.astype(np.float64) * query.astype(np.float64)).sum(axis=1)
    expected = np.argsort(-scores, kind="stable")
    for k in {1, 2, 10, count // 2 + 1, count, count + 5}:
        keys, found = rows.search(query, k)[0]
        assert keys.tolist() == expected[:k].tolist() and found.tolist() == scores[expected[:k]].tolist()


def test_rows_grow_over_many_blocks_and_forget() -> None:
    """Appends that end inside, at and beyond the end of a block; keys with gaps; rows discarded in each block."""
    rng = np.random.default_rng(3)
    total = 2 * _BLOCK_ROWS + 101
    keys, vectors = np.cumsum(rng.integers(1, 4, total)), unit(rng, total, 3)
    rows = VectorRows(3)
    for start, end in ((0, 7), (7, _BLOCK_ROWS), (_BLOCK_ROWS, _BLOCK_ROWS), (_BLOCK_ROWS, total)):
        rows.append(keys[start:end], vectors[start:end])
    gone = rng.permutation(total)[: total // 2]
    rows.discard(np.append(keys[gone], keys[-1] + 5))
    left = np.setdiff1d(np.arange(total), gone)
    query = unit(rng, 1, 3)
    best = left[np.argsort(-(vectors[left].astype(np.float64) @ query[0].astype(np.float64)), kind="stable")[:5]]
    assert rows.search(query, 5)[0][0].tolist() == keys[best].tolist()
    among = np.sort(keys[rng.permutation(total)[:500]])
    chosen = np.intersect1d(left, np.searchsorted(keys, among))
    best = chosen[np.argsort(-(vectors[chosen].astype(np.float64) @ query[0].astype(np.float64)), kind="stable")[:5]]
    assert rows.search(query, 5, among)[0][0].tolist() == keys[best].tolist()
    assert np.array_equal(rows.take(among), vectors[np.searchsorted(keys, among)])


def test_rows_are_searched_while_others_are_forgotten() -> None:
    """A switch of threads between the two looks of `flatnonzero` once gave places that were no rows at all."""
    rows, query = VectorRows(3), unit(np.random.default_rng(5), 1, 3)
    keys = np.arange(3 * _BLOCK_ROWS)
    rows.append(keys, np.repeat(query, len(keys), axis=0))

    def look() -> None:
        assert (rows.search(query, 7)[0][1] == rows.search(query, 7)[0][1][0]).all()

    usual = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        with looking(look):
            for gone in np.random.default_rng(6).permutation(keys)[: 2 * _BLOCK_ROWS].reshape(-1, 16):
                rows.discard(gone)
    finally:
        sys.setswitchinterval(usual)
    assert rows.discarded == 2 * _BLOCK_ROWS


def test_queries_are_combined_by_hand() -> None:
    east, north = np.array([1.0, 0.0]), np.array([0.0, 1.0])
    # east + 3 * north has length sqrt(10); float32 keeps seven digits
    assert combine_vectors([east, north], [1, 3]) == pytest.approx(np.array([1, 3]) / np.sqrt(10), abs=1e-6)
    assert combine_vectors([east, north], [1, -1]) == pytest.approx(np.array([1, -1]) / np.sqrt(2), abs=1e-6)
    assert combine_vectors([east[None], north[None]], [2, 0]).tolist() == [[1.0, 0.0]]
    with pytest.raises(UserError, match="cancel"):
        combine_vectors([east, -east], [0.5, 0.5])


def test_the_index_needs_no_torch() -> None:
    code = "import sys, latentbridge.retrieval.index_factory; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
