"""Sources of pictures for search: a folder, files, a manifest, or shards, one picture at a time.

All other fields of a manifest's line, a shard's sample or a file beside a picture become metadata to filter by. Faults are
reported and skipped.
"""

from __future__ import annotations

import os
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from hashlib import sha256
from io import BytesIO
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from PIL import Image

from latentbridge.data.folder_walk import SUFFIXES, FolderWalk, FoundPicture, read_sidecars
from latentbridge.data.own.json_lines import parse_object, read_lines
from latentbridge.data.own.manifest import backslash_hint, is_inside, other_name_hint
from latentbridge.data.own.shards import list_shards, read_entries, read_file
from latentbridge.errors import UserError
from latentbridge.files import find_path
from latentbridge.images import fit_square, open_picture
from latentbridge.types import Picture

MANIFEST_SUFFIX = ".jsonl"

THUMBNAIL_PX = 192

NAMESPACE = "latentbridge."
"""Prefix of the metadata that the index keeps for itself; all other names are the users'."""
FILE, SHARD, SAMPLE = LOCATION_KEYS = (f"{NAMESPACE}file", f"{NAMESPACE}shard", f"{NAMESPACE}sample")
"""Metadata that locate a picture; who sets them can read the files they name."""

FaultHandler = Callable[[str], None]


@dataclass(frozen=True)
class PictureEntry:
    """A picture of a source, not opened."""

    id: str
    stamp: str
    """A version that changes with the picture."""
    metadata: dict[str, Any]
    """The user's fields, and facts such as `kind` where the user has none of that name."""
    image: Path | bytes
    location: dict[str, str] = field(default_factory=dict[str, str])
    """`LOCATION_KEYS` with their values."""


class Source:
    """A source of pictures; `name` is the same whenever it is read."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.unread: set[str] = set()
        """Ids of pictures, folders (ending in a slash) and places of shards that exist and could not be read."""
        self.passed_over: Counter[str] = Counter()
        """Files that are no pictures, by suffix."""

    def count(self) -> int | None:
        """Return the number of pictures, or None if it is unknown before all are read."""
        return None

    def pictures(self, fault: FaultHandler) -> Iterator[PictureEntry]:
        """Yield pictures in a fixed order; call `fault` for those that cannot be used."""
        raise NotImplementedError

    def may_hold(self, name: str, metadata: dict[str, Any]) -> bool:
        """Return whether an indexed picture that was not yielded may still be there, in a part that could not be read."""
        parents = PurePosixPath(normal_form(name)).parents
        return (
            not {normal_form(name), "./", *(f"{parent.as_posix()}/" for parent in parents)}.isdisjoint(self.unread)
            or metadata.get(SHARD) in self.unread
        )


def open_source(where: str) -> Source:
    """Return a manifest (`.jsonl`), a folder of pictures, or a folder or url of shards; raise UserError for others."""
    if where.endswith(MANIFEST_SUFFIX):
        return ManifestPictures(find_path(Path(where)))
    if "://" in where:
        return ShardPictures(where)
    folder = find_path(Path(where))
    if folder.is_file():
        raise UserError(
            f"{folder} is a file; give a folder of pictures, or a manifest (.jsonl), which `latentbridge data convert` "
            "makes of other formats."
        )
    if not folder.is_dir():
        raise UserError(f"{folder} is neither an index nor a folder of pictures; check the path.")
    pictures = FolderPictures(folder)
    if pictures.count():
        return pictures
    if pictures.unread:
        raise UserError(f"{folder} cannot be read, or not all of it; check its permissions and the disk.")
    try:
        return ShardPictures(str(folder))
    except UserError:
        found = f"; found {describe_counts(pictures.passed_over)}" if pictures.passed_over else ""
        raise UserError(
            f"There are no pictures in {folder}; looked for {', '.join(SUFFIXES)} and for shards{found}."
        ) from None


def describe_counts(passed_over: Counter[str]) -> str:
    """Return how many files of each suffix were passed over, the most frequent first."""
    return ", ".join(f"{count:,} {suffix}" for suffix, count in passed_over.most_common())


def normal_form(text: str) -> str:
    """Return a text with composed accents (NFC), as keyboards write them; macOS's file names have them apart."""
    return unicodedata.normalize("NFC", text)


