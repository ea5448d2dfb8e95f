"""POST /v1/images/generations and /v1/images/edits."""

from __future__ import annotations

import asyncio
import re
from typing import Annotated, Literal

from fastapi import APIRouter, Form, Request

from latentbridge import prompts
from latentbridge.errors import UserError
from latentbridge.models.input_check import WordUse, size_warnings
from latentbridge.models.options import DrawingOptions, with_options
from latentbridge.models.stepwise import StepwiseModel
from latentbridge.serving.engine.jobs import EditJob, GenerateJob
from latentbridge.serving.guard.json_bodies import JsonRoute
from latentbridge.serving.schemas import ImageEditRequest, ImageGenerationRequest, ImageObject, ImagesResponse
from latentbridge.serving.service import Service, ServiceDep, png_base64, seed_or_random, unix_time
from latentbridge.types import EditResult, Picture

router = APIRouter(route_class=JsonRoute)


@router.post("/v1/images/generations", operation_id="draw")
async def draw(body: ImageGenerationRequest, request: Request, service: ServiceDep) -> ImagesResponse:
    """Draw pictures of a prompt, which the model first completes to a full description."""
    seeds, options = _sampling(body, "generate", service)
    request.state.charge(len(seeds) * options.steps)

    async def work() -> ImagesResponse:
        descriptions = await asyncio.gather(*(service.describe_prompt(body.prompt, seed) for seed in seeds))
        jobs = [GenerateJob(text, seed, options) for text, seed in zip(descriptions, seeds, strict=True)]
        return _response(await service.engine.run_all(jobs), descriptions, seeds)

    response, check = await service.run(request, work), service.input_check
    missing = (
        each for image in response.data for each in check.description_warnings(body.prompt, image.revised_prompt)
    )
    response.warnings = [*check.text_warnings(body.prompt, WordUse.PROMPT), *dict.fromkeys(missing)]
    return response


@router.post("/v1/images/edits", operation_id="edit")
async def edit(
    body: Annotated[ImageEditRequest, Form(media_type="multipart/form-data")], request: Request, service: ServiceDep
) -> ImagesResponse:
    """Change a picture as instructed and keep the rest."""
    seeds, options = _sampling(body, "edit", service)
    request.state.charge(len(seeds) * options.steps)
    files = [*([body.image] if body.image else []), *(body.images or [])]
    if len(files) != 1:
        raise UserError(f"There are {len(files)} pictures; send the one to change as `image`.")
    if body.mask is not None:
        raise UserError("This model computes its own mask; leave out `mask`.")
    model = service.engine.model
    source = await service.decode_full_size(await files[0].read())
    picture = await asyncio.to_thread(model.fit, source)

    async def work() -> ImagesResponse:
        before = after = ""
        if isinstance(model, StepwiseModel):
            before, after = await asyncio.gather(
                service.ask(picture, prompts.CAPTION_REQUEST),
                service.ask(picture, model.templates.edit_request(body.prompt)),
            )
        after = prompts.unwrap_description(after)
        jobs = [EditJob(picture, body.prompt, seed, options, before, after) for seed in seeds]
        results: list[EditResult] = await service.engine.run_all(jobs)
        return _response([result.picture for result in results], [result.after for result in results], seeds)

    response = await service.run(request, work)
    response.warnings = [
        *await service.picture_warnings(picture),
        *size_warnings(source, _size(response.size) or (0, 0)),
        *service.input_check.text_warnings(body.prompt, WordUse.INSTRUCTION),
    ]
    return response


def _size(text: str | None) -> tuple[int, int] | None:
    """Return the width and height that a request asks for; None for the model's own."""
    if text in (None, "auto"):
        return None
    match = re.fullmatch(r"(\d{1,5})x(\d{1,5})", text)
    if not match:
        raise UserError(f'size {text!r} is not a size; give one such as "1024x1024", or leave it out.')
    return int(match[1]), int(match[2])


def _response(pictures: list[Picture], descriptions: list[str], seeds: list[int]) -> ImagesResponse:
    height, width = pictures[0].shape[:2]
    return ImagesResponse(
        created=unix_time(),
        data=[
            ImageObject(b64_json=png_base64(picture), revised_prompt=text, seed=seed)
            for picture, text, seed in zip(pictures, descriptions, seeds, strict=True)
        ],
        size=f"{width}x{height}",
    )


def _sampling(
    body: ImageGenerationRequest, skill: Literal["generate", "edit"], service: Service
) -> tuple[list[int], DrawingOptions]:
    """Return the seeds and options of the pictures, if the model has the skill and the request is within limits."""
    model, limits = service.engine.model, service.settings
    service.check_model(body.model)
    model.require(skill)
    prompts.check_text("prompt", body.prompt)
    count, first = body.n or 1, seed_or_random(body.seed)
    service.check_limit("n", count, limits.max_pictures)
    service.check_limit("steps", body.steps or 0, limits.max_steps)
    defaults = model.drawing_options if skill == "generate" else model.edit_options
    changes = {"steps": body.steps, "guidance": body.guidance, "size": _size(body.size)}
    options = with_options(defaults, changes)
    model.check_size(options)
    return [first + i for i in range(count)], options
