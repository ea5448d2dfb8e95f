"""What clients send by themselves: null and neutral fields, the server's own answers, sizes, limits, pictures again."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from io import BytesIO
from typing import Any

import httpx
import numpy as np
import openai
import pytest
from openai import OpenAI
from openai.types import embedding_create_params, image_edit_params, image_generate_params
from openai.types.chat import completion_create_params
from PIL import Image, ImageDraw
from tests.serving.conftest import client_of, png_of, url_of
from tests.serving.server import Server, running

from latentbridge.models.omnibridge.modeling_omnibridge import OmniBridge
from latentbridge.serving.api import create_app
from latentbridge.serving.guard.limits import Limits
from latentbridge.serving.settings import Settings
from latentbridge.types import Picture

CHAT, DRAW, EDIT, EMBED = "chat/completions", "images/generations", "images/edits", "embeddings"
TALK = [{"role": "user", "content": "What is red?"}]
PUBLISHED: dict[str, Any] = {
    CHAT: completion_create_params.CompletionCreateParamsNonStreaming,
    DRAW: image_generate_params.ImageGenerateParamsNonStreaming,
    EDIT: image_edit_params.ImageEditParamsNonStreaming,
    EMBED: embedding_create_params.EmbeddingCreateParams,
}
"""Fields of OpenAI's requests, as its own client has them."""
NEEDED: dict[str, dict[str, Any]] = {
    CHAT: {"messages": TALK, "max_tokens": 2, "model": "tiny"},
    DRAW: {"prompt": "a star", "steps": 1, "model": "tiny"},
    EDIT: {"prompt": "make it red", "steps": 1, "model": "tiny"},
    EMBED: {"input": "a star", "model": "tiny"},
}
_IMAGE = {
    "background": ["auto", "opaque"],
    "frame_count": [1],
    "frame_duration_ms": [100],
    "complexity": [],
    "moderation": ["low", "auto"],
    "n": [1],
    "output_compression": [100, 0],
    "output_format": ["png"],
    "partial_images": [0],
    "quality": ["auto", "standard"],
    "response_format": ["b64_json"],
    "safety_identifier": ["x"],
    "size": ["auto"],
    "stream": [False],
    "svg": [{}],
    "user": ["x"],
}
NEUTRAL: dict[str, dict[str, list[Any]]] = {
    CHAT: {
        "audio": [],
        "frequency_penalty": [0, 0.0],
        "function_call": ["none", "auto"],
        "functions": [[]],
        "logit_bias": [{}],
        "logprobs": [False],
        "max_completion_tokens": [2],
        "metadata": [{}, {"a": "b"}],
        "modalities": [["text"]],
        "moderation": [],
        "n": [1],
        "parallel_tool_calls": [True, False],
        "prediction": [{"type": "content", "content": "x"}],
        "presence_penalty": [0],
        "prompt_cache_key": ["x"],
        "prompt_cache_options": [{"mode": "implicit", "ttl": "30m"}],
        "prompt_cache_retention": ["24h"],
        "reasoning_effort": ["none", "minimal"],
        "response_format": [{"type": "text"}],
        "safety_identifier": ["x"],
        "seed": [1],
        "service_tier": ["auto"],
        "stop": [[], "never said"],
        "store": [True, False],
        "stream": [False],
        "stream_options": [{"include_usage": True, "include_obfuscation": False}],
        "temperature": [0],
        "tool_choice": ["none", "auto"],
        "tools": [[]],
        "top_logprobs": [0],
        "top_p": [1],
        "user": ["x"],
        "verbosity": ["medium"],
        "web_search_options": [],
    },
    DRAW: _IMAGE | {"style": ["vivid", "natural"]},
    EDIT: _IMAGE | {"svg": [], "image": [], "input_fidelity": ["low", "high"], "markup": [], "mask": []},
    EMBED: {"dimensions": [], "encoding_format": ["float", "base64"], "user": ["x"]},
}
"""Values at which a field asks for nothing that the model lacks."""
LACKING: dict[str, dict[str, Any]] = {
    CHAT: {
        "audio": {"format": "wav", "voice": "alloy"},
        "frequency_penalty": 0.5,
        "function_call": {"name": "f"},
        "functions": [{"name": "f"}],
        "logit_bias": {"50": -100},
        "logprobs": True,
        "modalities": ["text", "audio"],
        "moderation": {"model": "m"},
        "n": 2,
        "presence_penalty": -0.5,
        "response_format": {"type": "json_object"},
        "tool_choice": "required",
        "tools": [{"type": "function", "function": {"name": "f"}}],
        "top_logprobs": 3,
        "verbosity": "high",
        "web_search_options": {},
        "min_p": 0.1,
        "repetition_penalty": 1.2,
        "unheard_of": 1,
    },
    DRAW: {
        "background": "transparent",
        "complexity": "high",
        "frame_count": 4,
        "output_format": "webp",
        "partial_images": 2,
        "quality": "hd",
        "response_format": "url",
        "stream": True,
        "svg": {"a": 1},
    },
    EMBED: {"dimensions": 7, "encoding_format": "int8"},
}


