"""`latentbridge serve` as people run it: a process of its own, and its end."""

from __future__ import annotations

import signal
import socket
import subprocess
import sys
import threading
import time

import httpx
import pytest
from tests.serving.conftest import url_of

from latentbridge.cli import main

START_S = 120


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--host", "0.0.0.0"), "no key"),
        (("--port", "70000"), "no port"),
        (("--limit", "chat"), "no limit"),
        (("--timeout", "nan"), "out of range"),
        (("--max-requests", "0"), "too small"),
        (("--keys", "/nowhere/keys"), "cannot be read"),
        (("--model", "/nowhere"), "holds no model"),
    ],
)
def test_what_cannot_be_served_is_refused_in_a_sentence(
    capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...], words: str
):
    with pytest.raises(SystemExit) as ended:
        main(["serve", "--port", "0", *arguments])
    told = capsys.readouterr().err
    assert ended.value.code == 2 and words in told and told.count("\n") == 1, told


def test_an_address_that_is_taken_is_refused_before_a_model_is_loaded(capsys: pytest.CaptureFixture[str]):
    with socket.create_server(("127.0.0.1", 0)) as taken, pytest.raises(SystemExit) as ended:
        main(["serve", "--port", str(taken.getsockname()[1]), "--model", "/nowhere"])
    told = capsys.readouterr().err
    assert ended.value.code == 2 and "address already in use" in told and told.count("\n") == 1, told


@pytest.mark.slow
def test_a_signal_ends_it_once_what_was_begun_is_finished(picture_file: bytes):
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    process = subprocess.Popen([sys.executable, "-m", "latentbridge", "serve", "--port", str(port)])
    url, answers = f"http://127.0.0.1:{port}", []
    try:
        for _ in range(START_S * 5):
            try:
                if httpx.get(f"{url}/readyz").status_code == 200:
                    break
            except httpx.HTTPError:
                time.sleep(0.2)
        asked = {"prompt": "a red circle", "steps": 60, "seed": 1}
        body = {"image": url_of(picture_file), "rounds": 1}
        calls = [("/v1/images/generations", asked), ("/v1/loopback", body)]
        threads = [
            threading.Thread(target=lambda c=call: answers.append(httpx.post(url + c[0], json=c[1], timeout=100)))
            for call in calls
        ]
        for thread in threads:
            thread.start()
        while httpx.get(f"{url}/metrics").text.find("latentbridge_requests_inside 2.0") < 0:
            time.sleep(0.02)
        process.send_signal(signal.SIGTERM)
        for thread in threads:
            thread.join()
        assert [answer.status_code for answer in answers] == [200, 200]
        assert process.wait(30) == -signal.SIGTERM  # uvicorn ends by the signal it was sent, once all is done
    finally:
        process.kill()
    with pytest.raises(httpx.HTTPError):
        httpx.get(f"{url}/healthz")
