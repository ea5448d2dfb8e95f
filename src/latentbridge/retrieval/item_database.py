"""The SQLite file that stores the items of an index on disk.

WAL mode with `synchronous=FULL`: commits survive a crash and a power cut, uncommitted changes leave no trace. Item keys only
increase and are never reused, so that caches built from the file can follow it.
"""

from __future__ import annotations

import json
import sqlite3
import threading
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np

from latentbridge.errors import UserError
from latentbridge.files import atomic_write
from latentbridge.retrieval.filters import Condition, Scalar, scalar_type
from latentbridge.retrieval.sqlite_connections import SqliteConnections, translate_errors

_FORMAT = "3"
_PAGE_ROWS = 8192
_SCHEMA = (
    "CREATE TABLE settings (name TEXT PRIMARY KEY, value TEXT NOT NULL)",
    "CREATE TABLE items (key INTEGER PRIMARY KEY AUTOINCREMENT, id TEXT NOT NULL UNIQUE, metadata TEXT NOT NULL)",
    "CREATE TABLE vectors (key INTEGER PRIMARY KEY, vector BLOB NOT NULL)",
    "CREATE TABLE thumbnails (key INTEGER PRIMARY KEY, picture BLOB NOT NULL)",
    "CREATE TABLE removed (number INTEGER PRIMARY KEY AUTOINCREMENT, key INTEGER NOT NULL)",
    "CREATE TRIGGER forget AFTER DELETE ON items BEGIN"
    " DELETE FROM vectors WHERE key = old.key; DELETE FROM thumbnails WHERE key = old.key;"
    " INSERT INTO removed (key) VALUES (old.key); END",
    "INSERT INTO sqlite_sequence VALUES ('items', 0), ('removed', 0)",
)
_COLUMNS = {
    "metadata": "metadata FROM items",
    "thumbnail": "picture FROM items JOIN thumbnails USING (key)",
    "vector": "vector FROM items JOIN vectors USING (key)",
}
_JSON_TYPES = {"number": "'integer', 'real'", "text": "'text'"}
"""SQLite's JSON types by `filters.scalar_type`; a boolean's type is its value."""


class Revision(NamedTuple):
    """The state of the file after a commit."""

    last_key: int
    """The largest key assigned so far."""
    last_removal: int
    """The number of the latest removal, see `ItemDatabase.removed_keys`."""
    compactions: int
    """Compaction deletes the record of removals."""


