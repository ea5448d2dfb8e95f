"""Pictures by URL: data URLs, and, from allowed hosts, downloads with protection against SSRF.

Addresses are checked when the connection is made, and the connection goes to the address that was checked, so neither
spellings (0x7f.1, [::ffff:127.0.0.1]), redirects nor DNS rebinding reach private networks. httpcore exposes that step as
its network backend; Host header and TLS name stay those of the URL. Of the libraries for this, httpx-secure connects before
it checks, safehttpx allows NAT64 and 6to4 and asks a third party's DNS, and drawbridge has one alpha release.
"""

from __future__ import annotations

import base64
import binascii
import re
import socket
from collections.abc import Iterable
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network
from typing import cast
from urllib.parse import unquote, unquote_to_bytes

import anyio
import httpcore2
import httpx2

from latentbridge.errors import UserError

_URL_ALPHABET = str.maketrans("-_", "+/")
_HOST = re.compile(r"[a-z0-9]([a-z0-9.-]*[a-z0-9])?|\[?[0-9a-f:]+\]?", re.IGNORECASE)
_REDIRECTS = (301, 302, 303, 307, 308)
_PORTS = {"http": 80, "https": 443}
_NOT_PUBLIC = tuple(
    ip_network(network)
    for network in (
        *("0.0.0.0/8", "10.0.0.0/8", "100.64.0.0/10", "127.0.0.0/8", "169.254.0.0/16", "172.16.0.0/12", "192.0.0.0/24"),
        *("192.0.2.0/24", "192.31.196.0/24", "192.52.193.0/24", "192.88.99.0/24", "192.168.0.0/16", "192.175.48.0/24"),
        *("198.18.0.0/15", "198.51.100.0/24", "203.0.113.0/24", "224.0.0.0/4", "240.0.0.0/4"),
        "168.63.129.16/32",  # a public address, used by Azure for a service to its machines
        *("2001::/23", "2001:db8::/32", "2002::/16", "2620:4f:8000::/48", "3fff::/20"),  # Teredo and 6to4 among them
    )
)
"""IANA's special-purpose registries (RFC 6890), written out since `ipaddress` covers a different part in every release."""
_UNICAST = ip_network("2000::/3")
"""All routed IPv6 addresses; loopback, link-local, unique local, multicast, IPv4-mapped and NAT64 are outside."""


@dataclass(frozen=True)
class Fetching:
    """The hosts that pictures may be fetched from, with limits."""

    hosts: tuple[str, ...] = ()
    """Host names, or `*` for all public ones; nothing is fetched if it is empty."""
    max_bytes: int = 20 << 20
    timeout_s: float = 10.0
    """For name resolution, connections, redirects and the picture together."""
    max_redirects: int = 3

    def __post_init__(self) -> None:
        for host in self.hosts:
            if host != "*" and not _HOST.fullmatch(host):
                raise UserError(f"{host!r} is no host to fetch from; give a name such as pictures.example, or *.")


async def picture_bytes(url: str, fetching: Fetching) -> bytes:
    """Return the encoded picture of a data URL or a web address; raises UserError if it is invalid or not allowed."""
    url = url.strip()
    if url[:5].lower() == "data:":
        return await anyio.to_thread.run_sync(_decode_data_url, url[5:], fetching.max_bytes)
    if not fetching.hosts:
        raise UserError(
            "This server fetches nothing from addresses; send the picture as a data URL (data:image/png;base64,...)."
        )
    try:
        with anyio.fail_after(fetching.timeout_s):
            return await _fetch(url, fetching)
    except TimeoutError:
        raise UserError(
            f"The picture's address did not answer within {fetching.timeout_s:g} s; send a data URL."
        ) from None


def is_public(address: IPv4Address | IPv6Address) -> bool:
    """Return whether an address belongs to the public internet."""
    if address.version == 6 and address not in _UNICAST:
        return False
    return not any(address.version == network.version and address in network for network in _NOT_PUBLIC)


def _decode_data_url(url: str, max_bytes: int) -> bytes:
    """Return the bytes of a data URL (RFC 2397) without its scheme, whatever media type and parameters it names.

    Base64 may be cut into lines, lack its padding, use the alphabet of URLs, or be percent-encoded. What the bytes are is
    for the reader of pictures to tell.
    """
    head, comma, body = url.partition(",")
    if not comma:
        raise UserError("The picture's data URL has no comma; its form is data:image/png;base64,DATA.")
    if "base64" in [part.strip().lower() for part in head.split(";")[1:]]:
        data = _decode_base64(unquote(body), max_bytes)
    else:
        data = unquote_to_bytes(body)
    if len(data) > max_bytes:
        raise _too_large(max_bytes)
    if not data:
        raise UserError("The picture's data URL is empty; its form is data:image/png;base64,DATA.")
    return data


