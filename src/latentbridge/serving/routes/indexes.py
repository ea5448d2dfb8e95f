"""/v1/index and /v1/search: named indexes of pictures, and search by words, pictures and items."""

from __future__ import annotations

import asyncio
import base64
from contextlib import suppress
from typing import Annotated, Any

import numpy as np
from fastapi import APIRouter, Query, Request

from latentbridge.data.picture_sources import composed, encode_thumbnail, reserved_field
from latentbridge.errors import UserError
from latentbridge.prompts import check_text
from latentbridge.query import QueryPart, item_thumbnails, parse_query, search_index
from latentbridge.retrieval.base_index import Index
from latentbridge.retrieval.filters import parse_condition
from latentbridge.serving.api_errors import ApiError
from latentbridge.serving.engine.jobs import EmbeddingOutput, ImageEmbeddingJob, TextEmbeddingJob
from latentbridge.serving.extension_schemas import (
    AddRequest,
    AddResponse,
    DeleteResponse,
    IndexCard,
    IndexList,
    IndexRequest,
    SearchHit,
    SearchPart,
    SearchRequest,
    SearchResponse,
)
from latentbridge.serving.guard.json_bodies import JsonRoute
from latentbridge.serving.index_registry import IndexRegistry
from latentbridge.serving.openapi import CONFLICT
from latentbridge.serving.service import Service, ServiceDep
from latentbridge.types import Hit

router = APIRouter(route_class=JsonRoute)


@router.get("/v1/index", operation_id="list_indexes")
async def list_indexes(service: ServiceDep) -> IndexList:
    """List the model's indexes; those that cannot be opened are left out and named in the log."""
    return IndexList(data=await asyncio.to_thread(_cards, service.index_registry))


@router.post("/v1/index", status_code=201, responses=CONFLICT, operation_id="create_index")
async def create_index(body: IndexRequest, service: ServiceDep) -> IndexCard:
    """Create an empty index."""
    await asyncio.to_thread(service.index_registry.create, body.name)
    return await find_index(body.name, service)


@router.get("/v1/index/{name}", operation_id="find_index")
async def find_index(name: str, service: ServiceDep) -> IndexCard:
    """Return an index by name."""
    return await asyncio.to_thread(_card, name, service.index_registry)


@router.post("/v1/index/{name}/items", operation_id="add_items")
async def add_items(name: str, body: AddRequest, request: Request, service: ServiceDep) -> AddResponse:
    """Add pictures to an index, all of them or none; an item replaces one of the same id."""
    service.check_limit("The number of items", len(body.items), service.settings.max_items)
    request.state.charge(len(body.items))
    index = await _index(name, service)
    ids = [item.id for item in body.items]
    if len(set(ids)) < len(ids):
        raise UserError("Two of the items have the same id; give every item its own.")
    if reserved := next(filter(None, (reserved_field(item.metadata) for item in body.items)), None):
        raise UserError(f"The name {reserved!r} is one of the server's own, such as paths of pictures; choose another.")
    pictures = [await service.fetch_with_thumbnail(item.image) for item in body.items]
    jobs = [ImageEmbeddingJob(picture) for picture, _ in pictures]

    async def work() -> None:
        outputs: list[EmbeddingOutput] = await service.engine.run_all(jobs)
        vectors = np.stack([output.vector for output in outputs])
        metadata, thumbnails = (
            [composed(item.metadata) for item in body.items],
            [thumbnail for _, thumbnail in pictures],
        )
        await asyncio.to_thread(index.add, ids, vectors, metadata, thumbnails)

    await service.run(request, work)
    return AddResponse(index=name, added=len(ids), items=await asyncio.to_thread(len, index))


@router.delete("/v1/index/{name}/items", operation_id="delete_items")
async def delete_items(
    name: str, service: ServiceDep, id: Annotated[list[str], Query(min_length=1, description="May be repeated.")]
) -> DeleteResponse:
    """Delete items of an index; unknown ids are ignored."""
    index = await _index(name, service)
    deleted = await asyncio.to_thread(index.delete, id)
    return DeleteResponse(index=name, deleted=deleted, items=await asyncio.to_thread(len, index))


@router.post("/v1/search", operation_id="search")
async def search(body: SearchRequest, request: Request, service: ServiceDep) -> SearchResponse:
    """Return the nearest items to a weighted sum of words, pictures and items.

    Words that the model does not know are left out and named; if nothing else is asked for, there are no hits.
    """
    service.check_limit("k", body.k, service.settings.max_hits)
    request.state.charge(len(body.query) if isinstance(body.query, list) else 1)
    search_parts = [SearchPart(text=body.query)] if isinstance(body.query, str) else body.query
    where = [parse_condition(condition) for condition in body.where]
    index = await _index(body.index, service)
    parts = [await _query_part(part, service) for part in search_parts]
    query = await asyncio.to_thread(parse_query, service.engine.model, parts, body.allow_unknown)

    async def work() -> list[Hit]:
        embedded = await asyncio.gather(*(_embedded(part, len(parts) == 1, service) for part in query.parts))
        return await asyncio.to_thread(search_index, service.engine.model, index, *embedded, k=body.k, where=where)

    hits = await service.run(request, work) if query.can_rank else []
    metadata = await asyncio.to_thread(index.metadata, [hit.id for hit in hits])
    thumbnails = [None] * len(hits)
    if body.thumbnails:
        thumbnails = await asyncio.to_thread(_thumbnails, index, hits, metadata)
    data = [
        SearchHit(id=hit.id, score=hit.score, metadata=fields or {}, thumbnail=thumbnail)
        for hit, fields, thumbnail in zip(hits, metadata, thumbnails, strict=True)
    ]
    return SearchResponse(index=body.index, data=data, warnings=query.warnings, unknown_words=query.unknown_words)


async def _query_part(part: SearchPart, service: Service) -> QueryPart:
    if part.text is not None:
        check_text("query", part.text, service.settings.max_characters)
    picture = None if part.image is None else await service.fetch_picture(part.image)
    return QueryPart(text=part.text, picture=picture, item=part.item, weight=part.weight)


async def _embedded(part: QueryPart, alone: bool, service: Service) -> QueryPart:
    """Return a part with the vector of its words or its picture in their place."""
    if (words := part.text_to_embed(alone)) is not None:
        job = TextEmbeddingJob(words)
    elif isinstance(part.picture, np.ndarray):
        job = ImageEmbeddingJob(part.picture)
    else:
        return part
    return QueryPart(vector=(await service.engine.run(job)).vector, weight=part.weight)


async def _index(name: str, service: Service) -> Index:
    return await asyncio.to_thread(service.index_registry.index, name)


def _card(name: str, index_registry: IndexRegistry) -> IndexCard:
    index = index_registry.index(name)
    return IndexCard(id=name, items=len(index), dimension=index.dimension)


def _cards(index_registry: IndexRegistry) -> list[IndexCard]:
    cards: list[IndexCard] = []
    for name in index_registry.names():
        with suppress(ApiError):
            cards.append(_card(name, index_registry))
    return cards


def _thumbnails(index: Index, hits: list[Hit], metadata: list[dict[str, Any] | None]) -> list[str]:
    """Return thumbnails of hits as data URLs."""
    thumbnails = map(encode_thumbnail, item_thumbnails(index, [hit.id for hit in hits], metadata))
    return [f"data:image/webp;base64,{base64.b64encode(thumbnail).decode()}" for thumbnail in thumbnails]
