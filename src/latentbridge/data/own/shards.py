"""Shards: many samples in few large files, each read whole, from a local disk or an object store.

A folder of shards holds tars in WebDataset's layout or Parquet files, told by one `index.json`. In a tar each sample is
`KEY.json` (a manifest's line without its paths), `KEY.png` (the picture, in whatever format it has) and, for an edit,
`KEY.target.png`; where others wrote the tar, `KEY.txt` is the one text and what their `KEY.json` says is left alone. A
Parquet file has a column `image` of bytes, or of structs with `bytes` as Hugging Face writes them, and any of `texts`
(or `text`, or `caption`), `question`, `answer`, `instruction`, `target` and `description`. Nothing is ever unpickled or unpacked to disk.

The index says how many samples each shard has, so that where the n-th sample lies is arithmetic, and what its bytes hash to.
"""

from __future__ import annotations

import json
import tarfile
import time
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
USES: dict[str, Callable[[Record], bool]] = {
    "texts": lambda record: bool(record.texts),
    "a question": lambda record: bool(record.question),
    "a described edit": lambda record: bool(record.description),
    "texts or a described edit": lambda record: bool(record.texts or record.description),
    "texts, a question or a described edit": lambda record: bool(record.texts or record.question or record.description),
    "an edit without a description": lambda record: bool(record.instruction and not record.description),
}
"""What a stage may need of a sample, or not take."""
_VERSION = 2
_PAUSES_S = (1, 4, 16)
"""Between tries to read from an object store."""
_TEXT_COLUMNS = ("texts", "text", "caption")
_AGAIN = "restore it, or write the shards again"


@dataclass(frozen=True)
class Shard:
    """One file of samples, all of one split."""

    name: str
    split: str
    size_bytes: int
    sha256: str
    samples: int
    fit: dict[str, int]
    """How many samples are fit for each of `USES`."""


class ShardFolder:
    """A folder's shards of one split, by its index; `where` is a path or an fsspec url, such as `s3://bucket/cats`."""

    def __init__(self, where: str, split: str = "train") -> None:
        where = where.rstrip("/")
        home, shards = _read_index(f"{where}/{INDEX}")
        self.home = home or where
        """Where the shards themselves are."""
        self.shards = [shard for shard in shards if shard.split == split]
        self.digest = sha256(json.dumps([asdict(shard) for shard in self.shards]).encode()).hexdigest()

    def read(self, shard: Shard) -> list[Record]:
        """All samples of a shard; a UserError names one that is missing, damaged or out of reach."""

        def wrong(data: bytes) -> str:
            if len(data) != shard.size_bytes:
                return f"it has {len(data):,} of {shard.size_bytes:,} bytes"
            return "" if sha256(data).hexdigest() == shard.sha256 else "its checksum is not the index's"

        return read_samples(shard.name, fetch(f"{self.home}/{shard.name}", wrong))


def summary(name: str, data: bytes, split: str) -> Shard:
    """What the index says of a shard with these bytes."""
    records = read_samples(name, data)
    return Shard(name, split, len(data), sha256(data).hexdigest(), len(records), count_fit(records))


def count_fit(records: list[Record]) -> dict[str, int]:
    """How many records are fit for each use."""
    return {use: sum(map(fits, records)) for use, fits in USES.items()}


def write_index(folder: Path, shards: list[Shard], home: str = "") -> None:
    """Tell a folder's shards, which are in `home`; in the folder itself where that is empty."""
    write_json(folder / INDEX, {"version": _VERSION, "home": home, "shards": [asdict(shard) for shard in shards]})


def found_shards(where: str) -> list[str]:
    """Names of the tars and Parquet files of a folder that somebody else wrote, sorted."""
    import fsspec

    with _told(where):
        system, path = fsspec.core.url_to_fs(where)
        names = [PurePosixPath(found).name for found in system.find(path, maxdepth=1)]
    if not (names := sorted(name for name in names if name.endswith(KINDS))):
        raise UserError(f"There are no shards in {where}; give a folder of .tar or .parquet files, or a manifest.")
    return names


def split_of(name: str) -> str:
    """The split that the name of somebody's shard begins with; `train` where it begins with none."""
    return next((split for split in SPLITS if name.startswith(split)), "train")


