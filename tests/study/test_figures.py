"""Figures read back as SVG: which line, which name, and that nothing is cut off."""

from __future__ import annotations

from xml.etree import ElementTree

from latentbridge.study.figures import draw_curves, draw_lines, draw_shares

SVG = "{http://www.w3.org/2000/svg}"


def test_equal_curves_are_one_line_and_their_names_bear_its_colour() -> None:
    drawn = ElementTree.fromstring(draw_lines("kept", {"a": [1.0, 0.7], "b": [1.0, 0.9], "c": [1.0, 0.7]}))
    lines = [line.get("stroke") for line in drawn.iter(f"{SVG}polyline")]
    named = [mark.get("stroke") for mark in drawn.iter(f"{SVG}path")]
    assert len(set(lines)) == len(lines) == 2 and named == [lines[0], lines[1], lines[0]]


def test_labels_of_small_numbers_lie_within_the_figure() -> None:
    drawn = ElementTree.fromstring(draw_curves("KL", {"a": [(1, 0.00123), (2, 0.00595)]}))
    beside = [text for text in drawn.iter(f"{SVG}text") if text.get("text-anchor") == "end"]
    assert [text.text for text in beside] == ["0.00123", "0.00359", "0.00595"]
    digit_px = 7  # of 12 px type, and wide ones
    assert all(float(text.get("x", 0)) >= digit_px * len(text.text or "") for text in beside)


def test_the_longest_name_of_a_stored_study_lies_within_its_bars() -> None:
    drawn = ElementTree.fromstring(draw_shares("shares", {"anchored, through pixels": {"task": 1.0}}))
    (name,) = [text for text in drawn.iter(f"{SVG}text") if text.get("text-anchor") == "end"]
    letter_px = 6.3  # of 12 px type
    assert float(name.get("x", 0)) >= letter_px * len(name.text or "")
