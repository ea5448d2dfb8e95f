"""The embeddings LatentUMM's release reads: one JSON file a vector, found by a row's place in the training set."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from latentbridge.data.stores.embeddings import EmbeddingStore, picture_digest, text_digest
from latentbridge.errors import UserError
from latentbridge.images import ImageLike, open_picture

_FIELDS = ("values", "embedding", "embeddings")
"""Where a file may keep its vector (spec LatentUMM 1.2)."""


def embedding_id(place: Sequence[int], rows_per_file: int = 0, rows_per_group: int = 100) -> int:
    """The number in the name of the JSON file of a row at `place`: (parquet file, row group, row), or (id,) itself.

    As released, defect included: `rows_per_file` is 0 unless told, so all files but the first share its ids, and the
    release counts files within a worker's shuffled shard. It is right for one file only. Source: spec LatentUMM 1.6.
    """
    if len(place) == 1:
        return place[0]
    file, group, row = place
    return file * rows_per_file + group * rows_per_group + row


def import_released(store: EmbeddingStore, root: Path, rows: Iterable[tuple[int, ImageLike, str]]) -> None:
    """Move the vectors of (id, picture, text) rows from `root/{image,text}_embedding/<id>.json` into a store.

    The release knows one vector by its row, the store by its content: the first row that shows a picture or says a
    text decides. What the store has already is not read again.
    """
    for number, picture, text in rows:
        for folder, digest in (
            ("image_embedding", picture_digest(open_picture(picture))),
            ("text_embedding", text_digest(text)),
        ):
            if digest not in store:
                store.add([digest], read_released(root / folder / f"{number}.json")[None])


def read_released(path: Path) -> np.ndarray:
    """float32 [dimension]: the vector in one of the release's files."""
    try:
        entry = json.loads(path.read_text())
        return np.asarray(next(entry[name] for name in _FIELDS if name in entry), np.float32).reshape(-1)
    except OSError as error:
        raise UserError(f"There is no embedding {path} ({error.strerror}); check the folder and the ids.") from error
    except (ValueError, TypeError, StopIteration) as error:
        raise UserError(
            f"{path} holds no embedding; it needs a list of numbers under one of {', '.join(_FIELDS)}."
        ) from error
