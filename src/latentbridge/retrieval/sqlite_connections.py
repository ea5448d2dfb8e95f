"""Connections to one SQLite file: one a thread, to write where the disk takes it and to read where it does not.

A file that may only be read (a read-only disk, another user's folder) is read as it is, and nothing is made beside it. Readers
and writers of a log (WAL) share a file that every one of them writes, so whoever may not write it opens the main file alone, as one
that does not change, and again where it has; while its owner has it open, through the owner's log.
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

_WAIT_S = 30
"""How long one writer waits for another."""


class _Version(NamedTuple):
    """What a change of a file that may only be read shows in."""

    logged: bool
    """Whether commits stand in the owner's log that are not in the file yet."""
    changed_ns: int
    size: int


class SqliteConnections:
    """Those of all threads to one file."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.writable = os.access(path, os.W_OK) and os.access(path.parent, os.W_OK)
        """Whether the disk takes changes, as far as that can be told without making one."""
        self._here = threading.local()
        self._all: list[sqlite3.Connection] = []

    def own(self) -> sqlite3.Connection:
        """This thread's own; SQLite lets any number of them read beside one that writes."""
        version = None if self.writable else self._version()
        if not hasattr(self._here, "connection"):
            self._open(version)
        elif self._here.version != version:
            self._here.connection.close()
            self._all.remove(self._here.connection)
            self._open(version)
        return self._here.connection

    def check_writable(self) -> None:
        """Raises StorageError where the file may only be read."""
        if not self.writable:
            raise StorageError(
                f"{self.path.parent} may only be read here, so nothing was changed; "
                "change its permissions, or copy the index to a folder you may write to."
            )

    def close(self) -> None:
        """Close every thread's."""
        for connection in self._all:
            connection.close()
        self._all.clear()

    def _open(self, version: _Version | None) -> None:
        how = "mode=rw" if version is None else "mode=ro" if version.logged else "immutable=1"
        address = f"{self.path.absolute().as_uri()}?{how}"
        connection = sqlite3.connect(address, uri=True, timeout=_WAIT_S, isolation_level=None, check_same_thread=False)
        connection.execute("PRAGMA synchronous = FULL")
        self._here.connection, self._here.version = connection, version
        self._all.append(connection)

    def _version(self) -> _Version:
        log, status = self.path.with_name(f"{self.path.name}-wal"), self.path.stat()
        return _Version(log.exists() and log.stat().st_size > 0, status.st_mtime_ns, status.st_size)


@contextmanager
def translate_errors(path: Path) -> Iterator[None]:
    """What may go wrong with the file, as one sentence."""
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
