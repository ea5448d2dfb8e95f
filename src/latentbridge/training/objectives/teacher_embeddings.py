"""What a frozen teacher says of a run's pairs, as targets for the model's latents."""

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
from latentbridge.types import EmbeddingSpace, Picture, Teacher

Pair = tuple[Picture, str]
"""A picture and its description."""


class Targets(NamedTuple):
    """The teacher's embeddings of those pairs of a batch that it knows."""

    rows: Tensor
    """int64 [m]: which pairs."""
    text: Tensor
    """float32 [m e]."""
    image: Tensor
    """float32 [m e]."""


class TeacherEmbeddings:
    """A teacher's embeddings of a finite set of pairs, computed once and kept on disk for all runs that meet them again.

    One store for each embedding space, beside the features of alignment. Pairs with a text the teacher does not know are
    left out: `package` has no words for scenes.
    """

    def __init__(self, teacher: Teacher, pairs: Sequence[Pair], announce: Callable[[str], None] = print) -> None:
        """What embedding will cost is announced before it starts."""
        known = [(picture, text) for picture, text in pairs if teacher.knows(text)]
        if not known:
            raise UserError(
                f"The teacher {teacher.space.model.partition(':')[0]!r} knows none of the run's texts; raise "
                "stage.drawings, or set stage.posttrain.teacher to another one or to 'none'."
            )
        self.space = teacher.space
        self.known = len(known)
        """How many of the pairs the teacher knows."""
        folder = default_cache() / "embeddings" / _folder(teacher.space)
        with folder_lock(folder):  # runs beside each other fill one store, in turn
            self.store = EmbeddingStore(folder, teacher.space)
            stored = len(self.store)
            self.store.fill(teacher, [picture for picture, _ in known], [text for _, text in known], announce=announce)
        self.added = len(self.store) - stored
        """Embeddings that were not in the store before."""
        embedded = self.of(known)
        self.text_mean = embedded.text.mean(0)
        """[e], over the set's captions; what `centre` takes away from anchors."""
        self.image_mean = embedded.image.mean(0)

    def of(self, pairs: Sequence[Pair]) -> Targets:
        """The embeddings, as the teacher gave them, of the pairs in a batch that it knows."""
        keys = [(picture_digest(picture), text_digest(text)) for picture, text in pairs]
        rows = [i for i, key in enumerate(keys) if all(digest in self.store for digest in key)]
        image, text = (
            torch.from_numpy(self.store.vectors([keys[i][side] for i in rows])).view(-1, self.space.dimension)
            for side in range(2)
        )
        return Targets(torch.tensor(rows, dtype=torch.int64), text, image)


def _folder(space: EmbeddingSpace) -> str:
    return sha256(json.dumps(asdict(space), sort_keys=True).encode()).hexdigest()[:24]
