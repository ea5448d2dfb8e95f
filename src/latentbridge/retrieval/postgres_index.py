"""An index in PostgreSQL with the pgvector extension: its server keeps, copies and spreads the items, nothing here does.

    postgres://user@host:port/database/index

Each index is a table `latentbridge_INDEX`; `latentbridge_indexes` tells their dimensions and makers. Searches use the
table's HNSW index and pgvector's iterative scan, which goes on until enough rows meet the filter. A password belongs into
PGPASSWORD or a .pgpass file.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import numpy as np

from latentbridge.errors import Unreachable, UserError
from latentbridge.retrieval.filters import OPERATORS, Condition, scalar_type
from latentbridge.retrieval.validation import (
    check_index_name,
    missing_item_error,
    shown,
    validate_items,
    validate_queries,
    validate_thumbnails,
)
from latentbridge.retrieval.vector_rows import exact_top_k
from latentbridge.types import Hit

if TYPE_CHECKING:
    import psycopg  # pyright: ignore[reportMissingImports]

_FORMAT = 2
_READ_ROWS = 4096
_WAIT_S = 10
_SPARE = 10
"""Rows fetched beyond those asked for: `relaxed_order` may send them a little out of order."""
_WIDTH = 400
"""hnsw.ef_search: candidates a search keeps in view. pgvector allows up to 1000."""
_MAX_DIMENSION = 2000
"""pgvector's limit for an HNSW index over float32."""
_TABLES = """
CREATE TABLE IF NOT EXISTS latentbridge_indexes (
    name text PRIMARY KEY, format int NOT NULL, dimension int NOT NULL, maker text NOT NULL)
"""
_TABLE = """
CREATE TABLE {table} (
    key bigint GENERATED ALWAYS AS IDENTITY UNIQUE, id text COLLATE "C" PRIMARY KEY, metadata jsonb NOT NULL,
    vector vector({dimension}) NOT NULL, thumbnail bytea)
"""


