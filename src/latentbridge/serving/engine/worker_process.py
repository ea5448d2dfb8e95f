"""The main function of a worker process, which imports no more than inference needs."""

from __future__ import annotations

import logging
import signal
import threading
from multiprocessing.connection import Connection
from typing import TYPE_CHECKING, Any

from latentbridge.errors import UserError
from latentbridge.light_imports import import_model

if TYPE_CHECKING:
    from latentbridge.serving.engine.scheduler import Command, Scheduler

_log = logging.getLogger(__name__)


def run_worker(connection_fd: int) -> None:
    """Run a scheduler on the commands of a connection until the last one, or until the server closes its end.

    Signals are ignored: the server shuts its workers down after the last job.
    """
    for signum in (signal.SIGINT, signal.SIGTERM):
        signal.signal(signum, signal.SIG_IGN)
    connection = Connection(connection_fd)
    settings, expected_fingerprint = connection.recv()
    import_model(settings.source)
    from latentbridge.models.checkpoint import fingerprint, load
    from latentbridge.serving.engine.scheduler import Scheduler

    try:
        model = load(settings.source, **settings.loading)
        if fingerprint(model) != expected_fingerprint:
            raise UserError(f"{settings.source} holds another model than the server does; start the server again.")
    except UserError as error:
        _log.error("%s", error)
        return
    scheduler = Scheduler(
        model, settings, lambda results: connection.send([(job, _picklable(result)) for job, result in results])
    )
    threading.Thread(target=_forward_commands, args=(connection, scheduler), name="commands", daemon=True).start()
    connection.send("ready")
    scheduler.run()


def _picklable(result: Any) -> Any:
    """Return a result with exceptions other than UserError, which may not unpickle, replaced by a RuntimeError."""
    if isinstance(result, Exception) and not isinstance(result, UserError):
        return RuntimeError(f"{type(result).__name__} in a worker: {result}")
    return result


def _forward_commands(connection: Connection, scheduler: Scheduler) -> None:
    command: Command = None
    while True:
        try:
            command = connection.recv()
        except (EOFError, OSError):
            command = None
        scheduler.send(command)
        if command is None:
            return
