"""Public addresses, and the addresses that the server can be made to fetch from, with a fake DNS and no internet."""

from __future__ import annotations

import asyncio
import base64
import socket
from collections.abc import Callable, Iterator
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import Any

import anyio
import httpcore2
import pytest
from hypothesis import given
from hypothesis import strategies as st

from latentbridge.errors import UserError
from latentbridge.serving.guard.fetch import Fetching, is_public, picture_bytes

ANYWHERE = Fetching(hosts=("*",), max_bytes=1_000, timeout_s=2)
PUBLIC = "93.184.215.14"
PRIVATE = [
    *(
        "127.0.0.1",
        "127.255.1.2",
        "10.0.0.1",
        "172.16.0.1",
        "172.31.255.255",
        "192.168.1.1",
        "169.254.169.254",
        "0.0.0.0",
    ),
    *(
        "0.1.2.3",
        "100.64.0.1",
        "100.100.100.200",
        "192.0.0.192",
        "192.0.2.1",
        "192.88.99.1",
        "198.18.0.1",
        "198.51.100.1",
    ),
    *("203.0.113.1", "224.0.0.1", "239.255.255.250", "240.0.0.1", "255.255.255.255", "168.63.129.16"),
    *(
        "::1",
        "::",
        "::ffff:127.0.0.1",
        "::ffff:8.8.8.8",
        "::127.0.0.1",
        "64:ff9b::7f00:1",
        "64:ff9b::808:808",
        "64:ff9b:1::1",
    ),
    *(
        "2002:7f00:1::",
        "2002:808:808::1",
        "2001::1",
        "2001:0:7f00:1::",
        "2001:db8::1",
        "fe80::1",
        "fe80::1%eth0",
        "fec0::1",
    ),
    *("fc00::1", "fd00:ec2::254", "ff02::1", "100::1", "3fff::1", "5f00::1"),
]
OPEN = [
    "8.8.8.8",
    "1.1.1.1",
    PUBLIC,
    "172.15.255.255",
    "172.32.0.0",
    "100.128.0.0",
    "2606:4700::1111",
    "2a00:1450:4001::8a",
]


class Internet:
    """A fake DNS that records connections; a server on loopback answers for all public addresses."""

    def __init__(self) -> None:
        self.names: dict[str, list[str] | OSError] = {}
        self.resolved: list[str] = []
        self.dialled: list[str] = []
        self.requests: list[bytes] = []
        self.answers: dict[str, Any] = {}
        """By path: the bytes to send, or a coroutine function of the writer."""

    async def resolve(self, host: str, port: int, **_: Any) -> list[tuple]:
        self.resolved.append(host)
        addresses = self.names.get(host)
        if isinstance(addresses, OSError):
            raise addresses
        if addresses is None:  # as the machine itself would: addresses in all of their spellings
            return socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_NUMERICHOST)
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port)) for address in addresses]

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.read(65_536)
        self.requests.append(head)
        answer = self.answers.get(head.split(b" ")[1].decode() if head.startswith(b"GET ") else "", ok(b"picture"))
        try:
            if callable(answer):
                await answer(writer)
            else:
                writer.write(answer)
                await writer.drain()
        except ConnectionError:
            pass
        writer.close()


def ok(body: bytes, *headers: str) -> bytes:
    lines = "\r\n".join(["HTTP/1.1 200 OK", f"Content-Length: {len(body)}", *headers, "", ""])
    return lines.encode() + body


def leads_to(location: str, status: int = 302) -> bytes:
    return f"HTTP/1.1 {status} Moved\r\nLocation: {location}\r\nContent-Length: 0\r\n\r\n".encode()


@pytest.fixture
def internet(monkeypatch: pytest.MonkeyPatch) -> Iterator[Internet]:
    net = Internet()
    net.names["pictures.example"] = [PUBLIC]
    connect = httpcore2.AnyIOBackend.connect_tcp

    async def dial(backend: Any, host: str, port: int, *_: Any, **__: Any) -> Any:
        net.dialled.append(host)
        server = await asyncio.start_server(net.serve, "127.0.0.1", 0)
        return await connect(backend, "127.0.0.1", server.sockets[0].getsockname()[1])

    monkeypatch.setattr(anyio, "getaddrinfo", net.resolve)
    monkeypatch.setattr(httpcore2.AnyIOBackend, "connect_tcp", dial)
    yield net
    assert all(is_public(ip_address(address)) for address in net.dialled)


def fetch(url: str, fetching: Fetching = ANYWHERE) -> bytes:
    return asyncio.run(picture_bytes(url, fetching))


def refusal(url: str, fetching: Fetching = ANYWHERE) -> str:
    with pytest.raises(UserError) as caught:
        fetch(url, fetching)
    message = str(caught.value)
    assert "\n" not in message and len(message) < 300
    return message


# --- addresses ---


@pytest.mark.parametrize("address", PRIVATE)
def test_special_purpose_addresses_are_not_public(address: str):
    assert not is_public(ip_address(address))


