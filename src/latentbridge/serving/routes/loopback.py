"""POST /v1/loopback: a picture is described, the description drawn, and so on, with the drift of each round."""

from __future__ import annotations

import numpy as np
from fastapi import APIRouter, Request

from latentbridge import prompts
from latentbridge.rng import numpy_rng
from latentbridge.serving.engine.jobs import GenerateJob, ImageEmbeddingJob
from latentbridge.serving.extension_schemas import LoopbackRequest, LoopbackResponse, LoopbackRound
from latentbridge.serving.guard.json_bodies import JsonRoute
from latentbridge.serving.service import ServiceDep, png_base64, seed_or_random
from latentbridge.types import Picture

router = APIRouter(route_class=JsonRoute)


@router.post("/v1/loopback", operation_id="loopback")
async def loopback(body: LoopbackRequest, request: Request, service: ServiceDep) -> LoopbackResponse:
    """Return the rounds of a picture, as `latentbridge loopback` does."""
    service.check_model(body.model)
    service.check_limit("rounds", body.rounds, service.settings.max_rounds)
    engine, model = service.engine, service.engine.model
    for skill in ("understand", "generate", "embed"):
        model.require(skill)
    request.state.charge(body.rounds * model.drawing_options.steps)
    origin = await service.fetch_picture(body.image)
    seed = seed_or_random(body.seed)

    async def embed(picture: Picture) -> np.ndarray:
        return (await engine.run(ImageEmbeddingJob(model.fit(picture)))).vector

    async def work() -> list[LoopbackRound]:
        rounds: list[LoopbackRound] = []
        picture = origin
        first = previous = await embed(picture)
        for number in range(body.rounds):
            words = await service.ask(picture, prompts.CAPTION_REQUEST, model.reply_options.max_tokens)
            noise_seed = int(numpy_rng(seed, "loopback", number).integers(2**31))
            picture = await engine.run(GenerateJob(words, noise_seed, model.drawing_options))
            vector = await embed(picture)
            to_origin, to_previous = float(vector @ first), float(vector @ previous)
            rounds.append(
                LoopbackRound(words=words, b64_json=png_base64(picture), to_origin=to_origin, to_previous=to_previous)
            )
            previous = vector
        return rounds

    rounds = await service.run(request, work)
    return LoopbackResponse(seed=seed, rounds=rounds, warnings=await service.picture_warnings(origin))
