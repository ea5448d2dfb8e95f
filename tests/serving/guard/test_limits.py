"""The guard in front of a small app that reads request bodies."""

from __future__ import annotations

import base64
import json
import logging

import pytest
from starlette.types import Message, Receive, Scope, Send
from tests.serving.asgi import ask, header, status

from latentbridge.serving.guard.keys import ENVIRONMENT, read_keys
from latentbridge.serving.guard.limits import Guard, Limits, QueryStringFilter, kind_of
from latentbridge.serving.guard.rates import Allowance, Rates

KEY = "ada-" + "k" * 20
HOST = ("Host", "localhost:8000")
BEARER = ("Authorization", f"Bearer {KEY}")
KEYS = read_keys(None, {ENVIRONMENT: f"ada:{KEY}"})


class Reader:
    """An app that reads a body and responds with its length, and records scopes."""

    def __init__(self) -> None:
        self.scopes: list[Scope] = []

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.scopes.append(scope)
        if scope["type"] == "websocket":
            return await send({"type": "websocket.accept"})
        length, more = 0, True
        while more:
            message = await receive()
            length, more = length + len(message["body"]), message["more_body"]
        scope.get("state", {}).get("charge", lambda cost: None)(length)
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": str(length).encode()})


def error(sent: list[Message]) -> dict:
    document = json.loads(sent[1]["body"])["error"]
    assert set(document) == {"message", "type", "param", "code"}
    return document


def test_a_request_passes_with_its_owner_and_its_body():
    reader = Reader()
    sent = ask(Guard(reader, KEYS), headers=[HOST, BEARER], chunks=[b"abc", b"defgh", b""])
    assert (status(sent), sent[1]["body"]) == (200, b"8")
    assert reader.scopes[0]["state"]["owner"] == "ada"


@pytest.mark.parametrize(
    "value",
    [
        f"bearer {KEY}",
        f"Bearer  {KEY} ",
        "Basic " + base64.b64encode(f"anyone:{KEY}".encode()).decode(),
    ],
)
def test_the_key_may_come_as_bearer_or_as_a_browsers_password(value: str):
    assert status(ask(Guard(Reader(), KEYS), headers=[HOST, ("Authorization", value)])) == 200


@pytest.mark.parametrize("value", ["", KEY, f"Bearer {KEY}x", "Bearer", "Basic !!", "Basic /////w==", f"Digest {KEY}"])
def test_without_a_key_the_body_is_not_read(value: str):
    reader = Reader()
    sent = ask(Guard(reader, KEYS), headers=[HOST, ("Authorization", value)])
    assert (status(sent), error(sent)["code"], reader.scopes) == (401, "invalid_api_key", [])
    assert header(sent, "www-authenticate") == 'Basic realm="LatentBridge"'
    assert KEY not in str(sent)


def test_health_needs_no_key_and_a_websocket_does():
    assert status(ask(Guard(Reader(), KEYS), "/healthz", method="GET")) == 200
    assert ask(Guard(Reader(), KEYS), kind="websocket")[0]["type"] == "websocket.close"
    assert ask(Guard(Reader(), KEYS), kind="websocket", headers=[HOST, BEARER])[0]["type"] == "websocket.accept"


def test_rates_are_limited_by_key_and_kind_with_retry_after():
    rates = Rates({"embed": Allowance(requests=2), "draw": Allowance(cost=10)}, clock=lambda: 0.0)
    guard = Guard(Reader(), KEYS, rates)
    answers = [ask(guard, "/v1/embeddings", headers=[HOST, BEARER]) for _ in range(3)]
    assert [status(sent) for sent in answers] == [200, 200, 429]
    assert header(answers[2], "retry-after") == "30"
    assert error(answers[2])["type"] == "rate_limit_error"
    assert status(ask(guard, "/v1/search", headers=[HOST, BEARER])) == 200
    draws = [ask(guard, "/v1/images/generations", headers=[HOST, BEARER], chunks=[b"1234567", b""]) for _ in range(2)]
    assert [status(sent) for sent in draws] == [200, 429]


def test_unauthenticated_requests_do_not_count_against_a_key():
    guard = Guard(Reader(), KEYS, Rates({"chat": Allowance(requests=1)}, clock=lambda: 0.0))
    for _ in range(3):
        assert status(ask(guard, "/v1/chat/completions")) == 401
    assert status(ask(guard, "/v1/chat/completions", headers=[HOST, BEARER])) == 200


