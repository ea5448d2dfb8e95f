"""Pictures to be found later: a folder, a manifest, or shards, one picture at a time and never all in memory.

What is said of a picture besides (all other fields of a manifest's line or a shard's sample) becomes what it can be
filtered by. Faults are told and passed over: one broken picture among a million stops nothing.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from hashlib import sha256
from io import BytesIO
from pathlib import Path, PurePosixPath
from typing import Any, Protocol

import numpy as np
from PIL import Image

from latentbridge.data.own.shards import list_shards, read_entries, read_file
from latentbridge.errors import UserError
from latentbridge.images import fit_square, open_picture
from latentbridge.types import Picture

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".ppm", ".pgm")
MANIFEST_SUFFIX = ".jsonl"

THUMBNAIL_PX = 192

LOCATION_KEYS = ("file", "shard", "sample")
"""What metadata tell the place of a picture by; whoever may set them may have the files they name shown."""

FaultHandler = Callable[[str], None]


@dataclass(frozen=True)
class PictureEntry:
    """One picture of a source, not yet opened."""

    id: str
    stamp: str
    """Another one where the picture has changed."""
    metadata: dict[str, Any]
    image: Path | bytes


class Source(Protocol):
    """Where pictures come from."""

    name: str
    """The same for the same source, whenever it is read."""
    unread: list[str]
    """Shards that could not be read to their end; what came from them may still be there."""

    def count(self) -> int | None:
        """How many pictures there are; None where only reading all of it would tell."""
        ...

    def pictures(self, fault: FaultHandler) -> Iterator[PictureEntry]:
        """Each picture, in the same order every time; what cannot be used is told to `fault`."""
        ...


def open_source(where: str) -> Source:
    """A manifest (`.jsonl`), a folder of pictures, or a folder or url of shards; raises UserError where it is none."""
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
    """The picture that an item's metadata tell the place of; raises UserError where it is no longer there."""
    if "file" in metadata:
        return open_picture(metadata["file"])
    if "shard" in metadata:
        for key, _, image, _ in read_entries(metadata["shard"], read_file(metadata["shard"])):
            if key == metadata["sample"] and image:
                return open_picture(image)
    raise UserError("It is not known where this picture is; build the index again.")


def thumbnail(metadata: dict[str, Any], size_px: int, kept: bytes | None = None) -> Picture:
    """A small square: of what was kept beside an item, or of the picture that metadata tell the place of; else grey."""
    try:
        return fit_square(open_located_picture(metadata) if kept is None else open_picture(kept), size_px)
    except UserError:
        return np.full((size_px, size_px, 3), 128, np.uint8)


def encode_thumbnail(picture: Picture) -> bytes:
    """A thumbnail to be kept beside an item: a WebP of `THUMBNAIL_PX` squared, some kilobytes."""
    file = BytesIO()
    Image.fromarray(fit_square(picture, THUMBNAIL_PX)).save(file, "WEBP", quality=80)
    return file.getvalue()


class FolderPictures:
    """The pictures in a folder and its subfolders, by their paths within it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.name, self.unread = str(folder.resolve()), list[str]()

    def count(self) -> int | None:
        """See `Source.count`."""
        return sum(1 for _ in self._paths())

    def pictures(self, fault: FaultHandler) -> Iterator[PictureEntry]:
        """See `Source.pictures`."""
        for path in self._paths():
            name = path.relative_to(self.folder)
            said = {"folder": "" if name.parent == Path() else name.parent.as_posix(), "kind": path.suffix.lower()[1:]}
            yield from _file(name.as_posix(), path, said, fault)

    def _paths(self) -> Iterator[Path]:
        for folder, inside, names in os.walk(self.folder):
            inside.sort()
            for name in sorted(names):
                if name.lower().endswith(SUFFIXES):
                    yield Path(folder, name)


class FilePictures:
    """Single pictures, by their paths as they are given; inside a folder that is indexed, as `FolderPictures` names them."""

    def __init__(self, paths: list[Path], folder: Path | None = None) -> None:
        self.name, self.unread = "", list[str]()
        self._paths, self._folder = paths, folder

    def count(self) -> int | None:
        """See `Source.count`."""
        return len(self._paths)

    def pictures(self, fault: FaultHandler) -> Iterator[PictureEntry]:
        """See `Source.pictures`."""
        for path in self._paths:
            name = path
            if self._folder is not None and path.resolve().is_relative_to(self._folder.resolve()):
                name = path.resolve().relative_to(self._folder.resolve())
            yield from _file(name.as_posix(), path, {"kind": path.suffix.lower()[1:]}, fault)


class ManifestPictures:
    """The pictures of a manifest's lines; of several lines with one picture, the first counts."""

    def __init__(self, path: Path) -> None:
        if not path.is_file():
            raise UserError(f"There is no manifest at {path}; give the path of a JSON-lines file.")
        self.path = path
        self.name, self.unread = str(path.resolve()), list[str]()

    def count(self) -> int | None:
        """See `Source.count`."""
        with self.path.open("rb") as lines:
            return sum(1 for line in lines if line.strip())

    def pictures(self, fault: FaultHandler) -> Iterator[PictureEntry]:
        """See `Source.pictures`."""
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
                if not isinstance(image, str) or not image or Path(image).is_absolute() or ".." in Path(image).parts:
                    fault(f"{place} has no `image` that is a path inside the manifest's folder")
                else:
                    yield from _file(Path(image).as_posix(), self.path.parent / image, entry, fault)


class ShardPictures:
    """The samples of the tars and Parquet files in one place, each of which is read whole."""

    def __init__(self, where: str) -> None:
        self.name = where.rstrip("/") if "://" in where else str(Path(where).resolve())
        self.unread: list[str] = []
        self._shards = list_shards(self.name)

    def count(self) -> int | None:
        """See `Source.count`."""
        return None

    def pictures(self, fault: FaultHandler) -> Iterator[PictureEntry]:
        """See `Source.pictures`."""
        for shard in self._shards:
            place = f"{self.name}/{shard}"
            try:
                for key, entry, image, _ in read_entries(shard, read_file(place)):
                    if image is None:
                        fault(f"the sample {key} of {place} has no picture")
                        continue
                    said = {name: value for name, value in entry.items() if name != "edit"}
                    said |= {"shard": place, "sample": key}
                    yield PictureEntry(
                        f"{PurePosixPath(shard).name}/{key}", sha256(image).hexdigest()[:16], said, image
                    )
            except UserError as error:
                self.unread.append(place)
                fault(str(error))


def _file(name: str, path: Path, said: dict[str, Any], fault: FaultHandler) -> Iterator[PictureEntry]:
    """The picture in a file, unless there is no such file or its name is no text."""
    try:
        status = path.stat()
        name.encode()
    except OSError as error:
        fault(f"{path} cannot be read ({error.strerror})")
    except UnicodeEncodeError:
        fault(f"the name of {os.fsencode(path)!r} is no text; rename it")
    else:
        yield PictureEntry(name, f"{status.st_size}-{status.st_mtime_ns}", {**said, "file": str(path.resolve())}, path)
