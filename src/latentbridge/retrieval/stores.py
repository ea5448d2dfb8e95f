"""Which index an address means: a folder."""

from __future__ import annotations

from pathlib import Path

from latentbridge.errors import UserError
from latentbridge.retrieval.disk import FILE, DiskIndex
from latentbridge.retrieval.index import Index


def open_index(address: str | Path) -> Index:
    """The index at an address; raises UserError where there is none."""
    return DiskIndex(Path(address))


def create_index(address: str | Path, dimension: int, maker: str = "") -> Index:
    """A new index at an address, or the one that is there; raises UserError where that was made with another model."""
    index = DiskIndex.create(Path(address), dimension, maker)
    if (index.dimension, index.maker) != (dimension, maker):
        index.close()
        raise UserError(f"{address} was built with another model; use that one, or build a new index elsewhere.")
    return index


def holds_index(address: str | Path) -> bool:
    """Whether an index can be opened there."""
    return (Path(address) / FILE).is_file()
