"""A disk cache of teachers' embeddings, keyed by the content of pictures and texts."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from latentbridge.data.stores.array_log import ArrayLog
from latentbridge.errors import UserError
from latentbridge.images import ImageLike, open_picture
from latentbridge.types import EmbeddingSpace, Picture, Teacher

_UNIT_TOLERANCE = 1e-3
_BATCH = 16
"""Items embedded and written at once; an interruption loses at most these."""


class EmbeddingStore:
    """The vectors of one embedding space, in a log of `vectors` (float32 [n, dimension]) and `digests` (uint8 [n, 32]).

    The log's key is the space; raise UserError for another. Pictures and texts share the store, each content once.
    """

    def __init__(self, folder: Path, space: EmbeddingSpace) -> None:
        self.space = space
        self._log = ArrayLog(folder, asdict(space))
        stored = self._log.arrays()
        self._vectors = stored["vectors"].rows if stored else np.empty((0, space.dimension), np.float32)
        digests = stored["digests"].rows if stored else ()
        self._index = {digest.tobytes(): row for row, digest in enumerate(digests)}

    @property
    def folder(self) -> Path:
        return self._log.folder

    def __len__(self) -> int:
        return len(self._index)

    def __contains__(self, digest: bytes) -> bool:
        return digest in self._index

    def vectors(self, digests: Sequence[bytes]) -> np.ndarray:
        """Return float32 [n, dimension] for the digests; raise UserError if any is missing."""
        if missing := sum(digest not in self._index for digest in digests):
            raise UserError(f"{self.folder} lacks the embeddings of {missing} of {len(digests)} items; embed them.")
        if len(self._vectors) < len(self):
            self._vectors = self._log.arrays()["vectors"].rows
        return self._vectors[[self._index[digest] for digest in digests]]

    def add(self, digests: Sequence[bytes], vectors: np.ndarray) -> None:
        """Append the vectors [n, dimension] of new digests, all or none."""
        vectors = np.asarray(vectors, np.float32)
        self._check(vectors)
        keys = [np.frombuffer(digest, np.uint8)[None] for digest in digests]
        self._log.append({"vectors": list(vectors[:, None]), "digests": keys})
        self._index |= {digest: len(self) + row for row, digest in enumerate(digests)}

    def fill(
        self,
        teacher: Teacher,
        pictures: Sequence[ImageLike] = (),
        texts: Sequence[str] = (),
        *,
        announce: Callable[[str], None] = print,
        progress: bool = True,
    ) -> None:
        """Embed what is missing, batch by batch, so that an interrupted run can be resumed.

        The teacher's cost is announced before the first batch.
        """
        if teacher.space != self.space:
            raise UserError(f"The store is for {self.space.model}, not {teacher.space.model}; use another folder.")
        new_pictures = {d: item for item in pictures if (d := picture_digest(open_picture(item))) not in self}
        new_texts = {d: text for text in texts if (d := text_digest(text)) not in self}
        if cost := teacher.cost(len(new_pictures), list(new_texts.values())):
            announce(cost)
        kinds: list[tuple[dict[bytes, Any], Callable[[list[Any]], np.ndarray]]] = [
            (new_pictures, lambda batch: teacher.embed_pictures([open_picture(picture) for picture in batch])),
            (new_texts, teacher.embed_texts),
        ]
        with tqdm(total=len(new_pictures) + len(new_texts), desc="embedding", disable=not progress) as bar:
            for items, embed in kinds:
                digests = list(items)
                for start in range(0, len(digests), _BATCH):
                    batch = digests[start : start + _BATCH]
                    self.add(batch, embed([items[digest] for digest in batch]))
                    bar.update(len(batch))

    def _check(self, vectors: np.ndarray) -> None:
        if vectors.ndim != 2 or vectors.shape[1] != self.space.dimension:
            raise UserError(
                f"{self.space.model} has {self.space.dimension} dimensions, not {list(vectors.shape)}; check the model or file."
            )
        if not np.isfinite(vectors).all():
            raise UserError("An embedding has NaN or infinity; check the model or file.")
        norms = np.linalg.norm(vectors, axis=1)
        if self.space.normalisation == "unit" and np.abs(norms - 1).max(initial=0) > _UNIT_TOLERANCE:
            raise UserError("An embedding does not have length 1; divide it by its norm first.")


def picture_digest(picture: Picture) -> bytes:
    """Return a hash of a picture's size and RGB pixels."""
    height, width = picture.shape[:2]
    return sha256(f"picture {height} {width} ".encode() + picture.tobytes()).digest()


def text_digest(text: str) -> bytes:
    """Return a hash of a text."""
    return sha256(f"text {text}".encode()).digest()
