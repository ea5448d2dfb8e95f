"""Workers: a scheduler in a thread of this process, or in a child process with its own copy of the weights."""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod
from collections.abc import Callable
from contextlib import suppress
from multiprocessing import Pipe

from latentbridge.models.unified import UnifiedModel
from latentbridge.processes import start_process
from latentbridge.serving.engine.scheduler import Command, Results, Scheduler
from latentbridge.serving.engine.worker_process import run_worker
from latentbridge.serving.settings import Settings


class Worker(ABC):
    """A scheduler that runs elsewhere and reports results through a callback; `WorkerPool` and `Engine` keep its state."""

    def __init__(self) -> None:
        self.is_ready = False
        self.replies: set[int] = set()
        """Numbers of its replies."""
        self.batch: set[int] = set()
        """Numbers of the jobs in its batch."""

    @abstractmethod
    def send(self, command: Command) -> None:
        """Send a command; None is the last one."""

    @abstractmethod
    def join(self) -> None:
        """Block until the worker has ended, after the last command."""


class ThreadWorker(Worker):
    """A worker in a thread of this process, on the model given."""

    def __init__(self, model: UnifiedModel, settings: Settings, on_results: Callable[[Results], None]):
        super().__init__()
        self._scheduler = Scheduler(model, settings, on_results)
        self._thread = threading.Thread(target=self._scheduler.run, name="worker", daemon=True)
        self._thread.start()

    def send(self, command: Command) -> None:
        self._scheduler.send(command)

    def join(self) -> None:
        self._thread.join()


class ProcessWorker(Worker):
    """A worker in a child process, so that several compute in parallel and a crash stays inside one of them.

    Threads of one process would share the weights, but contend for the interpreter lock with the event loop
    (docs/decisions/0011-worker-processes.md). The process loads `Settings.source`; it exits before it is ready if the
    weights do not have the expected `fingerprint`, because the folder has been written to. All callbacks are called in
    another thread: `on_ready` once, `on_exit` after the process has ended for any reason.
    """

    def __init__(
        self,
        settings: Settings,
        fingerprint: str,
        on_results: Callable[[Results], None],
        on_ready: Callable[[], None],
        on_exit: Callable[[], None],
    ):
        super().__init__()
        self._connection, child_end = Pipe()
        self._on_results, self._on_ready, self._on_exit = on_results, on_ready, on_exit
        self._process = start_process(run_worker, child_end.fileno(), threads=1, keep=[child_end.fileno()])
        child_end.close()  # the process has the only copy now, so its exit closes the connection
        threading.Thread(target=self._listen, args=(settings, fingerprint), name="results", daemon=True).start()

    def send(self, command: Command) -> None:
        with suppress(OSError):  # a command to a dead process is ignored
            self._connection.send(command)

    def join(self) -> None:
        self._process.wait()

    def _listen(self, settings: Settings, fingerprint: str) -> None:
        try:
            self._connection.send((settings, fingerprint))
            self._connection.recv()
            self._on_ready()
            while True:
                self._on_results(self._connection.recv())
        except (EOFError, OSError):
            pass
        finally:
            self._process.kill()
            self._process.wait()
            self._on_exit()
