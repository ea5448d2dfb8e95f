"""An index in PostgreSQL with the pgvector extension, at postgres://user@host:port/database/index.

Each index is a table `latentbridge_INDEX`; the table `latentbridge_indexes` lists them. Searches use an HNSW index with
pgvector's iterative scan, which continues until enough rows meet the filter. Replication and backups are left to the server.
Passwords belong in PGPASSWORD or a .pgpass file.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Literal
from urllib.parse import urlsplit

import numpy as np

from latentbridge.errors import Unreachable, UserError
from latentbridge.retrieval.base_index import Index, to_hits
from latentbridge.retrieval.filters import Condition, scalar_type
from latentbridge.retrieval.validation import check_index_name, redact_password
from latentbridge.retrieval.vector_rows import exact_top_k
from latentbridge.types import Hit

if TYPE_CHECKING:
    import psycopg  # pyright: ignore[reportMissingImports]

_FORMAT = 2
_PAGE_ROWS = 4096
_CONNECT_TIMEOUT_S = 10
_EXTRA_ROWS = 10
"""Rows fetched beyond k: `relaxed_order` returns rows slightly out of order."""
_EF_SEARCH = 400
"""hnsw.ef_search: candidates per search, at most 1000."""
_MAX_DIMENSION = 2000
"""pgvector's limit for an HNSW index over float32."""
_CREATE_INDEX_LIST = """
CREATE TABLE IF NOT EXISTS latentbridge_indexes (
    name text PRIMARY KEY, format int NOT NULL, dimension int NOT NULL, maker text NOT NULL)
"""
_CREATE_TABLE = """
CREATE TABLE {table} (
    key bigint GENERATED ALWAYS AS IDENTITY UNIQUE, id text COLLATE "C" PRIMARY KEY, metadata jsonb NOT NULL,
    vector vector({dimension}) NOT NULL, thumbnail bytea)
"""


