"""POST /v1/embeddings: unit vectors of texts and, beyond OpenAI's API, of pictures, in one space."""

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
from latentbridge.serving import schemas
from latentbridge.serving.engine.jobs import EmbeddingOutput, ImageEmbeddingJob, TextEmbeddingJob
from latentbridge.serving.guard.json_bodies import JsonRoute
from latentbridge.serving.service import Service, ServiceDep

router = APIRouter(route_class=JsonRoute)


@router.post("/v1/embeddings", operation_id="embed")
async def embed(body: schemas.EmbeddingRequest, request: Request, service: ServiceDep) -> schemas.EmbeddingResponse:
    """Return a unit vector for each input, in order."""
    service.check_model(body.model)
    service.engine.model.require("embed")
    dimension = service.engine.model.embedding_size
    if body.dimensions not in (None, dimension):
        raise UserError(
            f"This model's vectors have {dimension} numbers, not {body.dimensions}; leave out `dimensions`."
        )
    items = [body.input] if isinstance(body.input, str) else body.input
    if not items:
        raise UserError("There is nothing to embed; give at least one text or picture.")
    service.check_limit("The number of inputs", len(items), service.settings.max_inputs)
    request.state.charge(len(items))
    jobs = [await _job(item, service) for item in items]
    outputs: list[EmbeddingOutput] = await service.run(request, partial(service.engine.run_all, jobs))
    tokens = sum(output.tokens for output in outputs)
    return schemas.EmbeddingResponse(
        data=[
            schemas.EmbeddingItem(index=i, embedding=_encode(output.vector, body.encoding_format))
            for i, output in enumerate(outputs)
        ],
        model=service.settings.model_name,
        usage=schemas.EmbeddingUsage(prompt_tokens=tokens, total_tokens=tokens),
        warnings=await asyncio.to_thread(_warnings, service.input_check, jobs),
    )


async def _job(
    item: str | schemas.TextInput | schemas.PictureInput, service: Service
) -> TextEmbeddingJob | ImageEmbeddingJob:
    if isinstance(item, schemas.PictureInput):
        return ImageEmbeddingJob(await service.fetch_picture(item.image))
    text = item.text if isinstance(item, schemas.TextInput) else item
    check_text("text", text, service.settings.max_characters)
    return TextEmbeddingJob(text)


def _warnings(check: InputCheck, jobs: Sequence[TextEmbeddingJob | ImageEmbeddingJob]) -> list[str]:
    pictures = {f"input {n}": job.picture for n, job in enumerate(jobs) if isinstance(job, ImageEmbeddingJob)}
    return check.warnings_by_name(pictures, [job.text for job in jobs if isinstance(job, TextEmbeddingJob)])


def _encode(vector: np.ndarray, encoding_format: str | None) -> list[float] | str:
    if encoding_format == "base64":
        return base64.b64encode(vector.astype("<f4").tobytes()).decode()
    return vector.tolist()
