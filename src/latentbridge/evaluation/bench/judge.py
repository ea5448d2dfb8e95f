"""A judge behind an OpenAI-compatible endpoint: its answers are kept by content, and its cost is estimated beforehand."""

from __future__ import annotations

import base64
import json
import os
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from hashlib import sha256
from io import BytesIO
from pathlib import Path
from threading import Lock
from typing import Any, TypeVar
from urllib.error import HTTPError, URLError
from urllib.request import Request, urlopen

from PIL import Image

from latentbridge.errors import Unreachable, UserError
from latentbridge.evaluation.bench.cached_model import Failure
from latentbridge.evaluation.bench.json_log import JsonLog
from latentbridge.evaluation.bench.pictures import PictureReader, PictureSource

KEY_VARIABLE = "OPENAI_API_KEY"
T = TypeVar("T")
_ATTEMPTS = 3
"""Times a judge is asked until its answer can be read."""
_RETRIES, _FIRST_WAIT_S = 5, 1.0
_TIMEOUT_S = 120
_THREADS = 8
_CHARACTERS_PER_TOKEN = 4
_TOKENS_PER_PICTURE = 1_100
"""About what a picture of 1024 pixels a side costs."""
_TEMPORARY = (408, 409, 425, 429, 500, 502, 503, 504)
_FATAL = (401, 402, 403, 404)


@dataclass(frozen=True)
class Judgement:
    """A request to a judge."""

    text: str
    pictures: tuple[PictureSource, ...] = ()
    max_tokens: int = 256


class Judge:
    """A model that grades, named in every result; temperature 0."""

    def __init__(
        self,
        url: str,
        model: str,
        folder: Path,
        prices: tuple[float, float] | None = None,
        wait_s: float = _FIRST_WAIT_S,
    ) -> None:
        """`prices` are dollars per million tokens read and written. The key is that of the environment, if any."""
        self.url, self.model, self.prices, self._wait_s = url.rstrip("/"), model, prices, wait_s
        self.pictures = PictureReader()
        self.calls = 0
        """Answers fetched since this was built; what was kept does not count."""
        self._answers = JsonLog(folder / "judge.jsonl", "key")
        self._lock = Lock()

    def describe(self) -> dict[str, Any]:
        """Return what names the judge."""
        return {"model": self.model, "url": self.url, "temperature": 0, "attempts": _ATTEMPTS}

    def estimate(self, calls: Sequence[tuple[str, int]], max_tokens: int = 256) -> str:
        """Return a sentence on the cost of calls, each a text and a number of pictures."""
        read = sum(len(text) // _CHARACTERS_PER_TOKEN + _TOKENS_PER_PICTURE * pictures for text, pictures in calls)
        written = max_tokens * len(calls)
        size = f"{len(calls):,} calls, about {read:,} tokens read and at most {written:,} written"
        if self.prices is None:
            return f"judge {self.model}: {size}; give --judge-prices for the cost in dollars"
        cost = (read * self.prices[0] + written * self.prices[1]) / 1e6
        return f"judge {self.model}: {size}, about ${cost:,.2f}"

    def ask(self, judgements: Sequence[Judgement], read: Callable[[str], T | None]) -> list[T | Failure]:
        """Return what `read` makes of each answer; a Failure if it makes None of all attempts.

        Raises UserError if the judge cannot be reached or refuses the key; what was answered is kept.
        """
        contents = [self._content(judgement) for judgement in judgements]
        keys = [content if isinstance(content, Failure) else json.dumps(content) for content in contents]
        asked = {key: judgement for key, judgement in zip(keys, judgements, strict=True) if isinstance(key, str)}
        results: dict[str, T | Failure] = {}
        if asked:
            with ThreadPoolExecutor(min(_THREADS, len(asked))) as pool:
                made = pool.map(lambda entry: self._judge(json.loads(entry[0]), entry[1], read), asked.items())
                results = dict(zip(asked, made, strict=True))
        return [key if isinstance(key, Failure) else results[key] for key in keys]

    def _content(self, judgement: Judgement) -> dict[str, Any] | Failure:
        """Return what an answer depends on, pictures by their hash; a Failure if one cannot be read."""
        try:
            digests = [self.pictures.digest(picture) for picture in judgement.pictures]
        except UserError as error:
            return Failure(str(error))
        return {"text": judgement.text, "pictures": digests, "model": self.model, "most": judgement.max_tokens}

    def _judge(self, content: dict[str, Any], judgement: Judgement, read: Callable[[str], T | None]) -> T | Failure:
        answer = ""
        for attempt in range(_ATTEMPTS):
            key = sha256(json.dumps({**content, "attempt": attempt}, sort_keys=True).encode()).hexdigest()
            answer = self._answer(key, judgement)
            if isinstance(answer, Failure):
                return answer
            value = read(answer)
            if value is not None:
                return value
        return Failure(f"the judge's answer could not be read: {answer[:200]!r}")

    def _answer(self, key: str, judgement: Judgement) -> str | Failure:
        """Return a kept answer or a new one; only the request itself runs beside other threads."""
        with self._lock:
            if key in self._answers:
                return self._answers.records[key]["answer"]
            try:
                urls = [self._data_url(picture) for picture in judgement.pictures]
            except UserError as error:
                return Failure(str(error))
        parts: list[dict[str, Any]] = [{"type": "text", "text": judgement.text}]
        parts += [{"type": "image_url", "image_url": {"url": url}} for url in urls]
        messages = [{"role": "user", "content": parts}]
        body = {"model": self.model, "messages": messages, "temperature": 0, "max_tokens": judgement.max_tokens}
        answer = self._post(body)
        if isinstance(answer, str):
            with self._lock:
                self.calls += 1
                self._answers.append([{"key": key, "answer": answer}])
        return answer

    def _post(self, body: dict[str, Any]) -> str | Failure:
        """Return the text of a completion; a Failure if the judge refuses this request alone."""
        headers = {"Content-Type": "application/json"}
        if key := os.environ.get(KEY_VARIABLE):
            headers["Authorization"] = f"Bearer {key}"
        request = Request(f"{self.url}/chat/completions", json.dumps(body).encode(), headers)
        problem = ""
        for retry in range(_RETRIES):
            if retry:
                time.sleep(self._wait_s * 2 ** (retry - 1))
            try:
                with urlopen(request, timeout=_TIMEOUT_S) as response:
                    return _text_of(response.read())
            except HTTPError as error:
                problem = f"HTTP {error.code}"
                if error.code in _FATAL:
                    raise UserError(
                        f"The judge {self.model} at {self.url} refuses requests ({problem}); check --judge and ${KEY_VARIABLE}."
                    ) from None
                if error.code not in _TEMPORARY:
                    return Failure(f"the judge refused the request ({problem})")
            except (URLError, OSError) as error:
                problem = str(getattr(error, "reason", error))
        raise Unreachable(f"The judge at {self.url} does not answer ({problem}); start again with --resume.")

    def _data_url(self, source: PictureSource) -> str:
        buffer = BytesIO()
        Image.fromarray(self.pictures.open(source)).save(buffer, "PNG")
        return f"data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode()}"


def _text_of(content: bytes) -> str:
    """Return the text of a completion; "" for a document without one, which no reader takes for an answer."""
    try:
        return str(json.loads(content)["choices"][0]["message"]["content"] or "")
    except (ValueError, KeyError, IndexError, TypeError):
        return ""
