"""The command line, `latentbridge COMMAND`. Heavy imports happen inside the commands, so that help is instant."""

from __future__ import annotations

import errno
import io
import logging
import os
import sys
import warnings
from collections.abc import Sequence
from typing import Any

import typer
from typer.core import TyperGroup

from latentbridge import SPIN_COUNT
from latentbridge.cli import (
    adapters,
    bench,
    calibrate,
    data,
    describe,
    doctor,
    estimates,
    export,
    index,
    measures,
    plan,
    runs,
    search,
    serving,
    skills,
)
from latentbridge.errors import UserError
from latentbridge.processes import cores, idle_cores

_SINGLE_PROCESS = (
    "understand", "generate", "edit", "embed", "search", "index", "eval", "loopback", "consistency", "reasoning", "bench", "quickstart",
    "doctor", "export",
)  # fmt: skip
"""Commands that run a model in this process, on as many threads as cores are idle; training and serving set their own."""
_DISK_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES, errno.EPERM)


class _CommandGroup(TyperGroup):
    """A command group that reports user errors in one line on stderr: exit code 2, and 130 after Ctrl-C."""

    def invoke(self, ctx: Any) -> Any:
        try:
            try:
                return super().invoke(ctx)
            finally:
                _flush_output()
        except UserError as error:
            _exit(f"error: {' '.join(str(error).split())}", 2)
        except OSError as error:
            if error.errno not in _DISK_ERRORS:
                raise
            target = f" {error.filename}" if error.filename else ""
            _exit(f"error: Cannot write{target} ({error.strerror}); free some space or choose another folder.", 2)
        except KeyboardInterrupt:
            _exit("interrupted", 130)


def _flush_output() -> None:
    """Write what is left of the output, so that a full disk behind `>` is an error of the command."""
    try:
        sys.stdout.flush()
    except OSError:
        with open(os.devnull, "w") as nowhere:  # Python tries again at its end
            os.dup2(nowhere.fileno(), sys.stdout.fileno())
        raise


def _exit(message: str, code: int) -> None:
    typer.echo(message, err=True)
    raise typer.Exit(code) from None


app = typer.Typer(
    cls=_CommandGroup, no_args_is_help=True, rich_markup_mode=None, add_completion=False, pretty_exceptions_enable=False
)


@app.callback()
def prepare(context: typer.Context) -> None:
    """One model that understands, draws, edits and finds pictures.

    The shipped model "tiny" is for small scenes of coloured shapes and simple drawings, at 64 x 64 px.

    \b
    Examples:
      latentbridge quickstart --out quickstart
      latentbridge understand drawing.png "What is this?"
      latentbridge generate "a red circle left of a blue star" --out out.png
    """
    for stream in (sys.stdout, sys.stderr):  # ids and captions may have letters that the terminal's encoding lacks
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    # Before any library is imported: no network access, and no log messages of the libraries.
    os.environ["HF_HUB_OFFLINE"] = "1"
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("DIFFUSERS_VERBOSITY", "error")
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
    warnings.simplefilter("ignore")
    if context.invoked_subcommand in (*_SINGLE_PROCESS, "train"):
        _set_threads(context.invoked_subcommand)


def _set_threads(command: str) -> None:
    """Set OpenMP's number of threads and spin count before torch loads, unless the user has set them.

    If all cores are idle, threads spin for 300 microseconds instead of 30 before they sleep (docs/LOG.md, 2026-12-01).
    """
    idle = idle_cores()
    if command in _SINGLE_PROCESS:
        os.environ.setdefault("OMP_NUM_THREADS", str(idle))
    if idle == cores() and os.environ.get("GOMP_SPINCOUNT") == SPIN_COUNT:
        os.environ["GOMP_SPINCOUNT"] = f"{SPIN_COUNT}0"


app.command()(skills.understand)
app.command()(skills.generate)
app.command()(skills.edit)
app.command()(skills.embed)
app.add_typer(index.app, name="index")
app.command()(search.search)
app.command()(serving.serve)
app.command()(serving.mcp)
app.command()(runs.train)
app.command()(estimates.estimate)
app.command()(plan.plan)
app.command()(describe.describe)
app.command()(doctor.doctor)
app.command()(export.export)
app.command("eval")(runs.evaluate)
app.command()(measures.loopback)
app.command()(measures.consistency)
app.command()(measures.reasoning)
app.command()(bench.bench)
app.command()(measures.compare)
app.command()(runs.study)
app.command()(runs.report)
app.add_typer(adapters.app, name="adapters")
app.command()(calibrate.calibrate)
app.add_typer(data.app, name="data")
app.command()(runs.quickstart)
app.command()(runs.reproduce)
app.command()(runs.version)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run one command and exit; `arguments` default to the process's own."""
    app(args=arguments, prog_name="latentbridge")
