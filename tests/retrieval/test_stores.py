"""Contract tests of all index stores against the exact reference: random histories, filters, errors, persistence."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.retrieval.reader_threads import reading
from tests.retrieval.unit_vectors import compass, unit

from latentbridge.errors import UserError
from latentbridge.retrieval import disk_index
from latentbridge.retrieval.base_index import Index
from latentbridge.retrieval.disk_index import FILE, DiskIndex
from latentbridge.retrieval.exact_index import ExactIndex
from latentbridge.retrieval.filters import OPERATORS, Condition, matches_all, parse_condition
from latentbridge.retrieval.health_check import LEAST_RECALL, check_health
from latentbridge.retrieval.index_factory import (
    create_index,
    index_address,
    is_index_folder,
    list_index_names,
    open_index,
)
from latentbridge.retrieval.near_duplicates import find_near_duplicates
from latentbridge.retrieval.validation import MAX_THUMBNAIL_BYTES, check_index_name

Make = Callable[[int], Index]
_NOBODY = 65534


@pytest.fixture(params=["exact", "disk", pytest.param("postgres", marks=pytest.mark.slow)])
def make(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Make]:
    """A factory of empty indexes, one per test."""
    created: list[Index] = []

    def new(dimension: int) -> Index:
        if request.param == "exact":
            index: Index = ExactIndex(dimension)
        elif request.param == "disk":
            index = create_index(tmp_path / "index", dimension)
        else:
            name = f"test-{abs(hash(request.node.name)):x}"
            index = create_index(f"{request.getfixturevalue('postgres')}/{name}", dimension)
        created.append(index)
        return index

    yield new
    for index in created:
        index.close()


def test_added_items_are_returned(make: Make) -> None:
    index = compass(make(2))
    assert len(index) == 3 and list(index.ids()) == ["east", "north", "north-east"]
    assert index.metadata(["north-east", "west", "east"]) == [{}, None, {"degrees": 90}]
    assert index.vectors(["north", "east", "north"]).tolist() == [[0, 1], [1, 0], [0, 1]]
    with pytest.raises(UserError, match="no item 'west'"):
        index.vectors(["east", "west"])


def test_an_existing_id_is_replaced_and_moves_to_the_end(make: Make) -> None:
    index = compass(make(2))
    index.add(["east"], np.array([[-1.0, 0.0]]), [{"degrees": 270}])
    assert list(index.ids()) == ["north", "north-east", "east"]
    assert index.metadata(["east"]) == [{"degrees": 270}]
    assert [hit.id for hit in index.search(np.array([1.0, 0.0]))[0]] == ["north-east", "north", "east"]


def test_a_random_history_agrees_with_the_reference(make: Make) -> None:
    """Adds, replacements, deletes and compactions; every search in between returns the reference's hits, bit for bit."""
    rng = np.random.default_rng(5)
    index, oracle = make(7), ExactIndex(7)
    for step in range(60):
        ids = [f"item {number}" for number in rng.permutation(97)[: rng.integers(1, 13)]]
        if rng.random() < 0.7:
            vectors, metadata = unit(rng, len(ids), 7), [{"step": step} for _ in ids]
            index.add(ids, vectors, metadata)
            oracle.add(ids, vectors, metadata)
        else:
            assert index.delete(ids) == oracle.delete(ids)
        if step % 11 == 5:
            index.compact()
        queries = unit(rng, 3, 7)
        assert index.search(queries, 5) == oracle.search(queries, 5)
        recent = [Condition("step", ">", step / 2)]
        assert index.search(queries, 5, recent) == oracle.search(queries, 5, recent)
    ids = list(oracle.ids())
    assert list(index.ids()) == ids and len(index) == len(ids) > 20
    assert np.array_equal(index.vectors(ids), oracle.vectors(ids)) and index.metadata(ids) == oracle.metadata(ids)
    report = check_health(index)
    assert (report.items, report.errors, report.recall) == (len(ids), (), 1.0)