@pytest.mark.parametrize("address", OPEN)
def test_routed_addresses_are_public(address: str):
    assert is_public(ip_address(address))


@given(st.one_of(st.ip_addresses(v=4), st.ip_addresses(v=6), st.ip_addresses(network="2000::/3")))
def test_no_address_special_to_python_is_public(address: IPv4Address | IPv6Address):
    if is_public(address):
        assert address.is_global and not (address.is_multicast or address.is_reserved or address.is_private)


# --- over the network ---


def test_a_picture_is_fetched_from_the_checked_address_under_its_host_name(internet: Internet):
    assert fetch("http://pictures.example/a/b.png?size=3") == b"picture"
    assert (internet.resolved, internet.dialled) == (["pictures.example"], [PUBLIC])
    request = internet.requests[0]
    assert request.startswith(b"GET /a/b.png?size=3 HTTP/1.1\r\n")
    assert b"\r\nHost: pictures.example\r\n" in request
    assert b"Authorization" not in request and b"Cookie" not in request


def test_tls_uses_the_host_name(internet: Internet):
    internet.answers[""] = b"no TLS"
    assert "no public address" in refusal("https://pictures.example/")
    assert internet.dialled == [PUBLIC]
    assert internet.requests[0].startswith(b"\x16\x03") and b"pictures.example" in internet.requests[0]


def test_a_name_is_resolved_once(internet: Internet):
    answers = iter([[PUBLIC], ["127.0.0.1"], ["127.0.0.1"]])

    class Rebinding(dict):
        def get(self, name: str, default: Any = None) -> Any:
            return next(answers)

    internet.names = Rebinding()
    assert fetch("http://pictures.example/") == b"picture"
    assert internet.dialled == [PUBLIC]


@pytest.mark.parametrize("address", PRIVATE)
def test_a_name_of_a_special_address_is_never_connected_to(internet: Internet, address: str):
    internet.names["inside.example"] = [PUBLIC, address]
    assert "no public address" in refusal("http://inside.example/")
    assert internet.dialled == []


SPELLINGS = [
    *(
        "127.0.0.1",
        "2130706433",
        "0x7f000001",
        "0x7f.1",
        "0177.0.0.1",
        "127.1",
        "127.0.1",
        "017700000001",
        "0",
        "127。0。0。1",
    ),
    *(
        "[::1]",
        "[::]",
        "[::ffff:127.0.0.1]",
        "[::ffff:7f00:1]",
        "[0:0:0:0:0:ffff:7f00:0001]",
        "[64:ff9b::7f00:1]",
        "[fe80::1%25lo]",
    ),
    *(
        "[2002:7f00:1::]",
        "169.254.169.254",
        "[fd00:ec2::254]",
        "a@127.0.0.1",
        "pictures.example@127.0.0.1",
        "127.0.0.1.",
    ),
    *(
        "①②⑦.⓪.⓪.①",
        "pictures.example\\@127.0.0.1",
        "127.0.0.1%2f@pictures.example",
        "127.0.0.1:80",
        "pictures.example:22",
        "",
    ),
]


@pytest.mark.parametrize("host", SPELLINGS)
@pytest.mark.parametrize("way", ["direct", "redirected"])
def test_no_spelling_reaches_a_private_address(internet: Internet, host: str, way: str):
    internet.names |= {"localhost": ["127.0.0.1"], "127.0.0.1.": ["127.0.0.1"]}
    if way == "direct":
        refusal(f"http://{host}/")
    elif host and host.isascii():
        internet.answers["/"] = leads_to(f"http://{host}/inside")
        refusal("http://pictures.example/")
    assert not any(b"/inside" in request for request in internet.requests)


@pytest.mark.parametrize(
    "location",
    [
        "http://localhost/",
        "//169.254.169.254/latest/meta-data/",
        "file:///etc/passwd",
        "gopher://pictures.example/",
        "ftp://x/",
        "\x01",
    ],
)
def test_a_redirect_to_a_private_address_or_another_protocol_is_not_followed(internet: Internet, location: str):
    internet.names["localhost"] = ["127.0.0.1"]
    internet.answers["/"] = leads_to(location)
    refusal("http://pictures.example/")
    assert internet.dialled == [PUBLIC]


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_a_redirect_to_a_public_address_is_followed_and_checked(internet: Internet, status: int):
    internet.names["cdn.example"] = ["8.8.8.8"]
    internet.answers |= {"/": leads_to("/b", status), "/b": leads_to("http://cdn.example/c", status)}
    assert fetch("http://pictures.example/") == b"picture"
    assert internet.dialled == [PUBLIC, PUBLIC, "8.8.8.8"]


def test_three_redirects_are_followed_and_no_more(internet: Internet):
    internet.answers |= {f"/{n}": leads_to(f"/{n + 1}") for n in range(9)}
    assert "3 times" in refusal("http://pictures.example/0")
    assert len(internet.dialled) == 4
    assert fetch("http://pictures.example/6") == b"picture"


