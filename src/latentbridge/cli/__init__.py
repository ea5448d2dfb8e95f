"""The command line, `latentbridge VERB`. Heavy imports happen inside the verbs, so that help is instant."""

from __future__ import annotations

import errno
import os
import warnings
from collections.abc import Sequence
from typing import Any

import typer
from typer.core import TyperGroup

from latentbridge import SPIN_COUNT
from latentbridge.cli import adapters, calibrate, data, estimates, index, measures, runs, search, serving, skills
from latentbridge.errors import UserError
from latentbridge.processes import cores, idle_cores

_ONE_PROCESS = (
    "understand", "generate", "edit", "embed", "search", "index", "eval", "loopback", "consistency", "reasoning", "quickstart",
)  # fmt: skip
"""Verbs that run a model in this process, on as many threads as cores are idle; training and serving count for themselves."""
_DISK_TROUBLE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES, errno.EPERM)


class _Verbs(TyperGroup):
    """Verbs whose users' mistakes end in one line on stderr: exit code 2, and 130 after Ctrl-C."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except UserError as error:
            _end(f"error: {' '.join(str(error).split())}", 2)
        except OSError as error:
            if error.errno not in _DISK_TROUBLE:
                raise
            place = f"write {error.filename}" if error.filename else "write"
            _end(f"error: Cannot {place} ({error.strerror}); free some space or choose another folder.", 2)
        except KeyboardInterrupt:
            _end("interrupted", 130)


def _end(line: str, code: int) -> None:
    typer.echo(line, err=True)
    raise typer.Exit(code) from None


app = typer.Typer(
    cls=_Verbs, no_args_is_help=True, rich_markup_mode=None, add_completion=False, pretty_exceptions_enable=False
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
    # Before any library is imported: no network, and no chatter on the terminal.
    os.environ["HF_HUB_OFFLINE"] = "1"
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("DIFFUSERS_VERBOSITY", "error")
    warnings.simplefilter("ignore")
    if context.invoked_subcommand in (*_ONE_PROCESS, "train"):
        _set_threads(context.invoked_subcommand)


def _set_threads(verb: str) -> None:
    """Set what OpenMP reads when torch loads: threads, and how long they spin before they sleep; the user's settings stay.

    Where all cores are idle, threads spin for 300 microseconds rather than 30 (docs/LOG.md, 2026-12-01).
    """
    idle = idle_cores()
    if verb in _ONE_PROCESS:
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
app.command("eval")(runs.evaluate)
app.command()(measures.loopback)
app.command()(measures.consistency)
app.command()(measures.reasoning)
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
    """Run one verb and exit; `arguments` are the process's own unless given."""
    app(args=arguments, prog_name="latentbridge")
