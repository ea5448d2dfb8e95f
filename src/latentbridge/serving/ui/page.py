"""The page, assembled from its tabs and mounted on the app."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import gradio as gr
from fastapi import FastAPI
from gradio_client import utils as payloads
from starlette.responses import RedirectResponse, Response

from latentbridge.serving.guard.rates import Rates
from latentbridge.serving.ui import chat_tab, edit_tab, generate_tab, loopback_tab, search_tab
from latentbridge.serving.ui.api_bridge import ApiBridge
from latentbridge.serving.ui.theme import CSS, HEAD, ICON, ICON_PATH, theme
from latentbridge.types import Skill

PATH = "/ui"
_CACHE_S = 3600
"""Lifetime of visitors' files on the disk."""
_ABOUT = """The shipped model is for small scenes of coloured shapes and simple drawings. It works at 64 x 64 px, and so an
edited picture comes back at that size."""
_TABS: tuple[tuple[str, Skill, Callable[[ApiBridge], None]], ...] = (
    ("Chat", "understand", chat_tab.tab),
    ("Draw", "generate", generate_tab.tab),
    ("Edit", "edit", edit_tab.tab),
    ("Search", "embed", search_tab.tab),
    ("Loopback", "generate", loopback_tab.tab),
)


class _Page(gr.Blocks):
    """Gradio's blocks without fetching: a file in an event must have been uploaded."""

    async def preprocess_data(self, block_fn: Any, inputs: list[Any], *rest: Any, **named: Any) -> Any:
        """See `gr.Blocks.preprocess_data`; URLs, which Gradio would download, are rejected."""
        payloads.traverse(inputs, _reject_url, payloads.is_file_obj_with_meta)
        return await super().preprocess_data(block_fn, inputs, *rest, **named)


def _reject_url(file: Any) -> Any:
    if payloads.is_http_url_like(file["path"]):
        raise gr.Error("Pictures come as files here; save this one and drop it on the page.")
    return file


async def _upload_progress() -> Response:
    """Report an upload as done: Gradio's own route answers 404, an error in the browser's console, if the upload has
    finished before the browser asks."""
    return Response('data: {"msg": "done"}\n\n', media_type="text/event-stream")


def add_page(app: FastAPI, rates: Rates) -> None:
    """Add the page to an app of `create_app`, at /ui and redirected from /, behind the same keys and limits."""
    api = ApiBridge(app, rates)
    with _Page(title="LatentBridge", analytics_enabled=False, delete_cache=(_CACHE_S, _CACHE_S)) as page:
        gr.Markdown(f"# LatentBridge\n\n{_ABOUT}" if api.service.input_check.model == "tiny" else "# LatentBridge")
        for name, skill, tab in _TABS:
            if skill in api.service.engine.model.skills:
                with gr.Tab(name):
                    tab(api)
    for event in page.fns.values():
        event.api_visibility = "private"
    page.queue(api_open=False, max_size=api.service.settings.max_requests, default_concurrency_limit=None)
    app.add_api_route(f"{PATH}/gradio_api/upload_progress", _upload_progress, include_in_schema=False)
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