def reserved_field(metadata: dict[str, Any]) -> str | None:
    """Return the name of a field that is the index's own, if there is one."""
    return next((name for name in metadata if name.startswith(NAMESPACE)), None)


def open_located_picture(metadata: dict[str, Any]) -> Picture:
    """Return the picture that metadata locate; raise UserError if it is no longer there."""
    if FILE in metadata:
        return open_picture(metadata[FILE])
    if SHARD in metadata:
        for entry in read_entries(metadata[SHARD], read_file(metadata[SHARD])):
            if entry.key == metadata[SAMPLE] and entry.picture:
                return open_picture(entry.picture)
    raise UserError("The location of this picture is unknown; build the index again.")


def thumbnail(metadata: dict[str, Any], size_px: int, stored: bytes | None = None) -> Picture:
    """Return a square of the stored thumbnail, or of the picture that metadata locate; grey if it cannot be read."""
    try:
        return fit_square(open_located_picture(metadata) if stored is None else open_picture(stored), size_px)
    except UserError:
        return np.full((size_px, size_px, 3), 128, np.uint8)


def encode_thumbnail(picture: Picture) -> bytes:
    """Return a WebP of `THUMBNAIL_PX` squared, to be stored with an item."""
    file = BytesIO()
    Image.fromarray(fit_square(picture, THUMBNAIL_PX)).save(file, "WEBP", quality=80)
    return file.getvalue()


class FolderPictures(Source):
    """The pictures in a folder and its subfolders; ids are relative paths."""

    def __init__(self, folder: Path) -> None:
        super().__init__(str(folder.resolve()))
        self.folder = folder

    def count(self) -> int | None:
        return sum(1 for _ in self._walk(lambda sentence: None))

    def pictures(self, fault: FaultHandler) -> Iterator[PictureEntry]:
        for found in self._walk(fault):
            name = found.path.relative_to(self.folder)
            facts = {"folder": normal_form(_parent(name)), "kind": found.path.suffix.lower()[1:]}
            try:
                metadata = facts | read_sidecars(found)
            except ValueError as error:
                self.unread.add(normal_form(name.as_posix()))
                fault(f"{found.path}: {error}")
            else:
                yield from _file_entry(self, name, found.path, metadata, fault)

    def _walk(self, fault: FaultHandler) -> Iterator[FoundPicture]:
        walk = FolderWalk(self.folder)
        yield from walk.pictures(fault)
        self.passed_over = walk.passed_over
        for path in walk.unread:
            name = normal_form(path.relative_to(self.folder).as_posix())
            self.unread |= {name, f"{name}/"}


class FilePictures(Source):
    """Single pictures; ids are paths as given, or relative to an indexed folder that they are in."""

    def __init__(self, paths: list[Path], folder: Path | None = None) -> None:
        super().__init__("")
        self._paths, self._folder = paths, folder and folder.resolve()

    def count(self) -> int | None:
        return len(self._paths)

    def pictures(self, fault: FaultHandler) -> Iterator[PictureEntry]:
        for path in self._paths:
            name = path
            if self._folder is not None and path.resolve().is_relative_to(self._folder):
                name = path.resolve().relative_to(self._folder)
            yield from _file_entry(self, name, path, {"kind": path.suffix.lower()[1:]}, fault)


