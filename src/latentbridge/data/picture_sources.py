"""Sources of pictures for search: a folder, files, a manifest, or shards, one picture at a time.

All other fields of a manifest's line or a shard's sample become metadata to filter by. Faults are reported and skipped.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from hashlib import sha256
from io import BytesIO
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from PIL import Image

from latentbridge.data.own.manifest import is_inside
from latentbridge.data.own.shards import list_shards, read_entries, read_file
from latentbridge.errors import UserError
from latentbridge.images import fit_square, open_picture
from latentbridge.types import Picture

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".ppm", ".pgm")
MANIFEST_SUFFIX = ".jsonl"

THUMBNAIL_PX = 192

LOCATION_KEYS = ("file", "shard", "sample")
"""Metadata that locate a picture; who sets them can read the files they name."""

FaultHandler = Callable[[str], None]


@dataclass(frozen=True)
class PictureEntry:
    """A picture of a source, not opened."""

    id: str
    stamp: str
    """A version that changes with the picture."""
    metadata: dict[str, Any]
    image: Path | bytes


class Source:
    """A source of pictures; `name` is the same whenever it is read."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.unread: list[str] = []
        """Shards that could not be read completely; pictures of theirs may be missing."""

    def count(self) -> int | None:
        """Return the number of pictures, or None if it is unknown before all are read."""
        return None

    def pictures(self, fault: FaultHandler) -> Iterator[PictureEntry]:
        """Yield pictures in a fixed order; call `fault` for those that cannot be used."""
        raise NotImplementedError


def open_source(where: str) -> Source:
    """Return a manifest (`.jsonl`), a folder of pictures, or a folder or url of shards; raise UserError for others."""
    if where.endswith(MANIFEST_SUFFIX):
        return ManifestPictures(Path(where))
    if "://" in where:
        return ShardPictures(where)
    folder = Path(where)
    if not folder.is_dir():
        raise UserError(f"{folder} is neither an index nor a folder of pictures; check the path.")
    if FolderPictures(folder).count():
        return FolderPictures(folder)
    try:
        return ShardPictures(where)
    except UserError:
        raise UserError(
            f"There are no pictures in {folder}; looked for {', '.join(SUFFIXES)} and for shards."
        ) from None


def open_located_picture(metadata: dict[str, Any]) -> Picture:
    """Return the picture that metadata locate; raise UserError if it is no longer there."""
    if "file" in metadata:
        return open_picture(metadata["file"])
    if "shard" in metadata:
        for key, _, image, _ in read_entries(metadata["shard"], read_file(metadata["shard"])):
            if key == metadata["sample"] and image:
                return open_picture(image)
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
        return sum(1 for _ in self._paths())

    def pictures(self, fault: FaultHandler) -> Iterator[PictureEntry]:
        for path in self._paths():
            name = path.relative_to(self.folder)
            parent = "" if name.parent == Path() else name.parent.as_posix()
            yield from _file_entry(name, path, {"folder": parent, "kind": path.suffix.lower()[1:]}, fault)

    def _paths(self) -> Iterator[Path]:
        for folder, subfolders, names in os.walk(self.folder):
            subfolders.sort()
            for name in sorted(names):
                if name.lower().endswith(SUFFIXES):
                    yield Path(folder, name)


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
            yield from _file_entry(name, path, {"kind": path.suffix.lower()[1:]}, fault)


class ManifestPictures(Source):
    """The pictures of a manifest; of several lines with one picture, the first counts."""

    def __init__(self, path: Path) -> None:
        if not path.is_file():
            raise UserError(f"There is no manifest at {path}; give the path of a JSON-lines file.")
        super().__init__(str(path.resolve()))
        self.path = path

    def count(self) -> int | None:
        with self.path.open("rb") as lines:
            return sum(1 for line in lines if line.strip())

    def pictures(self, fault: FaultHandler) -> Iterator[PictureEntry]:
        with self.path.open(encoding="utf-8", errors="replace") as lines:
            for number, line in enumerate(lines, start=1):
                if not line.strip():
                    continue
                place = f"{self.path}, line {number}"
                try:
                    entry = json.loads(line, parse_constant=lambda name: None)
                except ValueError as error:
                    fault(f"{place} is not JSON ({error})")
                    continue
                image = entry.pop("image", None) if isinstance(entry, dict) else None
                if not isinstance(image, str) or not image or not is_inside(image):
                    fault(f"{place} has no `image` that is a path inside the manifest's folder")
                else:
                    yield from _file_entry(Path(image), self.path.parent / image, entry, fault)


class ShardPictures(Source):
    """The samples of a place's tars and Parquet files, each file read as a whole."""

    def __init__(self, where: str) -> None:
        super().__init__(where.rstrip("/") if "://" in where else str(Path(where).resolve()))
        self._shards = list_shards(self.name)

    def pictures(self, fault: FaultHandler) -> Iterator[PictureEntry]:
        for shard in self._shards:
            path = f"{self.name}/{shard}"
            try:
                for key, entry, image, _ in read_entries(shard, read_file(path)):
                    if image is None:
                        fault(f"the sample {key} of {path} has no picture")
                        continue
                    metadata = {name: value for name, value in entry.items() if name != "edit"}
                    metadata |= {"shard": path, "sample": key}
                    stamp = sha256(image).hexdigest()[:16]
                    yield PictureEntry(f"{PurePosixPath(shard).name}/{key}", stamp, metadata, image)
            except UserError as error:
                self.unread.append(path)
                fault(str(error))


def _file_entry(name: Path, path: Path, metadata: dict[str, Any], fault: FaultHandler) -> Iterator[PictureEntry]:
    """Yield the picture in a file, unless the file does not exist or its name is not Unicode."""
    try:
        status = path.stat()
        name.as_posix().encode()
    except OSError as error:
        fault(f"{path} cannot be read ({error.strerror})")
    except UnicodeEncodeError:
        fault(f"the name of {os.fsencode(path)!r} is not Unicode; rename it")
    else:
        stamp = f"{status.st_size}-{status.st_mtime_ns}"
        yield PictureEntry(name.as_posix(), stamp, {**metadata, "file": str(path.resolve())}, path)
