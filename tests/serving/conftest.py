"""The shipped model behind real servers on loopback."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from io import BytesIO

import pytest
from openai import OpenAI
from PIL import Image
from tests.serving.server import Server, running

from latentbridge.data.shapes.render import render
from latentbridge.data.shapes.scenes import distinct_scenes
from latentbridge.models.checkpoint import load
from latentbridge.models.omnibridge.modeling_omnibridge import OmniBridge
from latentbridge.rng import numpy_rng
from latentbridge.serving.api import create_app
from latentbridge.serving.guard.limits import Limits
from latentbridge.types import Picture


@pytest.fixture(scope="session")
def served_model() -> OmniBridge:
    """The shipped model, loaded for the servers alone, since an engine modifies it."""
    return load("tiny")


@pytest.fixture(scope="session")
def server(served_model: OmniBridge) -> Iterator[Server]:
    with running(create_app(served_model), Limits()) as server:
        yield server


@pytest.fixture(scope="session")
def client(server: Server) -> OpenAI:
    return client_of(server)


def client_of(server: Server, key: str = "none") -> OpenAI:
    """Return OpenAI's own client, without retries."""
    return OpenAI(base_url=f"http://127.0.0.1:{server.port}/v1", api_key=key, max_retries=0, timeout=120)


@pytest.fixture(scope="session")
def scene_picture() -> Picture:
    return render(distinct_scenes("train", numpy_rng(0, "served"), 1)[0])


@pytest.fixture(scope="session")
def picture_file(scene_picture: Picture) -> bytes:
    return png_of(scene_picture)


@pytest.fixture(scope="session")
def picture_url(picture_file: bytes) -> str:
    return url_of(picture_file)


def png_of(picture: Picture) -> bytes:
    file = BytesIO()
    Image.fromarray(picture).save(file, "PNG")
    return file.getvalue()


def url_of(file: bytes) -> str:
    return "data:image/png;base64," + base64.b64encode(file).decode()
