"""What may keep an index, each in a process of its own: CPU seconds to build, disk, memory, recall@10, queries a second, p99.

Vectors lie between those of scenes that the shipped model embedded (three of them mixed, and a little noise); half of the
queries are made in the same way, half are the model's vectors of descriptions, which lie far from all pictures and are the
harder half. Every engine searches as widely as it must for a recall@10 of 0.95 over both, on one thread. Ours against faiss
alone, in turns in one process, is the ratio that has an aim. An engine that is not installed is left out, and what was
measured before stays. Run: python benchmarks/index_engines.py [--count 100000] [--engine ours]
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
from harness import SMOKE, Target, compare, in_turns, keep, one_thread

from latentbridge.rng import numpy_rng

COUNT, QUERIES, K = (2_000, 20, 10) if SMOKE else (20_000, 200, 10)
LEAST_RECALL = 0.95
BLOCK = 8192
_KEPT = Path(__file__).with_suffix(".json")


class Engine(Protocol):
    """One way to keep vectors; an item is its number."""

    widths: tuple[int, ...]
    """How widely it can be told to search, from quick to thorough."""

    def build(self, blocks: Iterator[np.ndarray], count: int) -> None: ...

    def search(self, query: np.ndarray, width: int) -> np.ndarray:
        """The numbers of the `K` best."""
        ...


class Ours:
    """`DiskIndex`, every item with an id and metadata; its width is its own choice."""

    widths = (0,)

    def __init__(self, folder: Path) -> None:
        from latentbridge.retrieval.disk import DiskIndex

        self.folder, self.kind = folder / "index", DiskIndex

    def build(self, blocks: Iterator[np.ndarray], count: int) -> None:
        index, first = self.kind.create(self.folder, 320), 0
        for block in blocks:
            numbers = range(first, first + len(block))
            index.add([str(i) for i in numbers], block, [{"number": i} for i in numbers])
            first += len(block)
        index.refresh()
        index.close()
        self.index = self.kind(self.folder)

    def search(self, query: np.ndarray, width: int) -> np.ndarray:
        return np.array([int(hit.id) for hit in self.index.search(query, K)[0]])


class Faiss:
    """A faiss index by its factory's name, written to one file."""

    def __init__(self, folder: Path, name: str, setting: str, widths: tuple[int, ...]) -> None:
        self.folder, self.name, self.setting, self.widths = folder, name, setting, widths

    def build(self, blocks: Iterator[np.ndarray], count: int) -> None:
        import faiss  # pyright: ignore[reportMissingImports]

        held = list(blocks)
        name = self.name.format(cells=round(4 * count**0.5))
        self.index = faiss.index_factory(320, name, faiss.METRIC_INNER_PRODUCT)
        if "HNSW" in name:
            self.index.hnsw.efConstruction = 80
        if "IVF" in name:
            self.index.cp.max_points_per_centroid = 40
        self.index.train(np.concatenate(held)[numpy_rng(0, "train").permutation(count)[: 160 * round(count**0.5)]])
        for block in held:
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

    def build(self, blocks: Iterator[np.ndarray], count: int) -> None:
        from usearch.index import Index  # pyright: ignore[reportMissingImports]

        self.index, first = Index(ndim=320, metric="ip", dtype="i8", connectivity=32, expansion_add=80), 0
        for block in blocks:
            self.index.add(np.arange(first, first + len(block)), block, threads=1)
            first += len(block)
        self.index.save(str(self.folder / "index.usearch"))

    def search(self, query: np.ndarray, width: int) -> np.ndarray:
        self.index.expansion_search = width
        return self.index.search(query, K, threads=1).keys.astype(np.int64)


