"""`latentbridge serve` as a process of its own, and its shutdown."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

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
        (("--workers", "0"), "too small"),
        (("--keys", "/nowhere/keys"), "cannot be read"),
        (("--model", "/nowhere"), "holds no model"),
    ],
)
def test_invalid_options_are_rejected_in_one_sentence(
    capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...], words: str
):
    with pytest.raises(SystemExit) as ended:
        main(["serve", "--port", "0", *arguments])
    error = capsys.readouterr().err
    assert ended.value.code == 2 and words in error and error.count("\n") == 1, error


def test_an_address_in_use_is_rejected_before_a_model_is_loaded(capsys: pytest.CaptureFixture[str]):
    with socket.create_server(("127.0.0.1", 0)) as taken, pytest.raises(SystemExit) as ended:
        main(["serve", "--port", str(taken.getsockname()[1]), "--model", "/nowhere"])
    error = capsys.readouterr().err
    assert ended.value.code == 2 and "address already in use" in error and error.count("\n") == 1, error


@contextmanager
def served(*arguments: str, folder: Path | None = None) -> Iterator[tuple[subprocess.Popen[bytes], str]]:
    """Run a server in a folder until it is ready; yield the process and the URL."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "latentbridge", "serve", "--port", str(port), *arguments]
    process = subprocess.Popen(command, cwd=folder)
    url, until = f"http://127.0.0.1:{port}", time.monotonic() + START_S
    try:
        while not lives(f"{url}/readyz"):
            assert time.monotonic() < until and process.poll() is None
            time.sleep(0.2)
        yield process, url
    finally:
        process.kill()
        process.wait()


def lives(address: str) -> bool:
    """Return whether a GET of the address succeeds."""
    try:
        return httpx.get(address).status_code == 200
    except httpx.HTTPError:
        return False


def children(pid: int) -> set[int]:
    lines = (file.read_text().split() for file in Path(f"/proc/{pid}/task").glob("*/children"))
    return {int(child) for line in lines for child in line}


@pytest.mark.slow
@pytest.mark.parametrize("workers", ["1", "2"])
def test_a_signal_ends_it_after_running_requests(picture_file: bytes, workers: str):
    answers = []
    with served("--workers", workers) as (process, url):
        worker_pids = children(process.pid)
        assert len(worker_pids) == (2 if workers == "2" else 0)
        drawing = {"prompt": "a red circle", "steps": 60, "seed": 1}
        body = {"image": url_of(picture_file), "rounds": 1}
        calls = [("/v1/images/generations", drawing), ("/v1/loopback", body)]
        threads = [
            threading.Thread(target=lambda c=call: answers.append(httpx.post(url + c[0], json=c[1], timeout=100)))
            for call in calls
        ]
        for thread in threads:
            thread.start()
        while httpx.get(f"{url}/metrics").text.find("latentbridge_requests_in_flight 2.0") < 0:
            time.sleep(0.02)
        process.send_signal(signal.SIGTERM)
        for thread in threads:
            thread.join()
        assert [answer.status_code for answer in answers] == [200, 200]
        assert process.wait(30) == -signal.SIGTERM  # uvicorn re-raises the signal after shutdown
        assert not any(Path(f"/proc/{pid}").exists() for pid in worker_pids)
    with pytest.raises(httpx.HTTPError):
        httpx.get(f"{url}/healthz")


@pytest.mark.slow
def test_workers_run_nothing_of_the_folder_the_server_is_started_in(tmp_path: Path):
    for name in ("queue", "statistics", "random", "selectors", "numpy"):
        (tmp_path / f"{name}.py").write_text("open(__file__ + '.ran', 'w')\nraise SystemExit('of the folder')\n")
    with served("--workers", "2", folder=tmp_path) as (_, url):
        until = time.monotonic() + START_S
        while "latentbridge_workers 2.0" not in httpx.get(f"{url}/metrics").text:
            assert time.monotonic() < until
            time.sleep(0.2)
        drawn = httpx.post(f"{url}/v1/images/generations", json={"prompt": "a star", "steps": 1}, timeout=100)
        assert drawn.status_code == 200
        assert "latentbridge_workers_lost_total 0.0" in httpx.get(f"{url}/metrics").text
    assert not list(tmp_path.glob("*.ran"))


@pytest.mark.slow
def test_killed_workers_are_replaced_without_a_failed_request():
    """One of two workers is killed five times while requests are running."""
    drawing = {"prompt": "a red circle", "steps": 20, "seed": 1}
    with served("--workers", "2") as (process, url):
        expected = httpx.post(f"{url}/v1/images/generations", json=drawing, timeout=100).json()["data"]
        for _ in range(5):
            while "latentbridge_workers 2.0" not in httpx.get(f"{url}/metrics").text:
                time.sleep(0.05)
            with ThreadPoolExecutor(6) as senders:
                calls = [
                    senders.submit(httpx.post, f"{url}/v1/images/generations", json=drawing, timeout=100)
                    for _ in range(6)
                ]
                while httpx.get(f"{url}/metrics").text.find("latentbridge_requests_in_flight 6.0") < 0:
                    time.sleep(0.005)
                os.kill(max(children(process.pid)), signal.SIGKILL)
                for call in calls:
                    answer = call.result()
                    assert answer.status_code == 200 and answer.json()["data"] == expected
        assert "latentbridge_workers_lost_total 5.0" in httpx.get(f"{url}/metrics").text
        worker_pids = children(process.pid)
        process.kill()  # the workers get no command, and exit nevertheless
        until = time.monotonic() + 60
        while any(Path(f"/proc/{pid}").exists() for pid in worker_pids):
            assert time.monotonic() < until
            time.sleep(0.05)
