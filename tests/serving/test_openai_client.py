"""OpenAI's Python client, unmodified, against a real server: every call, and errors as its exceptions."""

from __future__ import annotations

import base64
from io import BytesIO
from typing import Any

import numpy as np
import openai
import pytest
from openai import OpenAI
from PIL import Image
from tests.serving.conftest import client_of, png_of, url_of
from tests.serving.server import running

from latentbridge.models.omnibridge.modeling_omnibridge import OmniBridge
from latentbridge.serving.api import create_app
from latentbridge.serving.guard.keys import ENVIRONMENT, read_keys
from latentbridge.serving.guard.limits import Limits
from latentbridge.serving.guard.rates import Allowance, Rates
from latentbridge.types import Picture

FACTS = "Describe the picture."


def question(text: str, url: str | None = None) -> list[Any]:
    picture = [{"type": "image_url", "image_url": {"url": url, "detail": "auto"}}] if url else []
    return [{"role": "user", "content": [{"type": "text", "text": text}, *picture]}]


def decode(png: str | None) -> Picture:
    return np.asarray(Image.open(BytesIO(base64.b64decode(png or ""))))


def test_chat_replies_as_the_library(
    client: OpenAI, served_model: OmniBridge, picture_url: str, scene_picture: Picture
):
    answer = client.chat.completions.create(model="tiny", messages=question(FACTS, picture_url))
    choice = answer.choices[0]
    assert choice.message.content == served_model.understand(scene_picture, FACTS)
    assert choice.finish_reason == "stop" and choice.message.role == "assistant"
    assert answer.usage is not None
    tokens = served_model.tokenizer.encode(choice.message.content or "", add_special_tokens=False)
    assert answer.usage.completion_tokens == len(tokens) + 1  # the end of the turn
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + answer.usage.completion_tokens


def test_a_stream_adds_up_to_the_whole_and_ends_with_its_usage(client: OpenAI, picture_url: str):
    arguments: dict[str, Any] = {"model": "tiny", "messages": question(FACTS, picture_url)}
    whole = client.chat.completions.create(**arguments)
    chunks = list(client.chat.completions.create(**arguments, stream=True, stream_options={"include_usage": True}))
    texts = [chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices]
    assert "".join(texts) == whole.choices[0].message.content and len([text for text in texts if text]) > 5
    assert [c.choices[0].finish_reason for c in chunks if c.choices][-1] == "stop"
    assert chunks[-1].usage == whole.usage and not chunks[-1].choices
    assert len({chunk.id for chunk in chunks}) == 1


def test_a_stream_without_options_has_no_usage(client: OpenAI):
    chunks = list(client.chat.completions.create(model="tiny", messages=question("Draw: a star"), stream=True))
    assert all(chunk.choices and chunk.usage is None for chunk in chunks)


def test_stop_and_max_tokens_cut_a_reply(client: OpenAI, picture_url: str):
    arguments: dict[str, Any] = {"model": "tiny", "messages": question(FACTS, picture_url)}
    whole = client.chat.completions.create(**arguments).choices[0].message.content or ""
    word = whole.split()[2]
    before = whole[: whole.index(word)]
    cut = client.chat.completions.create(**arguments, stop=[word, "never said"]).choices[0]
    assert (cut.message.content, cut.finish_reason) == (before, "stop")
    streamed = client.chat.completions.create(**arguments, stop=word, stream=True)
    assert "".join(chunk.choices[0].delta.content or "" for chunk in streamed) == before
    short = client.chat.completions.create(**arguments, max_completion_tokens=3)
    assert short.choices[0].finish_reason == "length" and short.usage and short.usage.completion_tokens == 3
    assert whole.startswith(short.choices[0].message.content or "?")


def test_a_seed_repeats_a_sampled_reply(client: OpenAI):
    arguments: dict[str, Any] = {"model": "tiny", "messages": question("Draw: two stars"), "temperature": 1.5}
    replies = [client.chat.completions.create(**arguments, seed=n).choices[0].message.content for n in (1, 1, 2, 3, 4)]
    assert replies[0] == replies[1] and len(set(replies)) > 1


def test_reasoning_effort_asks_for_steps(client: OpenAI, picture_url: str):
    arguments: dict[str, Any] = {"model": "tiny", "messages": question("Is there a star?", picture_url)}
    short = client.chat.completions.create(**arguments, reasoning_effort="none").choices[0].message.content or ""
    worked = client.chat.completions.create(**arguments, reasoning_effort="low").choices[0].message.content or ""
    assert short in ("yes", "no") and "Step 1" in worked