class ManifestPictures(Source):
    """The pictures of a manifest; of several lines with one picture, the first counts."""

    def __init__(self, path: Path) -> None:
        next(read_lines(path), None)
        super().__init__(str(path.resolve()))
        self.path = path

    def count(self) -> int | None:
        return sum(1 for _ in read_lines(self.path))

    def pictures(self, fault: FaultHandler) -> Iterator[PictureEntry]:
        for number, line in read_lines(self.path):
            place = f"{self.path}, line {number}"
            try:
                entry = parse_object(line)
            except ValueError as error:
                self.unread.add("./")  # any picture may have been meant
                fault(f"{place}: {error}")
                continue
            image = entry.pop("image", None)
            if not isinstance(image, str) or not image or not is_inside(image):
                self.unread.add("./")
                fault(f"{place} has no `image` that is a path inside the manifest's folder{other_name_hint(entry)}")
                continue
            path = find_path(self.path.parent / image)
            if "\\" in image and not path.exists():
                fault(f"{place}: there is no picture {image}{backslash_hint(image)}")
            else:
                yield from _file_entry(self, Path(image), path, entry, fault)


class ShardPictures(Source):
    """The samples of a place's tars and Parquet files, each file read as a whole."""

    def __init__(self, where: str) -> None:
        super().__init__(where.rstrip("/") if "://" in where else str(Path(where).resolve()))
        self._shards = list_shards(self.name)

    def pictures(self, fault: FaultHandler) -> Iterator[PictureEntry]:
        for shard in self._shards:
            path = f"{self.name}/{shard}"
            try:
                for entry in read_entries(shard, read_file(path)):
                    name = f"{PurePosixPath(shard).name}/{entry.key}"
                    metadata = entry.metadata | {key: value for key, value in entry.line.items() if key != "edit"}
                    wrong = entry.fault or ("" if entry.picture else "it has no picture") or _reserved(metadata)
                    if wrong or entry.picture is None:
                        self.unread.add(normal_form(name))
                        fault(f"the sample {entry.key} of {path} cannot be used: {wrong}")
                        continue
                    stamp = sha256(entry.picture).hexdigest()[:16]
                    location = {SHARD: path, SAMPLE: entry.key}
                    yield PictureEntry(normal_form(name), stamp, composed(metadata), entry.picture, location)
            except UserError as error:
                self.unread.add(path)
                fault(str(error))


def _file_entry(
    source: Source, name: Path, path: Path, metadata: dict[str, Any], fault: FaultHandler
) -> Iterator[PictureEntry]:
    """Yield the picture in a file, unless the file cannot be read, its name is not Unicode, or a field is reserved."""
    try:
        status = path.stat()
        name.as_posix().encode()
    except OSError as error:
        source.unread.add(normal_form(name.as_posix()))
        fault(f"{path} cannot be read ({error.strerror})")
        return
    except UnicodeEncodeError:
        fault(f"the name of {os.fsencode(path)!r} is not Unicode; rename it")
        return
    if wrong := _reserved(metadata):
        source.unread.add(normal_form(name.as_posix()))
        fault(f"{path}: {wrong}")
        return
    stamp = f"{status.st_size}-{status.st_mtime_ns}"
    yield PictureEntry(_id_of(name, path), stamp, composed(metadata), path, {FILE: str(path.resolve())})


def _id_of(name: Path, path: Path) -> str:
    """Return a picture's name with composed accents, unless another file has that very name."""
    if (composed := normal_form(name.name)) != name.name and path.with_name(composed).exists():
        return name.as_posix()
    return normal_form(name.as_posix())


def _reserved(metadata: dict[str, Any]) -> str:
    """Return a sentence about a field that is the index's own, or an empty text."""
    name = reserved_field(metadata)
    return f"its field {name!r} begins like the index's own; rename it" if name else ""


def composed(value: Any) -> Any:
    """Return metadata whose texts have composed accents (NFC), so that conditions meet them however they were written."""
    if isinstance(value, str):
        return normal_form(value)
    if isinstance(value, dict):
        return {normal_form(name): composed(entry) for name, entry in value.items()}
    return [composed(entry) for entry in value] if isinstance(value, list) else value


def _parent(name: Path) -> str:
    return "" if name.parent == Path() else name.parent.as_posix()
