"""Tests of synchronising an index with a source: resuming, mirroring, prefetching."""

from __future__ import annotations

import json
import os
import threading
import unicodedata
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from latentbridge import indexing
from latentbridge.config import ModelConfig
from latentbridge.data.picture_sources import FILE, SHARD, FaultHandler, FolderPictures, ManifestPictures, PictureEntry
from latentbridge.errors import UserError
from latentbridge.images import open_picture
from latentbridge.indexing import sync_index
from latentbridge.models.checkpoint import new_model
from latentbridge.models.omnibridge.modeling_omnibridge import OmniBridge
from latentbridge.retrieval.exact_index import ExactIndex
from latentbridge.retrieval.filters import Condition, parse_condition


@pytest.fixture
def model(small_config: ModelConfig, monkeypatch: pytest.MonkeyPatch) -> OmniBridge:
    monkeypatch.setattr(indexing, "_BATCH", 3)
    return new_model(small_config, seed=0)


@pytest.fixture
def source(tmp_path: Path) -> FolderPictures:
    rng = np.random.default_rng(0)
    for number in range(11):
        Image.fromarray(rng.integers(0, 256, (20, 20, 3), dtype=np.uint8)).save(tmp_path / f"{number:02d}.png")
    return FolderPictures(tmp_path)


def test_an_interrupted_pass_resumes(
    model: OmniBridge, source: FolderPictures, monkeypatch: pytest.MonkeyPatch
) -> None:
    complete, index, embed, batches = (
        ExactIndex(model.embedding_size),
        ExactIndex(model.embedding_size),
        model.embed,
        [],
    )
    sync_index(model, complete, source)

    def interrupted_embed(images: list) -> np.ndarray:
        batches.append(len(images))
        if len(batches) == 3:
            raise KeyboardInterrupt
        return embed(images=images)

    monkeypatch.setattr(model, "embed", interrupted_embed)
    with pytest.raises(KeyboardInterrupt):
        sync_index(model, index, source)
    assert list(index.ids()) == [f"{number:02d}.png" for number in range(6)]
    built = sync_index(model, index, source)
    assert (built.embedded, built.unchanged, built.dropped) == (5, 6, 0)
    assert batches == [3, 3, 3, 3, 2]
    ids = list(complete.ids())
    assert list(index.ids()) == ids and np.array_equal(index.vectors(ids), complete.vectors(ids))


def test_other_items_and_items_of_unread_shards_are_kept(model: OmniBridge, source: FolderPictures) -> None:
    index = ExactIndex(model.embedding_size)
    sync_index(model, index, source, {"owner": "anna"})
    index.add(["mine"], index.vectors(["00.png"]))
    for name in ("03.png", "04.png"):
        (source.folder / name).unlink()
    index.add(["04.png"], index.vectors(["04.png"]), [{**(index.metadata(["04.png"])[0] or {}), SHARD: "far/4.tar"}])
    source.unread.add("far/4.tar")
    (source.folder / "05.png").write_bytes(b"broken since")
    left_out: list[str] = []
    built = sync_index(model, index, source, {"owner": "anna"}, on_left_out=left_out.append)
    assert (built.embedded, built.unchanged, built.dropped) == (0, 8, 1)
    assert built.left_out == left_out and "05.png" in left_out[0]
    assert {"mine", "04.png", "05.png"} <= set(index.ids()) and "03.png" not in set(index.ids())
    assert sync_index(model, index, source, mirror=False).dropped == 0