@pytest.mark.parametrize(
    ("path", "kind"),
    [("/v1/chat/completions", "chat"), ("/v1/index/cats/items", "index"), ("/v1/indexes", "other"), ("/", "other")],
)
def test_a_path_has_a_kind_of_request(path: str, kind: str):
    assert kind_of(path) == kind


def test_a_body_is_rejected_by_its_declared_and_by_its_actual_length():
    guard = Guard(Reader(), limits=Limits(body_bytes=100))
    assert status(ask(guard, chunks=[b"x" * 100, b""])) == 200
    assert status(ask(guard, headers=[HOST, ("Content-Length", "101")])) == 413
    assert status(ask(guard, chunks=[b"x" * 60, b"x" * 41, b""])) == 413
    assert status(ask(guard, headers=[HOST, ("Content-Length", "1")], chunks=[b"x"])) == 413  # without end


def test_a_slow_body_is_rejected_in_time():
    sent = ask(Guard(Reader(), limits=Limits(receive_s=0.2)), chunks=[b"x"], pause_s=0.02)
    assert (status(sent), error(sent)["code"], header(sent, "connection")) == (408, "request_timeout", "close")


def test_waiting_after_the_body_has_no_limit():
    async def patient(scope: Scope, receive: Receive, send: Send) -> None:
        await receive()
        await receive()  # as a stream waits for its client to hang up
        await send({"type": "http.response.start", "status": 200, "headers": []})

    assert status(ask(Guard(patient, limits=Limits(receive_s=0.15)), pause_s=0.1)) == 200


@pytest.mark.parametrize("encoding", ["gzip", "deflate", "br", "gzip, gzip"])
def test_compressed_bodies_are_rejected(encoding: str):
    assert status(ask(Guard(Reader()), headers=[HOST, ("Content-Encoding", encoding)])) == 415


def test_many_and_long_headers_are_rejected():
    guard = Guard(Reader(), limits=Limits(headers=5, header_bytes=200))
    assert status(ask(guard, headers=[HOST, *[("A", "b")] * 4])) == 200
    assert status(ask(guard, headers=[HOST, *[("A", "b")] * 5])) == 431
    assert status(ask(guard, headers=[HOST, ("A", "b" * 200)])) == 431
    assert status(ask(guard, "/" + "p" * 200)) == 431


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        ([("Host", "127.0.0.1:8000")], 200),
        ([("Host", "[::1]:8000")], 200),
        ([HOST, ("Origin", "http://localhost:8000")], 200),
        ([HOST, ("Sec-Fetch-Site", "same-origin")], 200),
        ([HOST, ("Origin", "https://evil.example")], 403),
        ([HOST, ("Origin", "http://localhost:9000")], 403),
        ([HOST, ("Origin", "null")], 403),
        ([HOST, ("Sec-Fetch-Site", "cross-site")], 403),
        ([("Host", "evil.example:8000")], 403),
        ([("Host", "evil.example"), ("Origin", "http://evil.example")], 403),  # DNS rebinding
        ([("Host", "[::1")], 403),
    ],
)
def test_foreign_origins_and_hosts_are_rejected(headers: list[tuple[str, str]], expected: int):
    assert status(ask(Guard(Reader()), headers=headers)) == expected


def test_with_keys_any_host_name_is_accepted():
    assert status(ask(Guard(Reader(), KEYS), headers=[("Host", "pictures.example"), BEARER])) == 200


def test_a_link_from_another_site_may_be_followed():
    assert status(ask(Guard(Reader()), method="GET", headers=[HOST, ("Sec-Fetch-Site", "cross-site")])) == 200


def test_an_error_after_the_response_started_is_raised():
    async def late(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        while True:
            await receive()

    with pytest.raises(Exception, match="bytes"):
        ask(Guard(late, limits=Limits(body_bytes=10)), chunks=[b"x" * 6])


def test_the_access_log_has_no_query_strings():
    record = logging.LogRecord("", 20, "", 0, '%s "%s %s" %d', ("1.2.3.4", "GET", f"/v1/models?key={KEY}", 200), None)
    assert QueryStringFilter().filter(record)
    assert record.getMessage() == '1.2.3.4 "GET /v1/models" 200'
