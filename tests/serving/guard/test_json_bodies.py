"""Strict parsing of JSON bodies."""

from __future__ import annotations

import pytest

from latentbridge.serving.api_errors import ApiError
from latentbridge.serving.guard.json_bodies import parse_json


def test_ordinary_json_is_parsed():
    assert parse_json(b'{"a": [1, 2.5, null, true], "b": {"a": "\\u00e9"}}') == {
        "a": [1, 2.5, None, True],
        "b": {"a": "é"},
    }


@pytest.mark.parametrize(
    "body",
    [
        b'{"a": NaN}',
        b'{"a": Infinity}',
        b'{"a": -Infinity}',
        b'{"a": [{"b": [1, -1e999]}]}',
        b'{"a": [' + b"0," * 5_000 + b'0], "b": [' + b"0," * 5_000 + b"0]}",
        b'{"a": 1, "a": 2}',
        b'{"a": {"b": 1, "b": 1}}',
        b"[" * 202 + b"]" * 202,
        b'{"a":' * 50_000,
        b'{"a": ' + b"9" * 5_000 + b"}",
        b'{"a": "SECRET',
        b'"\xff"',
        b'"\\ud800"',
        b'"a\x00b"',
        b"{'a': 1}",
        b'{"a": 1} SECRET',
        b"\xef\xbb\xbf{}",
        b"\x1f\x8b\x08\x00SECRET",
    ],
    ids=lambda body: body[:12].decode("latin-1"),
)
def test_invalid_json_is_rejected_and_not_quoted(body: bytes):
    with pytest.raises(ApiError) as caught:
        parse_json(body)
    assert caught.value.status_code == 400
    assert "SECRET" not in caught.value.detail
