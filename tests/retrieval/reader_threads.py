"""Readers beside a writer."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from threading import Event

READERS = 3


@contextmanager
def looking(look: Callable[[], None]) -> Iterator[None]:
    """Threads that look again and again while the block writes; what one of them raises is raised at its end."""
    done = Event()

    def look_on() -> None:
        while not done.is_set():
            look()

    with ThreadPoolExecutor(READERS) as readers:
        looks = [readers.submit(look_on) for _ in range(READERS)]
        try:
            yield
        finally:
            done.set()
        for each in looks:
            each.result()
