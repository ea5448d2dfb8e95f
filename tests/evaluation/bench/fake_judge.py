"""A local server that speaks the wire format of OpenAI's chat completions."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any


class FakeJudge:
    """Answers with `answer(request's text)`, or with an HTTP status if that is a number; keeps the requests."""

    def __init__(self, answer: Callable[[str], str | int]) -> None:
        self.answer, self.requests, self.keys = answer, [], []
        self.url = ""

    @property
    def texts(self) -> list[str]:
        return [request["messages"][0]["content"][0]["text"] for request in self.requests]


@contextmanager
def serve(answer: Callable[[str], str | int]) -> Iterator[FakeJudge]:
    judge = FakeJudge(answer)

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            assert self.path == "/v1/chat/completions"
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            judge.requests.append(body)
            judge.keys.append(self.headers.get("Authorization"))
            reply: Any = judge.answer(body["messages"][0]["content"][0]["text"])
            if isinstance(reply, int):
                self.send_response(reply)
                self.end_headers()
                return
            message = {"role": "assistant", "content": reply}
            choice = {"index": 0, "message": message, "finish_reason": "stop"}
            content = json.dumps({"object": "chat.completion", "model": body["model"], "choices": [choice]}).encode()
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, format: str, *args: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    judge.url = f"http://127.0.0.1:{server.server_port}/v1"
    thread = Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield judge
    finally:
        server.shutdown()
        server.server_close()
