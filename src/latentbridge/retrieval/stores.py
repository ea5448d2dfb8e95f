"""Which index an address means: a folder, or a database that runs elsewhere."""

from __future__ import annotations

from pathlib import Path

from latentbridge.errors import UserError
from latentbridge.retrieval.disk import FILE, DiskIndex
from latentbridge.retrieval.index import Index
from latentbridge.retrieval.items import check_name, shown

_POSTGRES = ("postgres://", "postgresql://")


def open_index(address: str | Path) -> Index:
    """The index at an address; raises UserError where there is none."""
    if not _elsewhere(address):
        return DiskIndex(Path(address))
    from latentbridge.retrieval.postgres import PostgresIndex

    return PostgresIndex(str(address))


def create_index(address: str | Path, dimension: int, maker: str = "") -> Index:
    """A new index at an address, or the one that is there; raises UserError where that was made with another model."""
    if _elsewhere(address):
        from latentbridge.retrieval.postgres import PostgresIndex

        index = PostgresIndex.create(str(address), dimension, maker)
    else:
        index = DiskIndex.create(Path(address), dimension, maker)
    if (index.dimension, index.maker) != (dimension, maker):
        index.close()
        raise UserError(f"{shown(address)} was built with another model; use that one, or build a new index elsewhere.")
    return index


def names_in(shelf: str | Path) -> list[str]:
    """The names of the indexes side by side in a folder, or in a database (postgres://host/database).

    Raises UserError for what can hold none: a file, an unknown kind of database, one that does not answer.
    """
    if not _elsewhere(shelf):
        folder = Path(shelf)
        if folder.exists() and not folder.is_dir():
            raise UserError(f"{shelf} is no folder; give one for indexes, or postgres://host/database.")
        return [path.name for path in sorted(folder.iterdir()) if holds_index(path)] if folder.is_dir() else []
    from latentbridge.retrieval.postgres import index_names

    return index_names(str(shelf))


def address_in(shelf: str | Path, name: str) -> str | Path:
    """The address of one of them, or of one to come."""
    return f"{shelf}/{check_name(name)}" if _elsewhere(shelf) else Path(shelf) / check_name(name)


def holds_index(folder: str | Path) -> bool:
    """Whether a folder is an index."""
    return (Path(folder) / FILE).is_file()


def _elsewhere(address: str | Path) -> bool:
    """Whether an address is a database's, and one that is known."""
    if "://" not in str(address):
        return False
    if not str(address).startswith(_POSTGRES):
        kind = str(address).partition("://")[0]
        raise UserError(f"Nothing is known of {kind}:// addresses; give a folder, or postgres://host/database/index.")
    return True
