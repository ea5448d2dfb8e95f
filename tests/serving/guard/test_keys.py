"""Keys: owners, files and environment, and no leaks."""

from __future__ import annotations

import hmac
from pathlib import Path

import pytest

from latentbridge.errors import UserError
from latentbridge.serving.guard.keys import ENVIRONMENT, Keys, check_bind, read_keys

ADA, BOB = "ada-" + "k" * 20, "bob-" + "q" * 20


def key_file(folder: Path, text: str, mode: int = 0o600) -> Path:
    path = folder / "keys"
    path.write_text(text)
    path.chmod(mode)
    return path


def refusal(file: Path | None, environment: dict[str, str]) -> str:
    with pytest.raises(UserError) as caught:
        read_keys(file, environment)
    message = str(caught.value)
    assert ADA not in message and BOB not in message and "\n" not in message
    return message


def test_a_key_has_an_owner_in_file_and_environment(tmp_path: Path):
    file = key_file(tmp_path, f"# who\n\n  ada:{ADA}  \n")
    keys = read_keys(file, {ENVIRONMENT: f"bob:{BOB},"})
    assert len(keys) == 2
    assert keys.owner(ADA) == "ada"
    assert keys.owner(BOB) == "bob"


@pytest.mark.parametrize("wrong", ["", ADA[:-1], ADA + "k", ADA.upper(), f"ada:{ADA}", "ключ", "\udcff", "\0"])
def test_other_keys_have_no_owner(wrong: str):
    assert read_keys(None, {ENVIRONMENT: f"ada:{ADA}"}).owner(wrong) is None


def test_every_key_is_compared_even_after_one_has_matched(monkeypatch: pytest.MonkeyPatch):
    keys = read_keys(None, {ENVIRONMENT: f"ada:{ADA},bob:{BOB}"})
    compared = []
    compare = hmac.compare_digest
    monkeypatch.setattr(hmac, "compare_digest", lambda a, b: compared.append(len(a)) or compare(a, b))
    for key in (ADA, BOB, "neither"):
        keys.owner(key)
    assert compared == [32] * 6


def test_without_keys_there_are_none():
    assert not read_keys(None, {})
    assert not Keys()


def test_no_key_is_in_a_repr(tmp_path: Path):
    keys = read_keys(None, {ENVIRONMENT: f"ada:{ADA}"})
    assert ADA not in repr(keys) and ADA not in repr(keys.digests)


@pytest.mark.parametrize("mode", [0o644, 0o640, 0o604, 0o620])
def test_a_file_that_others_may_read_is_rejected(tmp_path: Path, mode: int):
    assert "chmod 600" in refusal(key_file(tmp_path, f"ada:{ADA}\n", mode), {})


@pytest.mark.parametrize(
    ("line", "words"),
    [
        (ADA, "Line 2"),
        (f"Ada:{ADA}", "small letters"),
        (f":{ADA}", "Line 2"),
        ("ada:short", "openssl"),
        (f"bob:{ADA}", "there already"),
        (f"bob:{BOB}", "there already"),
        (f"eve:{BOB}", "there already"),
        ("ada:" + "k" * 12 + " " + "k" * 12, "no blanks"),
    ],
)
def test_an_invalid_line_is_named_by_its_number(tmp_path: Path, line: str, words: str):
    file = key_file(tmp_path, f"bob:{BOB}\n{line}\n")
    if line == f"bob:{ADA}":
        assert "(bob)" in refusal(file, {})
    assert words in refusal(file, {})


def test_missing_empty_and_binary_files_have_their_own_messages(tmp_path: Path):
    assert "cannot be read" in refusal(tmp_path / "none", {})
    assert "holds no keys" in refusal(key_file(tmp_path, "# nobody yet\n"), {})
    binary = key_file(tmp_path, "")
    binary.write_bytes(b"ada:\xff\xfe")
    assert "not text" in refusal(binary, {})


@pytest.mark.parametrize("host", ["127.0.0.1", "127.3.2.1", "::1", "localhost"])
def test_loopback_needs_no_key(host: str):
    check_bind(host, Keys())


@pytest.mark.parametrize(
    "host", ["0.0.0.0", "::", "", "192.168.1.7", "10.0.0.1", "example.com", "::ffff:127.0.0.1", "localhost.evil"]
)
def test_other_hosts_need_one(host: str):
    with pytest.raises(UserError, match="other machines"):
        check_bind(host, Keys())
    check_bind(host, read_keys(None, {ENVIRONMENT: f"ada:{ADA}"}))
