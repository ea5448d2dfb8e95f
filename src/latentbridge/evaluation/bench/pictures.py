"""Pictures of benchmark items: content hashes, and decoding that repeated questions about a picture share."""

from __future__ import annotations

from collections import OrderedDict
from hashlib import sha256
from pathlib import Path

import numpy as np

from latentbridge.errors import UserError
from latentbridge.files import file_digest
from latentbridge.images import open_picture
from latentbridge.types import Picture

PictureSource = Path | bytes | np.ndarray
"""A file, an encoded picture, or pixels."""
_MOST_DECODED = 32


class PictureReader:
    """Reads pictures; the last few stay decoded, since benchmarks ask several questions about one picture in a row."""

    def __init__(self) -> None:
        self._decoded: OrderedDict[str, Picture] = OrderedDict()
        self._digests: dict[Path, str] = {}

    def digest(self, source: PictureSource) -> str:
        """Return the SHA-256 of a picture's file or pixels; raise UserError for a missing file."""
        if isinstance(source, np.ndarray):
            return sha256(str(source.shape).encode() + source.tobytes()).hexdigest()
        if isinstance(source, bytes):
            return sha256(source).hexdigest()
        if source not in self._digests:
            if not source.is_file():
                raise UserError(f"There is no picture {source}; download the benchmark's pictures.")
            self._digests[source] = file_digest(source)
        return self._digests[source]

    def open(self, source: PictureSource) -> Picture:
        """Return the pixels; raise UserError for a picture that is missing or broken."""
        if isinstance(source, np.ndarray):
            return source
        key = self.digest(source)
        if key not in self._decoded:
            self._decoded[key] = open_picture(source)
        self._decoded.move_to_end(key)
        while len(self._decoded) > _MOST_DECODED:
            self._decoded.popitem(last=False)
        return self._decoded[key]