@pytest.fixture(scope="module")
def web(server: Server) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=f"http://127.0.0.1:{server.port}/v1/", timeout=120) as client:
        yield client


def send(web: httpx.Client, route: str, fields: dict[str, Any], picture: bytes | None = None) -> httpx.Response:
    if route != EDIT:
        return web.post(route, json=NEEDED[route] | fields)
    form = {name: str(value).lower() if isinstance(value, bool) else str(value) for name, value in fields.items()}
    return web.post(route, data=NEEDED[EDIT] | form, files={"image": ("a.png", picture)})


@pytest.mark.parametrize("route", PUBLISHED)
def test_the_lists_here_have_every_published_field(route: str):
    base = PUBLISHED[route].__mro__[1] if PUBLISHED[route].__mro__[1] is not dict else PUBLISHED[route]
    published = set(base.__annotations__) | set(PUBLISHED[route].__annotations__)
    assert len(published) > 4 and published - set(NEEDED[route]) <= set(NEUTRAL[route])


@pytest.mark.parametrize("route", [CHAT, DRAW, EMBED])
def test_null_is_as_if_a_field_were_absent(web: httpx.Client, route: str):
    nulls = dict.fromkeys([*NEUTRAL[route], "unheard_of"])
    plain, with_nulls = send(web, route, {"seed": 1} if route != EMBED else {}), send(web, route, nulls)
    assert with_nulls.status_code == 200, with_nulls.text
    assert plain.json().keys() == with_nulls.json().keys()


@pytest.mark.parametrize(
    ("route", "name", "value"),
    [(route, name, value) for route in NEUTRAL for name, values in NEUTRAL[route].items() for value in values],
)
def test_a_neutral_value_is_taken(web: httpx.Client, route: str, name: str, value: Any, picture_file: bytes):
    response = send(web, route, {name: value}, picture_file)
    assert response.status_code == 200, response.text


@pytest.mark.parametrize(
    ("route", "name", "value"),
    [(route, name, value) for route in LACKING for name, value in LACKING[route].items()],
)
def test_what_the_model_lacks_is_refused_by_name(web: httpx.Client, route: str, name: str, value: Any):
    response = send(web, route, {name: value})
    message = response.json()["error"]["message"]
    assert response.status_code == 400 and name in message and len(message) < 300, message


# --- the server's own answers ---


@pytest.mark.parametrize("form", ["object", "dump", "whole dump", "answer"])
def test_a_reply_is_accepted_in_the_next_request(client: OpenAI, web: httpx.Client, form: str):
    raw = send(web, CHAT, {}).json()["choices"][0]["message"]
    message = client.chat.completions.create(model="tiny", messages=TALK, max_tokens=2).choices[0].message  # pyright: ignore
    said: Any = {
        "object": message,
        "dump": message.model_dump(exclude_unset=True),
        "whole dump": message.model_dump(),
        "answer": raw,
    }[form]
    messages: Any = [*TALK, said, {"role": "user", "content": "And blue?"}]
    again = client.chat.completions.create(model="tiny", messages=messages, max_tokens=2)
    assert again.choices[0].message.role == "assistant" and again.usage and again.usage.prompt_tokens > 20


def test_a_streamed_reply_is_accepted_in_the_next_request(client: OpenAI):
    with client.chat.completions.stream(model="tiny", messages=TALK) as stream:  # pyright: ignore
        message = stream.get_final_completion().choices[0].message
    messages: Any = [*TALK, message, {"role": "user", "content": "And blue?"}]
    assert client.chat.completions.create(model="tiny", messages=messages, max_tokens=2).choices


