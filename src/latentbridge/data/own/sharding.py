"""The writer of shards from a manifest, and of an index of existing shards."""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

from tqdm import tqdm

from latentbridge.data.own.manifest import FIELDS, SPLITS, Record, load_manifest
from latentbridge.data.own.shards import (
    INDEX,
    Shard,
    ShardFolder,
    find_fault,
    list_shards,
    read_entries,
    read_file,
    split_of,
    summarize_shard,
    write_index,
)
from latentbridge.errors import UserError
from latentbridge.files import atomic_write
from latentbridge.images import picture_kind
from latentbridge.rng import numpy_rng

_SHARD_BYTES = 64 << 20
"""Shard size: large for an object store, but a few fit into memory."""


def shard_manifest(manifest: Path, out: Path, *, progress: bool = True) -> list[Shard]:
    """Write a manifest's samples as tars; the index, written last, makes the folder valid.

    Samples are shuffled once, always the same way, since training shuffles shards and the samples within each. Pictures
    are not re-encoded. Lines with faults are left out (`load_manifest`).
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


def index_shards(
    where: str, out: Path, *, on_fault: Callable[[str], object] | None = None, progress: bool = True
) -> list[Shard]:
    """Read each existing tar or Parquet file once and write an index of them; the files stay in place.

    Samples that cannot be used and damaged files are left out with a sentence to `on_fault`, or raise UserError if that is
    None. A file that cannot be read at all raises UserError.
    """
    _check_new(out)
    home = where.rstrip("/") if "://" in where else str(Path(where).resolve())
    shards: list[Shard] = []
    for name in tqdm(list_shards(where), desc="shards", disable=not progress, mininterval=2):
        data = read_file(f"{home}/{name}")
        try:
            shards.append(summarize_shard(name, data, split_of(name), on_fault))
        except UserError as error:
            if on_fault is None:
                raise
            on_fault(str(error).removesuffix("."))
    if not any(shard.samples for shard in shards):
        raise UserError(f"No sample in {where} can be used; see the lines above, or give a folder of other shards.")
    write_index(out, shards, home)
    return shards


def check_shards(where: str) -> list[str]:
    """Return a sentence per sample or file of shards, with or without an index, that cannot be trained on.

    Samples that the index leaves out are none.
    """
    faults: list[str] = []
    if "://" in where or Path(where, INDEX).exists():
        folders = [ShardFolder(where, split) for split in SPLITS]
        pieces = [
            (shard.name, partial(folder.read_bytes, shard), shard.left_out)
            for folder in folders
            for shard in folder.shards
        ]
    else:
        pieces = [(name, partial(read_file, f"{where}/{name}"), []) for name in list_shards(where)]
    for name, read, left_out in pieces:
        try:
            entries = [entry for entry in read_entries(name, read()) if entry.key not in left_out]
            faults += [
                f"the sample {entry.key} of {name}: {fault}" for entry in entries if (fault := find_fault(entry))
            ]
        except UserError as error:
            faults.append(str(error).removesuffix("."))
    return faults


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
                    _add(archive, f"{number:06d}.{prefix}{picture_kind(path)}", path.read_bytes())
    return file.getvalue()


def _add(archive: tarfile.TarFile, name: str, data: bytes) -> None:
    member = tarfile.TarInfo(name)
    member.size = len(data)
    archive.addfile(member, io.BytesIO(data))
