"""Teachers' embeddings on disk, found by what a picture shows or a text says."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from hashlib import sha256
from pathlib import Path
from typing import TypeVar

import numpy as np
from tqdm import tqdm

from latentbridge.data.stores.array_log import ArrayLog
from latentbridge.errors import UserError
from latentbridge.images import ImageLike, open_picture
from latentbridge.types import EmbeddingSpace, Picture, Teacher

ItemT = TypeVar("ItemT")

_UNIT_TOLERANCE = 1e-3
_BATCH = 16
"""Items embedded and written at a time; what a kill can cost."""


class EmbeddingStore:
    """One space's vectors in a journal's two arrays: `vectors` (float32 [n, dimension]) and `digests` (uint8 [n, 32]).

    The manifest holds the space; a folder that holds another space is refused. Pictures and texts share the store,
    each content once, whatever its file is called and however often it comes.
    """

    def __init__(self, folder: Path, space: EmbeddingSpace) -> None:
        self.space = space
        self._journal = ArrayLog(folder, asdict(space))
        stored = self._journal.arrays()
        self._rows = stored["vectors"].rows if stored else np.empty((0, space.dimension), np.float32)
        self._places = (
            {digest.tobytes(): place for place, digest in enumerate(stored["digests"].rows)} if stored else {}
        )

    @property
    def folder(self) -> Path:
        """Where it lies."""
        return self._journal.folder

    def __len__(self) -> int:
        return len(self._places)

    def __contains__(self, digest: bytes) -> bool:
        return digest in self._places

    def vectors(self, digests: Sequence[bytes]) -> np.ndarray:
        """float32 [n, dimension]: the embeddings of contents by their digests; raises UserError where one is missing."""
        missing = sum(digest not in self._places for digest in digests)
        if missing:
            raise UserError(
                f"{self._journal.folder} lacks the embeddings of {missing} of {len(digests)} items; embed them first."
            )
        if len(self._rows) < len(self):
            self._rows = self._journal.arrays()["vectors"].rows
        return self._rows[[self._places[digest] for digest in digests]]

    def add(self, digests: Sequence[bytes], vectors: np.ndarray) -> None:
        """Append the vectors [n, dimension] of contents that are not there yet; all of them or none."""
        vectors = np.asarray(vectors, np.float32)
        self._check(vectors)
        keys = [np.frombuffer(digest, np.uint8)[None] for digest in digests]
        self._journal.append({"vectors": list(vectors[:, None]), "digests": keys})
        self._places |= {digest: len(self) + place for place, digest in enumerate(digests)}

    def fill(
        self,
        teacher: Teacher,
        pictures: Sequence[ImageLike] = (),
        texts: Sequence[str] = (),
        *,
        announce: Callable[[str], None] = print,
        progress: bool = True,
    ) -> None:
        """Embed what is missing, batch by batch, so that a cut-off run goes on where it stopped.

        What it will cost is announced before anything is embedded.
        """
        if teacher.space != self.space:
            raise UserError(
                f"The store is for {self.space.model}, not {teacher.space.model}; give it a folder of its own."
            )
        new_pictures = self._missing({picture_digest(open_picture(picture)): picture for picture in pictures})
        new_texts = self._missing({text_digest(text): text for text in texts})
        if cost := teacher.cost(len(new_pictures), list(new_texts.values())):
            announce(cost)
        with tqdm(total=len(new_pictures) + len(new_texts), desc="embedding", disable=not progress) as bar:
            for digests, sources in _batches(new_pictures):
                self.add(digests, teacher.embed_pictures([open_picture(source) for source in sources]))
                bar.update(len(digests))
            for digests, batch in _batches(new_texts):
                self.add(digests, teacher.embed_texts(batch))
                bar.update(len(digests))

    def _missing(self, items: dict[bytes, ItemT]) -> dict[bytes, ItemT]:
        return {digest: item for digest, item in items.items() if digest not in self}

    def _check(self, vectors: np.ndarray) -> None:
        if vectors.ndim != 2 or vectors.shape[1] != self.space.dimension:
            raise UserError(
                f"{self.space.model} gives vectors of {self.space.dimension} numbers, not {list(vectors.shape)}; "
                "look at the model or file that made them."
            )
        if not np.isfinite(vectors).all():
            raise UserError("An embedding holds NaN or infinity; look at the model or file that made it.")
        norms = np.linalg.norm(vectors, axis=1)
        if self.space.normalisation == "unit" and np.abs(norms - 1).max(initial=0) > _UNIT_TOLERANCE:
            raise UserError(
                "An embedding for a store of unit vectors does not have length 1; divide it by its norm first."
            )


def picture_digest(picture: Picture) -> bytes:
    """A hash of what a picture shows: size and RGB pixels, whatever the file format."""
    height, width = picture.shape[:2]
    return sha256(f"picture {height} {width} ".encode() + picture.tobytes()).digest()


def text_digest(text: str) -> bytes:
    """A hash of a text, character by character."""
    return sha256(f"text {text}".encode()).digest()


def _batches(items: dict[bytes, ItemT]) -> Iterator[tuple[list[bytes], list[ItemT]]]:
    pairs = list(items.items())
    for start in range(0, len(pairs), _BATCH):
        digests, batch = zip(*pairs[start : start + _BATCH], strict=True)
        yield list(digests), list(batch)
