"""Workers that are replaced, with workers that are only said to die."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Set
from typing import Any, cast

import pytest

from latentbridge.serving.engine import crew as module
from latentbridge.serving.engine.crew import Crew
from latentbridge.serving.engine.metrics import Metrics
from latentbridge.serving.settings import Settings


def test_jobs_of_a_worker_that_cannot_be_replaced_go_to_the_others(monkeypatch: pytest.MonkeyPatch):
    """As where memory is short, which may be why it died."""
    deaths: list[Callable[[], None]] = []

    class Worker:
        def __init__(self, settings: Settings, maker: str, told: Any, ready: Any, lost: Callable[[], None]) -> None:
            if len(deaths) == 2:
                raise OSError(12, "Cannot allocate memory")
            deaths.append(lost)

    monkeypatch.setattr(module, "ProcessWorker", Worker)
    monkeypatch.setattr(module, "fingerprint", lambda model: "")
    lost: list[Set[int]] = []

    async def work() -> Crew:
        crew = Crew(cast(Any, None), Settings(workers=2), Metrics(), lambda results: None, lost.append)
        crew.hire()
        crew.hands[0].replies.add(3)
        crew.hands[0].batch.add(5)
        deaths[0]()
        await asyncio.sleep(0)
        return crew

    crew = asyncio.run(work())
    assert lost == [{3, 5}] and len(crew.hands) == 1
