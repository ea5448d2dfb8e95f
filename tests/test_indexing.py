"""Filling an index from a source: resumed after any stop, mirrored, and never more than a batch at a time."""

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
from latentbridge.data.pictures import Fault, FolderPictures, Found
from latentbridge.images import open_picture
from latentbridge.indexing import fill_index
from latentbridge.models.checkpoint import new_model
from latentbridge.models.omnibridge.modeling_omnibridge import OmniBridge
from latentbridge.retrieval.exact import ExactIndex


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


def test_a_pass_that_was_stopped_goes_on_where_it_stopped(
    model: OmniBridge, source: FolderPictures, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, index, embed, batches = ExactIndex(model.embedding_size), ExactIndex(model.embedding_size), model.embed, []
    fill_index(model, whole, source)

    def stopped(images: list) -> np.ndarray:
        batches.append(len(images))
        if len(batches) == 3:
            raise KeyboardInterrupt
        return embed(images=images)

    monkeypatch.setattr(model, "embed", stopped)
    with pytest.raises(KeyboardInterrupt):
        fill_index(model, index, source)
    assert list(index.ids()) == [f"{number:02d}.png" for number in range(6)]
    built = fill_index(model, index, source)
    assert (built.embedded, built.unchanged, built.dropped) == (5, 6, 0)
    assert batches == [3, 3, 3, 3, 2]
    ids = list(whole.ids())
    assert list(index.ids()) == ids and np.array_equal(index.vectors(ids), whole.vectors(ids))


def test_what_came_from_elsewhere_stays_and_an_unread_shard_drops_nothing(
    model: OmniBridge, source: FolderPictures
) -> None:
    index = ExactIndex(model.embedding_size)
    fill_index(model, index, source, {"owner": "anna"})
    index.add(["mine"], index.vectors(["00.png"]))
    for name in ("03.png", "04.png"):
        (source.folder / name).unlink()
    index.add(["04.png"], index.vectors(["04.png"]), [{**(index.metadata(["04.png"])[0] or {}), "shard": "far/4.tar"}])
    source.unread.append("far/4.tar")
    (source.folder / "05.png").write_bytes(b"broken since")
    left_out: list[str] = []
    built = fill_index(model, index, source, {"owner": "anna"}, left_out=left_out.append)
    assert (built.embedded, built.unchanged, built.dropped) == (0, 8, 1)
    assert built.left_out == left_out and "05.png" in left_out[0]
    assert {"mine", "04.png"} <= set(index.ids()) and not {"03.png", "05.png"} & set(index.ids())
    assert fill_index(model, index, source, mirror=False).dropped == 0


def test_two_sources_keep_their_pictures_of_one_id_apart(
    model: OmniBridge, source: FolderPictures, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """The other's file has the very size and time of ours, so that nothing but its place tells them apart."""
    other = tmp_path_factory.mktemp("other")
    for picture, color in ((source.folder / "00.bmp", "red"), (other / "00.bmp", "blue")):
        Image.new("RGB", (20, 20), color).save(picture)
        os.utime(picture, (1, 1))
    index = ExactIndex(model.embedding_size)
    fill_index(model, index, source)
    before = index.vectors(["00.bmp"])
    built = fill_index(model, index, FolderPictures(other))
    assert built.embedded == 0 and len(built.left_out) == 1 and str(source.folder) in built.left_out[0]
    assert np.array_equal(index.vectors(["00.bmp"]), before)
    (source.folder / "00.bmp").unlink()  # as if the folder had gone
    assert fill_index(model, index, FolderPictures(other)).embedded == 1
    assert not np.array_equal(index.vectors(["00.bmp"]), before)


def test_of_pictures_with_one_id_the_first_counts(model: OmniBridge, source: FolderPictures) -> None:
    found = list(source.pictures(pytest.fail))

    class Twice(FolderPictures):
        def pictures(self, fault: Fault) -> Iterator[Found]:
            for each in found[:2]:
                yield each
                yield Found(each.id, "other", {"second": True}, each.image)

    index = ExactIndex(model.embedding_size)
    assert fill_index(model, index, Twice(source.folder)).embedded == 2
    assert all("second" not in (metadata or {}) for metadata in index.metadata(["00.png", "01.png"]))


def test_pictures_of_the_next_batch_alone_are_opened_while_one_is_embedded(
    model: OmniBridge, source: FolderPictures, monkeypatch: pytest.MonkeyPatch
) -> None:
    index, embed, opened = ExactIndex(model.embedding_size), model.embed, indexing._opened
    more, begun, embedded = threading.Condition(), list[str](), 0

    def noted(each: Found, side_px: int) -> object:
        with more:
            begun.append(each.id)
            more.notify_all()
        return opened(each, side_px)

    def meanwhile(images: list) -> np.ndarray:
        nonlocal embedded
        embedded += len(images)
        with more:
            assert more.wait_for(lambda: len(begun) == min(11, embedded + 3), timeout=30)
        return embed(images=images)

    monkeypatch.setattr(indexing, "_opened", noted)
    monkeypatch.setattr(model, "embed", meanwhile)
    fill_index(model, index, source)
    assert sorted(begun) == list(index.ids()) == [f"{number:02d}.png" for number in range(11)]
    pictures = [open_picture(source.folder / name) for name in begun[:3]]
    assert np.array_equal(index.vectors(begun[:3]), embed(images=pictures))