class PostgresIndex(Index):
    """An `Index` in one table of a database, with one connection per thread."""

    def __init__(self, address: str) -> None:
        """Open an index; raises UserError if there is none or the server does not answer."""
        self._server, name = _split_address(address)
        self._table = _table_name(name)
        self._local = threading.local()
        self._all: list[psycopg.Connection[Any]] = []
        self._address = redact_password(address)
        exists = self._query("SELECT to_regclass('latentbridge_indexes') IS NOT NULL")[0][0]
        statement = "SELECT format, dimension, maker FROM latentbridge_indexes WHERE name = %s"
        rows = self._query(statement, [name]) if exists else []
        if not rows:
            raise UserError(f"{self._address} holds no index; build one with `latentbridge index build`.")
        version, self.dimension, self.model_fingerprint = rows[0]
        if version != _FORMAT:
            raise UserError(
                f"{self._address} is of format {version}, and this version reads {_FORMAT}; build it again."
            )

    @classmethod
    def create(cls, address: str, dimension: int, model_fingerprint: str = "") -> PostgresIndex:
        """Create an index, or open an existing one without any check."""
        server, name = _split_address(address)
        if dimension > _MAX_DIMENSION:
            raise UserError(
                f"pgvector searches at most {_MAX_DIMENSION:,} numbers a vector, not {dimension:,}; use a folder."
            )
        with _translate_errors(server), _connect(server) as connection, connection.transaction():
            connection.execute("SELECT pg_advisory_xact_lock(hashtext('latentbridge'))")
            connection.execute("CREATE EXTENSION IF NOT EXISTS vector")
            connection.execute(_CREATE_INDEX_LIST)
            is_new = connection.execute(
                "INSERT INTO latentbridge_indexes VALUES (%s, %s, %s, %s) ON CONFLICT DO NOTHING RETURNING name",
                [name, _FORMAT, dimension, model_fingerprint],
            ).fetchone()
            if is_new:
                table = _table_name(name)
                connection.execute(_sql(_CREATE_TABLE.format(table=table, dimension=dimension)))
                connection.execute(_sql(f"CREATE INDEX ON {table} USING hnsw (vector vector_ip_ops)"))
        return cls(address)

    def __len__(self) -> int:
        return self._query(f"SELECT count(*) FROM {self._table}")[0][0]

    def delete(self, ids: Sequence[str]) -> int:
        with self._transaction() as connection:
            return connection.execute(_sql(f"DELETE FROM {self._table} WHERE id = ANY(%s)"), [list(ids)]).rowcount

    def ids(self, where: Sequence[Condition] = ()) -> Iterator[str]:
        clause, values = _where_clause(where)
        statement, after = f"SELECT key, id FROM {self._table} WHERE key > %s AND {clause} ORDER BY key LIMIT %s", 0
        while rows := self._query(statement, [after, *values, _PAGE_ROWS]):
            yield from (name for _, name in rows)
            after = rows[-1][0]

    def fields(self) -> dict[str, set[str]]:
        names = {"number": "number", "string": "text", "boolean": "boolean"}
        found: dict[str, set[str]] = {}
        rows = self._query(
            f"SELECT DISTINCT entry.key, jsonb_typeof(entry.value), jsonb_typeof(part.value) FROM {self._table},"
            " jsonb_each(metadata) AS entry LEFT JOIN LATERAL jsonb_array_elements("
            " CASE jsonb_typeof(entry.value) WHEN 'array' THEN entry.value ELSE '[]' END) AS part ON true"
        )
        for name, kind, inner in rows:
            found.setdefault(name, set()).update(names[each] for each in (kind, inner) if each in names)
        return found

    def refresh(self) -> None:
        """Update the planner's statistics; the server maintains the HNSW index itself."""
        self._query(f"ANALYZE {self._table}")

    def compact(self) -> None:
        self._query(f"REINDEX TABLE {self._table}")
        self._query(f"VACUUM (FULL, ANALYZE) {self._table}")

    def check_integrity(self) -> list[str]:
        """Return an error if vectors are not of length 1; storage errors are left to the server."""
        statement = f"SELECT count(*) FROM {self._table} WHERE abs(vector_norm(vector) - 1) > 1e-3"
        count = self._query(statement)[0][0]
        return [f"{count:,} vectors are not of length 1."] if count else []

    def description(self) -> dict[str, Any]:
        size = self._query("SELECT pg_total_relation_size(%s::regclass)", [self._table])[0][0]
        return {"location": self._address, "search": f"HNSW of pgvector, {_EF_SEARCH} candidates", "bytes": size}

    def close(self) -> None:
        for connection in self._all:
            connection.close()
        self._all.clear()

    def _add(
        self, ids: Sequence[str], vectors: np.ndarray, metadata: Sequence[str], thumbnails: Sequence[bytes | None]
    ) -> None:
        rows = zip(ids, metadata, map(_vector_literal, vectors), thumbnails, strict=True)
        with self._transaction() as connection, connection.cursor() as cursor:
            cursor.execute(_sql(f"DELETE FROM {self._table} WHERE id = ANY(%s)"), [list(ids)])
            insert = f"INSERT INTO {self._table} (id, metadata, vector, thumbnail) VALUES (%s, %s, %s, %s)"
            cursor.executemany(_sql(insert), rows)

    def _search(self, queries: np.ndarray, k: int, where: Sequence[Condition], exact: bool) -> list[list[Hit]]:
        clause, values = _where_clause(where)
        statement = f"SELECT key, id, vector FROM {self._table} WHERE {clause} ORDER BY vector <#> %s LIMIT %s"
        hits = []
        with self._transaction() as connection:
            if exact:
                connection.execute("SET LOCAL enable_indexscan = off")
            else:
                connection.execute(_sql(f"SET LOCAL hnsw.ef_search = {_EF_SEARCH}"))
                connection.execute("SET LOCAL hnsw.iterative_scan = relaxed_order")
            for query in queries:
                parameters = [*values, _vector_literal(query), k + _EXTRA_ROWS]
                rows = connection.execute(_sql(statement), parameters, binary=True).fetchall()
                rows.sort()  # by key, so that equal scores keep insertion order
                ids = {key: name for key, name, _ in rows}
                keys, vectors = np.array(list(ids), np.int64), self._decode_vectors([row[2] for row in rows])
                hits.append(to_hits(*exact_top_k(query, keys, vectors, k), ids))
        return hits

    def _lookup(self, column: Literal["metadata", "thumbnail", "vector"], ids: Sequence[str]) -> Mapping[str, Any]:
        by_id = dict(self._query(f"SELECT id, {column} FROM {self._table} WHERE id = ANY(%s)", [list(ids)]))
        if column == "vector":
            return dict(zip(by_id, self._decode_vectors(list(by_id.values())), strict=True))
        return by_id

    def _connection(self) -> psycopg.Connection[Any]:
        """Return this thread's connection, a new one if the server has closed it."""
        connection = getattr(self._local, "connection", None)
        if connection is None or connection.closed:
            connection = self._local.connection = _connect(self._server)
            self._all.append(connection)
        return connection

    def _query(self, statement: str, values: Sequence[Any] = ()) -> list[tuple]:
        with _translate_errors(self._server):
            cursor = self._connection().execute(_sql(statement), values, binary=bool(values))
            return cursor.fetchall() if cursor.description else []

    @contextmanager
    def _transaction(self) -> Iterator[psycopg.Connection[Any]]:
        with _translate_errors(self._server), self._connection().transaction():
            yield self._connection()

    def _decode_vectors(self, binary: list[bytes]) -> np.ndarray:
        """Return float32 [n, dimension] from pgvector's binary format: two 16-bit numbers, then big-endian floats."""
        flat = np.frombuffer(b"".join(row[4:] for row in binary), ">f4").astype(np.float32)
        return flat.reshape(len(binary), self.dimension)


