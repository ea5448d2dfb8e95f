"""The verbs that serve the model: over HTTP, and to an assistant on this machine."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer

from latentbridge.cli.arguments import ModelName, check_at_least, check_folder
from latentbridge.cli.loading import open_omnibridge
from latentbridge.errors import UserError
from latentbridge.light_imports import import_model
from latentbridge.processes import cores
from latentbridge.serving.settings import Settings

_DEFAULTS = Settings()
_MOST = 4
"""Workers started unasked: each has weights and memory of its own."""
Indexes = Annotated[
    str | None,
    typer.Option("--indexes", help="The folder, or postgres://host/database, whose indexes are searched and filled."),
]


def serve(
    host: Annotated[str, typer.Option("--host", help="The address to listen at.")] = "127.0.0.1",
    port: Annotated[int, typer.Option("--port", help="The port; 0 takes a free one.")] = 8000,
    model: ModelName = "tiny",
    name: Annotated[
        str | None, typer.Option("--name", help="What clients call the model; the end of --model unless given.")
    ] = None,
    indexes: Indexes = None,
    keys: Annotated[
        Path | None,
        typer.Option("--keys", help='A file of "name:key" lines; keys may also stand in LATENTBRIDGE_KEYS.'),
    ] = None,
    limit: Annotated[
        list[str] | None,
        typer.Option("--limit", metavar="KIND=REQUESTS[,COST]", help="What each key may ask in a minute; repeatable."),
    ] = None,
    fetch: Annotated[
        list[str] | None, typer.Option("--fetch", metavar="HOST", help="Fetch pictures from this host; repeatable.")
    ] = None,
    ui: Annotated[bool, typer.Option("--ui", help="Show a page for people at /ui.")] = False,
    max_requests: Annotated[
        int, typer.Option("--max-requests", help="Requests taken in at a time; the next ones are told to come back.")
    ] = _DEFAULTS.max_requests,
    timeout_s: Annotated[
        float, typer.Option("--timeout", help="Seconds after which an answer is given up.")
    ] = _DEFAULTS.request_timeout_s,
    workers: Annotated[
        int | None,
        typer.Option(
            "--workers", help=f"Processes that compute; 1 stays in this one. A core each unless given, up to {_MOST}."
        ),
    ] = None,
) -> None:
    """Serve the model over HTTP, for OpenAI's clients and others.

    \b
    Examples:
      latentbridge serve
      latentbridge serve --ui --indexes my_indexes
      latentbridge serve --model runs/trial --port 8080
      latentbridge serve --host 0.0.0.0 --keys keys --limit chat=60,6000
      curl http://127.0.0.1:8000/v1/models
    """
    _be_strict()
    check_at_least("--max-requests", max_requests, 1)
    workers = min(cores(), _MOST) if workers is None else workers
    check_at_least("--workers", workers, 1)
    if not 0 <= port <= 65_535:
        raise UserError(f"--port {port} is no port; give a number from 0 to 65535, such as 8000.")
    if not 0 < timeout_s <= 86_400:
        raise UserError(f"--timeout {timeout_s} is out of range; give seconds, such as 120.")
    from latentbridge.serving.guard.keys import check_bind, read_keys

    known = read_keys(keys)
    check_bind(host, known)
    import_model(model)
    with _needed("serve,ui" if ui else "serve"):
        from latentbridge.serving.api import create_app
        from latentbridge.serving.guard.fetch import Fetching
        from latentbridge.serving.guard.limits import KINDS, OTHER, Limits
        from latentbridge.serving.guard.rates import Rates, parse_allowances
        from latentbridge.serving.listening import check_free, listen

        if ui:
            from latentbridge.serving.ui.page import add_page
    _check_indexes(indexes)
    fetching = Fetching(hosts=tuple(fetch or ()))
    rates = Rates(parse_allowances(limit or [], (*KINDS.values(), OTHER)))
    check_free(host, port)
    settings = Settings(
        name or _last_name(model),
        model,
        workers,
        indexes,
        max_requests=max_requests,
        request_timeout_s=timeout_s,
    )
    limits = Limits()
    app = create_app(
        open_omnibridge(model, "be served"), settings, keys=known, rates=rates, limits=limits, fetching=fetching
    )
    if ui:
        add_page(app, rates)
    listen(app, host, port, limits)


def mcp(
    model: ModelName = "tiny",
    indexes: Indexes = None,
    out: Annotated[
        Path | None, typer.Option("--out", help="A folder to save pictures in, so that tools can go on with them.")
    ] = None,
) -> None:
    """Be tools for an assistant on this machine: MCP over stdin and stdout.

    An assistant starts it; docs/mcp.md has what to paste into its settings. `latentbridge serve` has the same tools at /mcp.

    \b
    Examples:
      latentbridge mcp
      latentbridge mcp --indexes my_indexes --out drawings
    """
    _be_strict()
    if out is not None:
        check_folder(out)
    _check_indexes(indexes)
    import_model(model)
    with _needed("serve"):
        from latentbridge.serving.api import create_app
        from latentbridge.serving.tools import serve_stdio
    import asyncio

    asyncio.run(
        serve_stdio(
            create_app(open_omnibridge(model, "be served"), Settings(_last_name(model), model, indexes=indexes)), out
        )
    )


def _check_indexes(shelf: str | None) -> None:
    """Refuses a place that can hold none, before a model is loaded for them."""
    if shelf is not None:
        from latentbridge.retrieval.index_factory import list_index_names

        list_index_names(shelf)


def _be_strict() -> None:
    """On Intel's processors a row of a product then has the same result whatever the rows beside it (serving/engine/batch_invariance.py).

    MKL looks for it at its first product, so it must be said before; workers inherit it. Elsewhere it means nothing.
    """
    os.environ.setdefault("MKL_CBWR", "AUTO,STRICT")


@contextmanager
def _needed(extras: str) -> Iterator[None]:
    """Names the extras to install where a package is missing."""
    try:
        yield
    except ImportError as missing:
        package = (missing.name or "a package").partition(".")[0]
        raise UserError(
            f'Serving needs {package}, which is missing; run `pip install "latentbridge[{extras}]"`.'
        ) from missing


def _last_name(model: str) -> str:
    """What a model is called by whoever asks for it."""
    return model.rstrip("/").rpartition("/")[2]