def test_thumbnails_follow_their_items_and_have_a_size_limit(make: Make) -> None:
    index = compass(make(2))
    east, north = np.array([[1.0, 0.0]]), np.array([[0.0, 1.0]])
    index.add(["far", "near"], np.concatenate([-east, -north]), None, [b"a picture", None])
    assert index.thumbnails(["near", "far", "nobody", "east"]) == [None, b"a picture", None, None]
    index.compact()
    index.add(["near"], -north, None, [b"new"])
    index.add(["far"], -east)
    assert index.thumbnails(["far", "near"]) == [None, b"new"] and index.check_integrity() == []
    index.delete(["near"])
    assert index.thumbnails(["near"]) == [None] and index.check_integrity() == []
    for wrong, message in (([b"x" * (MAX_THUMBNAIL_BYTES + 1)], "make it smaller"), ([b"1", b"2"], "2 thumbnails")):
        with pytest.raises(UserError, match=message):
            index.add(["far"], east, None, wrong)
    assert index.vectors(["far"]).tolist() == [[-1, 0]]


def test_empty_index_and_k_above_its_size(make: Make) -> None:
    index = make(2)
    assert index.search(np.array([[1.0, 0.0], [0.0, 1.0]]), k=3) == [[], []]
    assert check_health(index).queries == 0
    assert len(compass(index).search(np.array([1.0, 0.0]), k=50)[0]) == 3
    with pytest.raises(UserError, match="at least one"):
        index.search(np.array([1.0, 0.0]), k=0)


@pytest.mark.parametrize(
    ("ids", "vectors", "metadata", "message"),
    [
        (["a"], [[3.0, 4.0]], None, "length 1"),
        (["a"], [[1.0, 0.0, 0.0]], None, "vectors of 2 numbers"),
        (["a"], [1.0, 0.0], None, "1 ids, 2 vectors"),
        (["a"], [[np.nan, 1.0]], None, "NaN"),
        (["a", "a"], [[1.0, 0.0], [0.0, 1.0]], None, "given twice"),
        ([""], [[1.0, 0.0]], None, "is empty"),
        (["\udc80"], [[1.0, 0.0]], None, "not text"),
        (["a", "b"], [[1.0, 0.0]], None, "2 ids, 1 vectors"),
        (["a"], [[1.0, 0.0]], [{"path": Path("x")}], "plain JSON"),
        (["a"], [[1.0, 0.0]], [{"size": float("nan")}], "plain JSON"),
    ],
)
def test_invalid_items_raise_one_sentence_and_add_nothing(
    make: Make, ids: list[str], vectors: list, metadata: list | None, message: str
) -> None:
    index = compass(make(2))
    with pytest.raises(UserError, match=message) as error:
        index.add(ids, np.array(vectors), metadata)
    assert "\n" not in str(error.value)
    assert list(index.ids()) == ["east", "north", "north-east"]


def test_queries_of_another_dimension_are_refused(make: Make) -> None:
    with pytest.raises(UserError, match="use the model it was built with"):
        compass(make(2)).search(np.array([1.0, 0.0, 0.0]))


# --- filters ---

values = st.one_of(
    st.booleans(), st.integers(-3, 3), st.floats(-3, 3), st.sampled_from(["", "a", "b", "é", "1", "true"])
)
entries = st.dictionaries(
    st.sampled_from(["kind", "a.b", "x-1"]),
    st.one_of(values, st.none(), st.lists(values, max_size=3), st.dictionaries(st.just("kind"), values)),
)
conditions = st.builds(Condition, st.sampled_from(["kind", "a.b", "x-1"]), st.sampled_from(sorted(OPERATORS)), values)


@settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(metadata=st.lists(entries, min_size=1, max_size=8), where=st.lists(conditions, min_size=1, max_size=2))
def test_filters_agree_in_all_stores(make: Make, metadata: list[dict[str, Any]], where: list[Condition]) -> None:
    index = make(2)
    index.delete(list(index.ids()))
    index.add([str(i) for i in range(len(metadata))], np.tile([[1.0, 0.0]], (len(metadata), 1)), metadata)
    assert list(index.ids(where)) == [str(i) for i, entry in enumerate(metadata) if matches_all(where, entry)]


