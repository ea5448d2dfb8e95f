"""Reader threads that run beside a writer."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from threading import Event

NUM_READERS = 3


@contextmanager
def reading(read: Callable[[], None]) -> Iterator[None]:
    """Call `read` repeatedly in several threads while the block writes, and raise their errors at its end."""
    done = Event()

    def loop() -> None:
        while not done.is_set():
            read()

    with ThreadPoolExecutor(NUM_READERS) as readers:
        futures = [readers.submit(loop) for _ in range(NUM_READERS)]
        try:
            yield
        finally:
            done.set()
        for future in futures:
            future.result()
