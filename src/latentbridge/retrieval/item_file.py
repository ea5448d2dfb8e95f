"""Items in one SQLite file: the truth of the index on disk.

WAL mode with `synchronous=FULL`: what is committed outlives the process and a power cut, what is not was never there. Every
item has a key, a whole number that grows and is never given twice, so that what was built from the file can follow it.
"""

from __future__ import annotations

import json
import sqlite3
import threading
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from latentbridge.errors import UserError
from latentbridge.files import atomic_write
from latentbridge.retrieval.connections import Connections, translate_errors
from latentbridge.retrieval.filters import Condition, Plain, kind_of

_FORMAT = "3"
_READ_ROWS = 8192
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
_TYPES = {"number": "'integer', 'real'", "text": "'text'"}
"""What SQLite calls the kinds of `filters.kind_of`; truths are called by their values."""


class State(NamedTuple):
    """How far the file has come."""

    last_key: int
    """The largest key given so far."""
    last_removal: int
    """The number of the latest removal; `ItemFile.removed` tells which items they were."""
    compactions: int
    """A file that was compacted has forgotten its removals."""


class ItemFile:
    """Ids, metadata and vectors by key, for many readers and one writer at a time."""

    def __init__(self, path: Path) -> None:
        """Opens a file that `create` made; raises UserError where it is damaged or of another format."""
        self.path = path
        self.connections = Connections(path)
        self._writing = threading.Lock()
        settings = dict(self._ask("SELECT name, value FROM settings"))
        if settings.get("format") != _FORMAT:
            raise UserError(
                f"{path} is of format {settings.get('format')}, and this version reads {_FORMAT}; build the index again."
            )
        self.dimension, self.maker = int(settings["dimension"]), settings["maker"]

    @classmethod
    def create(cls, path: Path, dimension: int, maker: str) -> ItemFile:
        """A new, empty file; where several make it at once, all open the first one's."""
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
            values = {"format": _FORMAT, "dimension": str(dimension), "maker": maker, "compactions": "0"}
            connection.executemany("INSERT INTO settings VALUES (?, ?)", values.items())
            connection.commit()
        return cls(path)

    def __len__(self) -> int:
        return self._ask("SELECT count(*) FROM items")[0][0]

    def state(self) -> State:
        """How far the file has come, by its last commit."""
        row = self._ask(
            "SELECT (SELECT seq FROM sqlite_sequence WHERE name = 'items'),"
            " (SELECT seq FROM sqlite_sequence WHERE name = 'removed'),"
            " (SELECT value FROM settings WHERE name = 'compactions')"
        )[0]
        return State(*map(int, row))

    @contextmanager
    def one_commit(self) -> Iterator[None]:
        """What this thread asks in the block is all answered as of one commit, whatever others write meanwhile."""
        with translate_errors(self.path):
            self.connections.own().execute("BEGIN")
            try:
                yield
            finally:
                if (connection := self.connections.own()).in_transaction:
                    connection.execute("ROLLBACK")

    def put(
        self, ids: Sequence[str], vectors: np.ndarray, metadata: Sequence[str], thumbnails: Sequence[bytes | None]
    ) -> None:
        """Commit items (float32 [n, dimension]; JSON texts; small pictures), in place of those that have their ids."""
        with self._commits() as connection:
            connection.executemany("DELETE FROM items WHERE id = ?", ((name,) for name in ids))
            first = connection.execute("SELECT seq FROM sqlite_sequence WHERE name = 'items'").fetchone()[0] + 1
            items = ((first + i, name, entry) for i, (name, entry) in enumerate(zip(ids, metadata, strict=True)))
            connection.executemany("INSERT INTO items VALUES (?, ?, ?)", items)
            rows = ((first + i, vector.tobytes()) for i, vector in enumerate(vectors))
            connection.executemany("INSERT INTO vectors VALUES (?, ?)", rows)
            small = ((first + i, picture) for i, picture in enumerate(thumbnails) if picture is not None)
            connection.executemany("INSERT INTO thumbnails VALUES (?, ?)", small)

    def remove(self, ids: Sequence[str]) -> int:
        """Commit that items are gone; how many there were."""
        with self._commits() as connection:
            return connection.executemany("DELETE FROM items WHERE id = ?", ((name,) for name in ids)).rowcount

    def removed(self, after: int, upto: int) -> np.ndarray:
        """int64 [n], sorted: what was removed after one removal's number, up to another's, and not forgotten since."""
        rows = self._ask("SELECT key FROM removed WHERE number > ? AND number <= ? ORDER BY key", (after, upto))
        return np.array([key for (key,) in rows], np.int64)

    def rows(self, after: int, upto: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Keys, int64 [n], and vectors, float32 [n, dimension], after one key and up to another, some thousands at a time."""
        asked = "SELECT * FROM vectors WHERE key > ? AND key <= ? ORDER BY key LIMIT ?"
        while found := self._ask(asked, (after, upto, _READ_ROWS)):
            yield self._arrays(found)
            after = found[-1][0]

    def take(self, keys: Sequence[int] | np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Those of the keys that there are, int64 [n], sorted, and their vectors, float32 [n, dimension]."""
        found = self._ask(
            "SELECT * FROM vectors WHERE key IN (SELECT value FROM json_each(?)) ORDER BY key", (_listed(keys),)
        )
        return self._arrays(found)

    def keys(self, where: Sequence[Condition] = ()) -> np.ndarray:
        """int64 [n], sorted: the keys of the items that meet all conditions."""
        clause, values = _clause(where)
        rows = self._ask(f"SELECT key FROM items WHERE {clause} ORDER BY key", values)
        return np.array([key for (key,) in rows], np.int64)

    def ids(self, where: Sequence[Condition], after: int = 0) -> Iterator[str]:
        """The ids of the items that meet all conditions, by key."""
        clause, values = _clause(where)
        asked = f"SELECT key, id FROM items WHERE key > ? AND {clause} ORDER BY key LIMIT ?"
        while found := self._ask(asked, (after, *values, _READ_ROWS)):
            yield from (name for _, name in found)
            after = found[-1][0]

    def ids_of(self, keys: Sequence[int] | np.ndarray) -> dict[int, str]:
        """The ids under those of the keys that there are."""
        return dict(
            self._ask("SELECT key, id FROM items WHERE key IN (SELECT value FROM json_each(?))", (_listed(keys),))
        )

    def metadata_of(self, ids: Sequence[str]) -> dict[str, str]:
        """The metadata, a JSON text, of those of the items that there are."""
        return self._by_id("metadata FROM items", ids)

    def vectors_of(self, ids: Sequence[str]) -> dict[str, np.ndarray]:
        """The vectors, float32 [dimension], of those of the items that there are."""
        found = self._by_id("vector FROM items JOIN vectors USING (key)", ids)
        _, vectors = self._arrays(list(enumerate(found.values())))
        return dict(zip(found, vectors, strict=True))

    def thumbnails_of(self, ids: Sequence[str]) -> dict[str, bytes]:
        """The small pictures of those of the items that have one."""
        return self._by_id("picture FROM items JOIN thumbnails USING (key)", ids)

    def compact(self, upto: int) -> None:
        """Forget removals up to a number, and give the room of what was removed back to the disk."""
        with self._commits() as connection:
            connection.execute("DELETE FROM removed WHERE number <= ?", (upto,))
            connection.execute("UPDATE settings SET value = value + 1 WHERE name = 'compactions'")
        with self._writing, translate_errors(self.path):
            self.connections.own().execute("VACUUM")
            self.connections.own().execute("PRAGMA wal_checkpoint(TRUNCATE)")

    def faults(self) -> list[str]:
        """What is wrong with the file, a sentence each."""
        found = [f"{self.path}: {row[0]}." for row in self._ask("PRAGMA integrity_check(10)") if row[0] != "ok"]
        alone = "SELECT count(*) FROM {} WHERE key NOT IN (SELECT key FROM {})"
        if count := self._ask(alone.format("items", "vectors"))[0][0]:
            found.append(f"{count:,} items have no vector.")
        if count := self._ask(alone.format("vectors", "items"))[0][0]:
            found.append(f"{count:,} vectors belong to no item.")
        if count := self._ask(alone.format("thumbnails", "items"))[0][0]:
            found.append(f"{count:,} thumbnails belong to no item.")
        if count := self._ask("SELECT count(*) FROM items WHERE NOT json_valid(metadata)")[0][0]:
            found.append(f"The metadata of {count:,} items are no JSON.")
        return found

    def close(self) -> None:
        """Close every thread's connection."""
        self.connections.close()

    def _ask(self, question: str, values: Sequence[Plain] = ()) -> list[tuple]:
        with translate_errors(self.path):
            return self.connections.own().execute(question, tuple(values)).fetchall()

    def _by_id(self, what: str, ids: Sequence[str]) -> dict[str, Any]:
        """One column of those of the items that there are."""
        asked = f"SELECT id, {what} WHERE id IN (SELECT value FROM json_each(?))"
        return dict(self._ask(asked, (json.dumps(list(ids)),)))

    @contextmanager
    def _commits(self) -> Iterator[sqlite3.Connection]:
        """A transaction that is on the disk when the block has ended, and never was where it does not end well."""
        self.connections.check_writable()
        with self._writing, translate_errors(self.path):
            connection = self.connections.own()
            connection.execute("BEGIN IMMEDIATE")
            try:
                yield connection
                connection.execute("COMMIT")
            except BaseException:
                connection.execute("ROLLBACK")
                raise

    def _arrays(self, found: list[tuple]) -> tuple[np.ndarray, np.ndarray]:
        keys = np.array([row[0] for row in found], np.int64)
        vectors = np.frombuffer(b"".join(row[1] for row in found), np.float32)
        if vectors.size != len(keys) * self.dimension:
            raise UserError(f"Vectors in {self.path} are damaged; restore it or build the index again.")
        return keys, vectors.reshape(len(keys), self.dimension)


def _listed(keys: Sequence[int] | np.ndarray) -> str:
    """Keys as one value of a statement, however many there are."""
    return json.dumps(np.asarray(keys, np.int64).tolist())


def _clause(where: Sequence[Condition]) -> tuple[str, list[Plain]]:
    """`filters.hold` in SQL, and the values that stand for its question marks."""
    parts, values = ["1"], []
    for condition in where:
        kind, path = kind_of(condition.value), f'$."{condition.field}"'
        sign = "=" if condition.operator == "!=" else condition.operator
        types = f"'{json.dumps(condition.value)}'" if kind == "truth" else _TYPES[str(kind)]
        entry = f"entry.type IN ({types})" if kind != "truth" or sign == "=" else "0"
        values += [path, path]
        if kind != "truth":
            entry += f" AND entry.value {sign} ?"
            values.append(condition.value)
        found = (
            "json_type(items.metadata, ?) != 'object' AND"
            f" EXISTS (SELECT 1 FROM json_each(items.metadata, ?) AS entry WHERE {entry})"
        )
        parts.append(f"NOT coalesce({found}, 0)" if condition.operator == "!=" else f"({found})")
    return " AND ".join(parts), values
