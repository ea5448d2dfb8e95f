"""Find pictures by words, by a picture dropped in, by both, or by a picture that was found."""

from __future__ import annotations

import asyncio
from typing import Any

import gradio as gr

from latentbridge.errors import UserError
from latentbridge.query import item_thumbnails
from latentbridge.serving.extension_schemas import FoundItem, SearchPart, SearchRequest
from latentbridge.serving.routes.indexes import search
from latentbridge.serving.ui.api_bridge import ApiBridge
from latentbridge.serving.ui.inputs import picture_input, words_input

_PATH = "/v1/search"
_NO_INDEX = "There is no index to look in; start the server with --indexes FOLDER, in which there is one."
_AGAINST = -0.5
"""The weight of what hits should not be like, as `latentbridge search --not` has it."""


def tab(api: ApiBridge) -> None:
    """What to look for and where; the hits as a grid."""
    settings = api.service.settings
    found = gr.State([], time_to_live=3600)
    chosen = gr.State(None, time_to_live=3600)
    with gr.Row():
        with gr.Column(scale=2, min_width=280):
            words = words_input("Words", "a green star", settings)
            picture = picture_input("A picture like")
            with gr.Accordion("More", open=False):
                share = gr.Slider(0.1, 0.9, 0.5, step=0.1, label="Share of the words, beside a picture")
                against = words_input("Not", "red", settings)
                where = words_input("Only where", "kind=png, width>=640", settings)
                guess = gr.Checkbox(False, label="Guess where no word is known")
                k = gr.Slider(1, settings.max_hits, min(12, settings.max_hits), step=1, label="Results")
            index = gr.Dropdown([], label="Index")
            go = gr.Button("Search", variant="primary")
        with gr.Column(scale=3, min_width=280):
            grid = gr.Gallery(
                label="Found",
                show_label=False,
                columns=4,
                height="auto",
                format="png",
                buttons=["download"],
                elem_classes="pictures",
            )
            more = gr.Button("More like the chosen one", interactive=False)

    async def look(
        parts: list[SearchPart], index: str | None, where: str, k: int, visit: gr.Request, guess: bool = False
    ) -> tuple[Any, ...]:
        if index is None:
            raise UserError(_NO_INDEX)
        conditions = [each.strip() for each in where.split(",") if each.strip()]
        asked = SearchRequest(index=index, query=parts, k=k, where=conditions, allow_unknown=guess)
        answer = await search(asked, api.request(visit, _PATH), api.service)
        hits = answer.data
        ids, metadata = [hit.id for hit in hits], [hit.metadata for hit in hits]
        thumbs = await asyncio.to_thread(item_thumbnails, api.service.index_registry.index(index), ids, metadata)
        shown = [(thumb, f"{hit.score:.3f}  {hit.id}") for thumb, hit in zip(thumbs, hits, strict=True)]
        for sentence in answer.warnings:
            gr.Warning(sentence, title="Unknown words")
        if not hits and not answer.warnings:
            gr.Info("Nothing in the index meets this.")
        return gr.Gallery(shown, selected_index=None), hits, None, gr.Button(interactive=False)

    async def answer(
        words: str,
        file: str | None,
        share: float,
        against: str,
        where: str,
        guess: bool,
        k: int,
        index: str | None,
        visit: gr.Request,
    ) -> tuple[Any, ...]:
        async with api.telling():
            if not words.strip() and file is None:
                raise UserError("Say what to look for in words, or drop a picture to look for others like it.")
            both = bool(words.strip()) and file is not None
            parts = [SearchPart(text=words, weight=share if both else 1)] if words.strip() else []
            if file is not None:
                parts.append(SearchPart(image=await api.data_url(file), weight=1 - share if both else 1))
            if against.strip():
                parts.append(SearchPart(text=against, weight=_AGAINST))
            return await look(parts, index, where, k, visit, guess)

    async def answer_more(
        item: str | None, where: str, k: int, index: str | None, visit: gr.Request
    ) -> tuple[Any, ...]:
        async with api.telling():
            return await look([SearchPart(item=item)], index, where, k, visit)

    def names() -> gr.Dropdown:
        there = api.service.index_registry.names()
        return gr.Dropdown(there, value=there[0] if there else None, info=None if there else _NO_INDEX)

    def choose(hits: list[FoundItem], choice: gr.SelectData) -> tuple[Any, ...]:
        return hits[choice.index].id, gr.Button(interactive=True)

    outputs = [grid, found, chosen, more]
    inputs = [words, picture, share, against, where, guess, k, index]
    gr.on([go.click, words.submit], answer, inputs, outputs)
    more.click(answer_more, [chosen, where, k, index], outputs)
    grid.select(choose, found, [chosen, more], show_progress="hidden")
    gr.on(fn=names, outputs=index)
