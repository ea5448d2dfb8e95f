"""POST /v1/loopback: a picture put into words, the words drawn, and again; how far it drifts."""

from __future__ import annotations

import numpy as np
from fastapi import APIRouter, Request

from latentbridge import prompts
from latentbridge.rng import numpy_rng
from latentbridge.serving.engine.jobs import ImageEmbeddingJob
from latentbridge.serving.extension_schemas import LoopbackAnswer, LoopbackRequest, LoopbackRound
from latentbridge.serving.guard.json_bodies import JsonRoute
from latentbridge.serving.openapi import REFUSALS
from latentbridge.serving.service import TheService, new_seed, png
from latentbridge.types import Picture

router = APIRouter(route_class=JsonRoute, responses=REFUSALS)
_MAX_TOKENS, _STEPS = 160, 20
"""As in `OmniBridge.understand` and `OmniBridge.generate`, which `latentbridge loopback` uses."""


@router.post("/v1/loopback", operation_id="loopback")
async def loopback(asked: LoopbackRequest, request: Request, service: TheService) -> LoopbackAnswer:
    """The rounds of a picture, as `latentbridge loopback` walks them."""
    service.check_model(asked.model)
    service.check_most("rounds", asked.rounds, service.settings.max_rounds)
    service.engine.model.require("generate")
    request.state.charge(asked.rounds * _STEPS)
    picture = await service.picture(asked.image)
    seed = new_seed() if asked.seed is None else asked.seed

    async def seen(picture: Picture) -> np.ndarray:
        return (await service.engine.do(ImageEmbeddingJob(service.engine.model.fit(picture)))).vector

    async def work() -> list[LoopbackRound]:
        rounds: list[LoopbackRound] = []
        shown, first = picture, await seen(picture)
        before = first
        for number in range(asked.rounds):
            words = await service.told(shown, prompts.CAPTION_REQUEST, _MAX_TOKENS)
            noise = int(numpy_rng(seed, "loopback", number).integers(2**31))
            shown = await service.drawn(words, noise, _STEPS)
            vector = await seen(shown)
            likeness = float(vector @ first), float(vector @ before)
            rounds.append(
                LoopbackRound(words=words, b64_json=png(shown), to_origin=likeness[0], to_previous=likeness[1])
            )
            before = vector
        return rounds

    rounds = await service.answer(request, work)
    return LoopbackAnswer(seed=seed, rounds=rounds, warnings=await service.picture_warnings(picture))