@pytest.mark.parametrize(
    ("text", "field", "sign", "value"),
    [
        ("kind=photo", "kind", "=", "photo"),
        ("width >= 640", "width", ">=", 640),
        ("score!=1.5", "score", "!=", 1.5),
        ("seen=true", "seen", "=", True),
        ('year="2020"', "year", "=", "2020"),
        ("note=a=b", "note", "=", "a=b"),
        ("empty=", "empty", "=", ""),
        ("x<NaN", "x", "<", "NaN"),
    ],
)
def test_conditions_are_parsed(text: str, field: str, sign: str, value: object) -> None:
    assert parse_condition(text) == Condition(field, sign, value)  # pyright: ignore[reportArgumentType]


def test_fields_are_listed_with_the_types_that_conditions_compare(make: Make) -> None:
    index = make(2)
    assert index.fields() == {}
    entries: list[dict[str, Any]] = [
        {"year": 2020, "on": True, "tags": ["a", 1], "none": None},
        {"year": "old", "é": {}},
    ]
    index.add(["a", "b"], np.tile([[1.0, 0.0]], (2, 1)), entries)
    types = {"year": {"number", "text"}, "on": {"boolean"}, "tags": {"text", "number"}, "none": set(), "é": set()}
    assert index.fields() == types


@pytest.mark.parametrize("text", ["kind", "=photo", "two words=x", 'a"b=c', ""])
def test_malformed_conditions_are_refused(text: str) -> None:
    with pytest.raises(UserError, match="write it like kind=photo"):
        parse_condition(text)


@pytest.mark.parametrize(
    "text", ["width>99999999999999999999", "width=-9223372036854775809", 'kind="\\ud800"', "kind=a\ud800"]
)
def test_unsupported_values_are_refused(text: str) -> None:
    with pytest.raises(UserError, match="is compared with"):
        parse_condition(text)


# --- names ---


