"""A server of Janus-Pro, BAGEL and Harmon, which are not stepwise: each skill is answered as the library does, edits are rejected."""

from __future__ import annotations

import base64
import copy
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import openai
import pytest
from openai import OpenAI
from PIL import Image
from tests.serving.conftest import client_of
from tests.serving.engine.working import counted, question, run, running_engine, until
from tests.serving.server import running

from latentbridge.models.checkpoint import save_model
from latentbridge.models.unified import UnifiedModel
from latentbridge.serving.api import create_app
from latentbridge.serving.guard.limits import Limits
from latentbridge.serving.settings import Settings
from latentbridge.types import Conversation, Picture

MODELS = ("small_janus", "small_bagel", "small_harmon")


@pytest.fixture(scope="module", params=MODELS)
def model(request: pytest.FixtureRequest) -> UnifiedModel:
    """A model of its own for the server, whose engine modifies it."""
    return copy.deepcopy(request.getfixturevalue(request.param))


@pytest.fixture(scope="module")
def client(model: UnifiedModel) -> Iterator[OpenAI]:
    with running(create_app(model, Settings(model_name=model.kind)), Limits()) as server:
        yield client_of(server)


def chat(client: OpenAI, model: UnifiedModel, text: str, url: str | None = None, **options: Any) -> Any:
    content: list[Any] = [{"type": "text", "text": text}]
    if url:
        content.append({"type": "image_url", "image_url": {"url": url}})
    messages: list[Any] = [{"role": "user", "content": content}]
    return client.chat.completions.create(model=model.kind, messages=messages, max_tokens=12, **options)


def test_replies_are_those_of_the_library(
    client: OpenAI, model: UnifiedModel, picture_url: str, scene_picture: Picture
):
    for picture, url in ((None, None), (model.fit(scene_picture), picture_url)):
        conversation = Conversation.with_picture((("What is this?", ""),), picture)
        expected = model.reply([conversation], max_tokens=12)[0].text
        completion = chat(client, model, "What is this?", url)
        assert completion.choices[0].message.content == expected
        assert completion.choices[0].finish_reason in ("stop", "length")
        assert completion.usage.prompt_tokens > 0 and completion.usage.completion_tokens > 0
        chunks = list(chat(client, model, "What is this?", url, stream=True))
        assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == expected
        assert chunks[-1].choices[0].finish_reason == completion.choices[0].finish_reason


def test_a_seed_repeats_a_sampled_reply(client: OpenAI, model: UnifiedModel):
    replies = [
        chat(client, model, "Draw: two stars", temperature=1.5, seed=seed).choices[0].message.content
        for seed in (1, 1, 2, 3, 4)
    ]
    assert replies[0] == replies[1] and len(set(replies)) > 1


def test_a_stop_text_cuts_a_reply(client: OpenAI, model: UnifiedModel):
    whole = chat(client, model, "What is this?").choices[0].message.content
    cut = chat(client, model, "What is this?", stop=whole[2]).choices[0]
    assert (cut.message.content, cut.finish_reason) == (whole[: whole.index(whole[2])], "stop")


def test_pictures_are_those_of_the_library(client: OpenAI, model: UnifiedModel):
    sampling = {"seed": 5, "steps": 2, "guidance": 1.5}
    response = client.images.generate(model=model.kind, prompt="a red circle", n=2, extra_body=sampling)
    expected = model.generate(["a red circle"] * 2, seed=5, steps=2, guidance=1.5)
    assert response.data
    assert response.size == f"{model.drawing_size_px}x{model.drawing_size_px}"
    for item, result in zip(response.data, expected, strict=True):
        picture = np.asarray(Image.open(BytesIO(base64.b64decode(item.b64_json or ""))))
        assert np.array_equal(picture, result.picture) and item.revised_prompt == result.description