@pytest.mark.parametrize(
    "said",
    [
        {"content": None, "refusal": "I cannot say."},
        {"content": [{"type": "refusal", "refusal": "I cannot say."}]},
        {"content": [{"type": "text", "text": "red"}], "tool_calls": [], "annotations": [], "audio": None},
        {"content": "red", "reasoning_content": "so", "provider_specific_fields": {"refusal": None}},
        {"content": None},
    ],
)
def test_replies_of_other_servers_are_accepted(web: httpx.Client, said: dict[str, Any]):
    messages = [*TALK, {"role": "assistant", **said}, {"role": "user", "content": "And blue?"}]
    response = send(web, CHAT, {"messages": messages})
    assert response.status_code == 200, response.text


@pytest.mark.parametrize(
    ("message", "name"),
    [
        ({"role": "user", "content": None}, "messages.0.content"),
        ({"role": "user"}, "messages.0.content"),
        ({"role": "user", "content": "x", "tool_calls": []}, "messages.0.tool_calls"),
        ({"role": "tool", "content": "x"}, "messages.0"),
        ({"role": "user", "content": [{"type": "input_audio", "input_audio": {}}]}, "messages.0.content.0"),
    ],
)
def test_messages_that_the_model_cannot_read_are_refused_by_name(web: httpx.Client, message: dict[str, Any], name: str):
    error = send(web, CHAT, {"messages": [message]}).json()["error"]
    assert error["param"] == name and error["message"].startswith(name)


def test_tool_calls_of_an_assistant_are_refused_by_name(web: httpx.Client):
    call = {"id": "1", "type": "function", "function": {"name": "f", "arguments": "{}"}}
    messages = [*TALK, {"role": "assistant", "content": None, "tool_calls": [call]}]
    error = send(web, CHAT, {"messages": messages}).json()["error"]
    assert error["param"] == "messages.1.tool_calls"


def test_a_drawing_is_accepted_in_the_next_requests(web: httpx.Client):
    drawn = send(web, DRAW, {"seed": 1, "size": "128x128"}).json()
    (item,) = drawn["data"]
    again = send(web, DRAW, {"prompt": item["revised_prompt"], "seed": item["seed"], "size": drawn["size"]})
    assert again.status_code == 200 and again.json()["size"] == "128x128"
    form = {"output_format": drawn["output_format"], "size": drawn["size"], "seed": item["seed"]}
    edited = send(web, EDIT, form, base64.b64decode(item["b64_json"]))
    assert edited.status_code == 200 and edited.json()["size"] == "128x128", edited.text
    url = "data:image/png;base64," + item["b64_json"]
    walked = web.post("loopback", json={"image": url, "rounds": 1, "seed": item["seed"]}).json()
    url = "data:image/png;base64," + walked["rounds"][0]["b64_json"]
    assert web.post("loopback", json={"image": url, "rounds": 1, "model": None}).status_code == 200
    words = {"input": [{"image": url}, walked["rounds"][0]["words"]]}
    assert send(web, EMBED, words | {"model": drawn.get("model")}).status_code == 200


def test_a_hit_is_accepted_in_the_next_requests(served_model: OmniBridge, tmp_path: Any, picture_url: str):
    with (
        running(create_app(served_model, Settings(indexes=tmp_path)), Limits()) as server,
        httpx.Client(base_url=f"http://127.0.0.1:{server.port}/v1/", timeout=60) as web,
    ):
        card = web.post("index", json={"name": "mine", "model": None}).json()
        items = [
            {"id": "a", "image": picture_url, "metadata": {"kind": "scene"}},
            {"id": "b", "image": picture_url, "metadata": None},
        ]
        assert web.post(f"index/{card['id']}/items", json={"items": items}).status_code == 200
        query = {"index": card["id"], "query": "a star", "thumbnails": True, "where": None, "k": None}
        (hit, other) = web.post("search", json=query).json()["data"]
        again = {"id": hit["id"], "image": hit["thumbnail"], "metadata": hit["metadata"]}
        assert web.post("index/mine/items", json={"items": [again]}).json()["items"] == 2
        like = web.post("search", json={"index": "mine", "query": [{"item": other["id"], "text": None}]}).json()
        assert [each["id"] for each in like["data"]] == [hit["id"]]


# --- forms ---


