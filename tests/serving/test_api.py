"""The HTTP API beyond OpenAI's: indexes and search, loopback, health, metrics, and the OpenAPI document."""

from __future__ import annotations

import base64
import json
import shutil
import time
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from typing import Any

import httpx
import matplotlib
import numpy as np
import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from PIL import Image
from schemathesis import GenerationMode
from schemathesis.checks import CHECKS, load_all_checks
from tests.serving.conftest import png_of, url_of
from tests.serving.server import Server, running

from latentbridge.data.picture_sources import LOCATION_KEYS, thumbnail
from latentbridge.data.shapes.render import render
from latentbridge.data.shapes.scenes import distinct_scenes
from latentbridge.errors import StorageError, Unreachable
from latentbridge.evaluation.loopback import loopback
from latentbridge.models.omnibridge.modeling_omnibridge import OmniBridge
from latentbridge.retrieval.disk_index import FILE
from latentbridge.retrieval.index_factory import create_index, open_index
from latentbridge.rng import numpy_rng
from latentbridge.serving.api import create_app
from latentbridge.serving.guard.limits import Limits
from latentbridge.serving.settings import Settings
from latentbridge.types import Picture

load_all_checks()
RESPONSE_CHECKS = CHECKS.get_by_names(
    ["not_a_server_error", "status_code_conformance", "content_type_conformance", "response_schema_conformance"]
)