class ItemDatabase:
    """Ids, metadata, vectors and thumbnails by key, for many readers and one writer at a time."""

    def __init__(self, path: Path) -> None:
        """Open a file that `create` made; raises UserError if it is damaged or of another format."""
        self.path = path
        self.connections = SqliteConnections(path)
        self._write_lock = threading.Lock()
        settings = dict(self._query("SELECT name, value FROM settings"))
        if settings.get("format") != _FORMAT:
            raise UserError(
                f"{path} is of format {settings.get('format')}, and this version reads {_FORMAT}; build the index again."
            )
        self.dimension, self.model_fingerprint = int(settings["dimension"]), settings["maker"]

    @classmethod
    def create(cls, path: Path, dimension: int, model_fingerprint: str) -> ItemDatabase:
        """Create an empty file, or open an existing one; of concurrent calls the first one creates it."""
        if path.exists():
            return cls(path)
        with (
            atomic_write(path, replace=False) as new,
            translate_errors(path),
            closing(sqlite3.connect(new)) as connection,
        ):
            connection.execute("PRAGMA journal_mode = WAL")
            for statement in _SCHEMA:
                connection.execute(statement)
            values = {"format": _FORMAT, "dimension": str(dimension), "maker": model_fingerprint, "compactions": "0"}
            connection.executemany("INSERT INTO settings VALUES (?, ?)", values.items())
            connection.commit()
        return cls(path)

    def __len__(self) -> int:
        return self._query("SELECT count(*) FROM items")[0][0]

    def revision(self) -> Revision:
        """Return the state of the file after the last commit."""
        row = self._query(
            "SELECT (SELECT seq FROM sqlite_sequence WHERE name = 'items'),"
            " (SELECT seq FROM sqlite_sequence WHERE name = 'removed'),"
            " (SELECT value FROM settings WHERE name = 'compactions')"
        )[0]
        return Revision(*map(int, row))

    @contextmanager
    def read_transaction(self) -> Iterator[None]:
        """Make all queries of this thread in the block see the same commit."""
        with translate_errors(self.path):
            self.connections.get().execute("BEGIN")
            try:
                yield
            finally:
                if (connection := self.connections.get()).in_transaction:
                    connection.execute("ROLLBACK")

    def insert(
        self, ids: Sequence[str], vectors: np.ndarray, metadata: Sequence[str], thumbnails: Sequence[bytes | None]
    ) -> None:
        """Commit items (float32 [n, dimension], JSON texts, image files), replacing those with the same ids."""
        with self._write_transaction() as connection:
            connection.executemany("DELETE FROM items WHERE id = ?", ((name,) for name in ids))
            first = connection.execute("SELECT seq FROM sqlite_sequence WHERE name = 'items'").fetchone()[0] + 1
            keys = range(first, first + len(ids))
            connection.executemany("INSERT INTO items VALUES (?, ?, ?)", zip(keys, ids, metadata, strict=True))
            blobs = (vector.tobytes() for vector in vectors)
            connection.executemany("INSERT INTO vectors VALUES (?, ?)", zip(keys, blobs, strict=True))
            rows = ((key, image) for key, image in zip(keys, thumbnails, strict=True) if image is not None)
            connection.executemany("INSERT INTO thumbnails VALUES (?, ?)", rows)

    def delete(self, ids: Sequence[str]) -> int:
        """Commit the removal of items and return how many existed."""
        with self._write_transaction() as connection:
            return connection.executemany("DELETE FROM items WHERE id = ?", ((name,) for name in ids)).rowcount

    def removed_keys(self, after: int, upto: int) -> np.ndarray:
        """Return int64 [n], sorted: the keys of removals `after` < number <= `upto` since the last compaction."""
        rows = self._query("SELECT key FROM removed WHERE number > ? AND number <= ? ORDER BY key", (after, upto))
        return np.array([key for (key,) in rows], np.int64)

    def iter_vectors(self, after: int, upto: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Yield pages of keys (`after` < key <= `upto`), int64 [n], with their vectors, float32 [n, dimension]."""
        statement = "SELECT * FROM vectors WHERE key > ? AND key <= ? ORDER BY key LIMIT ?"
        while rows := self._query(statement, (after, upto, _PAGE_ROWS)):
            yield self._arrays(rows)
            after = rows[-1][0]

    def vectors(self, keys: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return those keys that exist, int64 [n], sorted, with their vectors, float32 [n, dimension]."""
        statement = "SELECT * FROM vectors WHERE key IN (SELECT value FROM json_each(?)) ORDER BY key"
        return self._arrays(self._query(statement, (json.dumps(keys.tolist()),)))

    def select_keys(self, where: Sequence[Condition] = ()) -> np.ndarray:
        """Return int64 [n], sorted: the keys of the items that meet all conditions."""
        clause, values = _where_clause(where)
        rows = self._query(f"SELECT key FROM items WHERE {clause} ORDER BY key", values)
        return np.array([key for (key,) in rows], np.int64)

    def iter_ids(self, where: Sequence[Condition]) -> Iterator[str]:
        """Yield the ids of the items that meet all conditions, by key."""
        clause, values = _where_clause(where)
        statement, after = f"SELECT key, id FROM items WHERE key > ? AND {clause} ORDER BY key LIMIT ?", 0
        while rows := self._query(statement, (after, *values, _PAGE_ROWS)):
            yield from (name for _, name in rows)
            after = rows[-1][0]

    def fields(self) -> dict[str, set[str]]:
        """Return `Index.fields`."""
        names = {"integer": "number", "real": "number", "text": "text", "true": "boolean", "false": "boolean"}
        found: dict[str, set[str]] = {}
        rows = self._query(
            "SELECT DISTINCT entry.key, entry.type, inner.type FROM items, json_each(items.metadata) AS entry"
            " LEFT JOIN json_each(CASE entry.type WHEN 'array' THEN entry.value ELSE '[]' END) AS inner"
        )
        for name, kind, inner in rows:
            found.setdefault(name, set()).update(names[each] for each in (kind, inner) if each in names)
        return found

    def ids_by_key(self, keys: np.ndarray) -> dict[int, str]:
        """Return the ids of those keys that exist."""
        statement = "SELECT key, id FROM items WHERE key IN (SELECT value FROM json_each(?))"
        return dict(self._query(statement, (json.dumps(keys.tolist()),)))

    def lookup(self, column: Literal["metadata", "thumbnail", "vector"], ids: Sequence[str]) -> dict[str, Any]:
        """Return one column of those items that exist, by id: a dict, bytes, or float32 [dimension]."""
        statement = f"SELECT id, {_COLUMNS[column]} WHERE id IN (SELECT value FROM json_each(?))"
        by_id = dict(self._query(statement, (json.dumps(list(ids)),)))
        if column == "metadata":
            return {name: json.loads(text) for name, text in by_id.items()}
        if column == "vector":
            return dict(zip(by_id, self._arrays(list(enumerate(by_id.values())))[1], strict=True))
        return by_id

    def compact(self, upto: int) -> None:
        """Delete the record of removals up to a number, and return unused space to the disk."""
        with self._write_transaction() as connection:
            connection.execute("DELETE FROM removed WHERE number <= ?", (upto,))
            connection.execute("UPDATE settings SET value = value + 1 WHERE name = 'compactions'")
        with self._write_lock, translate_errors(self.path):
            self.connections.get().execute("VACUUM")
            self.connections.get().execute("PRAGMA wal_checkpoint(TRUNCATE)")

    def check_integrity(self) -> list[str]:
        """Return one sentence per error in the file."""
        errors = [f"{self.path}: {row[0]}." for row in self._query("PRAGMA integrity_check(10)") if row[0] != "ok"]
        for rows, message in (
            ("items WHERE key NOT IN (SELECT key FROM vectors)", "items have no vector"),
            ("vectors WHERE key NOT IN (SELECT key FROM items)", "vectors belong to no item"),
            ("thumbnails WHERE key NOT IN (SELECT key FROM items)", "thumbnails belong to no item"),
            ("items WHERE NOT json_valid(metadata)", "items have metadata that are not JSON"),
        ):
            if count := self._query(f"SELECT count(*) FROM {rows}")[0][0]:
                errors.append(f"{count:,} {message}.")
        return errors

    def close(self) -> None:
        """Close the connections of all threads."""
        self.connections.close()

    def _query(self, statement: str, values: Sequence[Scalar] = ()) -> list[tuple]:
        with translate_errors(self.path):
            return self.connections.get().execute(statement, tuple(values)).fetchall()

    @contextmanager
    def _write_transaction(self) -> Iterator[sqlite3.Connection]:
        self.connections.check_writable()
        with self._write_lock, translate_errors(self.path):
            connection = self.connections.get()
            connection.execute("BEGIN IMMEDIATE")
            try:
                yield connection
                connection.execute("COMMIT")
            except BaseException:
                connection.execute("ROLLBACK")
                raise

    def _arrays(self, rows: list[tuple]) -> tuple[np.ndarray, np.ndarray]:
        keys = np.array([row[0] for row in rows], np.int64)
        vectors = np.frombuffer(b"".join(row[1] for row in rows), np.float32)
        if vectors.size != len(keys) * self.dimension:
            raise UserError(f"Vectors in {self.path} are damaged; restore it or build the index again.")
        return keys, vectors.reshape(len(keys), self.dimension)


def _where_clause(where: Sequence[Condition]) -> tuple[str, list[Scalar]]:
    """Return `filters.matches_all` in SQL, with the values of its placeholders."""
    clauses, values = ["1"], []
    for condition in where:
        kind, path = scalar_type(condition.value), f'$."{condition.field}"'
        sign = "=" if condition.operator == "!=" else condition.operator
        types = f"'{json.dumps(condition.value)}'" if kind == "boolean" else _JSON_TYPES[str(kind)]
        entry = f"entry.type IN ({types})" if kind != "boolean" or sign == "=" else "0"
        values += [path, path]
        if kind != "boolean":
            entry += f" AND entry.value {sign} ?"
            values.append(condition.value)
        match = (
            "json_type(items.metadata, ?) != 'object' AND"
            f" EXISTS (SELECT 1 FROM json_each(items.metadata, ?) AS entry WHERE {entry})"
        )
        clauses.append(f"NOT coalesce({match}, 0)" if condition.operator == "!=" else f"({match})")
    return " AND ".join(clauses), values