def test_only_allowed_hosts_are_asked_also_after_redirects(internet: Internet):
    internet.names["cdn.example"] = ["8.8.8.8"]
    few = Fetching(hosts=("pictures.example",), timeout_s=2)
    assert fetch("http://PICTURES.example/", few) == b"picture"
    assert "only" in refusal("http://cdn.example/", few)
    assert "only" in refusal("http://pictures.example.cdn.example/", few)
    internet.answers["/"] = leads_to("http://cdn.example/")
    assert "only" in refusal("http://pictures.example/", few)
    assert set(internet.dialled) == {PUBLIC}


def test_nothing_is_fetched_by_default(internet: Internet):
    assert "fetches nothing" in refusal("http://pictures.example/", Fetching())
    assert internet.resolved == []


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 404 Not Found\r\nContent-Length: 2\r\n\r\nno",
        b"HTTP/1.1 206 Partial\r\nContent-Length: 2\r\n\r\nno",
        ok(b"\x1f\x8b" + b"x" * 50, "Content-Encoding: gzip"),
        ok(b"x" * 1_001),
        b"HTTP/1.1 200 OK\r\n\r\n" + b"x" * 5_000,
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + b"64\r\n" + b"x" * 100 + b"\r\nzz",
        b"HTTP/1.1 200 OK\r\nContent-Length: 50\r\n\r\nshort",
        b"\x00\x01 not http\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nX: " + b"x" * 200_000,
        b"",
        leads_to("http://[::1"),
    ],
)
def test_a_response_that_is_no_complete_picture_is_rejected(internet: Internet, answer: bytes):
    internet.answers["/"] = answer
    refusal("http://pictures.example/")


async def _drip(writer: asyncio.StreamWriter) -> None:
    writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 500\r\n\r\n")
    for _ in range(500):
        writer.write(b"x")
        await writer.drain()
        await asyncio.sleep(0.05)


async def _silence(writer: asyncio.StreamWriter) -> None:
    await asyncio.sleep(60)


@pytest.mark.parametrize("answer", [_drip, _silence])
def test_a_slow_response_times_out(internet: Internet, answer: Callable):
    internet.answers["/"] = answer
    assert "0.3 s" in refusal("http://pictures.example/", Fetching(("*",), timeout_s=0.3))


def test_unknown_and_private_hosts_get_the_same_message(internet: Internet):
    internet.names |= {"none.example": socket.gaierror(-2, "unknown"), "inside.example": ["10.0.0.1"]}
    assert refusal("http://none.example/").replace("none", "inside") == refusal("http://inside.example/")


# --- data URLs ---


@pytest.mark.parametrize(
    "url",
    [
        "data:image/png;base64,AAEC/w==",
        "DATA:image/JPEG;BASE64,AAEC/w==",
        "data:image/png;charset=utf-8;base64,AAEC/w==",
        "data:image/png;name=a,b.png;base64,AAEC/w==".replace("a,b", "a%2Cb"),
        "data:image/x-anything;base64,AAEC/w==",
        "data:application/octet-stream;base64,AAEC/w==",
        "data:;base64,AAEC/w==",
        "data:image/png;base64,AAEC/w",
        "data:image/png;base64,AAEC/w=",
        "data:image/png;base64,AAEC_w",
        "data:image/png;base64,AA\r\nEC\n/w==\n",
        "  data:image/png;base64, AAEC/w==",
        "data:image/png;base64,AAEC%2Fw%3D%3D",
        "data:image/png;base64;charset=utf-8,AAEC/w==",
        "data:image/png,%00%01%02%FF",
    ],
)
def test_a_data_url_is_decoded(url: str):
    assert fetch(url, Fetching()) == b"\0\1\2\xff"


@pytest.mark.parametrize(
    "url",
    [
        *("data:image/png;base64", "data:", "data:,", "data:image/png;base64,", "data:image/png;base64,=="),
        *("data:image/png;base64,AAECA", "data:image/png;base64,!!!!", "data:image/png;base64,AA%ZZC"),
        *("data:image/png;base64,é", "data:image/png;base64,AA=AAA", "data:image/png;base64,AAEC,AAEC"),
    ],
)
def test_a_data_url_without_data_is_rejected(url: str):
    assert "data URL" in refusal(url, Fetching())


def test_a_data_url_is_measured_before_it_is_decoded():
    body = base64.b64encode(b"x" * 1_003).decode()
    assert "1,000 bytes" in refusal(f"data:image/png;base64,{body}")


@pytest.mark.parametrize(
    "url", ["", "x", "/etc/passwd", "file:///etc/passwd", "http://", "http:", "javascript:1", "\0", "http://a\r\nb/"]
)
def test_an_invalid_address_is_rejected(internet: Internet, url: str):
    refusal(url)
    assert internet.dialled == []
