from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from latentbridge.evaluation.bench.cached_model import CachedModel
from latentbridge.evaluation.bench.tools import Tools
from latentbridge.models.checkpoint import load


@pytest.fixture(scope="session")
def tiny():
    return load("tiny")


@pytest.fixture(params=["tiny", "janus"])
def two_models(request: pytest.FixtureRequest, tiny, small_janus):
    """The shipped model and another backbone, one after the other."""
    return tiny if request.param == "tiny" else small_janus


@pytest.fixture
def tools_of(tmp_path: Path) -> Callable[..., Tools]:
    def build(model, folder: str = "generations", **others) -> Tools:
        cached = CachedModel(
            model, tmp_path / folder, batch_size=4, reply_options={"max_tokens": 5}, drawing_options={"steps": 2}
        )
        return Tools(cached, **others)

    return build
