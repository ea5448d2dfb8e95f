"""Atomic writes under errors, full disks and read-only folders."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from latentbridge.errors import UserError
from latentbridge.files import atomic_folder, atomic_write, find_path, staging_path, write_json


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_atomic_write_creates_file_and_folder(tmp_path: Path):
    target = tmp_path / "new" / "deep" / "a.txt"
    with atomic_write(target) as temporary:
        assert temporary.suffix == ".txt" and temporary.parent == target.parent
        temporary.write_text("whole")
        assert not target.exists()
    assert target.read_text() == "whole"
    assert names(target.parent) == ["a.txt"]


def test_atomic_folder_replaces_an_existing_folder(tmp_path: Path):
    target = tmp_path / "deep" / "folder"
    for content in ("old", "new"):
        with atomic_folder(target) as staging:
            write_json(staging / "within" / f"{content}.json", content)
            assert names(target) == ["within"] if content == "new" else not target.exists()
    assert names(target / "within") == ["new.json"] and names(target.parent) == ["folder"]


@pytest.mark.parametrize(
    "error_type", [RuntimeError, KeyboardInterrupt, UserError, OSError(28, "No space left on device")]
)
def test_an_error_leaves_the_old_folder_only(tmp_path: Path, error_type: type[BaseException]):
    (tmp_path / "folder").mkdir()
    staging_path(tmp_path / "folder").mkdir()  # as a killed writer leaves it
    (staging_path(tmp_path / "folder") / "stray").touch()
    with (
        pytest.raises(UserError if isinstance(error_type, OSError) else error_type),
        atomic_folder(tmp_path / "folder") as new,
    ):
        assert names(new) == []
        (new / "half").touch()
        raise error_type
    assert names(tmp_path) == ["folder"] and names(tmp_path / "folder") == []


@pytest.mark.parametrize(("umask", "mode"), [(0o022, 0o644), (0o077, 0o600), (0o002, 0o664)])
def test_files_have_the_permissions_of_the_users_umask(tmp_path: Path, umask: int, mode: int):
    before = os.umask(umask)
    try:
        write_json(tmp_path / "a.json", {})
        with atomic_folder(tmp_path / "folder") as new:
            write_json(new / "b.json", {})
    finally:
        os.umask(before)
    assert [(tmp_path / name).stat().st_mode & 0o777 for name in ("a.json", "folder/b.json")] == [mode, mode]


def test_a_path_is_found_in_the_spelling_of_the_disk(tmp_path: Path):
    composed, apart = "caf\u00e9", "cafe\u0301"
    (tmp_path / apart).touch()
    assert find_path(tmp_path / composed) == tmp_path / apart == find_path(tmp_path / apart)
    assert find_path(tmp_path / "th\u00e9") == tmp_path / "th\u00e9"
    (tmp_path / composed).touch()
    assert find_path(tmp_path / composed) == tmp_path / composed


@pytest.mark.parametrize("error_type", [RuntimeError, KeyboardInterrupt, UserError])
def test_an_error_leaves_the_old_file_only(tmp_path: Path, error_type: type[BaseException]):
    target = tmp_path / "a.txt"
    target.write_text("old")
    with pytest.raises(error_type), atomic_write(target) as temporary:
        temporary.write_text("half")
        raise error_type
    assert target.read_text() == "old"
    assert names(tmp_path) == ["a.txt"]


def test_a_file_in_place_of_the_folder_is_an_error(tmp_path: Path):
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="Cannot write to .*file"), atomic_write(tmp_path / "file" / "a.txt"):
        pass


def test_a_folder_in_place_of_the_file_is_an_error(tmp_path: Path):
    (tmp_path / "a.txt").mkdir()
    with pytest.raises(UserError, match="Cannot write"):
        write_json(tmp_path / "a.txt", {})
    assert names(tmp_path) == ["a.txt"]


@pytest.mark.skipif(os.geteuid() == 0, reason="the superuser writes everywhere")
def test_a_read_only_folder_is_an_error(tmp_path: Path):
    tmp_path.chmod(0o500)
    with pytest.raises(UserError, match="Permission denied"):
        write_json(tmp_path / "a.json", {})
    tmp_path.chmod(0o700)
    assert names(tmp_path) == []


FULL_DISK = """
    import resource, signal, sys
    from pathlib import Path
    from latentbridge.errors import UserError
    from latentbridge.files import atomic_write

    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))
    try:
        with atomic_write(Path(sys.argv[1])) as temporary:
            {write}
    except UserError as error:
        print(error)
"""


@pytest.mark.parametrize(
    "write",
    [
        "temporary.write_bytes(bytes(100_000))",
        "import numpy; numpy.save(temporary, numpy.zeros(100_000))",
        "from safetensors.numpy import save_file; import numpy; save_file({'a': numpy.zeros(100_000)}, temporary)",
    ],
)
def test_a_full_disk_is_an_error_and_leaves_no_temporary_file(tmp_path: Path, write: str):
    # No disk is filled: the process may not write files above 4 kB, which fails in the same system call.
    target = tmp_path / "a.npy"
    target.write_bytes(b"old")
    code = textwrap.dedent(FULL_DISK).format(write=write)
    result = subprocess.run([sys.executable, "-c", code, str(target)], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert result.stdout.startswith("Cannot write") and "free some space" in result.stdout
    assert target.read_bytes() == b"old"
    assert names(tmp_path) == ["a.npy"]