def fetch(where: str, wrong: Callable[[bytes], str] = lambda data: "") -> bytes:
    """A file's bytes from any place that fsspec knows.

    `wrong` says what is wrong with them, nothing where they will do. What a connection may be to blame for is tried again
    after a second, 4 and 16; a UserError says what came of it.
    """
    import fsspec

    for pause in (*_PAUSES_S, None):
        try:
            with _told(where):
                system, path = fsspec.core.url_to_fs(where)
                data = system.cat_file(path)
            if not (reason := wrong(data)):
                return data
        except ConnectionError as error:
            reason = str(error)
        if pause is None or _is_local(where):
            break
        time.sleep(pause)
    raise UserError(f"{where} cannot be read whole ({reason}); restore it, or the connection to it, and go on.")


def read_samples(name: str, data: bytes) -> list[Record]:
    """The samples in a shard's bytes."""
    records = []
    for key, entry, image, target in read_entries(name, data):
        faults = [] if image else ["it has no picture"]
        check_fields({**entry, "image": "picture"}, faults.append)
        if "split" in entry:
            faults.append("a shard's own name says its split")
        if faults:
            raise UserError(f"The sample {key} of {name} cannot be used: {faults[0]}.")
        records.append(record_of(entry, image or b"", target))
    return records


def read_entries(name: str, data: bytes) -> Iterator[Entry]:
    """The samples in a shard's bytes, whatever is said of them."""
    return (_parquet_entries if name.endswith(".parquet") else _tar_entries)(name, data)


Entry = tuple[str, dict[str, Any], bytes | None, bytes | None]
"""Key, a manifest's line without its paths, picture, target of an edit."""


def _tar_entries(name: str, data: bytes) -> Iterator[Entry]:
    parts: dict[str, dict[str, bytes]] = {}
    try:
        with tarfile.open(fileobj=BytesIO(data), mode="r:") as archive:
            for member in archive:
                place = PurePosixPath(member.name)
                key, _, kind = place.name.partition(".")
                if member.isfile() and key and (file := archive.extractfile(member)):
                    parts.setdefault(str(place.with_name(key)), {})[kind.lower()] = file.read()
    except (tarfile.TarError, EOFError) as error:
        raise UserError(f"{name} is not a sound tar ({error}); {_AGAIN}.") from error
    for key, files in parts.items():
        text, line = files.pop("txt", None), files.pop("json", b"{}")
        targets = [files.pop(kind) for kind in list(files) if kind.startswith("target.")]
        pictures = [files[kind] for kind in files if kind in PICTURE_KINDS]
        try:
            entry: dict[str, Any] = dict(json.loads(line)) if text is None else {"texts": [text.decode().strip()]}
            if targets:
                entry["edit"] = {**(entry.get("edit") or {}), "target": "picture"}
        except (ValueError, TypeError) as error:
            raise UserError(f"What {name} says of the sample {key} is no JSON object ({error}); {_AGAIN}.") from error
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
        raise UserError(f"{name} is not a sound Parquet file ({error}); {_AGAIN}.") from error
    for number, row in enumerate(rows):
        said = next((row[column] for column in _TEXT_COLUMNS if row.get(column)), [])
        more = {field: row[field] for field in FIELDS if row.get(field) and field not in ("image", "texts", "edit")}
        target = _bytes_of(row.get("target"))
        described = {"description": row["description"]} if row.get("description") else {}
        edit = {"edit": {"instruction": row.get("instruction"), "target": "picture", **described}} if target else {}
        entry = {"texts": [said] if isinstance(said, str) else said, **more, **edit}
        yield f"row {number}", entry, _bytes_of(row.get("image")), target


def _bytes_of(value: Any) -> bytes | None:
    return value.get("bytes") if isinstance(value, dict) else value


def _read_index(place: str) -> tuple[str, list[Shard]]:
    """Where the shards are, nothing where they are beside the index; and what they are."""
    try:
        values = json.loads(fetch(place))
        version, home, shards = values["version"], values["home"], [Shard(**entry) for entry in values["shards"]]
    except (json.JSONDecodeError, UnicodeDecodeError, KeyError, TypeError) as error:
        raise UserError(f"{place} is damaged ({error}); {_AGAIN}.") from error
    if version != _VERSION:
        raise UserError(f"{place} is of version {version}, and this library reads {_VERSION}; {_AGAIN}.")
    return home, shards


@contextmanager
def _told(where: str) -> Iterator[None]:
    """What may go wrong with a place: ConnectionError for what another try may mend, UserError for the rest."""
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


def _is_local(where: str) -> bool:
    return "://" not in where or where.startswith("file://")
