"""Embeddings of a run's pairs by a frozen teacher, the targets of the anchor loss."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict
from hashlib import sha256
from typing import NamedTuple

import torch
from torch import Tensor

from latentbridge.data.drawings.catalogue import default_cache
from latentbridge.data.stores.embeddings import EmbeddingStore, picture_digest, text_digest
from latentbridge.errors import UserError
from latentbridge.processes import folder_lock
from latentbridge.types import Picture, Teacher

Pair = tuple[Picture, str]
"""An image and its description."""


class Targets(NamedTuple):
    """The embeddings of those pairs of a batch that the teacher supports."""

    rows: Tensor
    """int64 [m]: indices of the pairs."""
    text: Tensor
    """float32 [m e]."""
    image: Tensor
    """float32 [m e]."""


class TeacherEmbeddings:
    """A teacher's embeddings of a finite set of pairs, cached on disk per embedding space.

    Pairs with a text the teacher does not support are left out: `package` has no words for scenes.
    """

    def __init__(self, teacher: Teacher, pairs: Sequence[Pair], announce: Callable[[str], None] = print) -> None:
        """Embed the pairs that are not cached yet, after announcing the cost."""
        known = [(picture, text) for picture, text in pairs if teacher.knows(text)]
        if not known:
            raise UserError(
                f"The teacher {teacher.space.model.partition(':')[0]!r} knows none of the run's texts; raise "
                "the weight of drawings in stage.sources, or set stage.teacher to another one or to 'none'."
            )
        self.space = teacher.space
        self.known = len(known)
        """Number of pairs that the teacher supports."""
        key = sha256(json.dumps(asdict(teacher.space), sort_keys=True).encode()).hexdigest()[:24]
        folder = default_cache() / "embeddings" / key
        with folder_lock(folder):
            self.store = EmbeddingStore(folder, teacher.space)
            stored = len(self.store)
            self.store.fill(teacher, [picture for picture, _ in known], [text for _, text in known], announce=announce)
        self.added = len(self.store) - stored
        """Number of embeddings that were not cached."""
        targets = self.lookup(known)
        self.text_mean = targets.text.mean(0)
        """[e], over the set's captions; see `latentumm.centre`."""
        self.image_mean = targets.image.mean(0)

    def lookup(self, pairs: Sequence[Pair]) -> Targets:
        """Return the embeddings of the pairs of a batch that the teacher supports."""
        keys = [(picture_digest(picture), text_digest(text)) for picture, text in pairs]
        rows = [i for i, key in enumerate(keys) if all(digest in self.store for digest in key)]
        image, text = (
            torch.from_numpy(self.store.vectors([keys[i][side] for i in rows])).view(-1, self.space.dimension)
            for side in range(2)
        )
        return Targets(torch.tensor(rows, dtype=torch.int64), text, image)
