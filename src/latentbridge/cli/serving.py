"""The verb that starts the server."""

from __future__ import annotations

from typing import Annotated

import typer

from latentbridge.cli.arguments import ModelName, check_at_least
from latentbridge.errors import UserError
from latentbridge.serving.settings import Settings

_DEFAULTS = Settings()


def serve(
    host: Annotated[str, typer.Option("--host", help="The address to listen at.")] = "127.0.0.1",
    port: Annotated[int, typer.Option("--port", help="The port; 0 takes a free one.")] = 8000,
    model: ModelName = "tiny",
    name: Annotated[
        str | None, typer.Option("--name", help="What clients call the model; the end of --model unless given.")
    ] = None,
    max_requests: Annotated[
        int, typer.Option("--max-requests", help="Requests taken in at a time; the next ones are told to come back.")
    ] = _DEFAULTS.max_requests,
    timeout_s: Annotated[
        float, typer.Option("--timeout", help="Seconds after which an answer is given up.")
    ] = _DEFAULTS.request_timeout_s,
) -> None:
    """Serve the model over HTTP, for OpenAI's clients and others.

    \b
    Examples:
      latentbridge serve
      latentbridge serve --model runs/trial --port 8080
      curl http://127.0.0.1:8000/v1/models
    """
    check_at_least("--max-requests", max_requests, 1)
    if not 0 <= port <= 65_535:
        raise UserError(f"--port {port} is no port; give a number from 0 to 65535, such as 8000.")
    if not 0 < timeout_s <= 86_400:
        raise UserError(f"--timeout {timeout_s} is out of range; give seconds, such as 120.")
    try:
        import uvicorn

        from latentbridge.serving.api import create_app
    except ImportError as missing:
        raise UserError(
            f'Serving needs {missing.name}, which is missing; run `pip install "latentbridge[serve]"`.'
        ) from missing
    from latentbridge.models.checkpoint import load

    called = name or model.rstrip("/").rpartition("/")[2]
    settings = Settings(model_name=called, max_requests=max_requests, request_timeout_s=timeout_s)
    uvicorn.run(create_app(load(model), settings), host=host, port=port, log_level="info")
