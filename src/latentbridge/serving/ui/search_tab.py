"""The tab for search by words, by an uploaded picture, by both, or by a picture among the hits."""

from __future__ import annotations

import asyncio
from typing import Any

import gradio as gr

from latentbridge.errors import UserError
from latentbridge.query import item_thumbnails
from latentbridge.serving.extension_schemas import SearchHit, SearchPart, SearchRequest
from latentbridge.serving.routes.indexes import search
from latentbridge.serving.ui.api_bridge import ApiBridge
from latentbridge.serving.ui.inputs import gallery_output, picture_input, words_input

_PATH = "/v1/search"
_NO_INDEX = "There is no index to search; start the server with --indexes FOLDER, in which there is one."
_AVOID_WEIGHT = -0.5
"""The weight of what hits should not be like, as in `latentbridge search --not`."""


def tab(api: ApiBridge) -> None:
    """Build the tab."""
    settings = api.service.settings
    shown_hits = gr.State([], time_to_live=3600)
    chosen = gr.State(None, time_to_live=3600)
    with gr.Row():
        with gr.Column(scale=2, min_width=280):
            words = words_input("Words", "a green star", settings)
            picture = picture_input("A picture like")
            with gr.Accordion("More", open=False):
                share = gr.Slider(0.1, 0.9, 0.5, step=0.1, label="Weight of the words, beside a picture")
                avoid = words_input("Not", "red", settings)
                where = words_input("Only where", "kind=png, width>=640", settings)
                guess = gr.Checkbox(False, label="Guess if no word is known")
                k = gr.Slider(1, settings.max_hits, min(12, settings.max_hits), step=1, label="Results")
            index = gr.Dropdown([], label="Index")
            go = gr.Button("Search", variant="primary")
        with gr.Column(scale=3, min_width=280):
            gallery = gallery_output("Hits")
            more = gr.Button("More like the chosen one", interactive=False)

    async def run_query(
        parts: list[SearchPart], index: str | None, where: str, k: int, visit: gr.Request, guess: bool = False
    ) -> tuple[Any, ...]:
        if index is None:
            raise UserError(_NO_INDEX)
        conditions = [condition.strip() for condition in where.split(",") if condition.strip()]
        body = SearchRequest(index=index, query=parts, k=k, where=conditions, allow_unknown=guess)
        response = await search(body, api.request(visit, _PATH), api.service)
        hits = response.data
        ids, metadata = [hit.id for hit in hits], [hit.metadata for hit in hits]
        thumbnails = await asyncio.to_thread(item_thumbnails, api.service.index_registry.index(index), ids, metadata)
        items = [(thumbnail, f"{hit.score:.3f}  {hit.id}") for thumbnail, hit in zip(thumbnails, hits, strict=True)]
        for warning in response.warnings:
            gr.Warning(warning, title="Unknown words")
        if not hits and not response.warnings:
            gr.Info("Nothing in the index matches.")
        return gr.Gallery(items, selected_index=None), hits, None, gr.Button(interactive=False)

    async def answer(
        words: str,
        file: str | None,
        share: float,
        avoid: str,
        where: str,
        guess: bool,
        k: int,
        index: str | None,
        visit: gr.Request,
    ) -> tuple[Any, ...]:
        async with api.show_errors():
            if not words.strip() and file is None:
                raise UserError("Enter words to search for, or drop a picture to find similar ones.")
            both = bool(words.strip()) and file is not None
            parts = [SearchPart(text=words, weight=share if both else 1)] if words.strip() else []
            if file is not None:
                parts.append(SearchPart(image=await api.data_url(file), weight=1 - share if both else 1))
            if avoid.strip():
                parts.append(SearchPart(text=avoid, weight=_AVOID_WEIGHT))
            return await run_query(parts, index, where, k, visit, guess)

    async def answer_more(
        item: str | None, where: str, k: int, index: str | None, visit: gr.Request
    ) -> tuple[Any, ...]:
        async with api.show_errors():
            return await run_query([SearchPart(item=item)], index, where, k, visit)

    def list_indexes() -> gr.Dropdown:
        names = api.service.index_registry.names()
        return gr.Dropdown(names, value=names[0] if names else None, info=None if names else _NO_INDEX)

    def choose(hits: list[SearchHit], choice: gr.SelectData) -> tuple[Any, ...]:
        return hits[choice.index].id, gr.Button(interactive=True)

    outputs = [gallery, shown_hits, chosen, more]
    inputs = [words, picture, share, avoid, where, guess, k, index]
    gr.on([go.click, words.submit], answer, inputs, outputs)
    more.click(answer_more, [chosen, where, k, index], outputs)
    gallery.select(choose, shown_hits, [chosen, more], show_progress="hidden")
    gr.on(fn=list_indexes, outputs=index)
