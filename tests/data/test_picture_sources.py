"""Sources of pictures: order, metadata, and faults."""

from __future__ import annotations

import io
import os
import tarfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from latentbridge.data.picture_sources import (
    FILE,
    FolderPictures,
    ManifestPictures,
    ShardPictures,
    encode_thumbnail,
    open_located_picture,
    open_source,
    thumbnail,
)
from latentbridge.errors import UserError
from latentbridge.retrieval.validation import MAX_THUMBNAIL_BYTES


def png(grey: int) -> bytes:
    stream = io.BytesIO()
    Image.new("RGB", (5, 3), (grey, grey, grey)).save(stream, "png")
    return stream.getvalue()


def write_tar(path: Path, files: dict[str, bytes]) -> None:
    with tarfile.open(path, "w") as archive:
        for name, data in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))


def test_folder_order_is_fixed_and_a_change_alters_the_stamp(tmp_path: Path) -> None:
    for name in ("b.png", "a.JPG", "sub/c.png", "notes.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(png(1))
    source = FolderPictures(tmp_path)
    faults: list[str] = []
    entries = list(source.pictures(faults.append))
    assert [entry.id for entry in entries] == ["a.JPG", "b.png", "sub/c.png"] and source.count() == 3 and not faults
    assert entries[2].metadata == {"folder": "sub", "kind": "png"}
    assert entries[2].location == {FILE: str(tmp_path.resolve() / "sub/c.png")}
    assert source.passed_over == {".txt": 1}
    os.utime(tmp_path / "b.png", ns=(1, 1))
    again = list(source.pictures(faults.append))
    assert [a.stamp == b.stamp for a, b in zip(entries, again, strict=True)] == [True, False, True]
    assert open_located_picture(entries[2].location).shape == (3, 5, 3)


@pytest.mark.skipif(os.name != "posix", reason="names that are no text exist on POSIX alone")
def test_a_file_name_that_is_not_unicode_is_reported_and_skipped(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(png(1))
    with open(os.fsencode(tmp_path) + b"/\xff.png", "wb") as file:
        file.write(png(2))
    faults: list[str] = []
    assert [entry.id for entry in FolderPictures(tmp_path).pictures(faults.append)] == ["a.png"]
    assert len(faults) == 1 and "is not Unicode" in faults[0] and faults[0].isprintable()


def test_a_manifest_yields_metadata_and_reports_faults(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(png(1))
    lines = ['{"image": "a.png", "year": 2020}', "", "[1]", '{"image": "/etc/x.png"}', '{"image": "b.png"}', "{"]
    (tmp_path / "m.jsonl").write_text("\n".join(lines))
    source, faults = ManifestPictures(tmp_path / "m.jsonl"), []
    (entries,) = source.pictures(faults.append)
    assert (entries.id, entries.metadata["year"], source.count()) == ("a.png", 2020, 5)
    assert [word in fault for word, fault in zip(("line 3", "line 4", "b.png", "line 6"), faults, strict=True)] == [
        True
    ] * 4


def test_a_broken_shard_does_not_stop_the_others(tmp_path: Path) -> None:
    write_tar(tmp_path / "0.tar", {"x.png": png(9), "x.json": b'{"year": 2020}', "y.txt": b"no picture"})
    (tmp_path / "1.tar").write_bytes(b"noise" * 1000)
    write_tar(tmp_path / "2.tar", {"x.png": png(8), "x.txt": b"an owl"})
    source, faults = ShardPictures(str(tmp_path)), []
    entries = list(source.pictures(faults.append))
    assert [entry.id for entry in entries] == ["0.tar/x", "2.tar/x"]
    assert entries[0].metadata["year"] == 2020 and entries[1].metadata["texts"] == ["an owl"]
    assert len(faults) == 2 and source.unread == {f"{tmp_path.resolve()}/1.tar", "0.tar/y"}
    assert open_located_picture(entries[0].location)[0, 0, 0] == 9
    assert isinstance(open_source(str(tmp_path)), ShardPictures)


def test_parquet_shards_yield_samples(tmp_path: Path) -> None:
    pa = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    rows = {"image": [{"bytes": png(3)}, {"bytes": png(4)}], "caption": ["one", "two"]}
    parquet.write_table(pa.table(rows), tmp_path / "0.parquet")
    entries = list(ShardPictures(str(tmp_path)).pictures(pytest.fail))
    assert [entry.metadata["texts"] for entry in entries] == [["one"], ["two"]]
    assert np.array_equal(open_located_picture(entries[1].location)[0, 0], [4, 4, 4])


def test_sources_without_pictures_are_refused(tmp_path: Path) -> None:
    for where, message in (
        (tmp_path, "no pictures in"),
        (tmp_path / "x", "neither an index"),
        (tmp_path / "x.jsonl", "no manifest"),
    ):
        with pytest.raises(UserError, match=message):
            open_source(str(where))


def test_thumbnails_are_small() -> None:
    noise = np.random.default_rng(0).integers(0, 256, (499, 503, 3), dtype=np.uint8)
    assert len(encode_thumbnail(noise)) < MAX_THUMBNAIL_BYTES
    flat = np.full((7, 7, 3), 90, np.uint8)
    assert abs(thumbnail({}, 11, encode_thumbnail(flat)).astype(int) - 90).max() < 4
    assert (thumbnail({}, 11) == 128).all() and (thumbnail({}, 11, b"no picture") == 128).all()
