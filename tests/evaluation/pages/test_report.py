"""The report page is well-formed, self-contained and shows its data."""

from __future__ import annotations

import base64
import io
import re

import numpy as np
import pytest
from PIL import Image
from tests.evaluation.pages.checker import Checker, check

from latentbridge.evaluation.loopback import Round
from latentbridge.evaluation.pages.curves import training_section
from latentbridge.evaluation.pages.page import interval_html, picture_html, write_page
from latentbridge.evaluation.pages.report import (
    Answer,
    EditExample,
    GenerationExample,
    LoopbackChain,
    SearchExample,
    SearchHit,
    UnderstandExample,
    commands_section,
    credits_section,
    draw_section,
    edit_section,
    fade_outside,
    find_section,
    loopback_section,
    scores_section,
    tally,
    understand_section,
)

HOSTILE = """<script>alert('1 & 2')</script> "quoted" </section>"""
PICTURE = np.arange(8 * 8 * 3, dtype=np.uint8).reshape(8, 8, 3)


def records(count: int = 30) -> list[dict[str, float]]:
    return [
        {
            "step": 20 * (i + 1),
            "seconds": 2.0 * (i + 1),
            "samples": 640 * (i + 1),
            "grad_norm": 1.0,
            "lr": 1.0,
            "loss": 1 / (i + 1),
        }
        for i in range(count)
    ]


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Checker:
    """Return a page with each kind of section, and markup in all texts."""
    rounds = [Round(HOSTILE, PICTURE, 0.75, 0.75, 0.5, 0.25), Round(HOSTILE, PICTURE, 0.25, 0.5, 0.5, 0.25)]
    hit, words = SearchHit(HOSTILE, 0.5, PICTURE, True), SearchHit(HOSTILE, 0.5, right=False)
    row = {
        "skill": HOSTILE,
        "metric": HOSTILE,
        "value": 0.9,
        "low": 0.8,
        "high": 0.95,
        "n": 100,
        "aim": 0.85,
        "note": HOSTILE,
    }
    sections = [
        understand_section(
            [UnderstandExample(PICTURE, HOSTILE, (Answer(HOSTILE, HOSTILE, HOSTILE, False), Answer("q", "a")))]
        ),
        draw_section([GenerationExample(HOSTILE, HOSTILE + "!", PICTURE, HOSTILE, True)], HOSTILE),
        edit_section([EditExample(HOSTILE, PICTURE, PICTURE, PICTURE, PICTURE[..., 0] > 9, HOSTILE, HOSTILE)]),
        find_section(
            [SearchExample(HOSTILE, HOSTILE, (hit, words)), SearchExample("x", HOSTILE, (words,), PICTURE)], HOSTILE
        ),
        loopback_section([LoopbackChain(PICTURE, rounds)]),
        scores_section({"rows": [row, {"skill": "b", "metric": "m", "value": 3}], "command": HOSTILE, "seed": 0}),
        training_section({HOSTILE: records()}),
        commands_section([(HOSTILE, HOSTILE)]),
        credits_section([HOSTILE]),
    ]
    return check(write_page(tmp_path_factory.mktemp("page") / "report.html", HOSTILE, HOSTILE, sections, HOSTILE))


def test_all_sections_are_present_and_text_is_escaped(page: Checker) -> None:
    assert page.seen["section"] == 9
    assert page.seen["nav"] == 1
    assert page.text.count("<script>alert('1 & 2')</script>") >= 25


def test_sections_show_the_data(page: Checker) -> None:
    assert "0 of 1 replies here are right" in page.text
    assert "1 of 1 judged pictures are right" in page.text
    assert "0 of 0 judged edits" in page.text
    assert "round by round: 0.75, 0.25. It halves after 1.5 rounds" in page.text
    assert "facts kept 50% in words, 25% drawn" in page.text
    assert "90.0 %" in page.text


def test_a_picture_is_stored_losslessly() -> None:
    data = re.search(r'base64,([^"]+)"', picture_html(PICTURE, "x"))
    assert data is not None
    image = Image.open(io.BytesIO(base64.b64decode(data[1])))
    assert (np.asarray(image) == PICTURE).all()


def test_tally_by_hand() -> None:
    assert tally([True, None, False, True]) == (2, 3)


def test_fade_outside_keeps_the_mask_and_greys_the_rest() -> None:
    mask = np.zeros((8, 8), dtype=bool)
    mask[2:4] = True
    faded = fade_outside(PICTURE, mask)
    assert (faded[2:4] == PICTURE[2:4]).all()
    assert np.abs(faded[~mask].astype(int) - 128).max() <= 28 + 1  # 0.22 of 128, rounded down


def test_an_interval_lies_on_its_track() -> None:
    drawn = interval_html(0.5, 0.4, 0.6, None)
    assert 'cx="64.0"' in drawn and 'x1="51.8" x2="76.2"' in drawn and "aim" not in drawn
