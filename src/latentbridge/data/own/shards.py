"""Shards: many samples in few large files, on a local disk or in an object store.

A folder of shards has tars in WebDataset's layout or Parquet files, and an `index.json` with each shard's number of
samples and checksum. In a tar a sample is `KEY.json` (a manifest's line without its paths), `KEY.png` (a picture of any
format) and, for an edit, `KEY.target.png`; with a `KEY.txt`, the only text, `KEY.json` is ignored. A Parquet file has a
column `image` of bytes, or of structs with `bytes` as Hugging Face writes them, and any of `texts` (or `text`, or
`caption`), `question`, `answer`, `instruction`, `target` and `description`. Nothing is unpickled or unpacked to disk.
"""

from __future__ import annotations

import json
import tarfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from hashlib import sha256
from io import BytesIO
from pathlib import Path, PurePosixPath
from typing import Any

from latentbridge.data.own.manifest import FIELDS, SPLITS, Record, check_fields, record_of
from latentbridge.errors import UserError
from latentbridge.files import write_json

INDEX = "index.json"
KINDS = (".tar", ".parquet")
PICTURE_KINDS = ("png", "jpg", "jpeg", "webp", "gif", "bmp", "tif", "tiff", "ppm")
DRAWABLE_USE = "texts or a described edit"
ANY_USE = "texts, a question or a described edit"
UNDESCRIBED_USE = "an edit without a description"
USES: dict[str, Callable[[Record], bool]] = {
    "texts": lambda record: bool(record.texts),
    "a question": lambda record: bool(record.question),
    "a described edit": lambda record: bool(record.description),
    DRAWABLE_USE: lambda record: bool(record.texts or record.description),
    ANY_USE: lambda record: bool(record.texts or record.question or record.description),
    UNDESCRIBED_USE: lambda record: bool(record.instruction and not record.description),
}
"""Conditions that a stage may require of a record, or exclude; the index counts them by these names."""
_VERSION = 2
_RETRY_DELAYS_S = (1, 4, 16)
_TEXT_COLUMNS = ("texts", "text", "caption")
_ADVICE = "restore it, or write the shards again"


@dataclass(frozen=True)
class Shard:
    """A file of samples of one split."""

    name: str
    split: str
    size_bytes: int
    sha256: str
    samples: int
    fit: dict[str, int]
    """Number of samples fit for each of `USES`."""


class ShardFolder:
    """The indexed shards of one split; `where` is a path or an fsspec url, such as `s3://bucket/cats`."""

    def __init__(self, where: str, split: str = "train") -> None:
        where = where.rstrip("/")
        home, shards = _read_index(f"{where}/{INDEX}")
        self.home = home or where
        """The place of the shard files."""
        self.shards = [shard for shard in shards if shard.split == split]
        self.digest = sha256(json.dumps([asdict(shard) for shard in self.shards]).encode()).hexdigest()

    def read(self, shard: Shard) -> list[Record]:
        """Return all samples of a shard; raise UserError if it is missing, damaged or unreachable."""

        def find_damage(data: bytes) -> str:
            if len(data) != shard.size_bytes:
                return f"it has {len(data):,} of {shard.size_bytes:,} bytes"
            return "" if sha256(data).hexdigest() == shard.sha256 else "its checksum is not the index's"

        return read_samples(shard.name, read_file(f"{self.home}/{shard.name}", find_damage))


def summarize_shard(name: str, data: bytes, split: str) -> Shard:
    """Return the index entry of a shard with these bytes."""
    records = read_samples(name, data)
    return Shard(name, split, len(data), sha256(data).hexdigest(), len(records), count_fit(records))


def count_fit(records: list[Record]) -> dict[str, int]:
    """Return the number of records fit for each use."""
    return {use: sum(map(is_fit, records)) for use, is_fit in USES.items()}


def write_index(folder: Path, shards: list[Shard], home: str = "") -> None:
    """Write the index of shards in `home`, or in the folder itself if that is empty."""
    write_json(folder / INDEX, {"version": _VERSION, "home": home, "shards": [asdict(shard) for shard in shards]})


def list_shards(where: str) -> list[str]:
    """Return the sorted names of a folder's tars and Parquet files; raise UserError if there are none."""
    import fsspec

    with _translate_errors(where):
        system, path = fsspec.core.url_to_fs(where)
        names = [PurePosixPath(file).name for file in system.find(path, maxdepth=1)]
    if not (names := sorted(name for name in names if name.endswith(KINDS))):
        raise UserError(f"There are no shards in {where}; give a folder of .tar or .parquet files, or a manifest.")
    return names


def split_of(name: str) -> str:
    """Return the split that a shard's name begins with, or `train`."""
    return next((split for split in SPLITS if name.startswith(split)), "train")


def read_file(where: str, find_damage: Callable[[bytes], str] = lambda data: "") -> bytes:
    """Return the bytes of a path or fsspec url.

    Connection errors, and damage reported by `find_damage`, are retried after 1, 4 and 16 seconds unless the file is
    local; then raise UserError.
    """
    import fsspec

    is_local = "://" not in where or where.startswith("file://")
    for delay in (*_RETRY_DELAYS_S, None):
        try:
            with _translate_errors(where):
                system, path = fsspec.core.url_to_fs(where)
                data = system.cat_file(path)
            if not (reason := find_damage(data)):
                return data
        except ConnectionError as error:
            reason = str(error)
        if delay is None or is_local:
            break
        time.sleep(delay)
    raise UserError(f"{where} cannot be read whole ({reason}); restore it or the connection, and try again.")


