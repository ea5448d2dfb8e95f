"""A server of a dual encoder: embeddings and searches over HTTP, everything else refused."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import openai
import pytest
from openai import OpenAI
from tests.models.tiny_dual_encoders import KINDS, save_dual_encoder
from tests.serving.conftest import client_of
from tests.serving.server import running

import latentbridge as lb
from latentbridge.models.unified import UnifiedModel
from latentbridge.serving.api import create_app
from latentbridge.serving.guard.limits import Limits
from latentbridge.serving.settings import Settings
from latentbridge.types import Picture


@pytest.fixture(scope="module", params=KINDS)
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_dual_encoder(request.param, tmp_path_factory.mktemp("models") / request.param)


@pytest.fixture(scope="module")
def model(folder: Path) -> UnifiedModel:
    return lb.load(folder)


@pytest.fixture(scope="module")
def client(model: UnifiedModel, tmp_path_factory: pytest.TempPathFactory) -> Iterator[OpenAI]:
    settings = Settings(model_name=model.kind, indexes=str(tmp_path_factory.mktemp("indexes")))
    with running(create_app(model, settings), Limits()) as server:
        yield client_of(server)


def test_embeddings_are_those_of_the_library(
    client: OpenAI, folder: Path, model: UnifiedModel, picture_url: str, scene_picture: Picture
):
    inputs: Any = ["a red circle", {"image": picture_url}]
    response = client.embeddings.create(model=model.kind, input=inputs)
    text, picture = (np.array(item.embedding, np.float32) for item in response.data)
    library = lb.load(folder)
    np.testing.assert_allclose(text, library.embed(texts="a red circle"), atol=1e-6)
    np.testing.assert_allclose(picture, library.embed(images=scene_picture), atol=1e-6)


def test_an_index_is_filled_and_searched(client: OpenAI, picture_url: str):
    def post(path: str, **body: Any) -> Any:
        return client.post(path, body=body, cast_to=object)

    post("/index", name="photographs")
    post("/index/photographs/items", items=[{"id": "one", "image": picture_url}])
    found = post("/search", index="photographs", query=[{"text": "red"}])
    assert [hit["id"] for hit in found["data"]] == ["one"]


def test_other_skills_are_refused(client: OpenAI, model: UnifiedModel):
    (card,) = client.models.list()
    assert card.model_extra == {"skills": ["embed"]}
    with pytest.raises(openai.BadRequestError, match=f"This {model.kind} model cannot understand"):
        client.chat.completions.create(model=model.kind, messages=[{"role": "user", "content": "What?"}])
    with pytest.raises(openai.BadRequestError, match=f"This {model.kind} model cannot generate"):
        client.images.generate(model=model.kind, prompt="a star")
