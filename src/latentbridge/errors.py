"""Errors with a message for the user."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches


class UserError(ValueError):
    """A mistake the user can fix; its message is one sentence with the fix. The CLI exits with code 2."""


class StorageError(UserError):
    """A disk or folder that cannot be written; the operation may be retried."""


class Unreachable(StorageError):
    """A remote store that does not respond."""


def unknown_name(kind: str, name: str, known: Iterable[str]) -> UserError:
    """Return the error for a name that is not among `known`, with the closest match suggested."""
    names = sorted(known)
    close = get_close_matches(name, names, n=1)
    hint = f"did you mean {close[0]!r}?" if close else f"choose one of: {', '.join(names)}."
    return UserError(f"Unknown {kind} {name!r}; {hint}")
