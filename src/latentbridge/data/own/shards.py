"""Shards: many samples in few large files, on a local disk or in an object store.

A folder of shards has tars in WebDataset's layout or Parquet files, and an `index.json` with each shard's number of
samples, checksum, and samples to leave out. In a tar a sample is `KEY.json` (a manifest's line without its paths),
`KEY.png` (a picture of any format) and, for an edit, `KEY.target.png`; with a `KEY.txt`, the only text, `KEY.json` is
metadata, as img2dataset writes it. A Parquet file has a column `image` of bytes, or of structs with `bytes` as Hugging
Face writes them, and any of `texts` (or `text`, or `caption`), `question`, `answer`, `instruction`, `target` and
`description`. Nothing is unpickled or unpacked to disk.
"""

from __future__ import annotations

import json
import tarfile
import time
from collections import defaultdict
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from hashlib import sha256
from io import BytesIO
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

from latentbridge.data.own.json_lines import is_storable, parse_object
from latentbridge.data.own.manifest import FIELDS, SPLITS, Record, check_fields, record_of, without_nulls
from latentbridge.errors import UserError
from latentbridge.files import write_json
from latentbridge.images import PICTURE_KINDS, open_picture

INDEX = "index.json"
KINDS = (".tar", ".parquet")
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
_VERSION = 3
_READ_VERSIONS = (2, 3)
"""Version 2 has no samples to leave out."""
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
    left_out: list[str] = field(default_factory=list[str])
    """Keys of the samples that cannot be used."""


class Entry(NamedTuple):
    """A sample of a shard, not checked."""

    key: str
    line: dict[str, Any]
    """A manifest's line without its paths."""
    metadata: dict[str, Any]
    """Other fields."""
    picture: bytes | None
    target: bytes | None
    """The picture after an edit."""
    fault: str = ""
    """The fault that makes the whole sample unusable."""


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
        return read_samples(shard.name, self.read_bytes(shard), shard.left_out)

    def read_bytes(self, shard: Shard) -> bytes:
        """Return a shard as it was indexed; raise UserError if it is missing, damaged or unreachable."""

        def find_damage(data: bytes) -> str:
            if len(data) != shard.size_bytes:
                return f"it has {len(data):,} of {shard.size_bytes:,} bytes"
            return "" if sha256(data).hexdigest() == shard.sha256 else "its checksum is not the index's"

        return read_file(f"{self.home}/{shard.name}", find_damage)


def summarize_shard(name: str, data: bytes, split: str, on_fault: Callable[[str], object] | None = None) -> Shard:
    """Return the index entry of a shard with these bytes, of which every picture is decoded.

    A sample that cannot be used is left out with a sentence to `on_fault`, or raises UserError if that is None.
    """
    left_out: list[str] = []
    records: list[Record] = []
    for entry in read_entries(name, data):
        fault = find_fault(entry)
        if not fault:
            records.append(_record(name, entry))
            continue
        sentence = f"the sample {entry.key} of {name} cannot be used: {fault}"
        if on_fault is None:
            raise UserError(f"The{sentence[3:]}.")
        on_fault(sentence)
        left_out.append(entry.key)
    return Shard(name, split, len(data), sha256(data).hexdigest(), len(records), count_fit(records), left_out)


def find_fault(entry: Entry, open_pictures: bool = True) -> str:
    """Return why a sample cannot be trained on, or an empty text."""
    if entry.fault:
        return entry.fault
    if not entry.picture:
        return "it has no picture"
    faults: list[str] = []
    check_fields({**entry.line, "image": "picture"}, faults.append)
    if "split" in entry.line:
        faults.append("the name of the shard gives its split")
    if faults or not open_pictures:
        return next(iter(faults), "")
    try:
        for picture in (entry.picture, entry.target):
            if picture:
                open_picture(picture)
    except UserError as error:
        return str(error).removesuffix(".")
    return ""


def count_fit(records: list[Record]) -> dict[str, int]:
    """Return the number of records fit for each use."""
    return {use: sum(map(is_fit, records)) for use, is_fit in USES.items()}


def write_index(folder: Path, shards: list[Shard], home: str = "") -> None:
    """Write the index of shards in `home`, or in the folder itself if that is empty."""
    write_json(folder / INDEX, {"version": _VERSION, "home": home, "shards": [asdict(shard) for shard in shards]})


def list_shards(where: str) -> list[str]:
    """Return the sorted names of a folder's tars and Parquet files; raise UserError if there are none.

    A Parquet file beside a tar of the same name holds that tar's metadata and is none.
    """
    import fsspec

    with _translate_errors(where):
        system, path = fsspec.core.url_to_fs(where)
        names = [PurePosixPath(file).name for file in system.find(path, maxdepth=1)]
    tables = {name.removesuffix(".tar") + ".parquet" for name in names}  # img2dataset's metadata of a tar beside it
    names = [name for name in names if name not in tables and not name.startswith("._")]  # "._": macOS's own files
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


