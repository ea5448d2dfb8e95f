"""POST /v1/embeddings: unit vectors of texts and, beyond OpenAI's API, of pictures, in one space."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np
from fastapi import APIRouter, Request

from latentbridge.errors import UserError
from latentbridge.models.input_check import InputCheck
from latentbridge.prompts import check_text
from latentbridge.serving import schemas
from latentbridge.serving.api_errors import ApiError
from latentbridge.serving.engine.jobs import EmbeddingOutput, ImageEmbeddingJob, TextEmbeddingJob
from latentbridge.serving.guard.json_bodies import JsonRoute
from latentbridge.serving.service import Service, ServiceDep

router = APIRouter(route_class=JsonRoute)
_BATCH = 64
"""Inputs decoded and embedded together, so that the pictures of a long request are not in memory all at once."""


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
    single = isinstance(body.input, str)
    for number, item in enumerate(items):
        if not isinstance(item, schemas.PictureInput):
            with _naming_input(None if single else number):
                check_text("text", _text(item), service.settings.max_characters)

    async def work() -> tuple[list[EmbeddingOutput], list[str]]:
        outputs, warnings = list[EmbeddingOutput](), list[str]()
        for start in range(0, len(items), _BATCH):
            jobs = [await _job(start + n, item, service) for n, item in enumerate(items[start : start + _BATCH])]
            outputs += await service.engine.run_all(jobs)
            warnings += await asyncio.to_thread(_warnings, service.input_check, jobs, start)
        return outputs, warnings

    outputs, warnings = await service.run(request, work)
    tokens = sum(output.tokens for output in outputs)
    return schemas.EmbeddingResponse(
        data=[
            schemas.EmbeddingItem(index=i, embedding=_encode(output.vector, body.encoding_format))
            for i, output in enumerate(outputs)
        ],
        model=service.settings.model_name,
        usage=schemas.EmbeddingUsage(prompt_tokens=tokens, total_tokens=tokens),
        warnings=warnings,
    )


def _text(item: str | schemas.TextInput) -> str:
    return item if isinstance(item, str) else item.text


async def _job(
    number: int, item: str | schemas.TextInput | schemas.PictureInput, service: Service
) -> TextEmbeddingJob | ImageEmbeddingJob:
    if not isinstance(item, schemas.PictureInput):
        return TextEmbeddingJob(_text(item))
    with _naming_input(number):
        return ImageEmbeddingJob(await service.fetch_picture(item.image))


@contextmanager
def _naming_input(number: int | None) -> Iterator[None]:
    """Name the input at fault in a UserError inside."""
    try:
        yield
    except UserError as error:
        param = "input" if number is None else f"input.{number}"
        raise ApiError(400, f"{param}: {error}", "invalid_input", param=param) from None


def _warnings(check: InputCheck, jobs: Sequence[TextEmbeddingJob | ImageEmbeddingJob], start: int) -> list[str]:
    pictures = {f"input {n}": job.picture for n, job in enumerate(jobs, start) if isinstance(job, ImageEmbeddingJob)}
    return check.warnings_by_name(pictures, [job.text for job in jobs if isinstance(job, TextEmbeddingJob)])


def _encode(vector: np.ndarray, encoding_format: str | None) -> list[float] | str:
    if encoding_format == "base64":
        return base64.b64encode(vector.astype("<f4").tobytes()).decode()
    return vector.tolist()