class PostgresIndex:
    """An `Index` in one table of a database; each thread has a connection of its own."""

    def __init__(self, address: str) -> None:
        """Opens an index; raises UserError where there is none or no server answers."""
        self._server, name = _split(address)
        self._table = _table(name)
        self._own = threading.local()
        self._all: list[psycopg.Connection[Any]] = []
        there = self._ask("SELECT to_regclass('latentbridge_indexes') IS NOT NULL")[0][0]
        asked = "SELECT format, dimension, maker FROM latentbridge_indexes WHERE name = %s"
        found = self._ask(asked, [name]) if there else []
        self._place = shown(address)
        if not found:
            raise UserError(f"{self._place} holds no index; build one with `latentbridge index build`.")
        version, self.dimension, self.model_fingerprint = found[0]
        if version != _FORMAT:
            raise UserError(f"{self._place} is of format {version}, and this version reads {_FORMAT}; build it again.")

    @classmethod
    def create(cls, address: str, dimension: int, model_fingerprint: str = "") -> PostgresIndex:
        """A new index, or the one that is there already, whatever it holds."""
        server, name = _split(address)
        if dimension > _MAX_DIMENSION:
            raise UserError(
                f"pgvector searches at most {_MAX_DIMENSION:,} numbers a vector, not {dimension:,}; use a folder."
            )
        with _told(server), _connected(server) as connection, connection.transaction():
            connection.execute("SELECT pg_advisory_xact_lock(hashtext('latentbridge'))")
            connection.execute("CREATE EXTENSION IF NOT EXISTS vector")
            connection.execute(_TABLES)
            new = connection.execute(
                "INSERT INTO latentbridge_indexes VALUES (%s, %s, %s, %s) ON CONFLICT DO NOTHING RETURNING name",
                [name, _FORMAT, dimension, model_fingerprint],
            ).fetchone()
            if new:
                connection.execute(_checked(_TABLE.format(table=_table(name), dimension=dimension)))
                connection.execute(_checked(f"CREATE INDEX ON {_table(name)} USING hnsw (vector vector_ip_ops)"))
        return cls(address)

    def __len__(self) -> int:
        return self._ask(f"SELECT count(*) FROM {self._table}")[0][0]

    def add(
        self,
        ids: Sequence[str],
        vectors: np.ndarray,
        metadata: Sequence[dict[str, Any]] | None = None,
        thumbnails: Sequence[bytes | None] | None = None,
    ) -> None:
        """See `Index.add`."""
        vectors, entries = validate_items(ids, vectors, metadata, self.dimension)
        rows = zip(ids, entries, map(_written, vectors), validate_thumbnails(ids, thumbnails), strict=True)
        with self._commits() as connection:
            connection.execute(_checked(f"DELETE FROM {self._table} WHERE id = ANY(%s)"), [list(ids)])
            with connection.cursor() as cursor:
                put = f"INSERT INTO {self._table} (id, metadata, vector, thumbnail) VALUES (%s, %s, %s, %s)"
                cursor.executemany(_checked(put), rows)

    def delete(self, ids: Sequence[str]) -> int:
        """See `Index.delete`."""
        with self._commits() as connection:
            return connection.execute(_checked(f"DELETE FROM {self._table} WHERE id = ANY(%s)"), [list(ids)]).rowcount

    def search(
        self, queries: np.ndarray, k: int = 10, where: Sequence[Condition] = (), *, exact: bool = False
    ) -> list[list[Hit]]:
        """See `Index.search`."""
        queries = validate_queries(queries, self.dimension, k)
        clause, values = _clause(where)
        asked = f"SELECT key, id, vector FROM {self._table} WHERE {clause} ORDER BY vector <#> %s LIMIT %s"
        hits = []
        with self._commits() as connection:
            if exact:
                connection.execute("SET LOCAL enable_indexscan = off")
            else:
                connection.execute(_checked(f"SET LOCAL hnsw.ef_search = {_WIDTH}"))
                connection.execute("SET LOCAL hnsw.iterative_scan = relaxed_order")
            for query in queries:
                found = connection.execute(
                    _checked(asked), [*values, _written(query), k + _SPARE], binary=True
                ).fetchall()
                found.sort()  # by key, so that equal scores keep the order of adding
                names = {key: name for key, name, _ in found}
                keys, vectors = np.array(list(names), np.int64), self._vectors([row[2] for row in found])
                keys, scores = exact_top_k(query, keys, vectors, k)
                hits.append([Hit(names[key], score) for key, score in zip(keys.tolist(), scores.tolist(), strict=True)])
        return hits

    def ids(self, where: Sequence[Condition] = ()) -> Iterator[str]:
        """See `Index.ids`."""
        clause, values = _clause(where)
        asked, after = f"SELECT key, id FROM {self._table} WHERE key > %s AND {clause} ORDER BY key LIMIT %s", 0
        while found := self._ask(asked, [after, *values, _READ_ROWS]):
            yield from (name for _, name in found)
            after = found[-1][0]

    def metadata(self, ids: Sequence[str]) -> list[dict[str, Any] | None]:
        """See `Index.metadata`."""
        found = dict(self._ask(f"SELECT id, metadata FROM {self._table} WHERE id = ANY(%s)", [list(ids)]))
        return [found.get(name) for name in ids]

    def thumbnails(self, ids: Sequence[str]) -> list[bytes | None]:
        """See `Index.thumbnails`."""
        found = dict(self._ask(f"SELECT id, thumbnail FROM {self._table} WHERE id = ANY(%s)", [list(ids)]))
        return [found.get(name) for name in ids]

    def vectors(self, ids: Sequence[str]) -> np.ndarray:
        """See `Index.vectors`."""
        found = dict(self._ask(f"SELECT id, vector FROM {self._table} WHERE id = ANY(%s)", [list(ids)]))
        for name in ids:
            if name not in found:
                raise missing_item_error(name)
        return self._vectors([found[name] for name in ids])

    def refresh(self) -> None:
        """See `Index.refresh`: the server keeps its graph by itself, and is told how many rows there are."""
        self._ask(f"ANALYZE {self._table}")

    def compact(self) -> None:
        """See `Index.compact`."""
        self._ask(f"REINDEX TABLE {self._table}")
        self._ask(f"VACUUM (FULL, ANALYZE) {self._table}")

    def faults(self) -> list[str]:
        """See `Index.faults`; the server answers for its pages, so only the vectors are looked at."""
        odd = f"SELECT count(*) FROM {self._table} WHERE abs(vector_norm(vector) - 1) > 1e-3"
        count = self._ask(odd)[0][0]
        return [f"{count:,} vectors are not of length 1."] if count else []

    def description(self) -> dict[str, Any]:
        """See `Index.description`."""
        size = self._ask("SELECT pg_total_relation_size(%s::regclass)", [self._table])[0][0]
        return {"kept in": self._place, "search": f"HNSW of pgvector, {_WIDTH} candidates", "bytes": size}

    def close(self) -> None:
        """See `Index.close`."""
        for connection in self._all:
            connection.close()
        self._all.clear()

    def _connection(self) -> psycopg.Connection[Any]:
        """This thread's own; a new one where the server has ended it."""
        connection = getattr(self._own, "connection", None)
        if connection is None or connection.closed:
            connection = self._own.connection = _connected(self._server)
            self._all.append(connection)
        return connection

    def _ask(self, question: str, values: Sequence[Any] = ()) -> list[tuple]:
        with _told(self._server):
            asked = self._connection().execute(_checked(question), values, binary=bool(values))
            return asked.fetchall() if asked.description else []

    @contextmanager
    def _commits(self) -> Iterator[psycopg.Connection[Any]]:
        with _told(self._server), self._connection().transaction():
            yield self._connection()

    def _vectors(self, sent: list[bytes]) -> np.ndarray:
        """float32 [n, dimension] of vectors as pgvector sends them: two 16-bit numbers, then big-endian floats."""
        flat = np.frombuffer(b"".join(row[4:] for row in sent), ">f4").astype(np.float32)
        return flat.reshape(len(sent), self.dimension)