def test_a_size_is_drawn_at_the_nearest_one_and_scaled(client: OpenAI, model: UnifiedModel):
    side = model.drawing_size_px or 0
    for width, height in ((side * 4, side * 2), (side - 3, side // 2 - 1), (side, side)):
        asked: Any = {"size": f"{width}x{height}", "extra_body": {"steps": 2, "seed": 5}}
        response = client.images.generate(model=model.kind, prompt="a red circle", **asked)
        picture = np.asarray(Image.open(BytesIO(base64.b64decode((response.data or [])[0].b64_json or ""))))
        any_shape = model.kind == "bagel"
        expected = (width, height) if any_shape else (min(width, height),) * 2
        assert picture.shape[1::-1] == expected and response.size == f"{expected[0]}x{expected[1]}"
        size = model.at_size(model.drawing_options, (width, height)).size
        if any_shape:
            assert size is not None and max(size) <= side and abs(size[0] / size[1] - width / height) < 0.6
        drawn = model.generate("a red circle", seed=5, steps=2, **({"size": size} if any_shape else {})).picture
        warned = [warning for warning in (response.model_extra or {})["warnings"] if "scaled to" in warning]
        assert bool(warned) == (drawn.shape[1::-1] != expected)
        if not warned:
            assert np.array_equal(picture, drawn)


def test_many_tokens_are_as_many_as_the_context_holds(client: OpenAI, model: UnifiedModel):
    messages: Any = [{"role": "user", "content": "What is this?"}]
    answer = client.chat.completions.create(
        model=model.kind, messages=messages, max_tokens=10**6, temperature=2, seed=1
    )
    assert answer.usage and answer.usage.total_tokens <= model.context_length
    if answer.choices[0].finish_reason == "length":
        assert answer.usage.total_tokens == model.context_length


def test_embeddings_are_those_of_the_library(
    client: OpenAI, model: UnifiedModel, picture_url: str, scene_picture: Picture
):
    inputs: Any = ["a red circle", {"image": picture_url}]
    response = client.embeddings.create(model=model.kind, input=inputs)
    text, picture = (np.array(item.embedding, np.float32) for item in response.data)
    assert np.array_equal(text, model.embed(texts="a red circle"))
    assert np.array_equal(picture, model.embed(images=scene_picture))
    assert response.usage.prompt_tokens > 0


def test_an_edit_is_that_of_the_library_or_rejected_by_naming_the_models_that_can(
    client: OpenAI, model: UnifiedModel, picture_file: bytes
):
    if "edit" in model.skills:
        response = client.images.edit(
            model=model.kind, image=("in.png", picture_file), prompt="make it red", extra_body={"seed": 5, "steps": 3}
        )
        assert response.data
        picture = np.asarray(Image.open(BytesIO(base64.b64decode(response.data[0].b64_json or ""))))
        assert np.array_equal(picture, model.edit(picture_file, "make it red", seed=5, steps=3).picture)
        return
    with pytest.raises(openai.BadRequestError, match="cannot edit.*OmniBridge"):
        client.images.edit(model=model.kind, image=("in.png", picture_file), prompt="make it red")


def test_models_tell_their_skills(client: OpenAI, model: UnifiedModel):
    (card,) = client.models.list()
    assert card.model_extra == {"skills": sorted(model.skills)}


def test_loopback_has_rounds(client: OpenAI, model: UnifiedModel, picture_url: str):
    response: Any = client.post("/loopback", body={"image": picture_url, "rounds": 2, "seed": 1}, cast_to=object)
    assert len(response["rounds"]) == 2
    assert all(-1.001 <= each["to_origin"] <= 1.001 for each in response["rounds"])


def test_worker_processes_reply_as_the_library(model: UnifiedModel, tmp_path: Path):
    served: Any = copy.deepcopy(model)
    save_model(served, tmp_path)

    async def test() -> None:
        async with running_engine(served, workers=2, source=str(tmp_path)) as engine:
            await until(lambda: counted(engine, "workers") == 2)
            (chunk,) = await engine.complete(question("What is this?", max_tokens=5))
            (reply,) = model.reply([Conversation((("What is this?", ""),))], max_tokens=5)
            assert chunk.text == reply.text

    run(test)
