"""One connection per thread to an SQLite file, writable or read-only.

A read-only file (a read-only disk, another user's folder) is opened without creating files beside it. WAL readers need to write
to the shared-memory file, so a reader without that right opens the main file as immutable, and again after it has changed;
while its owner has it open, it reads through the owner's WAL.
"""

from __future__ import annotations

import os
import sqlite3
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from latentbridge.errors import StorageError, UserError

_BUSY_TIMEOUT_S = 30


class _FileVersion(NamedTuple):
    """Changes whenever a read-only file has changed."""

    has_wal: bool
    """True if the WAL holds commits that are not in the main file yet."""
    modified_ns: int
    size: int


class SqliteConnections:
    """The connections of all threads to one file."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.writable = os.access(path, os.W_OK) and os.access(path.parent, os.W_OK)
        self._local = threading.local()
        self._all: list[sqlite3.Connection] = []

    def get(self) -> sqlite3.Connection:
        """Return this thread's connection, reopened if a read-only file has changed."""
        version = None if self.writable else self._file_version()
        if hasattr(self._local, "connection"):
            if self._local.version == version:
                return self._local.connection
            self._local.connection.close()
            self._all.remove(self._local.connection)
        mode = "mode=rw" if version is None else "mode=ro" if version.has_wal else "immutable=1"
        uri = f"{self.path.absolute().as_uri()}?{mode}"
        connection = sqlite3.connect(
            uri, uri=True, timeout=_BUSY_TIMEOUT_S, isolation_level=None, check_same_thread=False
        )
        connection.execute("PRAGMA synchronous = FULL")
        self._local.connection, self._local.version = connection, version
        self._all.append(connection)
        return connection

    def check_writable(self) -> None:
        """Raise StorageError if the file is read-only."""
        if not self.writable:
            raise StorageError(
                f"{self.path.parent} is read-only here, so nothing was changed; "
                "change its permissions, or copy the index to a folder you may write to."
            )

    def close(self) -> None:
        """Close the connections of all threads."""
        for connection in self._all:
            connection.close()
        self._all.clear()

    def _file_version(self) -> _FileVersion:
        wal, status = self.path.with_name(f"{self.path.name}-wal"), self.path.stat()
        return _FileVersion(wal.exists() and wal.stat().st_size > 0, status.st_mtime_ns, status.st_size)


@contextmanager
def translate_errors(path: Path) -> Iterator[None]:
    """Raise errors of SQLite and the disk as UserErrors of one sentence."""
    try:
        yield
    except (sqlite3.OperationalError, OSError) as error:
        reason = str(error)
        if "locked" in reason or "busy" in reason:
            raise StorageError(f"Another process is writing to {path}; try again once it has ended.") from error
        if "no such table" in reason:
            raise UserError(f"{path} holds no index; build one with `latentbridge index build`.") from error
        raise StorageError(
            f"Cannot use {path} ({reason}); free some space, or choose a folder you may write to."
        ) from error
    except sqlite3.DatabaseError as error:
        raise UserError(f"{path} is damaged ({error}); restore it or build the index again.") from error
