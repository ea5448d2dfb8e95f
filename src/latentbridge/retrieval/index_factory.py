"""Which index an address means: a folder, or a database that runs elsewhere."""

from __future__ import annotations

from pathlib import Path

from latentbridge.errors import UserError
from latentbridge.retrieval.base_index import Index
from latentbridge.retrieval.disk_index import FILE, DiskIndex
from latentbridge.retrieval.validation import check_index_name, shown

_POSTGRES = ("postgres://", "postgresql://")


def open_index(address: str | Path) -> Index:
    """The index at an address; raises UserError where there is none."""
    if not _elsewhere(address):
        return DiskIndex(Path(address))
    from latentbridge.retrieval.postgres_index import PostgresIndex

    return PostgresIndex(str(address))


def create_index(address: str | Path, dimension: int, model_fingerprint: str = "") -> Index:
    """A new index at an address, or the one that is there; raises UserError where that was made with another model."""
    if _elsewhere(address):
        from latentbridge.retrieval.postgres_index import PostgresIndex

        index = PostgresIndex.create(str(address), dimension, model_fingerprint)
    else:
        index = DiskIndex.create(Path(address), dimension, model_fingerprint)
    if (index.dimension, index.model_fingerprint) != (dimension, model_fingerprint):
        index.close()
        raise UserError(f"{shown(address)} was built with another model; use that one, or build a new index elsewhere.")
    return index


def list_index_names(shelf: str | Path) -> list[str]:
    """The names of the indexes side by side in a folder, or in a database (postgres://host/database).

    Raises UserError for what can hold none: a file, an unknown kind of database, one that does not answer.
    """
    if not _elsewhere(shelf):
        folder = Path(shelf)
        if folder.exists() and not folder.is_dir():
            raise UserError(f"{shelf} is no folder; give one for indexes, or postgres://host/database.")
        return [path.name for path in sorted(folder.iterdir()) if is_index_folder(path)] if folder.is_dir() else []
    from latentbridge.retrieval.postgres_index import index_names

    return index_names(str(shelf))


def index_address(shelf: str | Path, name: str) -> str | Path:
    """The address of one of them, or of one to come."""
    return f"{shelf}/{check_index_name(name)}" if _elsewhere(shelf) else Path(shelf) / check_index_name(name)


def is_index_folder(folder: str | Path) -> bool:
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
