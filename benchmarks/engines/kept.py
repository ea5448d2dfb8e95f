"""What may keep an index: ours, and libraries that are measured beside it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from engines.vectors import DIMENSION, Vectors

from latentbridge.retrieval.ivf import NPROBES

K = 10


class Engine(Protocol):
    """One way to keep vectors in a folder; an item is its number."""

    widths: tuple[int, ...]
    """How widely it can be told to search, from quick to thorough."""

    def build(self, vectors: Vectors) -> None: ...

    def search(self, query: np.ndarray, width: int) -> np.ndarray:
        """The numbers of the `K` best."""
        ...


class Ours:
    """`DiskIndex`, every item with an id and metadata; its width is its own choice."""

    widths = (0,)

    def __init__(self, folder: Path) -> None:
        self.folder = folder / "index"

    def build(self, vectors: Vectors) -> None:
        from latentbridge.retrieval.disk_index import DiskIndex

        index = DiskIndex.create(self.folder, DIMENSION)
        for first, block in vectors.blocks():
            numbers = range(first, first + len(block))
            index.add([str(i) for i in numbers], block, [{"number": i} for i in numbers])
        index.refresh()
        index.close()
        self.index = DiskIndex(self.folder)

    def search(self, query: np.ndarray, width: int) -> np.ndarray:
        return np.array([int(hit.id) for hit in self.index.search(query, K)[0]])


class Faiss:
    """A faiss index by its factory's name, written to one file."""

    def __init__(self, folder: Path, name: str, setting: str, widths: tuple[int, ...]) -> None:
        self.folder, self.name, self.setting, self.widths = folder, name, setting, widths

    def build(self, vectors: Vectors) -> None:
        import faiss  # pyright: ignore[reportMissingImports]

        centres = round(4 * vectors.count**0.5)
        self.index = faiss.index_factory(DIMENSION, self.name.format(cells=centres), faiss.METRIC_INNER_PRODUCT)
        if "HNSW" in self.name:
            self.index.hnsw.efConstruction = 80
        if "IVF" in self.name:
            self.index.cp.max_points_per_centroid = 40
        self.index.train(vectors.sample(40 * centres))
        for _, block in vectors.blocks():
            self.index.add(block)
        faiss.write_index(self.index, str(self.folder / "index.faiss"))

    def search(self, query: np.ndarray, width: int) -> np.ndarray:
        if self.setting == "efSearch":
            self.index.hnsw.efSearch = width
        elif self.setting == "nprobe":
            self.index.nprobe = width
        return self.index.search(query[None], K)[1][0]


class Usearch:
    """usearch's HNSW over 8-bit numbers."""

    widths = (64, 128, 256, 512, 1024, 2048)

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def build(self, vectors: Vectors) -> None:
        from usearch.index import Index  # pyright: ignore[reportMissingImports]

        self.index = Index(ndim=DIMENSION, metric="ip", dtype="i8", connectivity=32, expansion_add=80)
        for first, block in vectors.blocks():
            self.index.add(np.arange(first, first + len(block)), block, threads=1)
        self.index.save(str(self.folder / "index.usearch"))

    def search(self, query: np.ndarray, width: int) -> np.ndarray:
        self.index.expansion_search = width
        return self.index.search(query, K, threads=1).keys.astype(np.int64)


class Lance:
    """LanceDB's HNSW over 8-bit numbers in cells, refined by exact scores; it starts threads of its own."""

    widths = (1, 2, 4, 8, 16, 32)

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def build(self, vectors: Vectors) -> None:
        import lancedb  # pyright: ignore[reportMissingImports]
        import pyarrow as pa  # pyright: ignore[reportMissingImports]

        def tables() -> Iterator[Any]:
            for first, block in vectors.blocks():
                rows = pa.FixedSizeListArray.from_arrays(pa.array(block.ravel()), DIMENSION)
                yield pa.RecordBatch.from_arrays([pa.array(range(first, first + len(block))), rows], ["n", "vector"])

        schema = pa.schema([("n", pa.int64()), ("vector", pa.list_(pa.float32(), DIMENSION))])
        self.table = lancedb.connect(str(self.folder)).create_table("v", tables(), schema=schema)
        self.table.create_index(metric="dot", index_type="IVF_HNSW_SQ", num_partitions=max(1, vectors.count // 20_000))

    def search(self, query: np.ndarray, width: int) -> np.ndarray:
        asked = self.table.search(query).metric("dot").nprobes(width).ef(64 * width).refine_factor(4).limit(K)
        return asked.select(["n"]).to_arrow()["n"].to_numpy()


class Chroma:
    """Chroma's HNSW, on disk."""

    widths = (64, 256, 1024)

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def build(self, vectors: Vectors) -> None:
        import chromadb  # pyright: ignore[reportMissingImports]

        client = chromadb.PersistentClient(str(self.folder))
        options = {"hnsw": {"space": "ip", "max_neighbors": 32, "ef_construction": 80, "ef_search": 256}}
        self.index = client.create_collection("v", configuration=options)
        for first, block in vectors.blocks():
            for start in range(0, len(block), 4096):
                part = block[start : start + 4096]
                self.index.add([str(first + start + i) for i in range(len(part))], part)

    def search(self, query: np.ndarray, width: int) -> np.ndarray:
        self.index.modify(configuration={"hnsw": {"ef_search": width}})
        return np.array([int(name) for name in self.index.query([query], n_results=K, include=[])["ids"][0]])


ENGINES: dict[str, tuple[str, Callable[[Path], Engine]]] = {  # by name: the package, and how to make one
    "ours": ("latentbridge", Ours),
    "faiss IVF,SQ8": ("faiss", partial(Faiss, name="IVF{cells},SQ8", setting="nprobe", widths=NPROBES)),
    "faiss HNSW32,SQ8": ("faiss", partial(Faiss, name="HNSW32,SQ8", setting="efSearch", widths=Usearch.widths)),
    "usearch i8": ("usearch", Usearch),
    "lancedb": ("lancedb", Lance),
    "chroma": ("chromadb", Chroma),
}
