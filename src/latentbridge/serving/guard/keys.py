"""API keys: named, compared in constant time, and neither stored, shown nor logged in plain text."""

from __future__ import annotations

import hashlib
import hmac
import os
import re
import stat
from collections.abc import Mapping
from dataclasses import dataclass, field
from ipaddress import ip_address
from pathlib import Path

from latentbridge.errors import UserError

ENVIRONMENT = "LATENTBRIDGE_KEYS"
"""The environment variable of keys, `name:key`, separated by commas."""
MIN_CHARACTERS = 20
"""Shortest key: 20 characters of `openssl rand -base64` are 120 bits, too many to guess over a network."""
_ENTRY = re.compile(r"(?P<name>[a-z0-9][a-z0-9_-]{0,31}):(?P<key>[\x21-\x7e]+)")


@dataclass(frozen=True)
class Keys:
    """The SHA-256 digests of a server's keys by the names of their owners; empty for a server without keys."""

    digests: Mapping[str, bytes] = field(default_factory=dict, repr=False)

    def __len__(self) -> int:
        return len(self.digests)

    def owner(self, key: str) -> str | None:
        """Return the owner of a key, if any; all keys are compared, so the time reveals nothing."""
        digest, owner = _digest(key), None
        for name, expected in self.digests.items():
            if hmac.compare_digest(digest, expected):
                owner = name
        return owner


def read_keys(file: Path | None, environment: Mapping[str, str] = os.environ) -> Keys:
    """Return the keys of `file`, one `name:key` per line with `#` for comments, and of the environment.

    Raises UserError, without quoting a key, if others may read the file, a key is short, or a name or key is repeated.
    """
    entries = [(line, f"Line {number} of {file}") for number, line in enumerate(_lines(file), 1)]
    entries += [(entry, f"An entry of {ENVIRONMENT}") for entry in environment.get(ENVIRONMENT, "").split(",")]
    digests: dict[str, bytes] = {}
    for entry, source in entries:
        if not entry.strip() or entry.lstrip().startswith("#"):
            continue
        match = _ENTRY.fullmatch(entry.strip())
        if match is None:
            raise UserError(f'{source} is no "name:key"; a name has small letters and digits, a key no blanks.')
        name, key = match["name"], match["key"]
        if len(key) < MIN_CHARACTERS:
            raise UserError(
                f"{source} has a key of fewer than {MIN_CHARACTERS} characters; make one: openssl rand -hex 32."
            )
        if name in digests or _digest(key) in digests.values():
            raise UserError(
                f"{source} has a name or a key that is there already ({name}); give every key its own name."
            )
        digests[name] = _digest(key)
    if file is not None and not digests:
        raise UserError(f'{file} holds no keys; write "name:key" on a line of it.')
    return Keys(digests)


def check_bind(host: str, keys: Keys) -> None:
    """Raise UserError if a server without keys would listen on an address that other machines reach."""
    if not keys and not is_loopback(host):
        raise UserError(
            f"{host or 'An empty host'} can be reached from other machines, and the server has no keys; "
            f"set {ENVIRONMENT}=name:key or give a file of keys, or listen on 127.0.0.1."
        )


def is_loopback(host: str) -> bool:
    """Return whether only this machine reaches `host`; of all names only localhost counts as loopback."""
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _lines(file: Path | None) -> list[str]:
    if file is None:
        return []
    try:
        if os.name == "posix" and stat.S_IMODE(file.stat().st_mode) & 0o077:
            raise UserError(f"Others on this machine may read {file}, which holds keys; run: chmod 600 {file}")
        return file.read_text().splitlines()
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is not text"
        raise UserError(f"The file of keys {file} cannot be read ({reason}); check the path.") from error


def _digest(key: str) -> bytes:
    return hashlib.sha256(key.encode(errors="surrogateescape")).digest()
