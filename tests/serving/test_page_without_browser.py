"""What the page's buttons call, without a browser."""

from __future__ import annotations

import asyncio
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageDraw

from latentbridge.models.omnibridge.modeling_omnibridge import OmniBridge
from latentbridge.serving.api import create_app
from latentbridge.serving.guard.rates import Rates

gr = pytest.importorskip("gradio", reason="the page needs gradio; install latentbridge[ui]")

from latentbridge.serving.ui import chat_tab, edit_tab  # noqa: E402
from latentbridge.serving.ui.api_bridge import ApiBridge  # noqa: E402

VISIT: Any = SimpleNamespace(state=SimpleNamespace(owner="nobody"))


def function_of(tab: Any, api: ApiBridge, name: str) -> Any:
    """Return the function that a tab's button calls."""
    with gr.Blocks() as page:
        tab(api)
    return next(each.fn for each in page.fns.values() if each.name == name)


def test_an_edit_on_the_page_has_the_pictures_size(served_model: OmniBridge, tmp_path: Path):
    image = Image.new("RGB", (320, 160), (200, 225, 248))
    ImageDraw.Draw(image).ellipse((30, 40, 110, 120), fill=(220, 40, 40))
    image.save(tmp_path / "wide.png")
    app = create_app(served_model)
    answer = function_of(edit_tab.tab, ApiBridge(app, Rates()), "answer")

    async def test() -> None:
        async with app.router.lifespan_context(app):
            (before, after), caption, _ = await answer(str(tmp_path / "wide.png"), "make it green", 5, 2, 2.5, VISIT)
        assert (
            np.array_equal(np.asarray(before), np.asarray(image)) and after.size == image.size and "seed 5" in caption
        )
        expected = served_model.edit(image, "make it green", seed=5, steps=2, guidance=2.5).picture
        assert np.array_equal(np.asarray(after), expected)

    asyncio.run(test())


def test_a_conversation_on_the_page_goes_on(served_model: OmniBridge, tmp_path: Path):
    Image.new("RGB", (64, 64), "red").save(tmp_path / "red.png")
    app = create_app(served_model)
    reply = function_of(chat_tab.tab, ApiBridge(app, Rates()), "reply")

    async def test() -> None:
        messages: list[Any] = []
        lines: list[Any] = []
        async with app.router.lifespan_context(app):
            for entry in (
                {"files": [str(tmp_path / "red.png")], "text": "Is there a star?"},
                {"files": [], "text": "Describe the picture."},
            ):
                steps = [step async for step in reply(entry, messages, lines, False, VISIT)]
                messages, lines = steps[-1][1:3]
        assert [message.role for message in messages] == ["user", "assistant", "user", "assistant"]
        assert all(message.content for message in messages) and len(lines) == 5

    asyncio.run(test())
