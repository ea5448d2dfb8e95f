"""Models, health, readiness and metrics of the server."""

from __future__ import annotations

from fastapi import APIRouter, Response
from prometheus_client import CONTENT_TYPE_LATEST

from latentbridge.serving.api_errors import ApiError
from latentbridge.serving.extension_schemas import Health
from latentbridge.serving.schemas import ModelCard, ModelList
from latentbridge.serving.service import ServiceDep

router = APIRouter()


@router.get("/v1/models", operation_id="list_models")
async def list_models(service: ServiceDep) -> ModelList:
    """List the server's one model."""
    return ModelList(data=[await find_model(service.settings.model_name, service)])


@router.get("/v1/models/{name}", operation_id="find_model")
async def find_model(name: str, service: ServiceDep) -> ModelCard:
    """Return a model by name."""
    service.check_model(name)
    return ModelCard(id=name, created=service.started, skills=sorted(service.engine.model.skills))


@router.head("/healthz", include_in_schema=False)
@router.get("/healthz", operation_id="health")
async def health() -> Health:
    """Return ok while the server answers."""
    return Health()


@router.head("/readyz", include_in_schema=False)
@router.get("/readyz", operation_id="readiness")
async def readiness(service: ServiceDep) -> Health:
    """Return ok while the server accepts requests and has a worker to run them."""
    if not service.engine.ready:
        raise ApiError(503, "No worker is ready; retry in a moment.", "not_ready")
    return Health()


@router.get(
    "/metrics",
    operation_id="metrics",
    response_class=Response,
    responses={200: {"content": {"text/plain": {"schema": {"type": "string"}}}}},
)
async def metrics(service: ServiceDep) -> Response:
    """Return metrics in Prometheus' text format."""
    return Response(service.engine.metrics.page(), media_type=CONTENT_TYPE_LATEST)