def test_a_field_that_comes_twice_is_refused(web: httpx.Client, picture_file: bytes):
    image = ("a.png", picture_file)
    for files in ([("image", image)] * 2, [("image[]", image)] * 2, [("image", image), ("image[]", image)]):
        response = web.post(EDIT, data={"prompt": "make it red", "steps": "1"}, files=files)
        assert response.status_code == 400 and "There are 2 pictures" in response.json()["error"]["message"]
    for name in ("prompt", "steps", "seed", "model"):
        response = web.post(EDIT, data=NEEDED[EDIT] | {name: ["1", "2"]}, files={"image": image})
        error = response.json()["error"]
        assert response.status_code == 400 and error["param"] == name and "2 times" in error["message"]


# --- sizes ---


def decode(item: dict[str, Any]) -> Picture:
    return np.asarray(Image.open(BytesIO(base64.b64decode(item["b64_json"]))))


@pytest.mark.parametrize(
    ("asked", "given"),
    [
        ("1024x1024", (1024, 1024)),
        ("512x512", (512, 512)),
        ("1536x1024", (1024, 1024)),
        ("1024x1792", (1024, 1024)),
        ("32x32", (32, 32)),
        ("64x64", (64, 64)),
        ("auto", (64, 64)),
        (None, (64, 64)),
    ],
)
def test_a_drawing_has_the_size_asked_for_or_the_largest_of_its_shape_inside(
    web: httpx.Client, served_model: OmniBridge, asked: str | None, given: tuple[int, int]
):
    response = send(web, DRAW, {"size": asked, "seed": 5}).json()
    picture = decode(response["data"][0])
    assert picture.shape[1::-1] == given and response["size"] == f"{given[0]}x{given[1]}"
    drawn = served_model.generate("a star", seed=5, steps=1).picture
    small = np.asarray(Image.fromarray(picture).resize((64, 64), Image.Resampling.BOX))
    assert np.abs(small.astype(int) - drawn).mean() < (30 if given[0] < 64 else 4)
    scaled = [warning for warning in response["warnings"] if "scaled to" in warning]
    assert scaled == (
        [] if given == (64, 64) else [f"the picture was drawn at 64 x 64 px and scaled to {given[0]} x {given[1]} px."]
    )


@pytest.mark.parametrize("size", ["big", "0x64", "64", "99999x99999", "16400x1", "-1x5", "64x64x64", "5000x5000"])
def test_other_sizes_are_refused_by_name(web: httpx.Client, size: str):
    error = send(web, DRAW, {"size": size}).json()["error"]
    assert "size" in error["message"] and "ize" in error["message"] and len(error["message"]) < 200


def test_an_edit_has_the_pictures_size_or_the_one_asked_for(web: httpx.Client, served_model: OmniBridge):
    image = Image.new("RGB", (640, 320), (200, 225, 248))
    ImageDraw.Draw(image).ellipse((60, 80, 220, 240), fill=(220, 40, 40))
    source = np.asarray(image)
    response = send(web, EDIT, {"seed": 3}, png_of(source)).json()
    edited = decode(response["data"][0])
    expected = served_model.edit(source, "make it red", seed=3, steps=1)
    assert response["size"] == "640x320" and np.array_equal(edited, expected.picture)
    assert expected.mask is not None and np.array_equal(edited[~expected.mask], source[~expected.mask])
    smaller = send(web, EDIT, {"seed": 3, "size": "320x160"}, png_of(source)).json()
    assert decode(smaller["data"][0]).shape == (160, 320, 3) and smaller["size"] == "320x160"
    square = send(web, EDIT, {"seed": 3, "size": "1024x1024"}, png_of(source)).json()
    assert decode(square["data"][0]).shape == (512, 1024, 3) and square["size"] == "1024x512"


# --- limits ---


def test_more_tokens_than_the_limit_are_the_limit(web: httpx.Client, served_model: OmniBridge):
    for name in ("max_tokens", "max_completion_tokens"):
        response = send(web, CHAT, {"max_tokens": None, name: 1_000_000, "temperature": 1.9, "seed": 1})
        choice = response.json()["choices"][0]
        assert choice["finish_reason"] in ("stop", "length"), response.text
        assert response.json()["usage"]["total_tokens"] <= served_model.context_length
    with running(create_app(served_model, Settings(max_tokens=3)), Limits()) as small:
        client = client_of(small)
        asked: Any = {"model": "tiny", "messages": [{"role": "user", "content": "Draw: two stars"}], "max_tokens": 50}
        answer = client.chat.completions.create(**asked)
        assert answer.choices[0].finish_reason == "length" and answer.usage and answer.usage.completion_tokens == 3


