from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Iterator
from dataclasses import replace
from hashlib import sha256
from pathlib import Path

import fsspec
import pytest
from PIL import Image
from tests.data.manifests import write_manifest

from latentbridge.data.own import sharding, shards
from latentbridge.data.own.manifest import Record, load_manifest
from latentbridge.data.own.sharding import check_shards, index_shards, shard_manifest
from latentbridge.data.own.shards import ShardFolder, read_samples
from latentbridge.data.own.stream import Stream
from latentbridge.data.worlds import StreamedWorld
from latentbridge.errors import UserError
from latentbridge.rng import numpy_rng


@pytest.fixture
def manifest(tmp_path: Path) -> Path:
    return write_manifest(
        tmp_path / "own",
        11,
        asked={"question": "How is it?", "answer": "dark"},
        edited={"texts": ["before", "dark"], "edit": {"instruction": "lighten", "target": "after.png"}},
        after={"texts": ["after"]},
        held={"texts": ["held out"], "split": "test"},
    )


@pytest.fixture
def store() -> Iterator[str]:
    """Return a folder of an object store."""
    yield "memory://shards"
    fsspec.filesystem("memory").store.clear()


def as_stored(record: Record) -> Record:
    """Return a manifest's record as read from a shard."""
    image, target = (path.read_bytes() if isinstance(path, Path) else None for path in (record.image, record.target))
    return Record(
        image or b"", record.texts, record.question, record.answer, record.instruction, target, record.description
    )


def upload(folder: Path, store: str) -> None:
    for path in folder.iterdir():
        fsspec.filesystem("memory").pipe_file(f"{store}/{path.name}", path.read_bytes())


