"""A manifest turned into shards, and an index for shards that others wrote."""

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
    fetch,
    found_shards,
    split_of,
    summary,
    write_index,
)
from latentbridge.errors import UserError
from latentbridge.files import atomic_write
from latentbridge.rng import numpy_rng

_SHARD_BYTES = 64 << 20
"""Large enough for an object store, small enough that a few fit into memory."""


def shard_manifest(manifest: Path, out: Path, *, progress: bool = True) -> list[Shard]:
    """Write a manifest's samples as tars and an index; the index, written last, makes the folder valid.

    Samples are shuffled once, the same way for the same manifest, so that neighbours in a shard have nothing in common;
    training shuffles shards, and samples within one. Pictures are stored as the files they are.
    """
    _refuse_second(out)
    records = load_manifest(manifest)
    bar = tqdm(total=len(records), desc="shards", disable=not progress, mininterval=2)
    shards: list[Shard] = []
    for split in SPLITS:
        chosen = [record for record in records if record.split == split]
        order = numpy_rng(0, "shards").permutation(len(chosen))
        for number, part in enumerate(_parts([chosen[index] for index in order])):
            name = f"{split}-{number:06d}.tar"
            data = _tar(part)
            shards.append(summary(name, data, split))
            with atomic_write(out / name) as temporary:
                temporary.write_bytes(data)
            bar.update(len(part))
    write_index(out, shards)
    return shards


def index_shards(where: str, out: Path, *, progress: bool = True) -> list[Shard]:
    """Read tars or Parquet files that others wrote, each once, and write an index of them; they stay where they are."""
    _refuse_second(out)
    home = where.rstrip("/") if "://" in where else str(Path(where).resolve())
    shards = []
    for name in tqdm(found_shards(where), desc="shards", disable=not progress, mininterval=2):
        shards.append(summary(name, fetch(f"{home}/{name}"), split_of(name)))
    write_index(out, shards, home)
    return shards


def _refuse_second(out: Path) -> None:
    if (out / INDEX).exists():
        raise UserError(f"{out} already holds shards; choose another folder.")


def _parts(records: list[Record]) -> Iterator[list[Record]]:
    """Runs of records whose pictures together reach the size of a shard."""
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
            told = [name for name in FIELDS if name not in ("image", "edit", "split")]
            line: dict[str, Any] = {name: value for name in told if (value := getattr(record, name))}
            if record.instruction:
                described = {"description": record.description} if record.description else {}
                line["edit"] = {"instruction": record.instruction, **described}
            _add(archive, f"{number:06d}.json", json.dumps(line, ensure_ascii=False).encode())
            for prefix, path in (("", record.image), ("target.", record.target)):
                if isinstance(path, Path):
                    _add(archive, f"{number:06d}.{prefix}{_kind(path)}", path.read_bytes())
    return file.getvalue()


def _kind(path: Path) -> str:
    """The ending that tells what a picture is, whatever its file is called."""
    with Image.open(path) as picture:
        kind = (picture.format or "").lower().replace("mpo", "jpeg")  # MPO is JPEG with more pictures after the first
    if kind not in PICTURE_KINDS:
        raise UserError(f"{path} is a {kind.upper()}, which training does not read; save it again as PNG or JPEG.")
    return kind


def _add(archive: tarfile.TarFile, name: str, data: bytes) -> None:
    member = tarfile.TarInfo(name)
    member.size = len(data)
    archive.addfile(member, io.BytesIO(data))
