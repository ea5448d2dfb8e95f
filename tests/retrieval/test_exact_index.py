"""Tests of exact search in memory against hand-computed and brute-force results."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
from tests.retrieval.reader_threads import reading
from tests.retrieval.unit_vectors import compass, unit

from latentbridge.retrieval.exact_index import ExactIndex
from latentbridge.retrieval.vector_rows import _BLOCK_ROWS, VectorRows


def test_search_ranks_hand_computed_cosines() -> None:
    hits = compass(ExactIndex(2)).search(np.array([0.8, 0.6]), k=3)
    assert [[hit.id for hit in row] for row in hits] == [["north-east", "east", "north"]]
    # 0.6 * 0.8 + 0.8 * 0.6; the stored numbers are float32
    assert [hit.score for hit in hits[0]] == pytest.approx([0.96, 0.8, 0.6], abs=1e-7)


def test_search_agrees_with_a_full_sort() -> None:
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
    batched = index.search(queries, 5)
    assert batched == [index.search(query, 5)[0] for query in queries]  # bit for bit: scores are compared, too


def test_equal_scores_keep_insertion_order() -> None:
    vector = unit(np.random.default_rng(2), 1, 33)
    index = ExactIndex(33)
    index.add([f"{i:02d}" for i in range(40)], np.repeat(vector, 40, axis=0))
    assert [hit.id for hit in index.search(vector, 6)[0]] == ["00", "01", "02", "03", "04", "05"]


@pytest.mark.parametrize("count", [1, 7, 64, 65, 1009])
def test_top_k_is_exact_for_any_k_with_ties(count: int) -> None:
    vectors = unit(np.random.default_rng(count), count, 3).round(1) + 0.01
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    rows, query = VectorRows(3), vectors[:1]
    rows.append(np.arange(count), vectors)
    scores = (vectors.astype(np.float64) * query.astype(np.float64)).sum(axis=1)
    expected = np.argsort(-scores, kind="stable")
    for k in {1, 2, 10, count // 2 + 1, count, count + 5}:
        keys, top_scores = rows.search(query, k)[0]
        assert keys.tolist() == expected[:k].tolist() and top_scores.tolist() == scores[expected[:k]].tolist()


def test_rows_span_blocks_and_discard() -> None:
    """Appends that end inside, at and beyond the end of a block; keys with gaps; rows discarded in each block."""
    rng = np.random.default_rng(3)
    total = 2 * _BLOCK_ROWS + 101
    keys, vectors = np.cumsum(rng.integers(1, 4, total)), unit(rng, total, 3)
    rows = VectorRows(3)
    for start, end in ((0, 7), (7, _BLOCK_ROWS), (_BLOCK_ROWS, _BLOCK_ROWS), (_BLOCK_ROWS, total)):
        rows.append(keys[start:end], vectors[start:end])
    discarded = rng.permutation(total)[: total // 2]
    rows.discard(np.append(keys[discarded], keys[-1] + 5))
    valid = np.setdiff1d(np.arange(total), discarded)
    query = unit(rng, 1, 3)
    best = valid[np.argsort(-(vectors[valid].astype(np.float64) @ query[0].astype(np.float64)), kind="stable")[:5]]
    assert rows.search(query, 5)[0][0].tolist() == keys[best].tolist()
    among = np.sort(keys[rng.permutation(total)[:500]])
    allowed = np.intersect1d(valid, np.searchsorted(keys, among))
    best = allowed[np.argsort(-(vectors[allowed].astype(np.float64) @ query[0].astype(np.float64)), kind="stable")[:5]]
    assert rows.search(query, 5, among)[0][0].tolist() == keys[best].tolist()
    assert np.array_equal(rows.gather(among), vectors[np.searchsorted(keys, among)])


def test_rows_are_searched_while_others_are_discarded() -> None:
    """A thread switch between the two passes of `flatnonzero` once returned invalid row numbers."""
    rows, query = VectorRows(3), unit(np.random.default_rng(5), 1, 3)
    keys = np.arange(3 * _BLOCK_ROWS)
    rows.append(keys, np.repeat(query, len(keys), axis=0))

    def read() -> None:
        assert (rows.search(query, 7)[0][1] == rows.search(query, 7)[0][1][0]).all()

    switch_interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        with reading(read):
            for discarded in np.random.default_rng(6).permutation(keys)[: 2 * _BLOCK_ROWS].reshape(-1, 16):
                rows.discard(discarded)
    finally:
        sys.setswitchinterval(switch_interval)
    assert rows.num_discarded == 2 * _BLOCK_ROWS


def test_retrieval_does_not_import_torch() -> None:
    code = "import sys, latentbridge.retrieval.index_factory; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
