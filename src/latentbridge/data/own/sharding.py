"""The writer of shards from a manifest, and of an index of existing shards."""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from PIL import Image
from tqdm import tqdm

from latentbridge.data.own.manifest import FIELDS, SPLITS, Record, load_manifest
from latentbridge.data.own.shards import (
    INDEX,
    PICTURE_KINDS,
    Shard,
    list_shards,
    read_file,
    split_of,
    summarize_shard,
    write_index,
)
from latentbridge.errors import UserError
from latentbridge.files import atomic_write
from latentbridge.rng import numpy_rng

_SHARD_BYTES = 64 << 20
"""Shard size: large for an object store, but a few fit into memory."""


def shard_manifest(manifest: Path, out: Path, *, progress: bool = True) -> list[Shard]:
    """Write a manifest's samples as tars; the index, written last, makes the folder valid.

    Samples are shuffled once, always the same way, since training shuffles shards and the samples within each. Pictures
    are not re-encoded.
    """
    _check_new(out)
    records = load_manifest(manifest)
    bar = tqdm(total=len(records), desc="shards", disable=not progress, mininterval=2)
    shards: list[Shard] = []
    for split in SPLITS:
        of_split = [record for record in records if record.split == split]
        order = numpy_rng(0, "shards").permutation(len(of_split))
        for number, part in enumerate(_parts([of_split[index] for index in order])):
            name = f"{split}-{number:06d}.tar"
            data = _tar(part)
            shards.append(summarize_shard(name, data, split))
            with atomic_write(out / name) as temporary:
                temporary.write_bytes(data)
            bar.update(len(part))
    write_index(out, shards)
    return shards


def index_shards(where: str, out: Path, *, progress: bool = True) -> list[Shard]:
    """Read each existing tar or Parquet file once and write an index of them; the files stay in place."""
    _check_new(out)
    home = where.rstrip("/") if "://" in where else str(Path(where).resolve())
    shards = [
        summarize_shard(name, read_file(f"{home}/{name}"), split_of(name))
        for name in tqdm(list_shards(where), desc="shards", disable=not progress, mininterval=2)
    ]
    write_index(out, shards, home)
    return shards


def _check_new(out: Path) -> None:
    if (out / INDEX).exists():
        raise UserError(f"{out} already holds shards; choose another folder.")


def _parts(records: list[Record]) -> Iterator[list[Record]]:
    """Yield runs of records whose pictures reach the size of a shard."""
    part: list[Record] = []
    size = 0
    for record in records:
        part.append(record)
        size += sum(path.stat().st_size for path in (record.image, record.target) if isinstance(path, Path))
        if size >= _SHARD_BYTES:
            yield part
            part, size = [], 0
    if part:
        yield part


def _tar(records: list[Record]) -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as archive:
        for number, record in enumerate(records):
            names = [name for name in FIELDS if name not in ("image", "edit", "split")]
            line: dict[str, Any] = {name: value for name in names if (value := getattr(record, name))}
            if record.instruction:
                described = {"description": record.description} if record.description else {}
                line["edit"] = {"instruction": record.instruction, **described}
            _add(archive, f"{number:06d}.json", json.dumps(line, ensure_ascii=False).encode())
            for prefix, path in (("", record.image), ("target.", record.target)):
                if isinstance(path, Path):
                    _add(archive, f"{number:06d}.{prefix}{_picture_kind(path)}", path.read_bytes())
    return file.getvalue()


def _picture_kind(path: Path) -> str:
    """Return the suffix for a picture's content, whatever its file's suffix."""
    with Image.open(path) as picture:
        kind = (picture.format or "").lower().replace("mpo", "jpeg")  # MPO: JPEG with further images
    if kind not in PICTURE_KINDS:
        raise UserError(f"{path} is a {kind.upper()}, which training does not read; save it again as PNG or JPEG.")
    return kind


def _add(archive: tarfile.TarFile, name: str, data: bytes) -> None:
    member = tarfile.TarInfo(name)
    member.size = len(data)
    archive.addfile(member, io.BytesIO(data))
