"""Who may ask: named keys, compared in constant time; of a key itself nothing is kept, shown or logged."""

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
"""The environment variable that holds keys, `name:key`, with commas between them."""
MIN_CHARACTERS = 20
"""What a key has at least: 20 letters of `openssl rand -base64` are 120 bits, too many to guess over a network."""
_NAMED = re.compile(r"(?P<name>[a-z0-9][a-z0-9_-]{0,31}):(?P<key>[\x21-\x7e]+)")


@dataclass(frozen=True)
class Keys:
    """The keys of a server, as digests by the names of their owners; none stand for a server that asks for none."""

    digests: Mapping[str, bytes] = field(default_factory=dict, repr=False)

    def __len__(self) -> int:
        return len(self.digests)

    def owner(self, key: str) -> str | None:
        """Whose key it is. Every key is looked at whatever the others said, so the time tells nothing."""
        asked, found = _digest(key), None
        for name, digest in self.digests.items():
            if hmac.compare_digest(asked, digest):
                found = name
        return found


def read_keys(file: Path | None, environment: Mapping[str, str] = os.environ) -> Keys:
    """The keys in `file`, `name:key` on each line, and in the environment; a `#` begins a line that is a remark.

    A file that others may read is refused, and so are short keys and two of one name. No message tells a key.
    """
    entries = [(line, f"Line {number} of {file}") for number, line in enumerate(_lines(file), 1)]
    entries += [(entry, f"An entry of {ENVIRONMENT}") for entry in environment.get(ENVIRONMENT, "").split(",")]
    digests: dict[str, bytes] = {}
    for entry, place in entries:
        if not entry.strip() or entry.lstrip().startswith("#"):
            continue
        named = _NAMED.fullmatch(entry.strip())
        if named is None:
            raise UserError(f'{place} is no "name:key"; a name has small letters and digits, a key no blanks.')
        name, key = named["name"], named["key"]
        if len(key) < MIN_CHARACTERS:
            raise UserError(
                f"{place} has a key of fewer than {MIN_CHARACTERS} characters; make one: openssl rand -hex 32."
            )
        if name in digests or _digest(key) in digests.values():
            raise UserError(f"{place} has a name or a key that is there already ({name}); give every key its own name.")
        digests[name] = _digest(key)
    if file is not None and not digests:
        raise UserError(f'{file} holds no keys; write "name:key" on a line of it.')
    return Keys(digests)


def check_bind(host: str, keys: Keys) -> None:
    """Refuses to listen where other machines can reach a server that asks for no key."""
    if not keys and not is_loopback(host):
        raise UserError(
            f"{host or 'An empty host'} can be reached from other machines and there is no key to ask for; "
            f"set {ENVIRONMENT}=name:key or give a file of keys, or listen on 127.0.0.1."
        )


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches what listens on `host`; a name other than localhost is taken for public."""
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
