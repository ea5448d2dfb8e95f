"""Embeddings read from the memory-mapped store against one JSON file a vector, as the release keeps them.

Both read the same random batches of 32 vectors of 3072 numbers, as a training would; the files are in the page cache for
both. JSON is read as the release reads it on a vector's first use. Opening the store, which compares every checksum, is
apart. The floor is copying the rows out of an array in memory. Run: python benchmarks/embedding_store.py
"""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
from harness import SMOKE, Target, compare, in_turns, keep, one_thread

from latentbridge.data.stores.embeddings import EmbeddingStore, text_digest
from latentbridge.rng import numpy_rng
from latentbridge.types import EmbeddingSpace

DIMENSION, COUNT, ROUNDS = (32, 100, 2) if SMOKE else (3072, 2000, 20)
BATCH, BATCHES = 32, 4
"""Vectors of a batch, and batches of a round, which alone would be too short for the clock."""
Read = Callable[[list[int]], np.ndarray]


def main() -> None:
    one_thread()
    with tempfile.TemporaryDirectory() as folder:
        targets, details = measure(Path(folder))
    keep(__file__, targets, {"vectors": COUNT, "dimension": DIMENSION, **details})


def _read_json(path: Path) -> np.ndarray:
    return np.asarray(json.loads(path.read_text())["values"], np.float32)


def measure(folder: Path) -> tuple[list[Target], dict[str, object]]:
    digests = [text_digest(str(i)) for i in range(COUNT)]
    vectors = numpy_rng(0, "embedding store").standard_normal((COUNT, DIMENSION), np.float32)
    space = EmbeddingSpace("random", DIMENSION, "none")
    EmbeddingStore(folder / "store", space).add(digests, vectors)
    for i, vector in enumerate(vectors):
        (folder / f"{i}.json").write_text(json.dumps({"values": vector.tolist()}))
    began = time.process_time()
    store = EmbeddingStore(folder / "store", space)
    opening = time.process_time() - began
    reads: dict[str, Read] = {
        "store": lambda batch: store.vectors([digests[i] for i in batch]),
        "json": lambda batch: np.stack([_read_json(folder / f"{i}.json") for i in batch]),
        "floor": lambda batch: vectors[batch],
    }
    rounds = [[drawn(turn, place) for place in range(BATCHES)] for turn in range(ROUNDS + 1)]
    for read in reads.values():
        assert np.array_equal(read(rounds[0][0]), vectors[rounds[0][0]])
    ways = {name: partial(next, map(partial(read_all, read), rounds)) for name, read in reads.items()}
    seconds = in_turns(ways, ROUNDS)
    rates = {name: round(BATCH * BATCHES / float(np.median(taken))) for name, taken in seconds.items()}
    targets = [
        compare("one JSON a vector / store", seconds["json"], seconds["store"], least=100),
        compare("store / floor", seconds["store"], seconds["floor"]),
    ]
    return targets, {"vectors a CPU second": rates, "opening the store (CPU s)": round(opening, 3)}


def drawn(turn: int, place: int) -> list[int]:
    return numpy_rng(0, "batch", turn, place).choice(COUNT, BATCH, replace=False).tolist()


def read_all(read: Read, batches: list[list[int]]) -> None:
    for batch in batches:
        read(batch)


if __name__ == "__main__":
    main()
