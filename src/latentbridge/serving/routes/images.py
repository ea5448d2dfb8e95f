"""POST /v1/images/generations and /v1/images/edits."""

from __future__ import annotations

import asyncio
from typing import Annotated, Literal

from fastapi import APIRouter, File, Form, Request, UploadFile

from latentbridge import prompts
from latentbridge.errors import UserError
from latentbridge.models.input_check import Use, size_warnings
from latentbridge.serving.engine.jobs import EditJob, GenerateJob
from latentbridge.serving.guard.json_bodies import JsonRoute
from latentbridge.serving.openapi import ERROR_RESPONSES
from latentbridge.serving.schemas import Guidance, ImageGenerationRequest, ImageObject, ImagesResponse, NumSteps, Seed
from latentbridge.serving.service import Service, ServiceDep, png_base64, seed_or_random, unix_time
from latentbridge.types import Picture

_EDIT_FIELDS = ImageGenerationRequest.model_fields.keys() - {"stream"} | {"image", "image[]", "mask"}

router = APIRouter(route_class=JsonRoute, responses=ERROR_RESPONSES)


@router.post("/v1/images/generations", operation_id="draw")
async def draw(body: ImageGenerationRequest, request: Request, service: ServiceDep) -> ImagesResponse:
    """Draw pictures of a prompt, which the model first completes to a full description."""
    service.check_model(body.model)
    prompts.check_text("prompt", body.prompt)
    count, steps = body.n or 1, body.steps or 20
    guidance = 2.5 if body.guidance is None else body.guidance
    size, seeds = _check(service, count, body.size, steps, body.seed)
    request.state.charge(count * steps)

    async def work() -> list[ImageObject]:
        descriptions = await asyncio.gather(*(service.describe_prompt(body.prompt, seed) for seed in seeds))
        jobs = [GenerateJob(text, seed, steps, guidance) for text, seed in zip(descriptions, seeds, strict=True)]
        return _image_objects(await service.engine.run_all(jobs), descriptions, seeds)

    images, check = await service.run(request, work), service.input_check
    missing = (each for image in images for each in check.description_warnings(body.prompt, image.revised_prompt))
    warnings = [*check.text_warnings(body.prompt, Use.PROMPT), *dict.fromkeys(missing)]
    return ImagesResponse(created=unix_time(), data=images, size=size, warnings=warnings)


@router.post("/v1/images/edits", operation_id="edit")
async def edit(
    request: Request,
    service: ServiceDep,
    prompt: Annotated[str, Form()],
    image: Annotated[UploadFile | None, File(description="The picture to change.")] = None,
    images: Annotated[list[UploadFile] | None, File(alias="image[]", description="The same, in a list of one.")] = None,
    mask: Annotated[UploadFile | None, File(description="Rejected: the model computes its own mask.")] = None,
    model: Annotated[str | None, Form()] = None,
    n: Annotated[int, Form(ge=1)] = 1,
    size: Annotated[str | None, Form()] = None,
    seed: Annotated[Seed | None, Form()] = None,
    steps: Annotated[NumSteps, Form()] = 20,
    guidance: Annotated[Guidance, Form()] = 2.5,
    response_format: Annotated[Literal["b64_json"], Form()] = "b64_json",
    output_format: Annotated[Literal["png"], Form()] = "png",
    background: Annotated[Literal["auto", "opaque"], Form()] = "auto",
    quality: Annotated[Literal["auto", "standard"], Form()] = "auto",
) -> ImagesResponse:
    """Change a picture as instructed and keep the rest."""
    if unknown := [name for name in await request.form() if name not in _EDIT_FIELDS]:
        raise UserError(f"{unknown[0][:100]}: Extra inputs are not permitted")
    service.check_model(model)
    prompts.check_text("prompt", prompt)
    size, seeds = _check(service, n, size, steps, seed)
    request.state.charge(n * steps)
    files = [*([image] if image else []), *(images or [])]
    if len(files) != 1:
        raise UserError(f"There are {len(files)} pictures; send the one to change as `image`.")
    if mask is not None:
        raise UserError("This model computes its own mask; leave out `mask`.")
    source = await service.decode_full_size(await files[0].read())
    picture = await asyncio.to_thread(service.engine.model.fit, source)
    warnings = [
        *await service.picture_warnings(picture),
        *size_warnings(source, _size_px(service)),
        *service.input_check.text_warnings(prompt, Use.INSTRUCTION),
    ]

    async def work() -> list[ImageObject]:
        before, after = await asyncio.gather(
            service.ask(picture, prompts.CAPTION_REQUEST), service.ask(picture, prompts.edit_request(prompt))
        )
        after = prompts.undrawable(after)
        jobs = [EditJob(picture, before, after, job_seed, steps, guidance) for job_seed in seeds]
        results = await service.engine.run_all(jobs)
        return _image_objects([result.picture for result in results], [after] * len(seeds), seeds)

    edited = await service.run(request, work)
    return ImagesResponse(created=unix_time(), data=edited, size=size, warnings=warnings)


def _size_px(service: Service) -> int:
    """Return the side of the squares that the model draws."""
    return service.engine.model.decoder.grid * service.engine.model.autoencoder.patch_px


def _check(service: Service, count: int, size: str | None, steps: int, seed: int | None) -> tuple[str, list[int]]:
    """Return the size and the seeds of the pictures, if the request is within the limits."""
    service.engine.model.require("decoder", "draw")
    own_size = f"{_size_px(service)}x{_size_px(service)}"
    if size not in (None, "auto", own_size):
        raise UserError(f"This model draws {own_size}, not {size}; leave out `size`.")
    service.check_limit("n", count, service.settings.max_pictures)
    service.check_limit("steps", steps, service.settings.max_steps)
    first = seed_or_random(seed)
    return own_size, [first + i for i in range(count)]


def _image_objects(pictures: list[Picture], descriptions: list[str], seeds: list[int]) -> list[ImageObject]:
    return [
        ImageObject(b64_json=png_base64(picture), revised_prompt=text, seed=seed)
        for picture, text, seed in zip(pictures, descriptions, seeds, strict=True)
    ]
