"""POST /v1/images/generations and /v1/images/edits."""

from __future__ import annotations

import asyncio
import re
from collections import Counter
from typing import Annotated, Literal

import numpy as np
from fastapi import APIRouter, Depends, Form, Request
from PIL import Image

from latentbridge import prompts
from latentbridge.errors import UserError
from latentbridge.images import MAX_SIDE_PX
from latentbridge.models.input_check import WordUse, size_warnings
from latentbridge.models.options import DrawingOptions, with_options
from latentbridge.models.stepwise import StepwiseModel
from latentbridge.serving.api_errors import ApiError
from latentbridge.serving.engine.jobs import EditJob, GenerateJob
from latentbridge.serving.guard.json_bodies import JsonRoute
from latentbridge.serving.schemas import ImageEditRequest, ImageGenerationRequest, ImageObject, ImagesResponse
from latentbridge.serving.service import Service, ServiceDep, png_base64, seed_or_random, unix_time
from latentbridge.types import EditResult, Picture

router = APIRouter(route_class=JsonRoute)
_SAME_SHAPE = 1.05
"""Ratio of two aspect ratios up to which scaling from one to the other is no distortion."""


@router.post("/v1/images/generations", operation_id="draw")
async def draw(body: ImageGenerationRequest, request: Request, service: ServiceDep) -> ImagesResponse:
    """Draw pictures of a prompt, which the model first completes to a full description."""
    seeds, options, size = _sampling(body, "generate", service)
    request.state.charge(len(seeds) * options.steps)

    async def work() -> ImagesResponse:
        descriptions = await asyncio.gather(*(service.describe_prompt(body.prompt, seed) for seed in seeds))
        jobs = [GenerateJob(text, seed, options) for text, seed in zip(descriptions, seeds, strict=True)]
        pictures: list[Picture] = await service.engine.run_all(jobs)
        return await asyncio.to_thread(_response, pictures, descriptions, seeds, size)

    response, check = await service.run(request, work), service.input_check
    missing = (
        each for image in response.data for each in check.description_warnings(body.prompt, image.revised_prompt)
    )
    words = check.text_warnings(body.prompt, WordUse.PROMPT)
    response.warnings = [*response.warnings, *words, *dict.fromkeys(missing)]
    return response


async def reject_repeated_fields(request: Request) -> None:
    """Raise an error for a field that a form has twice, of which all but the last would be dropped."""
    counts = Counter(name for name, _ in (await request.form()).multi_items() if name != "image[]")
    for name, count in counts.items():
        if name == "image" and count > 1:
            raise UserError(f"There are {count} pictures; send the one to change as `image`.")
        if count > 1:
            raise ApiError(400, f"{name[:100]}: It comes {count} times; send it once.", "repeated", param=name[:100])


@router.post("/v1/images/edits", operation_id="edit", dependencies=[Depends(reject_repeated_fields)])
async def edit(
    body: Annotated[ImageEditRequest, Form(media_type="multipart/form-data")], request: Request, service: ServiceDep
) -> ImagesResponse:
    """Change a picture as instructed and keep the rest, at its own size."""
    seeds, options, size = _sampling(body, "edit", service)
    request.state.charge(len(seeds) * options.steps)
    files = [*([body.image] if body.image else []), *(body.images or [])]
    if len(files) != 1:
        raise UserError(f"There are {len(files)} pictures; send the one to change as `image`.")
    if body.mask is not None:
        raise UserError("This model computes its own mask; leave out `mask`.")
    if body.markup is not None:
        raise UserError("This model reads no marks; leave out `markup`, and say what to change in `prompt`.")
    source = await service.decode_full_size(await files[0].read())

    async def work() -> ImagesResponse:
        results = await _edited(source, body.prompt, seeds, options, service)
        pictures = [result.picture for result in results]
        response = await asyncio.to_thread(_response, pictures, [result.after for result in results], seeds, size)
        drawn_px = None if results[0].mask is None else service.engine.model.drawing_size_px
        response.warnings = [*size_warnings(source, pictures[0], drawn_px), *response.warnings]
        return response

    response = await service.run(request, work)
    words = service.input_check.text_warnings(body.prompt, WordUse.INSTRUCTION)
    response.warnings = [*await service.picture_warnings(source), *response.warnings, *words]
    return response


