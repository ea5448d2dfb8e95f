"""Callers of the MCP tools: clients across a network, or the user of this machine."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from hashlib import sha256
from itertools import count
from pathlib import Path
from typing import Any

from latentbridge.data.picture_sources import (
    FILE,
    SHARD,
    FaultHandler,
    FilePictures,
    FolderPictures,
    open_located_picture,
)
from latentbridge.errors import UserError
from latentbridge.files import atomic_write
from latentbridge.images import fit_square, open_picture
from latentbridge.models.unified import UnifiedModel
from latentbridge.serving.service import png_base64

_THUMB_PX = 160


class RemoteCaller:
    """A client across a network, for which no file of this machine is read or written."""

    instructions = "Pictures are given as data URLs (data:image/png;base64,...) and come back as image content."
    """The server's instructions to assistants."""

    def url(self, picture: str) -> str:
        """Return a picture as routes accept it."""
        return picture

    def items(self, pictures: Iterable[str], on_fault: FaultHandler) -> Iterator[dict[str, Any]]:
        """Yield pictures as items of an index, with ids from their content; unreadable ones are reported to `on_fault`."""
        for picture in pictures:
            yield {"id": f"picture-{sha256(picture.encode()).hexdigest()[:16]}", "image": self.url(picture)}

    def save(self, picture: bytes) -> Path | None:
        """Save a generated PNG and return its path, or return None."""
        return None

    def thumbnail(self, hit: dict[str, Any]) -> str | None:
        """Return a thumbnail of a hit as base64 of a PNG, or None if its picture may not be shown."""
        return None


class LocalCaller(RemoteCaller):
    """The user who started the process: files named by a tool call are read, and only one folder is written to."""

    def __init__(self, model: UnifiedModel, folder: Path | None = None):
        self._model = model
        self._folder = folder
        self._numbers = count(1)
        self.instructions = (
            "Pictures are given as paths on this machine or as data URLs, and come back as image content."
        )
        if folder is not None:
            self.instructions += (
                " Generated pictures are also saved; the text beside each has the path, for other tools."
            )

    def url(self, picture: str) -> str:
        """See `RemoteCaller.url`; a path is read here."""
        return picture if _is_url(picture) else self._read(Path(picture).expanduser())

    def items(self, pictures: Iterable[str], on_fault: FaultHandler) -> Iterator[dict[str, Any]]:
        """See `RemoteCaller.items`; a path may be a folder, and the id of a file is its path, for other tools."""
        for picture in pictures:
            if _is_url(picture):
                yield from super().items([picture], on_fault)
                continue
            path = Path(picture).expanduser()
            for found in (FolderPictures(path) if path.is_dir() else FilePictures([path])).pictures(on_fault):
                try:
                    yield {"id": found.location[FILE], "image": self._read(found.image), "metadata": found.metadata}
                except UserError as error:
                    on_fault(str(error))

    def save(self, picture: bytes) -> Path | None:
        """See `RemoteCaller.save`; existing files are kept."""
        if self._folder is None:
            return None
        path = next(path for n in self._numbers if not (path := self._folder / f"picture-{n}.png").exists())
        with atomic_write(path) as temporary:
            temporary.write_bytes(picture)
        return path

    def thumbnail(self, hit: dict[str, Any]) -> str | None:
        """See `RemoteCaller.thumbnail`; the metadata has the picture's location, or the id, of items made by `items`."""
        metadata = hit["metadata"]
        location = metadata if SHARD in metadata else {FILE: hit["id"], **metadata}
        try:
            return png_base64(fit_square(open_located_picture(location), _THUMB_PX))
        except UserError:
            return None

    def _read(self, picture: Path | bytes) -> str:
        return f"data:image/png;base64,{png_base64(self._model.fit(open_picture(picture)))}"


def _is_url(picture: str) -> bool:
    return picture.startswith("data:") or "://" in picture