def index_names(database: str) -> list[str]:
    """The names of all indexes in a database; none where it has never held one."""
    with _told(database), _connected(database) as connection:
        there = connection.execute("SELECT to_regclass('latentbridge_indexes') IS NOT NULL").fetchone()
        asked = "SELECT name FROM latentbridge_indexes ORDER BY name"
        return [name for (name,) in connection.execute(asked)] if there and there[0] else []


def _split(address: str) -> tuple[str, str]:
    """The address of a database, and the name of the index in it."""
    parts = urlsplit(address)
    database, slash, name = parts.path.strip("/").rpartition("/")
    if not slash or "/" in database:
        raise UserError(f"{shown(address)} does not name an index; write it like postgres://host:5432/database/index.")
    return parts._replace(scheme="postgresql", path=f"/{database}").geturl(), check_index_name(name)


def _checked(statement: str) -> bytes:
    """A statement as psycopg takes it, which asks for literals; names in ours went through `check_index_name`, values are apart."""
    return statement.encode()


def _table(name: str) -> str:
    """A checked name as the name of a table."""
    return f'"latentbridge_{name}"'


def _written(vector: np.ndarray) -> str:
    """A vector as pgvector reads it; each float32 by the shortest decimal that is it again."""
    return f"[{','.join(map(str, vector))}]"


def _clause(where: Sequence[Condition]) -> tuple[str, list[Any]]:
    """`filters.matches_all` in SQL, and the values that stand for its placeholders.

    Comparisons in jsonpath are between values of one type and look into lists, as ours are and do.
    """
    parts, values = ["true"], []
    for condition in where:
        sign = {"=": "==", "!=": "=="}.get(condition.operator, condition.operator)
        assert condition.operator in OPERATORS
        if scalar_type(condition.value) == "truth" and sign != "==":
            parts.append("false")
            continue
        found = "jsonb_path_exists(metadata, %s::jsonpath, jsonb_build_object('value', %s::jsonb), true)"
        parts.append(f"NOT {found}" if condition.operator == "!=" else found)
        values += [f'$."{condition.field}" ? (@ {sign} $value)', json.dumps(condition.value)]
    return " AND ".join(parts), values


def _connected(server: str) -> psycopg.Connection[Any]:
    try:
        import psycopg  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise UserError("postgres:// addresses need psycopg; pip install 'latentbridge[postgres]'.") from error
    return psycopg.connect(server, autocommit=True, connect_timeout=_WAIT_S)


@contextmanager
def _told(server: str) -> Iterator[None]:
    """What a server or the way to it may complain of, as one sentence."""
    try:
        import psycopg  # pyright: ignore[reportMissingImports]
    except ImportError:
        yield  # `_connected` says so
        return
    try:
        yield
    except psycopg.OperationalError as error:
        reason = " ".join(str(error).split())
        raise Unreachable(f"{shown(server)} does not answer ({reason}); start it, or check the address.") from error
    except psycopg.Error as error:
        reason = " ".join(str(error).split())
        raise UserError(
            f"{shown(server)} refuses ({reason}); check its rights and that pgvector is installed."
        ) from error
