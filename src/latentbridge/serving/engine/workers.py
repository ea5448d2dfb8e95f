"""Who takes turns: a thread of this process, or a process beside it with weights of its own."""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import suppress
from multiprocessing import Pipe
from typing import Protocol

from latentbridge.models.omnibridge.modeling_omnibridge import OmniBridge
from latentbridge.processes import start_process
from latentbridge.serving.engine.scheduler import Command, Results, Scheduler
from latentbridge.serving.engine.worker_process import work
from latentbridge.serving.settings import Settings


class Worker(Protocol):
    """Follows orders (`turns.py`), and tells results to the one who made it."""

    def send(self, order: Command) -> None:
        """Give an order; the last one is None."""
        ...

    def join(self) -> None:
        """Wait for the end, after the last order."""
        ...


class ThreadWorker:
    """Works in a thread of this process, with the model that is here."""

    def __init__(self, model: OmniBridge, settings: Settings, tell: Callable[[Results], None]):
        turns = Scheduler(model, settings, tell)
        self._thread = threading.Thread(target=turns.run, name="worker", daemon=True)
        self._thread.start()
        self.send, self.join = turns.send, self._thread.join


class ProcessWorker:
    """Works in a process of its own, so that several compute at once and one that dies takes nobody along.

    Threads of one process would share the weights, but take turns at the interpreter's lock, beside the event loop
    (docs/decisions/0011-worker-processes.md). The process loads `Settings.source` by itself. `told` hears its results, `is_ready` once that
    it can work, and `is_lost` that it has ended, whatever ended it; all three are called in another thread. A process
    whose weights are not those of `maker`, because the folder was written to, ends before it is ready.
    """

    def __init__(
        self,
        settings: Settings,
        maker: str,
        told: Callable[[Results], None],
        is_ready: Callable[[], None],
        is_lost: Callable[[], None],
    ):
        self._line, theirs = Pipe()
        self._told, self._is_ready, self._is_lost = told, is_ready, is_lost
        self._process = start_process(work, theirs.fileno(), threads=1, keep=[theirs.fileno()])
        theirs.close()  # the process has the only one now, so its end is the end of the line
        threading.Thread(target=self._listen, args=(settings, maker), name="worker's line", daemon=True).start()

    @property
    def pid(self) -> int:
        """The number of the process."""
        return self._process.pid

    def send(self, order: Command) -> None:
        """See `Worker.send`; what is sent to a process that died is lost with it."""
        with suppress(OSError):
            self._line.send(order)

    def join(self) -> None:
        """See `Worker.join`."""
        self._process.wait()

    def _listen(self, settings: Settings, maker: str) -> None:
        try:
            self._line.send((settings, maker))
            self._line.recv()
            self._is_ready()
            while True:
                self._told(self._line.recv())
        except (EOFError, OSError):
            pass
        finally:
            self._process.kill()
            self._process.wait()
            self._is_lost()
