"""The commands that serve a model: `serve` over HTTP, `mcp` to an assistant on this machine."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer

from latentbridge.cli.arguments import ModelName, check_at_least, check_folder
from latentbridge.cli.loading import AS_RELEASED, Loading, with_loading_flags
from latentbridge.errors import UserError
from latentbridge.light_imports import import_model
from latentbridge.processes import cores
from latentbridge.serving.settings import Settings

_DEFAULTS = Settings()
_MAX_DEFAULT_WORKERS = 4
"""Each worker has its own copy of the weights."""
_WORKERS_HELP = f"Worker processes; 1 computes in this one. By default one per core, up to {_MAX_DEFAULT_WORKERS}."
_INDEXES_HELP = "The folder, or postgres://host/database, whose indexes are searched and filled."
Host = Annotated[str, typer.Option("--host", help="The address to listen on.")]
Port = Annotated[int, typer.Option("--port", help="The port; 0 takes a free one.")]
Name = Annotated[
    str | None, typer.Option("--name", help="The model's name in the API; by default the last part of --model.")
]
Indexes = Annotated[str | None, typer.Option("--indexes", help=_INDEXES_HELP)]
KeyFile = Annotated[
    Path | None, typer.Option("--keys", help='A file of "name:key" lines; keys may also stand in LATENTBRIDGE_KEYS.')
]
RateLimits = Annotated[
    list[str] | None,
    typer.Option("--limit", metavar="KIND=REQUESTS[,COST]", help="Rate limit of each key, per minute; repeatable."),
]
FetchHosts = Annotated[
    list[str] | None, typer.Option("--fetch", metavar="HOST", help="Fetch pictures from this host; repeatable.")
]
MaxRequests = Annotated[int, typer.Option("--max-requests", help="Concurrent requests; further ones get a 429.")]
TimeoutS = Annotated[float, typer.Option("--timeout", help="Seconds after which a request is cancelled.")]
Strict = Annotated[
    bool, typer.Option("--strict", help="Reject sizes and numbers of tokens that the nearest possible one replaces.")
]
Workers = Annotated[int | None, typer.Option("--workers", help=_WORKERS_HELP)]


@with_loading_flags
def serve(
    host: Host = "127.0.0.1",
    port: Port = 8000,
    model: ModelName = "tiny",
    loading: Loading = AS_RELEASED,
    name: Name = None,
    indexes: Indexes = None,
    keys: KeyFile = None,
    limit: RateLimits = None,
    fetch: FetchHosts = None,
    ui: Annotated[bool, typer.Option("--ui", help="Serve a web page at /ui.")] = False,
    max_requests: MaxRequests = _DEFAULTS.max_requests,
    timeout_s: TimeoutS = _DEFAULTS.request_timeout_s,
    workers: Workers = None,
    strict: Strict = False,
) -> None:
    """Serve a model over HTTP, with OpenAI's API.

    \b
    Examples:
      latentbridge serve
      latentbridge serve --ui --indexes my_indexes
      latentbridge serve --model runs/trial --port 8080
      latentbridge serve --host 0.0.0.0 --keys keys --limit chat=60,6000
      curl http://127.0.0.1:8000/v1/models
    """
    _set_strict_mkl()
    check_at_least("--max-requests", max_requests, 1)
    workers = min(cores(), _MAX_DEFAULT_WORKERS) if workers is None else workers
    check_at_least("--workers", workers, 1)
    if not 0 <= port <= 65_535:
        raise UserError(f"--port {port} is no port; give a number from 0 to 65535, such as 8000.")
    if not 0 < timeout_s <= 86_400:
        raise UserError(f"--timeout {timeout_s} is out of range; give seconds, such as 120.")
    from latentbridge.serving.guard.keys import check_bind, read_keys

    api_keys = read_keys(keys)
    check_bind(host, api_keys)
    import_model(model)
    with _requiring("serve,ui" if ui else "serve"):
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
        name or _base_name(model),
        model,
        vars(loading),
        workers,
        indexes,
        max_requests=max_requests,
        request_timeout_s=timeout_s,
        strict=strict,
    )
    limits = Limits()
    app = create_app(loading.open(model), settings, keys=api_keys, rates=rates, limits=limits, fetching=fetching)
    if ui:
        add_page(app, rates)
    listen(app, host, port, limits)


@with_loading_flags
def mcp(
    model: ModelName = "tiny",
    loading: Loading = AS_RELEASED,
    indexes: Indexes = None,
    out: Annotated[
        Path | None, typer.Option("--out", help="A folder to save pictures in, so that other tools can use them.")
    ] = None,
) -> None:
    """Serve tools to an assistant on this machine: MCP over stdin and stdout.

    An assistant starts it; docs/mcp.md has the settings to paste. `latentbridge serve` has the same tools at /mcp.

    \b
    Examples:
      latentbridge mcp
      latentbridge mcp --indexes my_indexes --out drawings
    """
    _set_strict_mkl()
    if out is not None:
        check_folder(out)
    _check_indexes(indexes)
    import_model(model)
    with _requiring("serve"):
        from latentbridge.serving.api import create_app
        from latentbridge.serving.tools import serve_stdio
    import asyncio

    asyncio.run(
        serve_stdio(
            create_app(loading.open(model), Settings(_base_name(model), model, vars(loading), indexes=indexes)), out
        )
    )


def _check_indexes(location: str | None) -> None:
    """Raise UserError if the location cannot hold indexes, before a model is loaded."""
    if location is not None:
        from latentbridge.retrieval.index_factory import list_index_names

        list_index_names(location)


def _set_strict_mkl() -> None:
    """Set MKL's strict mode, which `serving/engine/batch_invariance.py` needs on Intel processors.

    MKL reads the variable at its first product, and worker processes inherit it; other libraries ignore it.
    """
    os.environ.setdefault("MKL_CBWR", "AUTO,STRICT")


@contextmanager
def _requiring(extras: str) -> Iterator[None]:
    """Turn an ImportError inside into a UserError that names the extras to install."""
    try:
        yield
    except ImportError as missing:
        package = (missing.name or "a package").partition(".")[0]
        raise UserError(
            f'Serving needs {package}, which is missing; run `pip install "latentbridge[{extras}]"`.'
        ) from missing


def _base_name(model: str) -> str:
    return model.rstrip("/").rpartition("/")[2]