@pytest.mark.parametrize("kind", ["folder", pytest.param("database", marks=pytest.mark.slow)])
def test_index_names_are_listed_and_have_addresses(kind: str, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    root = tmp_path / "root" if kind == "folder" else request.getfixturevalue("postgres")
    before = list_index_names(root)
    for name in ("side-b", "side-a"):
        create_index(index_address(root, name), 2).close()
    assert [name for name in list_index_names(root) if name not in before] == ["side-a", "side-b"]
    assert len(open_index(index_address(root, "side-a"))) == 0
    for name in ("../side-a", "Side", ""):
        with pytest.raises(UserError, match="cannot name an index"):
            index_address(root, name)


# --- PostgreSQL ---


@pytest.mark.slow
def test_a_database_separates_indexes_and_stores_their_models(postgres: str) -> None:
    address = f"{postgres}/kept-apart"
    index = compass(create_index(address, 2, "a model"))
    index.add(["far"], np.array([[0.0, -1.0]]))
    other = create_index(f"{postgres}/kept-apart-2", 3, "a model")
    index.close()
    again = open_index(address)
    assert (again.dimension, again.model_fingerprint, len(again), len(other)) == (2, "a model", 4, 0)
    assert check_health(again).errors == () and again.description()["bytes"] > 0
    with pytest.raises(UserError, match="another model"):
        create_index(address, 2, "another")
    with pytest.raises(UserError, match="holds no index"):
        open_index(f"{postgres}/nothing")
    with pytest.raises(UserError, match="at most 2,000 numbers"):
        create_index(f"{postgres}/wide", 3000)


@pytest.mark.slow
def test_a_database_searches_by_hnsw_and_filters(postgres: str) -> None:
    rng, count = np.random.default_rng(7), 2003
    index = create_index(f"{postgres}/graph", 16)
    index.add([str(i) for i in range(count)], unit(rng, count, 16), [{"n": i} for i in range(count)])
    index.refresh()
    assert check_health(index).recall >= LEAST_RECALL
    few = [Condition("n", "<", 50)]
    queries = unit(rng, 5, 16)
    assert index.search(queries, 10, few) == index.search(queries, 10, few, exact=True)


@pytest.mark.parametrize(
    ("address", "message"),
    [
        ("postgres://localhost/pets", "does not name an index"),
        ("postgres://localhost/db/Bad Name", "cannot name an index"),
        ("postgres://me:secret@127.0.0.1:1/db/pets", "does not answer"),
        ("qdrant://localhost/pets", "qdrant:// addresses are not supported"),
    ],
)
def test_invalid_addresses_are_refused_without_showing_the_password(address: str, message: str) -> None:
    if "answer" in message:
        pytest.importorskip("psycopg")
    for opening in (open_index, lambda place: create_index(place, 2)):
        with pytest.raises(UserError, match=message) as error:
            opening(address)
        assert "secret" not in str(error.value) and "\n" not in str(error.value)


# --- the folder ---


def test_a_folder_persists_items_and_the_model_fingerprint(tmp_path: Path) -> None:
    index = compass(create_index(tmp_path / "index", 2, "a model"))
    index.add(["odd \u2028 name"], np.array([[0.0, -1.0]]))
    index.close()
    assert is_index_folder(tmp_path / "index") and not is_index_folder(tmp_path)
    again = open_index(tmp_path / "index")
    assert (again.dimension, again.model_fingerprint, len(again)) == (2, "a model", 4)
    assert again.search(np.array([0.0, -1.0]), 1)[0][0].id == "odd \u2028 name"
    assert len(create_index(tmp_path / "index", 2, "a model")) == 4
    with pytest.raises(UserError, match="another model"):
        create_index(tmp_path / "index", 2, "another")


def test_searches_see_writes_of_another_handle(tmp_path: Path) -> None:
    ours, theirs = compass(create_index(tmp_path, 2)), open_index(tmp_path)
    query = np.array([0.8, 0.6])
    assert theirs.search(query) == ours.search(query)
    ours.add(["here"], query[None])
    ours.delete(["north"])
    assert [hit.id for hit in theirs.search(query)[0]] == ["here", "north-east", "east"]
    theirs.compact()
    ours.delete(["here"])
    ours.compact()
    theirs.add(["there"], query[None])
    for index in (ours, theirs):
        assert [hit.id for hit in index.search(query)[0]] == ["there", "north-east", "east"]


@pytest.mark.parametrize("kind", ["exact", "disk", "ivf"])
def test_replaced_items_are_found_at_all_times(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    index: Index = ExactIndex(3) if kind == "exact" else create_index(tmp_path, 3)
    pair, others = unit(np.random.default_rng(7), 2, 3), 100 if kind == "ivf" else 0
    index.add(["a", "b"], pair)
    if others:
        monkeypatch.setattr(disk_index, "IVF_MIN_ITEMS", others)
        index.add([str(number) for number in range(others)], np.repeat(-pair[:1], others, axis=0))
        index.refresh()

    def read() -> None:
        assert np.array_equal(index.vectors(["b", "a"]), pair[::-1])
        assert {hit.id for hit in index.search(pair[0], 2)[0]} == {"a", "b"}
        assert {hit.id for hit in index.search(pair[0], 2, exact=True)[0]} == {"a", "b"}

    with reading(read):
        for _ in range(100):
            index.add(["a"], pair[:1])
            index.add(["b"], pair[1:])


def test_replaced_rows_are_freed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(disk_index, "_MAX_DISCARDED", 20)
    index = DiskIndex.create(tmp_path, 3)
    vectors, rows = unit(np.random.default_rng(8), 7, 3), list[int]()
    for _ in range(30):
        index.add([str(i) for i in range(7)], vectors)
        assert [hit.id for hit in index.search(vectors[4], 1)[0]] == ["4"]
        assert index._cache is not None
        rows.append(len(index._cache.rows))
    assert max(rows) <= 7 + 20 + 7 + 7 and len(rows) == 30


def test_an_index_killed_during_creation_does_not_exist(tmp_path: Path) -> None:
    code = (
        "import os, sqlite3, latentbridge.retrieval.item_database as file\n"
        "file._SCHEMA = (*file._SCHEMA[:3], 'SELECT die()')\n"
        "connect = sqlite3.connect\n"
        "def connect_deadly(*all, **named):\n"
        "    opened = connect(*all, **named)\n"
        "    opened.create_function('die', 0, lambda: os.kill(os.getpid(), 9))\n"
        "    return opened\n"
        "sqlite3.connect = connect_deadly\n"
        f"from latentbridge.retrieval.disk_index import DiskIndex; DiskIndex.create(__import__('pathlib').Path({str(tmp_path / 'new')!r}), 3)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == -signal.SIGKILL
    assert list_index_names(tmp_path) == []
    assert len(create_index(tmp_path / "new", 3)) == 0 and list_index_names(tmp_path) == ["new"]


def test_concurrent_creation_opens_the_first_one(tmp_path: Path) -> None:
    with ThreadPoolExecutor(8) as pool:
        indexes = list(pool.map(lambda number: create_index(tmp_path, 3), range(8)))
    for number, index in enumerate(indexes):
        index.add([str(number)], unit(np.random.default_rng(number), 1, 3))
    assert {len(index) for index in indexes} == {8} and [path.name for path in tmp_path.glob(".*")] == []


def test_every_copy_is_in_a_duplicate_pair(make: Make) -> None:
    index = make(3)
    vector = unit(np.random.default_rng(9), 1, 3)
    names = [f"{number:02d}" for number in range(23)]
    index.add(names, np.repeat(vector, 23, axis=0))
    index.add(["other"], -vector)
    pairs = [(first, second) for first, second, _ in find_near_duplicates(index, 0.99)]
    assert {name for pair in pairs for name in pair} == set(names)
    assert len(set(pairs)) == len(pairs) and all(first < second for first, second in pairs)


def test_many_threads_read_while_one_writes(tmp_path: Path) -> None:
    """Two items are added, replaced and deleted together, so every search must find both or neither."""
    index = create_index(tmp_path, 3)
    pair = unit(np.random.default_rng(6), 2, 3)

    def read() -> None:
        assert sorted(hit.id for hit in index.search(pair[0], 5)[0]) in ([], ["a", "b"])

    with reading(read):
        for step in range(30):
            index.add(["a", "b"], pair)
            index.add(["a", "b"], pair[::-1])
            index.compact() if step % 10 == 9 else index.delete(["a", "b"])


@pytest.fixture
def reader() -> Iterator[tuple[Path, Callable[[str], str]]]:
    """A folder, and a function that runs code as a user with read-only access and returns its output."""
    folder = Path(tempfile.mkdtemp(prefix="read-only-", dir="/tmp"))

    def run_read_only(code: str) -> str:
        folder.chmod(0o555)
        for path in folder.iterdir():
            path.chmod(0o444)
        head = f"import sys; sys.path[:] = {sys.path!r}; folder = {str(folder)!r}; import numpy as np\n"
        head += (
            "from latentbridge.errors import UserError; from latentbridge.retrieval.index_factory import open_index\n"
        )
        head += "from latentbridge.retrieval.ivf import faiss_available; faiss_available() and __import__('faiss')\n"
        if os.getuid() == 0:  # root may write whatever the mode says; other users cannot read root's Python
            head += f"import os; os.setuid({_NOBODY})\n"
        try:
            ended = subprocess.run([sys.executable, "-c", head + code], capture_output=True, text=True)
        finally:
            folder.chmod(0o755)
            for path in folder.iterdir():
                path.chmod(0o644)
        assert ended.returncode == 0, ended.stderr
        return ended.stdout

    yield folder, run_read_only
    shutil.rmtree(folder, ignore_errors=True)


_PRINT_HITS = "index = open_index(folder); print([hit.id for hit in index.search(np.array([0.6, 0.8]))[0]], index.check_integrity())\n"


@pytest.mark.parametrize("owner", ["is gone", "has it open", "was killed"])
def test_a_read_only_folder_is_searched(reader: tuple[Path, Callable[[str], str]], owner: str) -> None:
    folder, run_read_only = reader
    index = compass(create_index(folder, 2))
    if owner == "is gone":
        index.close()
    elif owner == "was killed":
        files = {path: path.read_bytes() for path in folder.iterdir()}
        index.close()
        for path, content in files.items():
            path.write_bytes(content)
    before = sorted(path.name for path in folder.iterdir())
    assert run_read_only(_PRINT_HITS) == "['north-east', 'north', 'east'] []\n"
    assert sorted(path.name for path in folder.iterdir()) == before
    index.close()


def test_a_read_only_folder_refuses_changes(reader: tuple[Path, Callable[[str], str]]) -> None:
    folder, run_read_only = reader
    compass(create_index(folder, 2)).close()
    content = (folder / FILE).read_bytes()
    output = run_read_only(
        """index = open_index(folder)
for change in (lambda: index.add(["a"], np.array([[1.0, 0.0]])), lambda: index.delete(["east"]), index.compact):
    try:
        change()
    except UserError as error:
        print(error)
index.refresh()
"""
    )
    assert (
        output.splitlines()
        == [
            f"{folder} is read-only here, so nothing was changed; "
            "change its permissions, or copy the index to a folder you may write to."
        ]
        * 3
    )
    assert (folder / FILE).read_bytes() == content and [path.name for path in folder.iterdir()] == [FILE]


def test_a_read_only_user_sees_later_writes_of_the_owner(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    compass(create_index(tmp_path, 2)).close()
    monkeypatch.setattr("os.access", lambda path, how: False)
    theirs, query = open_index(tmp_path), np.array([0.8, 0.6])
    assert [hit.id for hit in theirs.search(query, 1)[0]] == ["north-east"]
    monkeypatch.undo()
    ours = create_index(tmp_path, 2)
    ours.add(["here"], query[None])
    assert [hit.id for hit in theirs.search(query, 1)[0]] == ["here"]  # through the WAL
    ours.close()
    assert [hit.id for hit in theirs.search(query, 1)[0]] == ["here"]
    again = create_index(tmp_path, 2)
    again.delete(["here"])
    again.close()
    assert [hit.id for hit in theirs.search(query, 1)[0]] == [
        "north-east"
    ]  # the WAL was created and removed between two searches


@pytest.mark.parametrize("damage", ["cut", "noise", "empty"])
def test_a_damaged_file_raises_one_sentence(tmp_path: Path, damage: str) -> None:
    compass(create_index(tmp_path, 2)).close()
    content = (tmp_path / FILE).read_bytes()
    (tmp_path / FILE).write_bytes({"cut": content[:5000], "noise": b"noise" * 1000, "empty": b""}[damage])
    with pytest.raises(UserError) as error:
        list(open_index(tmp_path).ids())
    assert "\n" not in str(error.value) and str(tmp_path) in str(error.value)


def test_folders_without_an_index_or_with_an_old_one_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="holds no index; build one"):
        open_index(tmp_path)
    (tmp_path / "manifest.json").write_text("{}")
    for opening in (open_index, lambda folder: create_index(folder, 2)):
        with pytest.raises(UserError, match="older version; delete the folder and build it again"):
            opening(tmp_path)


@pytest.mark.parametrize("name", ["pets", "a", "2026_photos-old"])
def test_valid_index_names(name: str) -> None:
    assert check_index_name(name) == name


@pytest.mark.parametrize("name", ["", "..", "a/b", "Pets", "-a", "a b", "a.b", "é", "a" * 49, "a\n", "a\0"])
def test_invalid_index_names(name: str) -> None:
    with pytest.raises(UserError, match="cannot name an index"):
        check_index_name(name)