def read_samples(name: str, data: bytes) -> list[Record]:
    """Return the samples in a shard's bytes; raise UserError for a sample with faults."""
    records = []
    for key, entry, image, target in read_entries(name, data):
        faults = [] if image else ["it has no picture"]
        check_fields({**entry, "image": "picture"}, faults.append)
        if "split" in entry:
            faults.append("the name of the shard gives its split")
        if faults:
            raise UserError(f"The sample {key} of {name} cannot be used: {faults[0]}.")
        records.append(record_of(entry, image or b"", target))
    return records


def read_entries(name: str, data: bytes) -> Iterator[Entry]:
    """Yield the entries in a shard's bytes without a check of their fields."""
    return (_parquet_entries if name.endswith(".parquet") else _tar_entries)(name, data)


Entry = tuple[str, dict[str, Any], bytes | None, bytes | None]
"""(key, manifest's line without its paths, picture, target of an edit)."""


def _tar_entries(name: str, data: bytes) -> Iterator[Entry]:
    parts: dict[str, dict[str, bytes]] = defaultdict(dict)
    try:
        with tarfile.open(fileobj=BytesIO(data), mode="r:") as archive:
            for member in archive:
                path = PurePosixPath(member.name)
                key, _, kind = path.name.partition(".")
                if member.isfile() and key and (file := archive.extractfile(member)):
                    parts[str(path.with_name(key))][kind.lower()] = file.read()
    except (tarfile.TarError, EOFError) as error:
        raise UserError(f"{name} is not a sound tar ({error}); {_ADVICE}.") from error
    for key, files in parts.items():
        text, line = files.pop("txt", None), files.pop("json", b"{}")
        targets = [files.pop(kind) for kind in list(files) if kind.startswith("target.")]
        pictures = [files[kind] for kind in files if kind in PICTURE_KINDS]
        try:
            entry: dict[str, Any] = dict(json.loads(line)) if text is None else {"texts": [text.decode().strip()]}
            if targets:
                entry["edit"] = {**(entry.get("edit") or {}), "target": "picture"}
        except (ValueError, TypeError) as error:
            raise UserError(f"The sample {key} of {name} has no JSON object ({error}); {_ADVICE}.") from error
        yield key, entry, next(iter(pictures), None), next(iter(targets), None)


def _parquet_entries(name: str, data: bytes) -> Iterator[Entry]:
    try:
        import pyarrow  # pyright: ignore[reportMissingImports]
        from pyarrow import parquet  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise UserError("Parquet shards need pyarrow; pip install 'latentbridge[shards]'.") from error
    try:
        rows = parquet.read_table(BytesIO(data)).to_pylist()
    except (pyarrow.ArrowException, OSError) as error:
        raise UserError(f"{name} is not a sound Parquet file ({error}); {_ADVICE}.") from error
    for number, row in enumerate(rows):
        texts = next((row[column] for column in _TEXT_COLUMNS if row.get(column)), [])
        more = {field: row[field] for field in FIELDS if row.get(field) and field not in ("image", "texts", "edit")}
        target = _bytes_of(row.get("target"))
        described = {"description": row["description"]} if row.get("description") else {}
        edit = {"edit": {"instruction": row.get("instruction"), "target": "picture", **described}} if target else {}
        entry = {"texts": [texts] if isinstance(texts, str) else texts, **more, **edit}
        yield f"row {number}", entry, _bytes_of(row.get("image")), target


def _bytes_of(value: Any) -> bytes | None:
    return value.get("bytes") if isinstance(value, dict) else value


def _read_index(path: str) -> tuple[str, list[Shard]]:
    """Return the place of the shards, empty if beside the index, and the shards."""
    try:
        values = json.loads(read_file(path))
        version, home, shards = values["version"], values["home"], [Shard(**entry) for entry in values["shards"]]
    except (json.JSONDecodeError, UnicodeDecodeError, KeyError, TypeError) as error:
        raise UserError(f"{path} is damaged ({error}); {_ADVICE}.") from error
    if version != _VERSION:
        raise UserError(f"{path} is of version {version}, and this library reads {_VERSION}; {_ADVICE}.")
    return home, shards


@contextmanager
def _translate_errors(where: str) -> Iterator[None]:
    """Turn errors of a file system into ConnectionError if a retry may help, else into UserError."""
    try:
        yield
    except FileNotFoundError as error:
        raise UserError(f"There is no {where}; check the path, or write the shards again.") from error
    except (PermissionError, IsADirectoryError) as error:
        raise UserError(f"{where} may not be read ({error}); check its permissions.") from error
    except (ImportError, ValueError) as error:
        raise UserError(f"{where} cannot be opened ({error}); install what its kind of address needs.") from error
    except Exception as error:  # each kind of object store has errors of its own
        raise ConnectionError(str(error) or type(error).__name__) from error
