"""The body of a worker's process, which imports no more than inference needs."""

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


def work(handle: int) -> None:
    """Follow the orders that come in over a connection; end with the last one, or with the server.

    Signals are the server's: it ends its workers when all is done.
    """
    for each in (signal.SIGINT, signal.SIGTERM):
        signal.signal(each, signal.SIG_IGN)
    line = Connection(handle)
    settings, maker = line.recv()
    import_model(settings.source)
    from latentbridge.models.checkpoint import as_omnibridge, fingerprint, load
    from latentbridge.serving.engine.scheduler import Scheduler

    try:
        model = as_omnibridge(load(settings.source), "be served")
        if fingerprint(model) != maker:
            raise UserError(f"{settings.source} holds another model than the server does; start the server again.")
    except UserError as error:
        _log.error("%s", error)
        return
    turns = Scheduler(model, settings, lambda results: line.send([(job, _portable(result)) for job, result in results]))
    threading.Thread(target=_pass_on, args=(line, turns), name="server's line", daemon=True).start()
    line.send("ready")
    turns.run()


def _portable(result: Any) -> Any:
    """A result as it may travel; errors that are no user's are in the log here, and some cannot be put together again."""
    if isinstance(result, Exception) and not isinstance(result, UserError):
        return RuntimeError(f"{type(result).__name__} in a worker: {result}")
    return result


def _pass_on(line: Connection, turns: Scheduler) -> None:
    order: Command = None
    while True:
        try:
            order = line.recv()
        except (EOFError, OSError):
            order = None
        turns.send(order)
        if order is None:
            return
