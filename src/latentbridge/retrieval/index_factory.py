"""Opening, creating and listing indexes by address: a folder, or postgres://host/database/index."""

from __future__ import annotations

from pathlib import Path

from latentbridge.errors import UserError
from latentbridge.retrieval.base_index import Index
from latentbridge.retrieval.disk_index import FILE, DiskIndex
from latentbridge.retrieval.validation import check_index_name, redact_password

_POSTGRES = ("postgres://", "postgresql://")


def open_index(address: str | Path) -> Index:
    """Open the index at an address; raises UserError if there is none."""
    if not _is_database(address):
        return DiskIndex(Path(address))
    from latentbridge.retrieval.postgres_index import PostgresIndex

    return PostgresIndex(str(address))


def create_index(address: str | Path, dimension: int, model_fingerprint: str = "") -> Index:
    """Create an index, or open an existing one; raises UserError if that was built with another model."""
    if _is_database(address):
        from latentbridge.retrieval.postgres_index import PostgresIndex

        index = PostgresIndex.create(str(address), dimension, model_fingerprint)
    else:
        index = DiskIndex.create(Path(address), dimension, model_fingerprint)
    if (index.dimension, index.model_fingerprint) != (dimension, model_fingerprint):
        index.close()
        raise UserError(
            f"{redact_password(address)} was built with another model; use that one, or build a new index elsewhere."
        )
    return index


def list_index_names(root: str | Path) -> list[str]:
    """Return the names of the indexes in a folder or database (postgres://host/database), sorted.

    Raises UserError if it cannot hold indexes: a file, an unknown kind of database, one that does not answer.
    """
    if _is_database(root):
        from latentbridge.retrieval.postgres_index import list_database_indexes

        return list_database_indexes(str(root))
    folder = Path(root)
    if folder.exists() and not folder.is_dir():
        raise UserError(f"{root} is not a folder; give one for indexes, or postgres://host/database.")
    return [path.name for path in sorted(folder.iterdir()) if is_index_folder(path)] if folder.is_dir() else []


def index_address(root: str | Path, name: str) -> str | Path:
    """Return the address of an existing or new index in a folder or database."""
    return f"{root}/{check_index_name(name)}" if _is_database(root) else Path(root) / check_index_name(name)


def is_index_folder(folder: str | Path) -> bool:
    """Return whether a folder is an index."""
    return (Path(folder) / FILE).is_file()


def _is_database(address: str | Path) -> bool:
    """Return whether an address is a database's; raises UserError for an unknown kind."""
    if "://" not in str(address):
        return False
    if not str(address).startswith(_POSTGRES):
        scheme = str(address).partition("://")[0]
        raise UserError(f"{scheme}:// addresses are not supported; give a folder, or postgres://host/database/index.")
    return True
