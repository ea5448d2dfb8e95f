"""The page, put together from its tabs and mounted on the server."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import gradio as gr
from fastapi import FastAPI
from gradio_client import utils as payloads
from starlette.responses import RedirectResponse, Response

from latentbridge.serving.guard.rates import Rates
from latentbridge.serving.ui import chat_tab as chat
from latentbridge.serving.ui import edit_tab as edit
from latentbridge.serving.ui import generate_tab as draw
from latentbridge.serving.ui import loopback_tab as loopback
from latentbridge.serving.ui import search_tab as search
from latentbridge.serving.ui.api_bridge import ApiBridge
from latentbridge.serving.ui.theme import CSS, HEAD, ICON, ICON_PATH, theme

PATH = "/ui"
_KEPT_S = 3600
"""How long files of visitors stay on the disk."""
_ABOUT = """The shipped model is for small scenes of coloured shapes and simple drawings. It works at 64 x 64 px, and so an
edited picture comes back at that size."""
_TABS: tuple[tuple[str, Callable[[ApiBridge], None]], ...] = (
    ("Chat", chat.tab),
    ("Draw", draw.tab),
    ("EditJob", edit.tab),
    ("Search", search.tab),
    ("Loopback", loopback.tab),
)


class _Page(gr.Blocks):
    """Gradio's blocks, which fetch nothing: a file in an event may only be one that was uploaded."""

    async def preprocess_data(self, block_fn: Any, inputs: list[Any], *rest: Any, **named: Any) -> Any:
        """As Gradio does it, but without addresses, which it would ask for the visitor."""
        payloads.traverse(inputs, _refuse_addresses, payloads.is_file_obj_with_meta)
        return await super().preprocess_data(block_fn, inputs, *rest, **named)


def _refuse_addresses(file: Any) -> Any:
    if payloads.is_http_url_like(file["path"]):
        raise gr.Error("Pictures come as files here; save this one and drop it on the page.")
    return file


async def _uploaded() -> Response:
    """No progress of uploads, which are small: Gradio's own route answers 404, an error in the browser's console, where an
    upload was quicker than the question about it."""
    return Response('data: {"msg": "done"}\n\n', media_type="text/event-stream")


def add_page(app: FastAPI, rates: Rates) -> None:
    """Give an app of `create_app` the page, at /ui and from /, behind the same keys and limits as its routes."""
    api = ApiBridge(app, rates)
    with _Page(title="LatentBridge", analytics_enabled=False, delete_cache=(_KEPT_S, _KEPT_S)) as page:
        gr.Markdown(f"# LatentBridge\n\n{_ABOUT}" if api.service.input_check.model == "tiny" else "# LatentBridge")
        for name, tab in _TABS:
            with gr.Tab(name):
                tab(api)
    for event in page.fns.values():
        event.api_visibility = "private"
    page.queue(api_open=False, max_size=api.service.settings.max_requests, default_concurrency_limit=None)
    app.add_api_route(f"{PATH}/gradio_api/upload_progress", _uploaded, include_in_schema=False)
    gr.mount_gradio_app(
        app,
        page,
        PATH,
        theme=theme(),
        css=CSS,
        head=HEAD,
        footer_links=[],
        run_history=False,
        ssr_mode=False,
        mcp_server=False,
        enable_monitoring=False,
        max_file_size=32 << 20,
    )
    app.add_api_route(ICON_PATH, lambda: Response(ICON, media_type="image/svg+xml"), include_in_schema=False)
    for path in ("/", PATH):
        app.add_api_route(path, lambda: RedirectResponse(f"{PATH}/"), include_in_schema=False)
