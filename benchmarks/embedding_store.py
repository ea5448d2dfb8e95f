"""Embeddings read a second, from the memory-mapped store and from one JSON file a vector; side by side in one run.

Both read the same random batches of 3072 numbers, as a training would; the files are in the page cache for both. JSON is
read as the release reads it on a vector's first use. Seconds are the process's own (CPU): on busy cores the clock on the
wall counts the waiting too, which hits only the slower way. Opening the store, which compares every checksum, is apart.
Writes `embedding_store.json` beside this file. Run: python benchmarks/embedding_store.py
"""

from __future__ import annotations

import json
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from latentbridge.data.stores.embeddings import EmbeddingStore, text_digest
from latentbridge.data.stores.released_embeddings import read_released
from latentbridge.rng import numpy_rng
from latentbridge.types import EmbeddingSpace

DIMENSION, COUNT, BATCH, ROUNDS = 3072, 2000, 32, 21


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        results = measure(Path(folder))
    Path(__file__).with_suffix(".json").write_text(json.dumps(results, indent=2) + "\n")
    print(json.dumps(results, indent=2))


def measure(folder: Path) -> dict[str, float]:
    """Vectors a CPU second each way, by the median batch, taken in turns; and how busy the cores were."""
    space = EmbeddingSpace("random", DIMENSION, "none")
    digests = [text_digest(str(i)) for i in range(COUNT)]
    vectors = numpy_rng(0, "embedding store").standard_normal((COUNT, DIMENSION), np.float32)
    EmbeddingStore(folder / "store", space).add(digests, vectors)
    for i, vector in enumerate(vectors):
        (folder / f"{i}.json").write_text(json.dumps({"values": vector.tolist()}))
    began = time.process_time()
    store = EmbeddingStore(folder / "store", space)
    opening = time.process_time() - began
    ways: dict[str, Callable[[list[int]], np.ndarray]] = {
        "store": lambda batch: store.vectors([digests[i] for i in batch]),
        "json": lambda batch: np.stack([read_released(folder / f"{i}.json") for i in batch]),
    }
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for step in range(ROUNDS):
        batch = numpy_rng(0, "batch", step).choice(COUNT, BATCH, replace=False).tolist()
        for name, way in ways.items():
            began = time.process_time()
            found = way(batch)
            seconds[name].append(time.process_time() - began)
            assert np.array_equal(found, vectors[batch])
    rates = {name: BATCH / float(np.median(taken)) for name, taken in seconds.items()}
    return {
        **{f"{name} (vectors/CPU s)": round(rate) for name, rate in rates.items()},
        "store / json": round(rates["store"] / rates["json"], 1),
        "opening the store (CPU s)": round(opening, 3),
        "vectors": COUNT,
        "dimension": DIMENSION,
        "processes per core while measured": round(os.getloadavg()[0] / (os.cpu_count() or 1), 1),
    }


if __name__ == "__main__":
    main()
