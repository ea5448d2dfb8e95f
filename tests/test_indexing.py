"""Tests of synchronising an index with a source: resuming, mirroring, prefetching."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from latentbridge import indexing
from latentbridge.config import ModelConfig
from latentbridge.data.picture_sources import FaultHandler, FolderPictures, PictureEntry
from latentbridge.images import open_picture
from latentbridge.indexing import sync_index
from latentbridge.models.checkpoint import new_model
from latentbridge.models.omnibridge.modeling_omnibridge import OmniBridge
from latentbridge.retrieval.exact_index import ExactIndex


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
    index.add(["04.png"], index.vectors(["04.png"]), [{**(index.metadata(["04.png"])[0] or {}), "shard": "far/4.tar"}])
    source.unread.append("far/4.tar")
    (source.folder / "05.png").write_bytes(b"broken since")
    left_out: list[str] = []
    built = sync_index(model, index, source, {"owner": "anna"}, on_left_out=left_out.append)
    assert (built.embedded, built.unchanged, built.dropped) == (0, 8, 1)
    assert built.left_out == left_out and "05.png" in left_out[0]
    assert {"mine", "04.png"} <= set(index.ids()) and not {"03.png", "05.png"} & set(index.ids())
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