def _decode_base64(text: str, max_bytes: int) -> bytes:
    letters = "".join(text.split()).translate(_URL_ALPHABET).rstrip("=")
    if len(letters) * 3 // 4 > max_bytes:
        raise _too_large(max_bytes)
    try:
        return base64.b64decode(letters + "=" * (-len(letters) % 4), validate=True)
    except (binascii.Error, ValueError):
        raise UserError("The picture's data URL is not base64; encode the file's bytes again.") from None


def _too_large(max_bytes: int) -> UserError:
    return UserError(f"The picture has more than {max_bytes:,} bytes; send a smaller one.")


async def _fetch(url: str, fetching: Fetching) -> bytes:
    async with httpcore2.AsyncConnectionPool(network_backend=_PublicNetwork(), max_keepalive_connections=0) as pool:
        for _ in range(fetching.max_redirects + 1):
            parsed = _parse_allowed(url, fetching)
            target = httpcore2.URL(
                scheme=parsed.raw_scheme, host=parsed.raw_host, port=parsed.port, target=parsed.raw_path
            )
            headers = [(b"Host", parsed.netloc), (b"Accept", b"image/*"), (b"Accept-Encoding", b"identity")]
            try:
                async with pool.stream("GET", target, headers=headers) as response:
                    fields = {name.lower(): value for name, value in response.headers}
                    if response.status in _REDIRECTS and b"location" in fields:
                        url = str(parsed.join(fields[b"location"].decode("latin-1")))
                        continue
                    if response.status != 200 or b"content-encoding" in fields:
                        raise UserError("The picture's address does not answer with a picture; check it in a browser.")
                    return await _read_body(response, fetching.max_bytes)
            except (httpcore2.NetworkError, httpcore2.TimeoutException, httpcore2.ProtocolError, httpx2.InvalidURL):
                raise _unreachable(parsed.host) from None
        raise UserError(f"The picture's address redirects more than {fetching.max_redirects} times; give the last one.")


def _parse_allowed(url: str, fetching: Fetching) -> httpx2.URL:
    """Return the parsed URL; raises UserError unless its host is allowed and it is plain http or https on its own port."""
    try:
        parsed = httpx2.URL(url)
    except (httpx2.InvalidURL, UnicodeError):
        raise UserError("The picture's address is no URL; check how it is spelt.") from None
    if parsed.scheme not in _PORTS or parsed.port not in (None, _PORTS[parsed.scheme]) or parsed.userinfo:
        raise UserError("A picture's address begins with http:// or https:// and names neither a port nor a user.")
    if "*" not in fetching.hosts and parsed.host.lower() not in fetching.hosts:
        raise UserError(f"This server fetches pictures from {', '.join(fetching.hosts)} only; send a data URL.")
    return parsed


async def _read_body(response: httpcore2.Response, max_bytes: int) -> bytes:
    body = bytearray()
    async for chunk in response.aiter_stream():
        body += chunk
        if len(body) > max_bytes:
            raise _too_large(max_bytes)
    return bytes(body)


class _PublicNetwork(httpcore2.AsyncNetworkBackend):
    """Connections to public addresses only, each name resolved once; a name with any private address is rejected."""

    def __init__(self) -> None:
        self._network = cast(httpcore2.AsyncNetworkBackend, httpcore2.AnyIOBackend())

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[httpcore2.SOCKET_OPTION] | None = None,
    ) -> httpcore2.AsyncNetworkStream:
        for address in await _resolve(host, port):
            try:
                return await self._network.connect_tcp(address, port, timeout, local_address, socket_options)
            except httpcore2.ConnectError:
                continue
        raise _unreachable(host)


async def _resolve(host: str, port: int) -> list[str]:
    """Return the addresses of a host; raises UserError unless all are public."""
    try:
        entries = await anyio.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError):
        raise _unreachable(host) from None
    addresses = [str(entry[4][0]) for entry in entries]
    if not all(is_public(ip_address(address)) for address in addresses):
        raise _unreachable(host)
    return addresses


def _unreachable(host: str) -> UserError:
    """Return one error for hosts that are private, unknown or silent, so that it reveals nothing about a network."""
    return UserError(f"{host} is no public address that answers; check it, or send the picture as a data URL.")