def test_an_id_of_another_source_is_not_replaced(
    model: OmniBridge, source: FolderPictures, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Both files have the same size and time, so that only their paths differ."""
    other = tmp_path_factory.mktemp("other")
    for picture, color in ((source.folder / "00.bmp", "red"), (other / "00.bmp", "blue")):
        Image.new("RGB", (20, 20), color).save(picture)
        os.utime(picture, (1, 1))
    index = ExactIndex(model.embedding_size)
    sync_index(model, index, source)
    before = index.vectors(["00.bmp"])
    built = sync_index(model, index, FolderPictures(other))
    assert built.embedded == 0 and len(built.left_out) == 1 and str(source.folder) in built.left_out[0]
    assert np.array_equal(index.vectors(["00.bmp"]), before)
    (source.folder / "00.bmp").unlink()  # as if the folder had been moved
    assert sync_index(model, index, FolderPictures(other)).embedded == 1
    assert not np.array_equal(index.vectors(["00.bmp"]), before)


def test_the_first_picture_of_repeated_ids_is_used(model: OmniBridge, source: FolderPictures) -> None:
    pictures = list(source.pictures(pytest.fail))

    class Twice(FolderPictures):
        def pictures(self, fault: FaultHandler) -> Iterator[PictureEntry]:
            for picture in pictures[:2]:
                yield picture
                yield PictureEntry(picture.id, "other", {"second": True}, picture.image)

    index = ExactIndex(model.embedding_size)
    assert sync_index(model, index, Twice(source.folder)).embedded == 2
    assert all("second" not in (metadata or {}) for metadata in index.metadata(["00.png", "01.png"]))


def test_only_the_next_batch_is_decoded_during_embedding(
    model: OmniBridge, source: FolderPictures, monkeypatch: pytest.MonkeyPatch
) -> None:
    index, embed, decode = ExactIndex(model.embedding_size), model.embed, indexing._decode
    condition, started, embedded = threading.Condition(), list[str](), 0

    def recorded_decode(picture: PictureEntry, size_px: int) -> object:
        with condition:
            started.append(picture.id)
            condition.notify_all()
        return decode(picture, size_px)

    def checked_embed(images: list) -> np.ndarray:
        nonlocal embedded
        embedded += len(images)
        with condition:
            assert condition.wait_for(lambda: len(started) == min(11, embedded + 3), timeout=30)
        return embed(images=images)

    monkeypatch.setattr(indexing, "_decode", recorded_decode)
    monkeypatch.setattr(model, "embed", checked_embed)
    sync_index(model, index, source)
    assert sorted(started) == list(index.ids()) == [f"{number:02d}.png" for number in range(11)]
    pictures = [open_picture(source.folder / name) for name in started[:3]]
    assert np.array_equal(index.vectors(started[:3]), embed(images=pictures))


def test_what_cannot_be_read_now_stays_and_what_is_gone_goes(
    model: OmniBridge, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rng = np.random.default_rng(0)
    names = ("a.png", "b.png", "x/c.png", "x/deep/d.png", "y/e.png", "xx/f.png")
    for name in names:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (8, 8, 3), dtype=np.uint8)).save(tmp_path / name)
    index = ExactIndex(model.embedding_size)
    sync_index(model, index, FolderPictures(tmp_path))
    scandir, opened, stat = os.scandir, Path.open, Path.stat

    def refuse(path: object, *names: str) -> None:
        if Path(str(path)) in [tmp_path / name for name in names]:
            raise OSError(5, "Input/output error", str(path))

    with monkeypatch.context() as patch:
        patch.setattr(os, "scandir", lambda path=".": (refuse(path, "x"), scandir(path))[1])
        patch.setattr(
            Path, "open", lambda path, *more, **named: (refuse(path, "a.png"), opened(path, *more, **named))[1]
        )
        patch.setattr(Path, "stat", lambda path, **named: (refuse(path, "b.png"), stat(path, **named))[1])
        os.utime(tmp_path / "a.png", (1, 1))
        (tmp_path / "y" / "e.png").unlink()
        (tmp_path / "xx" / "f.png").unlink()
        built = sync_index(model, index, FolderPictures(tmp_path))
        assert built.dropped == 2 and set(index.ids()) == {"a.png", "b.png", "x/c.png", "x/deep/d.png"}
        assert [any(word in each for each in built.left_out) for word in ("/x cannot", "a.png", "b.png")] == [True] * 3
        assert len(built.left_out) == 3
    (tmp_path / "x" / "c.png").unlink()
    built = sync_index(model, index, FolderPictures(tmp_path))
    assert (built.dropped, built.embedded, built.left_out) == (1, 1, [])


def test_items_of_a_manifest_stay_while_a_line_cannot_be_read(model: OmniBridge, source: FolderPictures) -> None:
    lines = [f'{{"image": "{number:02d}.png"}}' for number in range(3)]
    path = source.folder / "m.jsonl"
    path.write_text("\n".join(lines))
    index = ExactIndex(model.embedding_size)
    sync_index(model, index, ManifestPictures(path))
    path.write_text("\n".join([lines[0], lines[1][:9]]))  # as if it were being written
    assert sync_index(model, index, ManifestPictures(path)).dropped == 0 and len(index) == 3
    path.write_text("\n".join(lines[:2]))
    assert sync_index(model, index, ManifestPictures(path)).dropped == 1


def test_the_users_fields_are_kept_whatever_they_are_called(model: OmniBridge, source: FolderPictures) -> None:
    """A user may call fields like the facts and like what older indexes wrote; the index's own names are refused."""
    own = {"from": "flickr", "stamp": 7, "file": "roll-3", "width": 4000, "shard": "s", "sample": 1, "kind": "k"}
    lines = [{"image": "00.png", **own}, {"image": "01.png", FILE: "/etc/x.png"}, {"image": "02.png"}]
    path = source.folder / "m.jsonl"
    path.write_text("\n".join(map(json.dumps, lines)))
    index = ExactIndex(model.embedding_size)
    for embedded in (2, 0):
        built = sync_index(model, index, ManifestPictures(path), {"owner": "anna"})
        assert built.embedded == embedded and len(built.left_out) == 1 and FILE in built.left_out[0]
        metadata, plain = index.metadata(["00.png", "02.png"])
        assert metadata and plain and metadata.items() >= {**own, "owner": "anna", "height": 20}.items()
        assert plain["width"] == 20 and metadata[FILE] == str(source.folder / "00.png")
    path.write_text(json.dumps(lines[0] | {"stamp": 8}))
    built = sync_index(model, index, ManifestPictures(path))
    assert (built.embedded, built.unchanged, built.dropped) == (0, 1, 1)
    assert list(index.ids([Condition("stamp", "=", 8), Condition("from", "=", "flickr")])) == ["00.png"]


def test_an_item_that_the_index_refuses_is_left_out_alone(
    model: OmniBridge, source: FolderPictures, monkeypatch: pytest.MonkeyPatch
) -> None:
    index = ExactIndex(model.embedding_size)
    add = index.add

    def picky(ids: list[str], *more: object) -> None:
        if "04.png" in ids:
            raise UserError("Not this one.")
        add(ids, *more)  # pyright: ignore[reportArgumentType]

    monkeypatch.setattr(index, "add", picky)
    built = sync_index(model, index, source)
    assert (built.embedded, built.left_out) == (10, ["04.png: Not this one."]) and len(index) == 10


def test_items_of_older_indexes_are_taken_over(model: OmniBridge, source: FolderPictures) -> None:
    index = ExactIndex(model.embedding_size)
    sync_index(model, index, source)
    old = {"from": source.name, "stamp": "1-2", "file": "x", "width": 20, "height": 20}
    for name in ("03.png", "gone.png"):
        index.add([name], index.vectors(["03.png"]), [old])
    built = sync_index(model, index, source)
    assert (built.embedded, built.dropped, built.left_out) == (1, 1, []) and len(index) == 11
    assert "from" not in (index.metadata(["03.png"])[0] or {})


def test_names_with_accents_apart_have_ids_with_composed_ones(model: OmniBridge, tmp_path: Path) -> None:
    composed, apart = (unicodedata.normalize(form, "café") for form in ("NFC", "NFD"))
    (tmp_path / apart).mkdir()
    for name, color in ((f"{apart}/{apart}.png", "red"), (f"{apart}.png", "blue"), (f"{composed}.png", "green")):
        Image.new("RGB", (8, 8), color).save(tmp_path / name)
    index = ExactIndex(model.embedding_size)
    assert sync_index(model, index, FolderPictures(tmp_path)).embedded == 3
    assert set(index.ids()) == {f"{composed}/{composed}.png", f"{composed}.png", f"{apart}.png"}
    for words in (composed, apart):
        assert list(index.ids([parse_condition(f"folder={words}")])) == [f"{composed}/{composed}.png"]
    assert sync_index(model, index, FolderPictures(tmp_path)).unchanged == 3
    (tmp_path / "m.jsonl").write_text(json.dumps({"image": f"{composed}/{composed}.png", "place": apart}))
    manifest = ExactIndex(model.embedding_size)
    assert sync_index(model, manifest, ManifestPictures(tmp_path / "m.jsonl")).embedded == 1
    assert list(manifest.ids([Condition("place", "=", composed)])) == [f"{composed}/{composed}.png"]
