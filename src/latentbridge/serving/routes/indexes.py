"""/v1/index and /v1/search: pictures kept by name, and found by words, pictures, or each other."""

from __future__ import annotations

import asyncio
import base64
from contextlib import suppress
from typing import Annotated, Any

import numpy as np
from fastapi import APIRouter, Query, Request

from latentbridge.data.picture_sources import LOCATION_KEYS, encode_thumbnail
from latentbridge.errors import UserError
from latentbridge.prompts import check_text
from latentbridge.query import QueryPart, parse_query, search_index, show_items
from latentbridge.retrieval.filters import parse_condition
from latentbridge.retrieval.index import Index
from latentbridge.serving.api_errors import ApiError
from latentbridge.serving.engine.jobs import EmbeddingOutput, ImageEmbeddingJob, TextEmbeddingJob
from latentbridge.serving.extension_schemas import (
    Added,
    AddRequest,
    Deleted,
    FoundItem,
    IndexCard,
    IndexList,
    IndexRequest,
    SearchAnswer,
    SearchPart,
    SearchRequest,
)
from latentbridge.serving.guard.json_bodies import JsonRoute
from latentbridge.serving.index_registry import IndexRegistry
from latentbridge.serving.openapi import REFUSALS, TAKEN
from latentbridge.serving.service import Service, TheService
from latentbridge.types import Hit

router = APIRouter(route_class=JsonRoute, responses=REFUSALS)


@router.get("/v1/index", operation_id="list_indexes")
async def list_indexes(service: TheService) -> IndexList:
    """All indexes of this model; the log names those that cannot be opened."""
    return IndexList(data=await asyncio.to_thread(_cards, service.index_registry))


@router.post("/v1/index", status_code=201, responses=TAKEN, operation_id="create_index")
async def create_index(asked: IndexRequest, service: TheService) -> IndexCard:
    """A new, empty index."""
    await asyncio.to_thread(service.index_registry.create, asked.name)
    return await asyncio.to_thread(_card, asked.name, service.index_registry)


@router.get("/v1/index/{name}", operation_id="find_index")
async def find_index(name: str, service: TheService) -> IndexCard:
    """An index by its name."""
    return await asyncio.to_thread(_card, name, service.index_registry)


@router.post("/v1/index/{name}/items", operation_id="add_items")
async def add_items(name: str, asked: AddRequest, request: Request, service: TheService) -> Added:
    """Pictures into an index, all of them or none; what has the id of an item there takes its place."""
    service.check_most("The number of items", len(asked.items), service.settings.max_inputs)
    request.state.charge(len(asked.items))
    index = await _index(name, service)
    ids = [item.id for item in asked.items]
    if len(set(ids)) < len(ids):
        raise UserError("Two of the items have the same id; give every item its own.")
    if any(place in item.metadata for item in asked.items for place in LOCATION_KEYS):
        raise UserError(
            f"Metadata named {', '.join(LOCATION_KEYS)} tell where pictures are on the server; choose other names."
        )
    pictures = [await service.picture_to_keep(item.image) for item in asked.items]
    works = [ImageEmbeddingJob(picture) for picture, _ in pictures]

    async def work() -> None:
        found: list[EmbeddingOutput] = await service.engine.do_all(works)
        vectors = np.stack([each.vector for each in found])
        metadata, thumbnails = [item.metadata for item in asked.items], [kept for _, kept in pictures]
        await asyncio.to_thread(index.add, ids, vectors, metadata, thumbnails)

    await service.answer(request, work)
    return Added(index=name, added=len(ids), items=await asyncio.to_thread(len, index))


@router.delete("/v1/index/{name}/items", operation_id="delete_items")
async def delete_items(
    name: str, service: TheService, id: Annotated[list[str], Query(min_length=1, description="May be repeated.")]
) -> Deleted:
    """Items out of an index; ids that are not there are passed over."""
    index = await _index(name, service)
    gone = await asyncio.to_thread(index.delete, id)
    return Deleted(index=name, deleted=gone, items=await asyncio.to_thread(len, index))


@router.post("/v1/search", operation_id="search")
async def search(asked: SearchRequest, request: Request, service: TheService) -> SearchAnswer:
    """What is nearest to words, pictures and items taken together, each with its weight.

    Words that the model does not know are left out and named; where nothing else is asked for, nothing is found.
    """
    service.check_most("k", asked.k, service.settings.max_hits)
    request.state.charge(len(asked.query) if isinstance(asked.query, list) else 1)
    parts = [SearchPart(text=asked.query)] if isinstance(asked.query, str) else asked.query
    where = [parse_condition(condition) for condition in asked.where]
    index = await _index(asked.index, service)
    wishes = [await _wish(part, service) for part in parts]

    query = await asyncio.to_thread(parse_query, service.engine.model, wishes, asked.allow_unknown)

    async def work() -> list[Hit]:
        seen = await asyncio.gather(*(_embedded(wish, len(wishes) == 1, service) for wish in query.parts))
        return await asyncio.to_thread(search_index, service.engine.model, index, *seen, k=asked.k, where=where)

    hits = await service.answer(request, work) if query.can_rank else []
    metadata = await asyncio.to_thread(index.metadata, [hit.id for hit in hits])
    shown = await asyncio.to_thread(_thumbnails, index, hits, metadata) if asked.thumbnails else [None] * len(hits)
    found = zip(hits, metadata, shown, strict=True)
    data = [FoundItem(id=hit.id, score=hit.score, metadata=known or {}, thumbnail=small) for hit, known, small in found]
    return SearchAnswer(index=asked.index, data=data, warnings=query.warnings, unknown_words=query.unknown_words)


async def _wish(part: SearchPart, service: Service) -> QueryPart:
    if part.text is not None:
        check_text("query", part.text, service.settings.max_characters)
    picture = None if part.image is None else await service.picture(part.image)
    return QueryPart(words=part.text, picture=picture, item=part.item, weight=part.weight)


async def _embedded(wish: QueryPart, alone: bool, service: Service) -> QueryPart:
    """A wish with the engine's vector for its words or its picture."""
    if (words := wish.spoken(alone)) is not None:
        vector = (await service.engine.do(TextEmbeddingJob(words))).vector
    elif isinstance(wish.picture, np.ndarray):
        vector = (await service.engine.do(ImageEmbeddingJob(wish.picture))).vector
    else:
        return wish
    return QueryPart(vector=vector, weight=wish.weight)


async def _index(name: str, service: Service) -> Index:
    return await asyncio.to_thread(service.index_registry.index, name)


def _card(name: str, index_registry: IndexRegistry) -> IndexCard:
    index = index_registry.index(name)
    return IndexCard(id=name, items=len(index), dimension=index.dimension)


def _cards(index_registry: IndexRegistry) -> list[IndexCard]:
    """Of all indexes that can be used."""
    cards: list[IndexCard] = []
    for name in index_registry.names():
        with suppress(ApiError):
            cards.append(_card(name, index_registry))
    return cards


def _thumbnails(index: Index, hits: list[Hit], metadata: list[dict[str, Any] | None]) -> list[str]:
    """Small pictures of hits, as data URLs."""
    small = map(encode_thumbnail, show_items(index, [hit.id for hit in hits], metadata))
    return [f"data:image/webp;base64,{base64.b64encode(each).decode()}" for each in small]