def tar(**files: bytes) -> bytes:
    """Return a tar with these files; `__` in names stands for a dot."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as archive:
        for name, data in files.items():
            member = tarfile.TarInfo(f"./deep/{name.replace('__', '.')}")
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    return out.getvalue()


def test_shards_contain_the_manifests_samples(manifest, tmp_path, monkeypatch):
    size = (manifest.parent / "p0.png").stat().st_size
    monkeypatch.setattr(sharding, "_SHARD_BYTES", 4 * size)
    written = shard_manifest(manifest, tmp_path / "out", progress=False)
    assert [shard.name for shard in written][-2:] == ["train-000003.tar", "test-000000.tar"]

    for split, count in (("train", 14), ("test", 1), ("val", 0)):
        folder = ShardFolder(str(tmp_path / "out"), split)
        records = [record for shard in folder.shards for record in folder.read(shard)]
        expected = [as_stored(record) for record in load_manifest(manifest) if record.split == split]
        assert len(records) == count
        assert sorted(records, key=repr) == sorted(expected, key=repr)
    train = [shard for shard in written if shard.split == "train"]
    assert sum(shard.samples for shard in train) == 14
    fit = [
        sum(shard.fit[use] for shard in train)
        for use in ("texts", "a question", "texts, a question or a described edit")
    ]
    assert fit == [13, 1, 14]


def test_shards_are_shuffled_deterministically(manifest, tmp_path):
    for name in ("a", "b"):
        shard_manifest(manifest, tmp_path / name, progress=False)
    files = [(tmp_path / name / "train-000000.tar").read_bytes() for name in ("a", "b")]
    assert files[0] == files[1]
    texts = [record.texts for record in read_samples("train-000000.tar", files[0])]
    assert texts != [record.texts for record in load_manifest(manifest) if record.split == "train"]


def test_shards_are_not_overwritten_and_incomplete_ones_are_ignored(manifest, tmp_path, monkeypatch):
    def cut(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(sharding, "write_index", cut)
        with pytest.raises(KeyboardInterrupt):
            shard_manifest(manifest, tmp_path / "out", progress=False)
    with pytest.raises(UserError, match="There is no .*index.json"):
        ShardFolder(str(tmp_path / "out"))
    shard_manifest(manifest, tmp_path / "out", progress=False)
    with pytest.raises(UserError, match="already holds shards; choose another folder"):
        shard_manifest(manifest, tmp_path / "out", progress=False)


def test_a_pictures_suffix_follows_its_content(tmp_path):
    manifest = write_manifest(tmp_path / "own", 2)
    Image.new("RGB", (3, 5)).save(tmp_path / "own" / "p0.png", format="GIF")
    shard_manifest(manifest, tmp_path / "out", progress=False)
    with tarfile.open(tmp_path / "out" / "train-000000.tar") as archive:
        assert sorted(name.partition(".")[2] for name in archive.getnames()) == ["gif", "json", "json", "png"]
    Image.new("RGB", (16, 16)).save(tmp_path / "own" / "p1.png", format="ICO")
    with pytest.warns(UserWarning, match="p1.png is not a picture that can be read; use PNG"):
        (shard,) = shard_manifest(manifest, tmp_path / "other", progress=False)
    assert shard.samples == 1


def test_existing_tars_are_indexed_in_place(manifest, tmp_path, store):
    picture = (manifest.parent / "p0.png").read_bytes()
    theirs = tar(
        a1__jpg=picture, a1__txt=b" a cat \n", a1__json=b'{"width": 3}', b2__json=b'{"texts": ["x"]}', b2__png=picture
    )
    fsspec.filesystem("memory").pipe_file(f"{store}/00000.tar", theirs)
    fsspec.filesystem("memory").pipe_file(f"{store}/val-1.tar", tar(a__png=picture, a__txt=b"held"))
    index_shards(store, tmp_path / "index", progress=False)
    folder = ShardFolder(str(tmp_path / "index"))
    assert [shard.name for shard in folder.shards] == ["00000.tar"]
    assert folder.read(folder.shards[0]) == [Record(picture, ("a cat",)), Record(picture, ("x",))]
    with pytest.raises(UserError, match="There are no shards in memory://shards/none"):
        index_shards(f"{store}/none", tmp_path / "other", progress=False)


def test_parquet_shards_read_like_tars(manifest, tmp_path):
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    picture, after = ((manifest.parent / name).read_bytes() for name in ("p0.png", "p1.png"))
    theirs = tmp_path / "theirs"
    theirs.mkdir()
    columns = {
        "image": [{"bytes": picture, "path": "x.png"}, {"bytes": after, "path": None}],
        "caption": ["a cat", None],
        "question": [None, "Who?"],
        "answer": [None, "me"],
        "instruction": ["lighten", None],
        "target": [after, None],
        "description": ["a light cat", None],
    }
    parquet.write_table(pyarrow.table(columns), theirs / "train-00000-of-00001.parquet")
    index_shards(str(theirs), tmp_path / "index", progress=False)
    folder = ShardFolder(str(tmp_path / "index"))
    assert folder.read(folder.shards[0]) == [
        Record(picture, ("a cat",), instruction="lighten", target=after, description="a light cat"),
        Record(after, (), "Who?", "me"),
    ]
    assert folder.shards[0].fit == {
        "texts": 1,
        "a question": 1,
        "a described edit": 1,
        "texts or a described edit": 1,
        "texts, a question or a described edit": 2,
        "an edit without a description": 0,
    }


@pytest.mark.parametrize(
    ("files", "words"),
    [
        ({"a__txt": b"x"}, "a of x.tar cannot be used: it has no picture"),
        ({"a__png": b"p"}, "cannot be used: the picture has no text"),
        ({"a__png": b"p", "a__json": b'{"text": ["x"]}'}, "unknown field 'text'; did you mean 'texts'?"),
        ({"a__png": b"p", "a__json": b'{"texts": ["x"], "split": "val"}'}, "the name of the shard gives its split"),
        ({"a__png": b"p", "a__json": b"[3]"}, "in its .json, a line holds one JSON object"),
        ({"a__png": b"p", "a__json": b"{"}, "in its .json, this is not JSON"),
        ({"a__png": b"p", "a__txt": b"\xff"}, "its .txt is not UTF-8 text"),
        ({"a__png": b"p", "a__json": b'{"edit": {"instruction": "x"}}'}, "`edit` must be"),
        ({"a__png": b"p", "a__target__png": b"q", "a__json": b'{"texts": ["x"]}'}, "`edit` must be"),
    ],
)
def test_an_invalid_sample_is_named(files, words):
    with pytest.raises(UserError) as caught:
        read_samples("x.tar", tar(**files))
    assert words in str(caught.value)


def test_an_invalid_tar_is_named():
    with pytest.raises(UserError, match="x.tar is not a sound tar"):
        read_samples("x.tar", b"no tar" * 200)


def jpeg(size: int) -> bytes:
    stream = io.BytesIO()
    Image.effect_noise((size, size), 60).convert("RGB").save(stream, "JPEG")
    return stream.getvalue()


def test_samples_that_cannot_be_used_are_left_out_by_name_and_never_trained_on(tmp_path: Path):
    """The layout of img2dataset: a caption and metadata beside each picture, and a table of metadata beside the tar."""
    whole, theirs = jpeg(64), tmp_path / "theirs"
    theirs.mkdir()
    (theirs / "00000.tar").write_bytes(
        tar(
            a__jpg=whole, a__txt=b"an owl", a__json=b'{"url": "x", "width": 3}',
            b__jpg=whole[: len(whole) // 3], b__txt=b"cut",
            c__jpg=whole, c__txt=b" \n",
            d__jpg=whole, d__txt=b"caf\xe9",
            e__txt=b"not downloaded",
            f__jpg=whole, f__json=b'{"texts": ["x"], "score": 1e999}',
            g__input__jpg=whole, g__output__txt=b"a cat",
            h__1__jpg=whole, h__2__jpg=whole, h__txt=b"two pictures",
        )
    )  # fmt: skip
    (theirs / "00000.parquet").write_bytes(b"metadata alone")
    (theirs / "00001.tar").write_bytes(b"no tar" * 200)
    faults: list[str] = []
    (shard,) = index_shards(str(theirs), tmp_path / "index", on_fault=faults.append, progress=False)
    assert shard.samples == 2 and [key.rpartition("/")[2] for key in shard.left_out] == list("bcdefh")
    words = ("cut short", "no caption", "not UTF-8", "no picture", "too large", "2 pictures", "not a sound tar")
    assert [word for word, fault in zip(words, faults, strict=True) if word in fault and ".tar" in fault] == list(words)
    folder = ShardFolder(str(tmp_path / "index"))
    assert folder.read(folder.shards[0]) == [Record(whole, ("an owl",)), Record(whole, ("a cat",))]
    assert check_shards(str(tmp_path / "index")) == [] and len(check_shards(str(theirs))) == 7
    with pytest.raises(UserError, match="The sample deep/b of 00000.tar cannot be used: .*cut short"):
        index_shards(str(theirs), tmp_path / "other", progress=False)
    assert not (tmp_path / "other").exists()


def test_indexes_of_version_2_are_read_and_errors_name_shard_and_sample(tmp_path: Path):
    """They were written without decoding pictures."""
    whole = jpeg(64)
    write_old = tar(a__jpg=whole, a__txt=b"an owl")
    (tmp_path / "0.tar").write_bytes(write_old)
    index_shards(str(tmp_path), tmp_path / "index", progress=False)
    index = json.loads((tmp_path / "index" / "index.json").read_text())
    broken = write_old.replace(whole[len(whole) // 2 :], bytes(len(whole) - len(whole) // 2))
    (tmp_path / "0.tar").write_bytes(broken)
    index["version"] = 2
    index["shards"][0] |= {"sha256": sha256(broken).hexdigest()}
    del index["shards"][0]["left_out"]
    (tmp_path / "index" / "index.json").write_text(json.dumps(index))
    folder = ShardFolder(str(tmp_path / "index"))
    world = StreamedWorld(Stream(folder, "mine", 0), 0)
    for damaged in (whole[:300], b""):
        record = replace(folder.read(folder.shards[0])[0], image=damaged)
        world.stream.record = lambda position, use, record=record: record  # pyright: ignore
        with pytest.raises(UserError, match="In the sample deep/a of 0.tar: The picture is"):
            world.sample_captioned_picture(numpy_rng(0, "x"))


def test_paths_in_a_table_are_not_opened(tmp_path: Path):
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    Image.new("RGB", (3, 3)).save(tmp_path / "secret.png")
    stream = io.BytesIO()
    parquet.write_table(pyarrow.table({"image": [str(tmp_path / "secret.png")], "text": ["x"]}), stream)
    with pytest.raises(UserError, match="row 0 of x.parquet cannot be used: it has no picture"):
        read_samples("x.parquet", stream.getvalue())


# --- what goes wrong on the way ---


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda data: data[:-700], "it has 19,780 of 20,480 bytes"),
        (lambda data: data.replace(b"text 3", b"text 4"), "its checksum is not the index's"),
    ],
)
def test_a_damaged_shard_is_named_and_can_be_restored(manifest, tmp_path, damage, words):
    manifest = write_manifest(tmp_path / "few", 5)
    shard_manifest(manifest, tmp_path / "out", progress=False)
    path = tmp_path / "out" / "train-000000.tar"
    whole = path.read_bytes()
    path.write_bytes(damage(whole))
    folder = ShardFolder(str(tmp_path / "out"))
    with pytest.raises(UserError) as caught:
        folder.read(folder.shards[0])
    assert str(path) in str(caught.value) and words in str(caught.value)
    path.unlink()
    with pytest.raises(UserError, match=f"There is no {path}"):
        folder.read(folder.shards[0])
    path.write_bytes(whole)
    assert len(folder.read(folder.shards[0])) == 5


def test_object_stores_are_retried(manifest, tmp_path, store, monkeypatch):
    shard_manifest(manifest, tmp_path / "out", progress=False)
    upload(tmp_path / "out", store)
    folder = ShardFolder(store)
    naps: list[int] = []
    monkeypatch.setattr(shards.time, "sleep", naps.append)
    system = fsspec.filesystem("memory")
    whole, answers = system.cat_file, [ConnectionResetError("reset by peer"), b"half a tar"]

    def cat_file(path: str) -> bytes:
        answer = answers.pop(0) if answers else whole(path)
        if isinstance(answer, Exception):
            raise answer
        return answer

    monkeypatch.setattr(system, "cat_file", cat_file)
    assert len(folder.read(folder.shards[0])) == 14
    assert naps == [1, 4]
    answers.extend([TimeoutError("timed out")] * 4)
    with pytest.raises(UserError, match=r"memory://shards/train-000000.tar cannot be read whole \(timed out\)"):
        folder.read(folder.shards[0])
    assert naps == [1, 4, 1, 4, 16]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("{", "index.json is damaged"),
        ("[]", "index.json is damaged"),
        (json.dumps({"version": 1, "home": "", "shards": [{"name": "x"}]}), "index.json is damaged"),
        (json.dumps({"version": 1, "home": "", "shards": []}), "is of version 1, and this library reads 2"),
    ],
)
def test_an_unreadable_index_is_named(tmp_path, text, words):
    (tmp_path / "index.json").write_text(text)
    with pytest.raises(UserError, match=words):
        ShardFolder(str(tmp_path))


def test_an_unknown_url_scheme_is_refused():
    with pytest.raises(UserError, match="nowhere://x/index.json cannot be opened"):
        ShardFolder("nowhere://x")
