"""A walk through a folder of pictures: links followed once, unreadable places told from empty ones, sidecar files."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from latentbridge.data.own.json_lines import is_storable, parse_object
from latentbridge.images import PICTURE_KINDS

SUFFIXES = tuple(f".{kind}" for kind in PICTURE_KINDS)
_APPLE_DOUBLE = "._"
"""Prefix of the files in which macOS keeps metadata on other systems' disks (AppleDouble)."""
_MAX_SIDECAR_BYTES = 1 << 16
_OWN_FOLDERS = ".latentbridge"


@dataclass(frozen=True)
class FoundPicture:
    """A file with a picture's suffix, and the names of the files beside it that tell about it."""

    path: Path
    sidecars: tuple[str, ...]
    """`NAME.txt` and `NAME.json`, where they exist."""


class FolderWalk:
    """The pictures below a folder in a fixed order; what could not be listed is known after the walk."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.unread: list[Path] = []
        """Folders and links that could not be followed; pictures may be in them."""
        self.passed_over: Counter[str] = Counter()
        """Files that are no pictures, by suffix."""

    def pictures(self, fault: Callable[[str], None]) -> Iterator[FoundPicture]:
        """Yield pictures: of each folder the files before its subfolders, in the order of their names.

        A folder is entered once: below its own place or, if that is outside, below the first link to it. `fault` gets a
        sentence per place that cannot be read, and per link that is not followed because it leads back to its own parents.
        """
        self.unread, self.passed_over = [], Counter()
        own = {_identity(Path(path)) for path, _, _ in os.walk(self.folder)}
        around = {_identity(parent) for parent in self.folder.resolve().parents}
        linked: set[object] = set()
        waiting = [(self.folder, False)]
        while waiting:
            folder, is_linked = waiting.pop()
            if is_linked:
                identity = _identity(folder)
                if identity in own | linked:
                    continue
                linked.add(identity)
            try:
                entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
            except OSError as error:
                self._report(folder, f"cannot be listed ({error.strerror})", fault)
                continue
            yield from self._files([entry for entry in entries if not _is_folder(entry)], fault)
            inside: list[tuple[Path, bool]] = []
            for entry in filter(_is_folder, entries):
                path, through_link = Path(entry.path), is_linked or entry.is_symlink()
                if through_link and _identity(path) in around:
                    fault(f"{path} is a link to a folder around {self.folder}, which is not followed")
                elif not entry.name.startswith(_OWN_FOLDERS):
                    inside.append((path, through_link))
            waiting += reversed(inside)

    def _files(self, entries: list[os.DirEntry[str]], fault: Callable[[str], None]) -> Iterator[FoundPicture]:
        """Yield the pictures among a folder's files, and count the others."""
        names = {entry.name for entry in entries}
        told: set[str] = set()
        pictures = []
        for entry in entries:
            if entry.is_symlink() and not os.path.exists(entry.path):
                if not entry.name.startswith("."):  # editors' locks are such links
                    self._report(Path(entry.path), "is a link whose target cannot be reached", fault)
            elif entry.name.lower().endswith(SUFFIXES) and not entry.name.startswith(_APPLE_DOUBLE):
                path = Path(entry.path)
                sidecars = tuple(name for kind in (".json", ".txt") if (name := path.stem + kind) in names)
                told |= set(sidecars)
                pictures.append(FoundPicture(path, sidecars))
        yield from pictures
        broken = {path.name for path in self.unread}
        for name in names - told - {picture.path.name for picture in pictures} - broken:
            self.passed_over["._*" if name.startswith(_APPLE_DOUBLE) else Path(name).suffix.lower() or name] += 1

    def _report(self, path: Path, what: str, fault: Callable[[str], None]) -> None:
        self.unread.append(path)
        fault(f"{path} {what}; items of pictures there stay as they are")


def read_sidecars(picture: FoundPicture) -> dict[str, Any]:
    """Return the metadata in the files beside a picture; raise ValueError with a sentence if one cannot be used."""
    metadata: dict[str, Any] = {}
    for name in picture.sidecars:
        path = picture.path.with_name(name)
        try:
            data = path.read_bytes()
        except OSError as error:
            raise ValueError(f"{path} cannot be read ({error.strerror})") from None
        if len(data) > _MAX_SIDECAR_BYTES:  # labels of annotation programs, with pictures inside
            continue
        try:
            metadata |= parse_object(data) if name.endswith(".json") else _texts(data)
        except ValueError as error:
            raise ValueError(f"in {path} {error}") from None
    return metadata


def _texts(data: bytes) -> dict[str, list[str]]:
    try:
        text = data.decode("utf-8-sig").strip()
    except UnicodeDecodeError:
        raise ValueError("this is not UTF-8 text; save it as UTF-8") from None
    if not is_storable(text):
        raise ValueError("this holds NUL, which is no text; remove it")
    return {"texts": [text]} if text else {}


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:
        return False


def _identity(folder: Path) -> tuple[int, int] | Path:
    """Return what tells a folder from every other one, whatever it is called."""
    try:
        status = folder.stat()
    except OSError:
        return folder
    return status.st_dev, status.st_ino
