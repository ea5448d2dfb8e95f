"""Search against hand-worked and brute-force results, refusals, and damage to a saved index."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from latentbridge.errors import UserError
from latentbridge.retrieval.index import Index, compose_query


def unit(rng: np.random.Generator, count: int, dimension: int) -> np.ndarray:
    vectors = rng.normal(size=(count, dimension)).astype(np.float32)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def compass() -> Index:
    index = Index(2)
    index.add(["east", "north"], np.array([[1, 0], [0, 1]]), [{"degrees": 90}, {"degrees": 0}])
    index.add(["north-east"], np.array([[0.6, 0.8]]))
    return index


def test_search_ranks_hand_worked_cosines() -> None:
    hits = compass().search(np.array([0.8, 0.6]), k=3)
    assert [[hit.id for hit in row] for row in hits] == [["north-east", "east", "north"]]
    # 0.6 * 0.8 + 0.8 * 0.6; the stored numbers are float32
    assert [hit.score for hit in hits[0]] == pytest.approx([0.96, 0.8, 0.6], abs=1e-7)


def test_metadata_and_ids_come_back() -> None:
    index = compass()
    assert len(index) == 3
    assert index.metadata("east") == {"degrees": 90}
    assert index.metadata("north-east") == {}
    with pytest.raises(UserError, match="no item 'west'"):
        index.metadata("west")


def test_search_agrees_with_sorting_everything() -> None:
    rng = np.random.default_rng(0)
    vectors, queries = unit(rng, 211, 17), unit(rng, 13, 17)
    index = Index(17)
    index.add([str(i) for i in range(211)], vectors)
    expected = np.argsort(-(queries.astype(np.float64) @ vectors.T.astype(np.float64)), axis=1)[:, :7]
    assert [[int(hit.id) for hit in row] for row in index.search(queries, 7)] == expected.tolist()


def test_results_do_not_depend_on_the_batch() -> None:
    rng = np.random.default_rng(1)
    vectors, queries = unit(rng, 300, 64), unit(rng, 29, 64)
    index = Index(64)
    index.add([str(i) for i in range(300)], vectors)
    together = index.search(queries, 5)
    assert together == [index.search(query, 5)[0] for query in queries]  # bit for bit: scores are compared, too


def test_equal_scores_keep_the_order_of_adding() -> None:
    vector = unit(np.random.default_rng(2), 1, 33)
    index = Index(33)
    index.add([f"{i:02d}" for i in range(40)], np.repeat(vector, 40, axis=0))
    assert [hit.id for hit in index.search(vector, 6)[0]] == ["00", "01", "02", "03", "04", "05"]


def test_k_larger_than_the_index_and_an_empty_index() -> None:
    assert len(compass().search(np.array([1.0, 0.0]), k=50)[0]) == 3
    assert Index(2).search(np.array([[1.0, 0.0], [0.0, 1.0]]), k=3) == [[], []]
    with pytest.raises(UserError, match="at least one"):
        compass().search(np.array([1.0, 0.0]), k=0)


@pytest.mark.parametrize(
    ("ids", "vectors", "message"),
    [
        (["a"], [[3.0, 4.0]], "length 1"),
        (["a"], [[1.0, 0.0, 0.0]], "vectors of 2 numbers"),
        (["a"], [1.0, 0.0], "1 ids, 2 vectors"),
        (["a"], [[np.nan, 1.0]], "NaN"),
        (["east"], [[1.0, 0.0]], "already in the index"),
        (["a", "a"], [[1.0, 0.0], [0.0, 1.0]], "already in the index"),
        (["a", "b"], [[1.0, 0.0]], "2 ids, 1 vectors"),
    ],
)
def test_add_refuses_in_one_sentence_and_adds_nothing(ids: list[str], vectors: list, message: str) -> None:
    index = compass()
    with pytest.raises(UserError, match=message) as refused:
        index.add(ids, np.array(vectors))
    assert "\n" not in str(refused.value)
    assert index.ids == ["east", "north", "north-east"]
    assert index.vectors.shape == (3, 2)


def test_add_refuses_metadata_that_json_cannot_hold() -> None:
    with pytest.raises(UserError, match="plain JSON"):
        compass().add(["a"], np.array([[1.0, 0.0]]), [{"path": Path("x")}])


def test_search_refuses_queries_of_another_width() -> None:
    with pytest.raises(UserError, match="use the model it was built with"):
        compass().search(np.array([1.0, 0.0, 0.0]))


def test_a_saved_index_loads_memory_mapped_and_grows(tmp_path: Path) -> None:
    saved = compass()
    saved.maker = "a model"
    saved.add(["odd \u2028 name"], np.array([[0.0, -1.0]]))
    saved.save(tmp_path / "index")
    assert sorted(path.name for path in (tmp_path / "index").iterdir()) == [
        "items.jsonl",
        "manifest.json",
        "vectors.npy",
    ]
    index = Index.load(tmp_path / "index")
    assert isinstance(index.vectors, np.memmap)
    assert (index.ids, index.maker) == (saved.ids, "a model")
    assert index.metadata("east") == {"degrees": 90}
    query = np.array([0.8, 0.6])
    assert index.search(query) == saved.search(query)
    index.add(["query"], query[None])
    index.save(tmp_path / "index")
    assert Index.load(tmp_path / "index").search(query, 1)[0][0].id == "query"


def test_an_empty_index_can_be_saved(tmp_path: Path) -> None:
    Index(5).save(tmp_path)
    assert len(Index.load(tmp_path)) == 0


@pytest.mark.parametrize("name", ["vectors.npy", "items.jsonl"])
@pytest.mark.parametrize("damage", ["cut", "flip", "remove"])
def test_load_refuses_damaged_files(tmp_path: Path, name: str, damage: str) -> None:
    compass().save(tmp_path)
    content = bytearray((tmp_path / name).read_bytes())
    content[-2] ^= 1
    if damage == "remove":
        (tmp_path / name).unlink()
    else:
        (tmp_path / name).write_bytes(bytes(content) if damage == "flip" else bytes(content[:-4]))
    with pytest.raises(UserError, match="missing, cut short or changed"):
        Index.load(tmp_path)


@pytest.mark.parametrize(
    ("manifest", "message"),
    [('{"version": 1', "damaged"), ("[]", "damaged"), ("{}", "damaged")],
)
def test_load_refuses_a_damaged_manifest(tmp_path: Path, manifest: str, message: str) -> None:
    compass().save(tmp_path)
    (tmp_path / "manifest.json").write_text(manifest)
    with pytest.raises(UserError, match=message):
        Index.load(tmp_path)


def test_load_refuses_another_version_and_a_folder_without_an_index(tmp_path: Path) -> None:
    compass().save(tmp_path)
    manifest = json.loads((tmp_path / "manifest.json").read_text())
    (tmp_path / "manifest.json").write_text(json.dumps(manifest | {"version": 2}))
    with pytest.raises(UserError, match="format 2"):
        Index.load(tmp_path)
    with pytest.raises(UserError, match="holds no index"):
        Index.load(tmp_path / "nowhere")


def test_compose_query_by_hand() -> None:
    east, north = np.array([1.0, 0.0]), np.array([0.0, 1.0])
    # (0.25 * east + 0.75 * north) has length sqrt(10) / 4; float32 keeps seven digits
    assert compose_query(east, north, 0.75) == pytest.approx(np.array([1, 3]) / np.sqrt(10), abs=1e-6)
    assert compose_query(east[None], north[None], 0.0).tolist() == [[1.0, 0.0]]
    with pytest.raises(UserError, match="between 0 and 1"):
        compose_query(east, north, 1.5)
    with pytest.raises(UserError, match="cancel"):
        compose_query(east, -east, 0.5)


def test_the_index_needs_no_torch() -> None:
    code = "import sys, latentbridge.retrieval.index; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
