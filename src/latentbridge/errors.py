"""The one exception that stands for a user's mistake."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches


class UserError(ValueError):
    """A mistake the user can mend; its message is one sentence that names the fix. The CLI turns it into exit code 2."""


class StorageError(UserError):
    """A disk or folder that does not take what is written: no fault of what was under way, which can go on afterwards."""


class Unreachable(StorageError):
    """A store elsewhere that does not answer, for now."""


def unknown_name(kind: str, name: str, known: Iterable[str]) -> UserError:
    """The error for a name that is not among `known`, with the nearest one suggested."""
    names = sorted(known)
    close = get_close_matches(name, names, n=1)
    hint = f"did you mean {close[0]!r}?" if close else f"choose one of: {', '.join(names)}."
    return UserError(f"Unknown {kind} {name!r}; {hint}")
