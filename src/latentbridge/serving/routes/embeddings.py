"""POST /v1/embeddings: unit vectors of texts and, beyond OpenAI's API, of pictures, all in one space."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import Sequence
from functools import partial

import numpy as np
from fastapi import APIRouter, Request

from latentbridge.errors import UserError
from latentbridge.models.input_check import InputCheck
from latentbridge.prompts import check_text
from latentbridge.serving.engine.jobs import EmbeddingOutput, ImageEmbeddingJob, TextEmbeddingJob
from latentbridge.serving.guard.json_bodies import JsonRoute
from latentbridge.serving.openapi import REFUSALS
from latentbridge.serving.schemas import (
    EmbeddingAnswer,
    EmbeddingItem,
    EmbeddingRequest,
    EmbeddingUsage,
    PictureInput,
    TextInput,
)
from latentbridge.serving.service import Service, TheService

router = APIRouter(route_class=JsonRoute, responses=REFUSALS)


@router.post("/v1/embeddings", operation_id="embed")
async def embed(asked: EmbeddingRequest, request: Request, service: TheService) -> EmbeddingAnswer:
    """A unit vector for each input, in order."""
    service.check_model(asked.model)
    own = service.engine.model.embedding_size
    service.engine.model.require("embed")
    if asked.dimensions not in (None, own):
        raise UserError(f"This model's vectors have {own} numbers, not {asked.dimensions}; leave out `dimensions`.")
    items = [asked.input] if isinstance(asked.input, str) else asked.input
    if not items:
        raise UserError("There is nothing to embed; give at least one text or picture.")
    service.check_most("The number of inputs", len(items), service.settings.max_inputs)
    request.state.charge(len(items))
    works = [await _work(item, service) for item in items]
    found: list[EmbeddingOutput] = await service.answer(request, partial(service.engine.do_all, works))
    tokens = sum(each.tokens for each in found)
    warnings = await asyncio.to_thread(_warnings, service.input_check, works)
    return EmbeddingAnswer(
        data=[
            EmbeddingItem(index=i, embedding=_written(each.vector, asked.encoding_format))
            for i, each in enumerate(found)
        ],
        model=service.settings.model_name,
        usage=EmbeddingUsage(prompt_tokens=tokens, total_tokens=tokens),
        warnings=warnings,
    )


async def _work(item: str | TextInput | PictureInput, service: Service) -> TextEmbeddingJob | ImageEmbeddingJob:
    if isinstance(item, PictureInput):
        return ImageEmbeddingJob(await service.picture(item.image))
    text = item.text if isinstance(item, TextInput) else item
    check_text("text", text, service.settings.max_characters)
    return TextEmbeddingJob(text)


def _warnings(check: InputCheck, works: Sequence[TextEmbeddingJob | ImageEmbeddingJob]) -> list[str]:
    """What to doubt, after the number of the input that it is about."""
    pictures = {f"input {n}": work.picture for n, work in enumerate(works) if isinstance(work, ImageEmbeddingJob)}
    return check.warnings_by_name(pictures, [work.text for work in works if isinstance(work, TextEmbeddingJob)])


def _written(vector: np.ndarray, encoding: str | None) -> list[float] | str:
    if encoding == "base64":
        return base64.b64encode(vector.astype("<f4").tobytes()).decode()
    return vector.tolist()
