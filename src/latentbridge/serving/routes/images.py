"""POST /v1/images/generations and /v1/images/edits."""

from __future__ import annotations

import asyncio
from typing import Annotated

from fastapi import APIRouter, Form, Request

from latentbridge import prompts
from latentbridge.errors import UserError
from latentbridge.models.input_check import WordUse, size_warnings
from latentbridge.models.stepwise import StepwiseModel
from latentbridge.serving.engine.jobs import EditJob, GenerateJob
from latentbridge.serving.guard.json_bodies import JsonRoute
from latentbridge.serving.schemas import ImageEditRequest, ImageGenerationRequest, ImageObject, ImagesResponse
from latentbridge.serving.service import Service, ServiceDep, png_base64, seed_or_random, unix_time
from latentbridge.types import EditResult, Picture, Skill

router = APIRouter(route_class=JsonRoute)


@router.post("/v1/images/generations", operation_id="draw")
async def draw(body: ImageGenerationRequest, request: Request, service: ServiceDep) -> ImagesResponse:
    """Draw pictures of a prompt, which the model first completes to a full description."""
    seeds, steps, guidance = _sampling(body, "generate", service)
    request.state.charge(len(seeds) * steps)

    async def work() -> list[ImageObject]:
        descriptions = await asyncio.gather(*(service.describe_prompt(body.prompt, seed) for seed in seeds))
        jobs = [GenerateJob(text, seed, steps, guidance) for text, seed in zip(descriptions, seeds, strict=True)]
        return _image_objects(await service.engine.run_all(jobs), descriptions, seeds)

    images, check = await service.run(request, work), service.input_check
    missing = (each for image in images for each in check.description_warnings(body.prompt, image.revised_prompt))
    warnings = [*check.text_warnings(body.prompt, WordUse.PROMPT), *dict.fromkeys(missing)]
    return ImagesResponse(created=unix_time(), data=images, size=_size(service), warnings=warnings)


@router.post("/v1/images/edits", operation_id="edit")
async def edit(
    body: Annotated[ImageEditRequest, Form(media_type="multipart/form-data")], request: Request, service: ServiceDep
) -> ImagesResponse:
    """Change a picture as instructed and keep the rest."""
    seeds, steps, guidance = _sampling(body, "edit", service)
    request.state.charge(len(seeds) * steps)
    files = [*([body.image] if body.image else []), *(body.images or [])]
    if len(files) != 1:
        raise UserError(f"There are {len(files)} pictures; send the one to change as `image`.")
    if body.mask is not None:
        raise UserError("This model computes its own mask; leave out `mask`.")
    model = service.engine.model
    source = await service.decode_full_size(await files[0].read())
    picture = await asyncio.to_thread(model.fit, source)
    warnings = [
        *await service.picture_warnings(picture),
        *size_warnings(source, model.drawing_size_px or 0),
        *service.input_check.text_warnings(body.prompt, WordUse.INSTRUCTION),
    ]

    async def work() -> list[ImageObject]:
        before = after = ""
        if isinstance(model, StepwiseModel):
            before, after = await asyncio.gather(
                service.ask(picture, prompts.CAPTION_REQUEST), service.ask(picture, prompts.edit_request(body.prompt))
            )
        after = prompts.unwrap_description(after)
        jobs = [EditJob(picture, body.prompt, seed, steps, guidance, before, after) for seed in seeds]
        results: list[EditResult] = await service.engine.run_all(jobs)
        return _image_objects([result.picture for result in results], [result.after for result in results], seeds)

    edited = await service.run(request, work)
    return ImagesResponse(created=unix_time(), data=edited, size=_size(service), warnings=warnings)


def _size(service: Service) -> str:
    return f"{service.engine.model.drawing_size_px}x{service.engine.model.drawing_size_px}"


def _sampling(body: ImageGenerationRequest, skill: Skill, service: Service) -> tuple[list[int], int, float]:
    """Return the seeds of the pictures, steps and guidance, if the model has the skill and the request is within limits."""
    model, limits = service.engine.model, service.settings
    service.check_model(body.model)
    model.require(skill)
    prompts.check_text("prompt", body.prompt)
    if body.size not in (None, "auto", _size(service)):
        raise UserError(f"This model draws {_size(service)}, not {body.size}; leave out `size`.")
    count, first = body.n or 1, seed_or_random(body.seed)
    service.check_limit("n", count, limits.max_pictures)
    service.check_limit("steps", body.steps or 0, limits.max_steps)
    return [first + i for i in range(count)], *model.sampling_settings(body.steps, body.guidance)


def _image_objects(pictures: list[Picture], descriptions: list[str], seeds: list[int]) -> list[ImageObject]:
    return [
        ImageObject(b64_json=png_base64(picture), revised_prompt=text, seed=seed)
        for picture, text, seed in zip(pictures, descriptions, seeds, strict=True)
    ]