class Lance:
    """LanceDB's HNSW over 8-bit numbers in cells, refined by exact scores; it starts threads of its own."""

    widths = (1, 2, 4, 8, 16, 32)

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def build(self, blocks: Iterator[np.ndarray], count: int) -> None:
        import lancedb  # pyright: ignore[reportMissingImports]
        import pyarrow as pa  # pyright: ignore[reportMissingImports]

        def tables() -> Iterator[Any]:
            first = 0
            for block in blocks:
                vectors = pa.FixedSizeListArray.from_arrays(pa.array(block.ravel()), 320)
                yield pa.RecordBatch.from_arrays([pa.array(range(first, first + len(block))), vectors], ["n", "vector"])
                first += len(block)

        schema = pa.schema([("n", pa.int64()), ("vector", pa.list_(pa.float32(), 320))])
        self.table = lancedb.connect(str(self.folder)).create_table("v", tables(), schema=schema)
        self.table.create_index(metric="dot", index_type="IVF_HNSW_SQ", num_partitions=max(1, count // 20_000))

    def search(self, query: np.ndarray, width: int) -> np.ndarray:
        asked = self.table.search(query).metric("dot").nprobes(width).ef(64 * width).refine_factor(4).limit(K)
        return asked.select(["n"]).to_arrow()["n"].to_numpy()


class Chroma:
    """Chroma's HNSW, on disk."""

    widths = (64, 256, 1024)

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def build(self, blocks: Iterator[np.ndarray], count: int) -> None:
        import chromadb  # pyright: ignore[reportMissingImports]

        client = chromadb.PersistentClient(str(self.folder))
        options = {"hnsw": {"space": "ip", "max_neighbors": 32, "ef_construction": 80, "ef_search": 256}}
        self.index, first = client.create_collection("v", configuration=options), 0
        for block in blocks:
            for start in range(0, len(block), 4096):
                part = block[start : start + 4096]
                self.index.add([str(first + i) for i in range(len(part))], part)
                first += len(part)

    def search(self, query: np.ndarray, width: int) -> np.ndarray:
        self.index.modify(configuration={"hnsw": {"ef_search": width}})
        return np.array([int(name) for name in self.index.query([query], n_results=K, include=[])["ids"][0]])


_CELLS = (8, 16, 32, 64, 128, 256, 512, 1024)
ENGINES: dict[str, tuple[str, Callable[[Path], Engine]]] = {
    "ours": ("latentbridge", Ours),
    "faiss IVF,SQ8": ("faiss", partial(Faiss, name="IVF{cells},SQ8", setting="nprobe", widths=_CELLS)),
    "faiss HNSW32,SQ8": ("faiss", partial(Faiss, name="HNSW32,SQ8", setting="efSearch", widths=Usearch.widths)),
    "usearch i8": ("usearch", Usearch),
    "lancedb": ("lancedb", Lance),
    "chroma": ("chromadb", Chroma),
}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--count", type=int, default=COUNT)
    parser.add_argument("--engine", choices=ENGINES, action="append")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    parser.add_argument("--smoke", action="store_true")
    asked = parser.parse_args()
    one_thread()
    if asked.child:
        print(json.dumps(measure(ENGINES[asked.engine[0]][1], Path(asked.child), asked.count)))
        return
    kept = json.loads(_KEPT.read_text()) if _KEPT.exists() else {"targets": [], "details": {}}
    details, targets = kept["details"], [Target(**target) for target in kept["targets"]]
    with tempfile.TemporaryDirectory() as folder:
        write_vectors(Path(folder), asked.count)
        for name in asked.engine or ENGINES:
            if find_spec(ENGINES[name][0]) is None:
                print(f"{name}: not installed, left out", file=sys.stderr)
                continue
            row = details[f"{name}, {asked.count:,} vectors"] = in_child(name, Path(folder), asked.count)
            print(f"{name}: {row}", file=sys.stderr)
        if not asked.engine or "ours" in asked.engine:
            ratio = f"{asked.count:,} vectors: a search by ours / by faiss alone, of equal recall"
            targets = [target for target in targets if target.name != ratio] + [
                against_faiss(Path(folder), asked.count, ratio)
            ]
    keep(__file__, targets, details)


def in_child(name: str, folder: Path, count: int) -> dict[str, Any]:
    """What a process of its own measures of an engine; the error's last line where it fails."""
    command = [sys.executable, __file__, "--engine", name, "--count", str(count), "--child", str(folder)]
    told = subprocess.run([*command, "--smoke"] if SMOKE else command, capture_output=True, text=True)
    if told.returncode:
        return {"failed": told.stderr.strip().splitlines()[-1]}
    return json.loads(told.stdout.splitlines()[-1])


def measure(make: Callable[[Path], Engine], folder: Path, count: int) -> dict[str, Any]:
    """Build and search one engine."""
    queries, best = np.load(folder / "queries.npy"), np.load(folder / "best.npy")
    with tempfile.TemporaryDirectory(dir=folder) as home:
        engine = make(Path(home))
        before, began = memory("VmRSS"), time.process_time()
        engine.build(blocks(folder), count)
        build = time.process_time() - began
        disk = sum(path.stat().st_size for path in Path(home).rglob("*") if path.is_file())
        for width in engine.widths:
            found = [engine.search(query, width) for query in queries]
            halves = [recall(found[half::2], best[half::2]) for half in (0, 1)]
            if np.mean(halves) >= LEAST_RECALL:
                break
        wall, cpu = [], time.process_time()
        for query in queries:
            began = time.perf_counter()
            engine.search(query, width)
            wall.append(time.perf_counter() - began)
        cpu = (time.process_time() - cpu) / len(queries)
        after, peak = memory("VmRSS"), memory("VmHWM")
    return {
        "build CPU s": round(build, 1),
        "disk MB": round(disk / 1e6),
        "memory MB": round(after - before),
        "peak MB": round(peak - before),
        "width": width,
        "recall@10 of pictures": round(halves[0], 3),
        "recall@10 of words": round(halves[1], 3),
        "queries a CPU s": round(1 / cpu),
        "p99 ms (wall)": round(1e3 * float(np.quantile(wall, 0.99)), 2),
        "processes per core": round(os.getloadavg()[0] / (os.cpu_count() or 1), 1),
    }


def memory(kind: Literal["VmRSS", "VmHWM"]) -> float:
    """MB that this process holds now, or has held at most."""
    return next(int(line.split()[1]) / 1024 for line in Path("/proc/self/status").open() if line.startswith(kind))


def against_faiss(folder: Path, count: int, name: str) -> Target:
    """Our search against the same number of faiss' cells, or against its flat index where we look at everything."""
    from latentbridge.retrieval.cells import Cells

    queries = np.load(folder / "queries.npy")[:50]
    with tempfile.TemporaryDirectory(dir=folder) as home:
        ours = Ours(Path(home))
        ours.build(blocks(folder), count)
        cells = Cells.load(ours.folder)
        alone = Faiss(Path(home), *(("IVF{cells},SQ8", "nprobe") if cells else ("Flat", "")), ())
        alone.build(blocks(folder), count)
        width = cells.width if cells else 0
        ways = {
            "ours": lambda: [ours.search(query, 0) for query in queries],
            "faiss": lambda: [alone.search(query, width) for query in queries],
        }
        seconds = in_turns(ways, 1 if SMOKE else 9)
    return compare(name, seconds["ours"], seconds["faiss"], most=1.1)


def recall(found: list[np.ndarray], best: np.ndarray) -> float:
    """Share of the `K` best that were found."""
    return float(
        np.mean([len(set(row.tolist()) & set(right.tolist())) / K for row, right in zip(found, best, strict=True)])
    )


def write_vectors(folder: Path, count: int) -> None:
    """`vectors.f32`, `queries.npy` and `best.npy` (the numbers of each query's best), never all in memory."""
    pictures, words = embedded()
    queries = np.empty((QUERIES, pictures.shape[1]), np.float32)
    queries[::2], queries[1::2] = between(pictures, QUERIES // 2, 0), words[: QUERIES // 2]
    scores, numbers = np.empty((QUERIES, 0)), np.empty((QUERIES, 0), np.int64)
    with (folder / "vectors.f32").open("wb") as file:
        for first in range(0, count, BLOCK):
            block = between(pictures, min(BLOCK, count - first), first + 1)
            file.write(block.tobytes())
            scores = np.append(scores, queries @ block.T, axis=1)
            numbers = np.append(numbers, np.tile(np.arange(first, first + len(block)), (QUERIES, 1)), axis=1)
            order = np.argsort(-scores, axis=1)[:, :K]
            scores, numbers = np.take_along_axis(scores, order, 1), np.take_along_axis(numbers, order, 1)
    np.save(folder / "queries.npy", queries)
    np.save(folder / "best.npy", numbers)


def blocks(folder: Path) -> Iterator[np.ndarray]:
    """The vectors again, float32 [up to `BLOCK`, 320]."""
    with (folder / "vectors.f32").open("rb") as file:
        while data := file.read(BLOCK * 320 * 4):
            yield np.frombuffer(data, np.float32).reshape(-1, 320)


def embedded() -> tuple[np.ndarray, np.ndarray]:
    """The shipped model's vectors of 1,024 scenes, and of the descriptions of 128 others."""
    from itertools import islice

    from latentbridge.data.shapes.language import describe
    from latentbridge.data.shapes.render import render
    from latentbridge.data.shapes.scenes import scenes
    from latentbridge.models.checkpoint import load

    model, drawn = load("tiny"), list(islice(scenes("train", numpy_rng(0, "engines")), 1152))
    pictures = [
        model.embed(images=[render(scene) for scene in part])
        for part in (drawn[i : i + 64] for i in range(0, 1024, 64))
    ]
    return np.concatenate(pictures), model.embed(texts=[describe(scene) for scene in drawn[1024:]])


def between(pictures: np.ndarray, count: int, seed: int) -> np.ndarray:
    """Unit vectors, float32 [count, 320], each between three of the pictures'."""
    rng = numpy_rng(seed, "between")
    weights = rng.dirichlet([0.6] * 3, size=count).astype(np.float32)
    mixed = np.einsum("nk,nkd->nd", weights, pictures[rng.integers(len(pictures), size=(count, 3))])
    mixed += rng.normal(size=mixed.shape).astype(np.float32) * np.float32(0.25 / 320**0.5)
    return mixed / np.linalg.norm(mixed, axis=1, keepdims=True)


if __name__ == "__main__":
    main()