def test_earlier_turns_are_read(client: OpenAI, picture_url: str):
    turns = [*question("Is there a star?", picture_url), {"role": "assistant", "content": "no"}]
    first = client.chat.completions.create(model="tiny", messages=question(FACTS, picture_url))
    later = client.chat.completions.create(model="tiny", messages=[*turns, *question(FACTS)])
    assert first.usage and later.usage and later.usage.prompt_tokens > first.usage.prompt_tokens


def test_pictures_are_those_of_the_library(client: OpenAI, served_model: OmniBridge):
    answer = client.images.generate(model="tiny", prompt="a red circle", n=2, extra_body={"seed": 5, "steps": 3})
    assert answer.data is not None
    for item, seed in zip(answer.data, (5, 6), strict=True):
        assert np.array_equal(decode(item.b64_json), served_model.generate("a red circle", seed, steps=3).picture)
        assert item.revised_prompt == served_model.rewrite("a red circle", seed)


def test_an_edit_comes_as_a_form(client: OpenAI, served_model: OmniBridge, picture_file: bytes, scene_picture: Picture):
    arguments: dict[str, Any] = {"prompt": "make the background black", "extra_body": {"seed": 3, "steps": 3}}
    expected = served_model.edit(scene_picture, "make the background black", seed=3, steps=3).picture
    for image in (("in.png", picture_file), [("in.png", picture_file)]):
        answer = client.images.edit(model="tiny", image=image, **arguments)  # pyright: ignore
        assert answer.data is not None and np.array_equal(decode(answer.data[0].b64_json), expected)


def test_embeddings_of_texts_and_pictures(
    client: OpenAI, served_model: OmniBridge, picture_url: str, scene_picture: Picture
):
    inputs: Any = ["a red circle", {"image": picture_url}, {"text": "three blue stars in a row"}]
    plain = client.embeddings.create(model="tiny", input=inputs, encoding_format="float")
    packed = client.embeddings.create(model="tiny", input=inputs)  # the client asks for base64 and unpacks it
    assert [item.index for item in packed.data] == [0, 1, 2]
    rows = np.array([item.embedding for item in packed.data], np.float32)
    assert np.array_equal(rows, np.array([item.embedding for item in plain.data], np.float32))
    expected = [
        served_model.embed(texts="a red circle"),
        served_model.embed(images=scene_picture),
        served_model.embed(texts="three blue stars in a row"),
    ]
    assert np.array_equal(rows, np.stack(expected))


def test_models_are_listed_and_found(client: OpenAI):
    assert [model.id for model in client.models.list()] == ["tiny"]
    assert client.models.retrieve("tiny").owned_by == "latentbridge"


def test_invalid_requests_get_a_message_with_the_fix(client: OpenAI, picture_url: str):
    other = url_of(png_of(np.zeros((9, 9, 3), np.uint8)))
    calls: dict[str, Any] = {
        "not a size": lambda: client.images.generate(prompt="a star", size="512"),
        "the most this server accepts": lambda: client.images.generate(prompt="a star", n=9),
        "messages": lambda: client.chat.completions.create(model="tiny", messages=[]),
        "looks at 1 at most": lambda: client.chat.completions.create(
            model="tiny",
            messages=[*question("a", picture_url), {"role": "assistant", "content": "b"}, *question("c", other)],
        ),
        "tools": lambda: client.chat.completions.create(
            model="tiny", messages=question("a"), tools=[{"type": "function", "function": {"name": "f"}}]
        ),
        "vectors have": lambda: client.embeddings.create(model="tiny", input="a", dimensions=7),
        "data:": lambda: client.chat.completions.create(
            model="tiny", messages=question("a", "https://example.org/a.png")
        ),
        "is empty": lambda: client.images.generate(prompt=" "),
    }
    for words, call in calls.items():
        with pytest.raises(openai.BadRequestError, match=words) as caught:
            call()
        assert caught.value.type == "invalid_request_error"


def test_unknown_models_and_routes_are_not_found(client: OpenAI):
    for call in (
        lambda: client.chat.completions.create(model="gpt-9", messages=question("a")),
        lambda: client.models.retrieve("gpt-9"),
        lambda: client.audio.speech.create(input="a", model="tiny", voice="alloy"),
    ):
        with pytest.raises(openai.NotFoundError):
            call()


def test_keys_and_rates_have_openais_errors(served_model: OmniBridge):
    key = "k" * 20
    rates = Rates({"embed": Allowance(requests=1)})
    app = create_app(served_model, keys=read_keys(None, {ENVIRONMENT: f"ada:{key}"}), rates=rates)
    with running(app, Limits()) as server:
        with pytest.raises(openai.AuthenticationError):
            client_of(server, "wrong").models.list()
        client = client_of(server, key)
        client.embeddings.create(model="tiny", input="a star")
        with pytest.raises(openai.RateLimitError) as caught:
            client.embeddings.create(model="tiny", input="a star")
        assert int(caught.value.response.headers["Retry-After"]) > 0