def list_database_indexes(database: str) -> list[str]:
    """Return the names of all indexes in a database, sorted."""
    with _translate_errors(database), _connect(database) as connection:
        exists = connection.execute("SELECT to_regclass('latentbridge_indexes') IS NOT NULL").fetchone()
        statement = "SELECT name FROM latentbridge_indexes ORDER BY name"
        return [name for (name,) in connection.execute(statement)] if exists and exists[0] else []


def _split_address(address: str) -> tuple[str, str]:
    """Return the address of the database, and the name of the index in it."""
    parts = urlsplit(address)
    database, slash, name = parts.path.strip("/").rpartition("/")
    if not slash or "/" in database:
        raise UserError(
            f"{redact_password(address)} does not name an index; write it like postgres://host:5432/database/index."
        )
    return parts._replace(scheme="postgresql", path=f"/{database}").geturl(), check_index_name(name)


def _sql(statement: str) -> bytes:
    """Return a statement in the type that psycopg accepts besides literals; all names in it passed `check_index_name`."""
    return statement.encode()


def _table_name(name: str) -> str:
    return f'"latentbridge_{name}"'


def _vector_literal(vector: np.ndarray) -> str:
    """Return a vector in pgvector's text format; the shortest decimal of each float32 restores it exactly."""
    return f"[{','.join(map(str, vector))}]"


def _where_clause(where: Sequence[Condition]) -> tuple[str, list[Any]]:
    """Return `filters.matches_all` in SQL, with the values of its placeholders.

    Like ours, jsonpath comparisons are between values of one type and look into lists.
    """
    clauses, values = ["true"], []
    for condition in where:
        sign = {"=": "==", "!=": "=="}.get(condition.operator, condition.operator)
        if scalar_type(condition.value) == "boolean" and sign != "==":
            clauses.append("false")
            continue
        match = "jsonb_path_exists(metadata, %s::jsonpath, jsonb_build_object('value', %s::jsonb), true)"
        clauses.append(f"NOT {match}" if condition.operator == "!=" else match)
        values += [f'$."{condition.field}" ? (@ {sign} $value)', json.dumps(condition.value)]
    return " AND ".join(clauses), values


def _connect(server: str) -> psycopg.Connection[Any]:
    import psycopg  # pyright: ignore[reportMissingImports]

    return psycopg.connect(server, autocommit=True, connect_timeout=_CONNECT_TIMEOUT_S)


@contextmanager
def _translate_errors(server: str) -> Iterator[None]:
    """Raise errors of psycopg, or its absence, as UserErrors of one sentence."""
    try:
        import psycopg  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise UserError("postgres:// addresses need psycopg; pip install 'latentbridge[postgres]'.") from error
    try:
        yield
    except psycopg.Error as error:
        name, reason = redact_password(server), " ".join(str(error).split())
        if isinstance(error, psycopg.OperationalError):
            raise Unreachable(f"{name} does not answer ({reason}); start it, or check the address.") from error
        raise UserError(f"{name} refuses ({reason}); check its rights and that pgvector is installed.") from error
