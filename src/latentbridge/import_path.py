"""The folders that modules are imported from: all of `sys.path` but the current folder.

`python -c`, `python -m` and an empty entry of PYTHONPATH put the current folder in front, so that a file of the user's with
the name of a library's module, such as `queue.py`, would run in its place. Only modules that Python has loaded already are
imported here.
"""

from __future__ import annotations

import os
import site
import sys


def import_path() -> list[str]:
    """Return `sys.path` without the current folder, unless Python or this package is installed there."""
    try:
        current = os.path.realpath(os.getcwd())
    except OSError:  # it was deleted
        current = ""
    installed = [*site.getsitepackages(), os.path.dirname(os.__file__), os.path.dirname(os.path.dirname(__file__))]
    if current in map(os.path.realpath, installed):
        return [entry for entry in sys.path if entry]
    return [entry for entry in sys.path if entry and os.path.realpath(entry) != current]
