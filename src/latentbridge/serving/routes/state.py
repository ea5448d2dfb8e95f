"""What the server is and how it does: models, health, readiness, counters."""

from __future__ import annotations

from fastapi import APIRouter, Response
from prometheus_client import CONTENT_TYPE_LATEST

from latentbridge.serving.api_errors import ApiError
from latentbridge.serving.extension_schemas import Health
from latentbridge.serving.openapi import REFUSALS
from latentbridge.serving.schemas import ModelCard, ModelList
from latentbridge.serving.service import Service, TheService

router = APIRouter(responses=REFUSALS)


@router.get("/v1/models", operation_id="list_models")
async def list_models(service: TheService) -> ModelList:
    """The one model there is."""
    return ModelList(data=[_card(service)])


@router.get("/v1/models/{name}", operation_id="find_model")
async def find_model(name: str, service: TheService) -> ModelCard:
    """A model by its name."""
    service.check_model(name)
    return _card(service)


@router.head("/healthz", include_in_schema=False)
@router.get("/healthz", operation_id="health")
async def health() -> Health:
    """The server answers."""
    return Health()


@router.head("/readyz", include_in_schema=False)
@router.get("/readyz", operation_id="readiness")
async def readiness(service: TheService) -> Health:
    """The server takes requests, and its engine does them."""
    if not service.engine.ready:
        raise ApiError(503, "The engine is not at work; ask again in a moment.", "not_ready")
    return Health()


@router.get(
    "/metrics",
    operation_id="metrics",
    response_class=Response,
    responses={200: {"content": {"text/plain": {"schema": {"type": "string"}}}}},
)
async def metrics(service: TheService) -> Response:
    """Counters in Prometheus' text format."""
    return Response(service.engine.metrics.page(), media_type=CONTENT_TYPE_LATEST)


def _card(service: Service) -> ModelCard:
    return ModelCard(id=service.settings.model_name, created=service.started)
