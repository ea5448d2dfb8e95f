"""Whom the tools work for: strangers at the other end of a network, or the user of this machine."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from hashlib import sha256
from itertools import count
from pathlib import Path
from typing import Any

from latentbridge.data.pictures import Fault, FilePictures, FolderPictures, picture_of
from latentbridge.errors import UserError
from latentbridge.files import atomic_write
from latentbridge.images import fit_square, open_picture
from latentbridge.models.omnibridge.modeling_omnibridge import Model
from latentbridge.serving.service import png

_THUMB_PX = 160


class RemoteCaller:
    """Someone who gets nothing from this machine's files and leaves nothing among them."""

    told = "Pictures are given as data URLs (data:image/png;base64,...) and come back as image content."
    """What assistants are told of pictures."""

    def url(self, picture: str) -> str:
        """A picture as routes take it."""
        return picture

    def items(self, pictures: Iterable[str], fault: Fault) -> Iterator[dict[str, Any]]:
        """Pictures as items of an index, named after what they hold; what cannot be read is told to `fault`."""
        for picture in pictures:
            yield {"id": f"picture-{sha256(picture.encode()).hexdigest()[:16]}", "image": self.url(picture)}

    def keep(self, picture: bytes) -> Path | None:
        """Where a PNG that was made is saved, if it is."""
        return None

    def thumbnail(self, hit: dict[str, Any]) -> str | None:
        """Base64 of a small PNG of what was found, where its picture may be shown."""
        return None


class LocalCaller(RemoteCaller):
    """Whoever started the process: files are read where a tool names them, and written into one folder alone."""

    def __init__(self, model: Model, folder: Path | None = None):
        self._model = model
        self._folder = folder
        self._numbers = count(1)
        self.told = "Pictures are given as paths on this machine or as data URLs, and come back as image content."
        if folder is not None:
            self.told += " Each one made is also saved; the text beside it tells the path, which other tools take."

    def url(self, picture: str) -> str:
        """See `RemoteCaller.url`; a path is read here."""
        return picture if _is_address(picture) else self._read(Path(picture).expanduser())

    def items(self, pictures: Iterable[str], fault: Fault) -> Iterator[dict[str, Any]]:
        """See `RemoteCaller.items`; a path may be a folder's, and the id of a file's item is its path, which other tools take."""
        for picture in pictures:
            if _is_address(picture):
                yield from super().items([picture], fault)
                continue
            path = Path(picture).expanduser()
            for found in (FolderPictures(path) if path.is_dir() else FilePictures([path])).pictures(fault):
                said = dict(found.metadata)
                try:
                    yield {"id": said.pop("file"), "image": self._read(found.image), "metadata": said}
                except UserError as error:
                    fault(str(error))

    def keep(self, picture: bytes) -> Path | None:
        """See `RemoteCaller.keep`; the name is one that is free."""
        if self._folder is None:
            return None
        path = next(path for n in self._numbers if not (path := self._folder / f"picture-{n}.png").exists())
        with atomic_write(path) as temporary:
            temporary.write_bytes(picture)
        return path

    def thumbnail(self, hit: dict[str, Any]) -> str | None:
        """See `RemoteCaller.thumbnail`; what `items` made is named after its file, other items tell its place."""
        said = hit["metadata"]
        try:
            return png(fit_square(picture_of(said if "shard" in said else {"file": hit["id"], **said}), _THUMB_PX))
        except UserError:
            return None

    def _read(self, picture: Path | bytes) -> str:
        return f"data:image/png;base64,{png(self._model.fit(open_picture(picture)))}"


def _is_address(picture: str) -> bool:
    return picture.startswith("data:") or "://" in picture