def test_a_strict_server_refuses_what_it_would_replace(served_model: OmniBridge, picture_file: bytes):
    with running(create_app(served_model, Settings(strict=True)), Limits()) as server:
        client = client_of(server)
        with pytest.raises(openai.BadRequestError, match="max_tokens is 100000"):
            client.chat.completions.create(model="tiny", messages=TALK, max_tokens=100_000)  # pyright: ignore
        with pytest.raises(openai.BadRequestError, match="leave out the size"):
            client.images.generate(model="tiny", prompt="a star", size="512x512")
        with pytest.raises(openai.BadRequestError, match="leave out the size"):
            client.images.edit(model="tiny", image=picture_file, prompt="make it red", size="512x512")
        assert client.images.generate(model="tiny", prompt="a star", size="auto", extra_body={"steps": 1}).data


# --- pictures ---


def ask_about(*urls: str) -> list[dict[str, Any]]:
    return [
        {
            "role": "user",
            "content": [
                *({"type": "image_url", "image_url": {"url": url}} for url in urls),
                {"type": "text", "text": "Is there a star?"},
            ],
        }
    ]


def test_a_picture_sent_again_in_a_later_turn_counts_once(web: httpx.Client, picture_url: str):
    first, reply = ask_about(picture_url), {"role": "assistant", "content": "no"}
    once = [*first, reply, {"role": "user", "content": "Is there a star?"}]
    respelt = picture_url.replace("image/png", "image/x-png;a=b") + "\n"
    expected = send(web, CHAT, {"messages": once}).json()
    for url in (picture_url, respelt):
        answer = send(web, CHAT, {"messages": [*first, reply, *ask_about(url)]})
        assert answer.status_code == 200, answer.text
        assert answer.json()["choices"] == expected["choices"] and answer.json()["usage"] == expected["usage"]
    assert send(web, CHAT, {"messages": ask_about(picture_url, picture_url)}).status_code == 200
    other = url_of(png_of(np.zeros((64, 64, 3), np.uint8)))
    answer = send(web, CHAT, {"messages": [*first, reply, *ask_about(other)]})
    assert answer.status_code == 400 and "looks at 1 at most" in answer.json()["error"]["message"]


def test_a_picture_may_be_a_url_alone_and_of_any_media_type(web: httpx.Client, picture_url: str):
    expected = send(web, CHAT, {"messages": ask_about(picture_url)}).json()["choices"]
    body = picture_url.partition(",")[2]
    for url in ("data:;base64," + body.rstrip("="), f"data:application/octet-stream;base64,{body[:50]}\n{body[50:]}"):
        parts = [{"type": "image_url", "image_url": url}, {"type": "text", "text": "Is there a star?"}]
        answer = send(web, CHAT, {"messages": [{"role": "user", "content": parts}]})
        assert answer.status_code == 200 and answer.json()["choices"] == expected, answer.text


# --- embeddings ---


@pytest.mark.parametrize(
    ("given", "param", "words"),
    [
        ([1, 2, 3], "input.0", "tokenizer"),
        ([[1, 2], [3]], "input.0", "check_embedding_ctx_length"),
        (["a star", [1, 2]], "input.1", "tokenizer"),
        (["a star", "a moon", "", "a tree"], "input.2", "empty"),
        (["a star", {"text": " "}], "input.1", "empty"),
        (["a star", "x" * 5_000], "input.1", "4,000"),
        (["a star", {"image": "data:image/png;base64,AAAA"}], "input.1", "not a picture"),
        ("", "input", "empty"),
        (["x"] * 2_049, None, "2048"),
    ],
)
def test_an_input_that_cannot_be_embedded_is_refused_by_index_and_reason(
    web: httpx.Client, given: Any, param: str | None, words: str
):
    response = send(web, EMBED, {"input": given})
    error = response.json()["error"]
    assert response.status_code == 400 and error["param"] == param and words in error["message"], error
    assert param is None or error["message"].startswith(param)


def test_many_inputs_are_cut_into_batches(web: httpx.Client, served_model: OmniBridge, picture_url: str):
    texts = [f"{number} red circles" for number in range(300)]
    response = send(web, EMBED, {"input": [*texts, {"image": picture_url}]})
    data = response.json()["data"]
    assert [item["index"] for item in data] == list(range(301))
    for number in (0, 63, 64, 299):
        assert np.allclose(data[number]["embedding"], served_model.embed(texts=texts[number]), atol=1e-6)