async def _edited(
    source: Picture, instruction: str, seeds: list[int], options: DrawingOptions, service: Service
) -> list[EditResult]:
    """Return edits of a picture at its own size."""
    model = service.engine.model
    if not isinstance(model, StepwiseModel):
        return await service.engine.run_all([EditJob(source, instruction, seed, options) for seed in seeds])
    read, drawn = await asyncio.to_thread(model.edit_views, source)
    before, after = await asyncio.gather(
        service.ask(read, prompts.CAPTION_REQUEST), service.ask(read, model.templates.edit_request(instruction))
    )
    after = prompts.unwrap_description(after)
    jobs = [EditJob(drawn, instruction, seed, options, before, after) for seed in seeds]
    results: list[EditResult] = await service.engine.run_all(jobs)
    return [await asyncio.to_thread(model.restore_edit, source, result) for result in results]


def _size(text: str | None, service: Service) -> tuple[int, int] | None:
    """Return the width and height that a request asks for; None for the model's own, or the picture's."""
    if text in (None, "auto"):
        return None
    match = re.fullmatch(r"([1-9]\d{0,4})x([1-9]\d{0,4})", text)
    if not match:
        raise UserError(f'size {text[:40]!r} is not a size; give one such as "1024x1024", or leave it out.')
    width, height = int(match[1]), int(match[2])
    most = service.settings.max_megapixels
    if width * height > most * 1_000_000 or max(width, height) > MAX_SIDE_PX:
        raise UserError(f"size {text} has more than {most:g} megapixels, or a side too long; ask for a smaller one.")
    return width, height


def _response(
    pictures: list[Picture], descriptions: list[str], seeds: list[int], size: tuple[int, int] | None
) -> ImagesResponse:
    drawn = pictures[0].shape[1::-1]
    scaled = [picture if size is None else scale_to(picture, size) for picture in pictures]
    width, height = scaled[0].shape[1::-1]
    warning = f"the picture was drawn at {drawn[0]} x {drawn[1]} px and scaled to {width} x {height} px."
    return ImagesResponse(
        created=unix_time(),
        data=[
            ImageObject(b64_json=png_base64(picture), revised_prompt=text, seed=seed)
            for picture, text, seed in zip(scaled, descriptions, seeds, strict=True)
        ],
        size=f"{width}x{height}",
        warnings=[] if drawn == (width, height) else [warning],
    )


def scale_to(picture: Picture, size: tuple[int, int]) -> Picture:
    """Return a picture at a width and height; where that would distort it, at the largest size of its shape inside."""
    (height, width), (most_width, most_height) = picture.shape[:2], size
    shape = (width / height) / (most_width / most_height)
    if not 1 / _SAME_SHAPE < shape < _SAME_SHAPE:
        scale = min(most_width / width, most_height / height)
        size = max(1, round(width * scale)), max(1, round(height * scale))
    if (width, height) == size:
        return picture
    return np.asarray(Image.fromarray(picture).resize(size, Image.Resampling.BICUBIC))


def _sampling(
    body: ImageGenerationRequest, skill: Literal["generate", "edit"], service: Service
) -> tuple[list[int], DrawingOptions, tuple[int, int] | None]:
    """Return seeds, options and size of the pictures, if the model has the skill and the request is within limits."""
    model, limits = service.engine.model, service.settings
    service.check_model(body.model)
    model.require(skill)
    prompts.check_text("prompt", body.prompt)
    count, first = body.n or 1, seed_or_random(body.seed)
    service.check_limit("n", count, limits.max_pictures)
    service.check_limit("steps", body.steps or 0, limits.max_steps)
    defaults = model.drawing_options if skill == "generate" else model.edit_options
    options, size = with_options(defaults, {"steps": body.steps, "guidance": body.guidance}), _size(body.size, service)
    if size is not None:
        options = with_options(options, {"size": size}) if limits.strict else model.at_size(options, size)
        model.check_size(options)
    return [first + i for i in range(count)], options, size