@pytest.fixture(scope="module")
def index_registry(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("indexes")


@pytest.fixture(scope="module")
def web(served_model: OmniBridge, index_registry: Path) -> Iterator[httpx.Client]:
    with running(create_app(served_model, Settings(indexes=index_registry)), Limits()) as server:
        yield httpx.Client(base_url=f"http://127.0.0.1:{server.port}", timeout=120)


def test_pictures_are_kept_found_and_deleted(web: httpx.Client, served_model: OmniBridge):
    pictures = [render(scene) for scene in distinct_scenes("train", numpy_rng(2, "kept"), 3)]
    assert web.post("/v1/index", json={"name": "mine"}).json() == {
        "id": "mine",
        "object": "index",
        "items": 0,
        "dimension": served_model.embedding_size,
    }
    assert web.post("/v1/index", json={"name": "mine"}).status_code == 409
    items = [
        {"id": f"p/{n}", "image": url_of(png_of(picture)), "metadata": {"n": n}} for n, picture in enumerate(pictures)
    ]
    assert web.post("/v1/index/mine/items", json={"items": items}).json() == {"index": "mine", "added": 3, "items": 3}

    def search(query: Any, **more: Any) -> list[str]:
        response = web.post("/v1/search", json={"index": "mine", "query": query, **more})
        assert response.status_code == 200, response.text
        scores = [hit["score"] for hit in response.json()["data"]]
        assert scores == sorted(scores, reverse=True)
        return [hit["id"] for hit in response.json()["data"]]

    assert search([{"image": items[1]["image"]}], k=1) == ["p/1"]
    assert "p/2" not in search([{"item": "p/2"}]) and len(search("a star")) == 3
    assert search("a star", where=["n>=1", "n!=2"]) == ["p/1"]
    assert set(search([{"text": "a star"}, {"item": "p/0", "weight": -0.5}])) == {"p/1", "p/2"}
    gone = web.delete("/v1/index/mine/items", params={"id": ["p/1", "p/9"]})
    assert gone.json() == {"index": "mine", "deleted": 1, "items": 2}
    assert [card["items"] for card in web.get("/v1/index").json()["data"]] == [2]


def test_the_index_keeps_a_thumbnail_of_each_item(web: httpx.Client, index_registry: Path):
    picture = np.zeros((120, 200, 3), np.uint8)
    picture[:, 100:] = (200, 30, 30)
    web.post("/v1/index", json={"name": "shown"})
    items = [{"id": "halves", "image": url_of(png_of(picture))}]
    assert web.post("/v1/index/shown/items", json={"items": items}).status_code == 200
    index = open_index(index_registry / "shown")
    (stored,), (metadata,) = index.thumbnails(["halves"]), index.metadata(["halves"])
    index.close()
    assert metadata == {} and stored is not None
    shown = thumbnail(metadata, 192, stored).astype(int)
    # 200 by 120 in a square of 192: 38 white rows above and below, black on the left and red on the right
    assert abs(shown[[10, 96, 96, 180], [96, 40, 150, 96]] - [[255] * 3, [0] * 3, [200, 30, 30], [255] * 3]).max() < 12


def test_unknown_words_of_a_query_are_named(web: httpx.Client):
    web.post("/v1/index", json={"name": "words"})
    items = [{"id": "one", "image": url_of(png_of(np.zeros((9, 9, 3), np.uint8)))}]
    web.post("/v1/index/words/items", json={"items": items})

    def ask(query: Any, **more: Any) -> dict[str, Any]:
        response = web.post("/v1/search", json={"index": "words", "query": query, **more})
        assert response.status_code == 200, response.text
        return response.json()

    known, partly, unknown = ask("a guitar"), ask("a zxqv guitar"), ask("zxqv 猫")
    assert known["warnings"] == known["unknown_words"] == []
    assert partly["data"] == known["data"] and partly["unknown_words"] == ["zxqv"]
    assert partly["warnings"] == ['The model does not know "zxqv"; ranked by the rest.']
    assert unknown["data"] == [] and unknown["unknown_words"] == ["zxqv", "猫"] and "no word" in unknown["warnings"][0]
    assert len(ask("zxqv 猫", allow_unknown=True)["data"]) == 1
    beside = ask([{"text": "zxqv"}, {"image": items[0]["image"]}])
    assert beside["data"][0]["score"] == pytest.approx(1, abs=1e-5) and beside["unknown_words"] == ["zxqv"]


@pytest.mark.parametrize("name", ["..", "../mine", "a/b", "A", "x" * 99, "%2e%2e"])
def test_a_path_names_no_index(web: httpx.Client, name: str):
    assert web.post("/v1/index", json={"name": name}).status_code == 400
    assert web.post("/v1/search", json={"index": name, "query": "a star"}).status_code == 400


def test_unusable_indexes_are_left_out_without_details_of_the_server(web: httpx.Client, index_registry: Path):
    create_index(index_registry / "foreign", 3, "another model").close()
    (index_registry / "broken").mkdir()
    (index_registry / "broken" / FILE).write_bytes(b"no database at all, whatever its name says")
    try:
        listed = web.get("/v1/index")
        assert listed.status_code == 200 and not {"foreign", "broken"} & {card["id"] for card in listed.json()["data"]}
        for name in ("foreign", "broken"):
            response = web.post("/v1/search", json={"index": name, "query": "a star"})
            assert response.status_code == 400 and response.json()["error"]["code"] == "index_unusable"
            assert str(index_registry) not in response.text
    finally:
        shutil.rmtree(index_registry / "foreign")
        shutil.rmtree(index_registry / "broken")


def test_the_number_of_indexes_is_limited(served_model: OmniBridge, tmp_path: Path):
    app = create_app(served_model, Settings(indexes=tmp_path, max_indexes=2))
    with running(app, Limits()) as server, httpx.Client(base_url=f"http://127.0.0.1:{server.port}") as few:
        made = [few.post("/v1/index", json={"name": name}).status_code for name in ("a", "b", "c", "b")]
    assert made == [201, 201, 409, 409] and sorted(path.name for path in tmp_path.iterdir()) == ["a", "b"]


def test_a_failing_store_is_a_server_error_with_details_in_the_log_only(
    web: httpx.Client, index_registry: Path, monkeypatch: pytest.MonkeyPatch
):
    for error, status in (
        (Unreachable("postgres://ada@10.0.0.1 is down"), 503),
        (StorageError("/private is full"), 507),
    ):

        def fail(place: Any, error: Exception = error) -> list[str]:
            raise error

        monkeypatch.setattr("latentbridge.serving.index_registry.list_index_names", fail)
        response = web.get("/v1/index")
        assert response.status_code == status and str(error) not in response.text


def test_hits_have_thumbnails_if_asked_for(web: httpx.Client):
    web.post("/v1/index", json={"name": "small"})
    picture = np.full((50, 50, 3), (10, 200, 30), np.uint8)
    items = [{"id": "green", "image": url_of(png_of(picture))}]
    web.post("/v1/index/small/items", json={"items": items})
    body = {"index": "small", "query": "green"}
    (hit,) = web.post("/v1/search", json=body).json()["data"]
    assert hit["thumbnail"] is None
    (hit,) = web.post("/v1/search", json=body | {"thumbnails": True}).json()["data"]
    kind, _, body = hit["thumbnail"].partition(",")
    small = np.asarray(Image.open(BytesIO(base64.b64decode(body))).convert("RGB")).astype(int)
    assert kind == "data:image/webp;base64" and abs(small[96, 96] - (10, 200, 30)).max() < 8


INVALID: dict[str, tuple[str, Any, str]] = {
    "no part": ("/v1/search", {"index": "mine", "query": []}, "query"),
    "a heavy part": ("/v1/search", {"index": "mine", "query": [{"text": "x", "weight": 1e300}]}, "query.0.weight"),
    "an input of nothing": ("/v1/embeddings", {"input": [{"x": 1}]}, "input.0"),
    "five stops": (
        "/v1/chat/completions",
        {"messages": [{"role": "user", "content": "x"}], "stop": ["a", "b", "c", "d", "e"]},
        "stop",
    ),
    "an image without an address": (
        "/v1/chat/completions",
        {"messages": [{"role": "user", "content": [{"type": "image_url"}]}]},
        "messages.0.content.0.image_url",
    ),
    "an unknown name": ("/v1/search", {"index": "mine", "query": "x", "K": 3}, "K"),
    "a text for a number": ("/v1/search", {"index": "mine", "query": "x", "k": "many"}, "k"),
}


@pytest.mark.parametrize(("path", "body", "param"), INVALID.values(), ids=INVALID.keys())
def test_an_error_names_its_field(web: httpx.Client, path: str, body: Any, param: str):
    response = web.post(path, json=body)
    error = response.json()["error"]
    assert response.status_code == 400 and error["param"].startswith(param), error
    assert error["message"].startswith(error["param"]) and "valid string" not in error["message"], error


def test_a_body_of_another_type_gets_a_message_about_its_header(web: httpx.Client):
    response = web.post("/v1/search", content=b"{}", headers={"Content-Type": "application/x-www-form-urlencoded"})
    assert response.status_code == 400 and "Content-Type: application/json" in response.json()["error"]["message"]


def test_edits_reject_unknown_fields(web: httpx.Client, scene_picture: Picture):
    form, file = {"prompt": "make it red", "sead": "7"}, {"image": ("a.png", png_of(scene_picture))}
    response = web.post("/v1/images/edits", data=form, files=file)
    assert response.status_code == 400 and response.json()["error"]["message"].startswith("sead")
    response = web.post("/v1/images/edits", data={"prompt": "make it red", "image": "a.png"})
    assert response.json()["error"]["message"] == "image: Input should be a file"


@pytest.mark.parametrize("path", ["/healthz", "/readyz"])
def test_probes_may_ask_for_the_head_alone(web: httpx.Client, path: str):
    assert web.head(path).status_code == 200


@pytest.mark.parametrize("place", LOCATION_KEYS)
def test_metadata_may_not_name_files_of_the_server(web: httpx.Client, picture_url: str, place: str):
    web.post("/v1/index", json={"name": "places"})
    items = [{"id": "a", "image": picture_url, "metadata": {place: "/private.png"}}]
    response = web.post("/v1/index/places/items", json={"items": items})
    assert response.status_code == 400 and place in response.json()["error"]["message"]


def test_unknown_indexes_are_not_found(web: httpx.Client, server: Server):
    assert web.get("/v1/index/none").status_code == 404
    assert (
        web.post("/v1/search", json={"index": "none", "query": "a star"}).json()["error"]["code"] == "index_not_found"
    )
    without = httpx.post(f"http://127.0.0.1:{server.port}/v1/index", json={"name": "mine"})
    assert without.status_code == 400 and "--indexes" in without.json()["error"]["message"]


def test_an_unknown_route_names_the_document(web: httpx.Client):
    response = web.get("/")
    assert response.status_code == 404 and "/openapi.json" in response.json()["error"]["message"]


def test_loopback_is_that_of_the_library(web: httpx.Client, served_model: OmniBridge, scene_picture: Picture):
    body = {"image": url_of(png_of(scene_picture)), "rounds": 2, "seed": 3}
    response = web.post("/v1/loopback", json=body).json()
    (walk,) = loopback(served_model, [scene_picture], rounds=2, seed=3)
    for actual, expected in zip(response["rounds"], walk, strict=True):
        drawn = np.asarray(Image.open(BytesIO(base64.b64decode(actual["b64_json"]))))
        assert actual["words"] == expected.words and np.array_equal(drawn, expected.picture)
    assert -1 <= response["rounds"][0]["to_origin"] == response["rounds"][0]["to_previous"] <= 1


def test_responses_warn_of_inputs_unlike_the_training_data(web: httpx.Client, picture_url: str):
    photograph = (Path(matplotlib.get_data_path()) / "sample_data" / "grace_hopper.jpg").read_bytes()
    url = "data:image/jpeg;base64," + base64.b64encode(photograph).decode()

    def chat(picture: str, question: str, **more: Any) -> dict[str, Any]:
        parts = [{"type": "image_url", "image_url": {"url": picture}}, {"type": "text", "text": question}]
        return {"messages": [{"role": "user", "content": parts}], "max_tokens": 2, **more}

    warnings = web.post("/v1/chat/completions", json=chat(url, "How many people are there?")).json()["warnings"]
    assert warnings[0].startswith("this picture is unlike the coloured shapes and simple drawings")
    assert warnings[1:] == ['"tiny" was not trained on questions with the word "people".']
    streamed = web.post("/v1/chat/completions", json=chat(url, "How many people are there?", stream=True)).text
    chunks = [json.loads(line[6:]) for line in streamed.splitlines() if line.startswith("data: {")]
    assert [chunk.get("warnings") for chunk in chunks] == [None] * (len(chunks) - 1) + [warnings]
    known = chat(picture_url, "How many objects are there?", reasoning_effort="high")
    assert web.post("/v1/chat/completions", json=known).json()["warnings"] == []

    drawn = web.post("/v1/images/generations", json={"prompt": "a cat", "steps": 1}).json()["warnings"]
    assert drawn == ['"tiny" was not trained on prompts with the word "cat".']
    change = {"prompt": "make the retina blue", "steps": "1"}
    edited = web.post("/v1/images/edits", data=change, files={"image": ("a.jpg", photograph)}).json()["warnings"]
    assert edited == [
        warnings[0],
        "the change was drawn at 64 x 64 px and scaled up; the rest keeps its own pixels.",
        '"tiny" was not trained on instructions with the word "retina".',
    ]
    inputs = ["a red circle", {"image": picture_url}, {"image": url}]
    embedded = web.post("/v1/embeddings", json={"input": inputs}).json()["warnings"]
    assert embedded == [f"input 2: {warnings[0]}"]
    assert web.post("/v1/loopback", json={"image": url, "rounds": 1}).json()["warnings"] == warnings[:1]


def test_health_readiness_and_metrics(web: httpx.Client):
    assert web.get("/healthz").json() == web.get("/readyz").json() == {"status": "ok"}
    page = web.get("/metrics")
    assert page.headers["content-type"].startswith("text/plain")
    assert 'latentbridge_responses_total{path="/healthz",status="200"}' in page.text


def counter(web: httpx.Client, name: str) -> float:
    line = next((line for line in web.get("/metrics").text.splitlines() if line.startswith(f"{name} ")), f"{name} 0")
    return float(line.split()[-1])


def becomes_idle(web: httpx.Client) -> bool:
    until = time.monotonic() + 20
    while time.monotonic() < until:
        if counter(web, "latentbridge_requests_in_flight") == 0:
            return True
        time.sleep(0.02)
    return False


def test_a_disconnected_clients_request_is_cancelled_at_once(web: httpx.Client, picture_url: str):
    finished = 'latentbridge_job_duration_seconds_count{kind="GenerateJob"}'
    before, written = counter(web, finished), counter(web, "latentbridge_generated_tokens_total")
    with pytest.raises(httpx.ReadTimeout):
        web.post("/v1/images/generations", json={"prompt": "a star", "steps": 100, "n": 8}, timeout=0.5)
    assert becomes_idle(web)
    content = [{"type": "text", "text": "Is there a star?"}, {"type": "image_url", "image_url": {"url": picture_url}}]
    body = {"messages": [{"role": "user", "content": content}], "stream": True, "reasoning_effort": "low"}
    with web.stream("POST", "/v1/chat/completions", json=body) as response:
        assert next(response.iter_lines()).startswith("data: ")
    assert becomes_idle(web)
    web.post("/v1/images/generations", json={"prompt": "a star", "steps": 1})  # a running drawing would delay it
    assert counter(web, finished) == before + 1
    assert counter(web, "latentbridge_generated_tokens_total") < written + 9 * 36 + 40


def test_a_slow_request_is_cancelled(served_model: OmniBridge):
    with running(create_app(served_model, Settings(request_timeout_s=0.2)), Limits()) as server:
        late = server.post_json("/v1/images/generations", b'{"prompt": "a star", "steps": 100}')
        assert late.status == 408 and b"request_timeout" in late.body
        assert server.lives()


@pytest.mark.parametrize("mode", list(GenerationMode))
def test_every_response_of_every_route_conforms_to_the_document(
    served_model: OmniBridge, tmp_path: Path, mode: GenerationMode
):
    """schemathesis generates valid and invalid requests from the OpenAPI document."""
    small = Settings(
        indexes=tmp_path, max_steps=2, max_pictures=1, max_tokens=4, max_rounds=1, max_inputs=3, max_hits=3
    )
    with running(create_app(served_model, small), Limits()) as server:
        schema = schemathesis.openapi.from_url(f"http://127.0.0.1:{server.port}/openapi.json")
        operations = [result.ok() for result in schema.get_all_operations()]
        assert len(operations) == 16
        for operation in operations:
            if mode is GenerationMode.NEGATIVE and not (operation.body or operation.query):
                continue  # it has no invalid requests

            @settings(
                max_examples=5, deadline=None, derandomize=True, database=None, suppress_health_check=list(HealthCheck)
            )
            @given(case=operation.as_strategy(generation_mode=mode))
            def ask(case: schemathesis.Case) -> None:
                case.call_and_validate(checks=RESPONSE_CHECKS, timeout=60)

            ask()
        assert server.lives()
