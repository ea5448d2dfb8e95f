"""The warnings and progress bars of transformers and diffusers."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


@contextmanager
def quiet(*libraries: Any) -> Iterator[None]:
    """Silence the `logging` modules of libraries while weights are loaded; the caller raises errors instead."""
    states = [(library.get_verbosity(), library.is_progress_bar_enabled()) for library in libraries]
    for library in libraries:
        library.set_verbosity_error()
        library.disable_progress_bar()
    try:
        yield
    finally:
        for library, (level, bars) in zip(libraries, states, strict=True):
            library.set_verbosity(level)
            if bars:
                library.enable_progress_bar()