def read_samples(name: str, data: bytes, left_out: Collection[str] = ()) -> list[Record]:
    """Return the samples in a shard's bytes without those left out; raise UserError for another with faults.

    Pictures are not decoded: `summarize_shard` did that, and the checksum holds.
    """
    skipped, records = frozenset(left_out), []
    for entry in read_entries(name, data):
        if entry.key in skipped:
            continue
        if fault := find_fault(entry, open_pictures=False):
            raise UserError(f"The sample {entry.key} of {name} cannot be used: {fault}.")
        records.append(_record(name, entry))
    return records


def _record(name: str, entry: Entry) -> Record:
    return replace(record_of(entry.line, entry.picture or b"", entry.target), place=f"the sample {entry.key} of {name}")


def read_entries(name: str, data: bytes) -> Iterator[Entry]:
    """Yield the entries in a shard's bytes without a check of their fields; raise UserError for a damaged shard."""
    return (_parquet_entries if name.endswith(".parquet") else _tar_entries)(name, data)


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
        yield _tar_entry(key, files)


def _tar_entry(key: str, files: dict[str, bytes]) -> Entry:
    """Return the sample of a tar's files by what follows their key."""
    suffixes = {kind: kind.rpartition(".")[2] for kind in files}
    targets = [kind for kind in files if kind.startswith("target.") and suffixes[kind] in PICTURE_KINDS]
    pictures = [kind for kind in files if kind not in targets and suffixes[kind] in PICTURE_KINDS]
    texts = [kind for kind in files if suffixes[kind] == "txt"]
    line: dict[str, Any] = {}
    metadata: dict[str, Any] = {}
    fault = ""
    if len(pictures) > 1:
        fault = f"it has {len(pictures)} pictures, {', '.join(pictures)}; give each a key without dots"
    try:
        fields = without_nulls(parse_object(files["json"])) if "json" in files else {}
        (metadata if texts else line).update(fields)
    except ValueError as error:
        fault = fault or f"in its .json, {error}"
    try:
        if texts:
            line["texts"] = [_decode_text(files[texts[0]])]
    except ValueError as error:
        fault = fault or str(error)
    if targets:
        edit = line.get("edit")
        line["edit"] = {**(edit if isinstance(edit, dict) else {}), "target": "picture"}
    picture, target = (files[kinds[0]] if kinds else None for kinds in (pictures, targets))
    return Entry(key, line, metadata, picture, target, fault)


def _decode_text(data: bytes) -> str:
    """Return a caption; raise ValueError if it is not UTF-8 text."""
    try:
        text = data.decode("utf-8-sig").strip()
    except UnicodeDecodeError:
        raise ValueError("its .txt is not UTF-8 text; save it as UTF-8") from None
    if not text or not is_storable(text):
        raise ValueError("its .txt holds no caption; write what the picture shows")
    return text


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
        more = {name: row[name] for name in FIELDS if row.get(name) and name not in ("image", "texts", "edit")}
        target = _bytes_of(row.get("target"))
        described = {"description": row["description"]} if row.get("description") else {}
        edit = {"edit": {"instruction": row.get("instruction"), "target": "picture", **described}} if target else {}
        line = {"texts": [texts] if isinstance(texts, str) else texts, **more, **edit}
        known = {*FIELDS, *_TEXT_COLUMNS, "target", "description", "instruction"}
        metadata = {name: value for name, value in row.items() if name not in known and _is_json(value)}
        yield Entry(f"row {number}", line, metadata, _bytes_of(row.get("image")), target)


def _is_json(value: Any) -> bool:
    """Return whether a value of a Parquet file is plain JSON: no bytes, dates or NaN."""
    try:
        json.dumps(value, allow_nan=False)
    except (TypeError, ValueError):
        return False
    return value is not None


def _bytes_of(value: Any) -> bytes | None:
    """Return the bytes of a picture's column; paths in it are not opened."""
    data = value.get("bytes") if isinstance(value, dict) else value
    return data if isinstance(data, bytes) else None


def _read_index(path: str) -> tuple[str, list[Shard]]:
    """Return the place of the shards, empty if beside the index, and the shards."""
    try:
        values = json.loads(read_file(path))
        version, home, shards = values["version"], values["home"], [Shard(**entry) for entry in values["shards"]]
    except (json.JSONDecodeError, UnicodeDecodeError, KeyError, TypeError) as error:
        raise UserError(f"{path} is damaged ({error}); {_ADVICE}.") from error
    if version not in _READ_VERSIONS:
        versions = " and ".join(map(str, _READ_VERSIONS))
        raise UserError(f"{path} is of version {version}, and this library reads {versions}; {_ADVICE}.")
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
