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
from latentbridge.serving.openapi import REFUSALS
from latentbridge.serving.schemas import DrawRequest, Guidance, NumSteps, PictureAnswer, PicturesAnswer, Seed
from latentbridge.serving.service import Service, TheService, new_seed, now, png
from latentbridge.types import Picture

_EDIT_FIELDS = DrawRequest.model_fields.keys() - {"stream"} | {"image", "image[]", "mask"}

router = APIRouter(route_class=JsonRoute, responses=REFUSALS)


@router.post("/v1/images/generations", operation_id="draw")
async def draw(asked: DrawRequest, request: Request, service: TheService) -> PicturesAnswer:
    """Pictures of a prompt: the model completes it to a full description, and draws that."""
    service.check_model(asked.model)
    prompts.check_text("prompt", asked.prompt)
    count, steps = asked.n or 1, asked.steps or 20
    guidance = 2.5 if asked.guidance is None else asked.guidance
    size, seeds = _check(service, count, asked.size, steps, asked.seed)
    request.state.charge(count * steps)

    async def work() -> list[PictureAnswer]:
        descriptions = await asyncio.gather(*(service.description(asked.prompt, seed) for seed in seeds))
        works = [GenerateJob(text, seed, steps, guidance) for text, seed in zip(descriptions, seeds, strict=True)]
        return _answers(await service.engine.do_all(works), descriptions, seeds)

    drawn, check = await service.answer(request, work), service.input_check
    left_out = (each for one in drawn for each in check.description_warnings(asked.prompt, one.revised_prompt))
    warnings = [*check.text_warnings(asked.prompt, Use.PROMPT), *dict.fromkeys(left_out)]
    return PicturesAnswer(created=now(), data=drawn, size=size, warnings=warnings)


@router.post("/v1/images/edits", operation_id="edit")
async def edit(
    request: Request,
    service: TheService,
    prompt: Annotated[str, Form()],
    image: Annotated[UploadFile | None, File(description="The picture to change.")] = None,
    images: Annotated[list[UploadFile] | None, File(alias="image[]", description="The same, in a list of one.")] = None,
    mask: Annotated[UploadFile | None, File(description="Refused: the model finds by itself what changes.")] = None,
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
) -> PicturesAnswer:
    """A picture changed as told, the rest of it kept."""
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
        raise UserError("This model finds by itself what changes; leave out `mask`.")
    source = await service.source(await files[0].read())
    picture = await asyncio.to_thread(service.engine.model.fit, source)
    warnings = [
        *await service.picture_warnings(picture),
        *size_warnings(source, _side_px(service)),
        *service.input_check.text_warnings(prompt, Use.INSTRUCTION),
    ]

    async def work() -> list[PictureAnswer]:
        before, after = await asyncio.gather(
            service.told(picture, prompts.CAPTION_REQUEST), service.told(picture, prompts.edit_request(prompt))
        )
        after = prompts.unwrap_description(after)
        works = [EditJob(picture, before, after, each, steps, guidance) for each in seeds]
        results = await service.engine.do_all(works)
        return _answers([result.picture for result in results], [after] * len(seeds), seeds)

    edited = await service.answer(request, work)
    return PicturesAnswer(created=now(), data=edited, size=size, warnings=warnings)


def _side_px(service: Service) -> int:
    """The side of the squares that the model draws."""
    return service.engine.model.decoder.grid * service.engine.model.autoencoder.patch_px


def _check(service: Service, count: int, size: str | None, steps: int, seed: int | None) -> tuple[str, list[int]]:
    """The size drawn, and a seed for each picture, where a request for pictures is within the limits."""
    model, limits = service.engine.model, service.settings
    model.require("decoder", "draw")
    side = _side_px(service)
    drawn = f"{side}x{side}"
    if size not in (None, "auto", drawn):
        raise UserError(f"This model draws {drawn}, not {size}; leave out `size`.")
    service.check_most("n", count, limits.max_pictures)
    service.check_most("steps", steps, limits.max_steps)
    first = new_seed() if seed is None else seed
    return drawn, [first + i for i in range(count)]


def _answers(pictures: list[Picture], descriptions: list[str], seeds: list[int]) -> list[PictureAnswer]:
    return [
        PictureAnswer(b64_json=png(picture), revised_prompt=text, seed=seed)
        for picture, text, seed in zip(pictures, descriptions, seeds, strict=True)
    ]
