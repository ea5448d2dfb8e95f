"""Charts read back from their SVG: lines and areas lie where their values belong, and nothing is cut off."""

from __future__ import annotations

import re
from xml.etree import ElementTree

import pytest

from latentbridge.evaluation.pages.plots import (
    Line,
    area_chart,
    bar_figure,
    chip_html,
    format_count,
    format_duration,
    legend_html,
    line_chart,
    line_figure,
)

SVG = "{http://www.w3.org/2000/svg}"
FIRST, SECOND = "var(--accent, #3257a8)", "#d0632f"


def paths(chart: str, style: str) -> list[list[tuple[float, float]]]:
    """Return the points, in px, of paths whose style begins so."""
    result = re.findall(rf'<path d="([^"]+)" style="{re.escape(style)}', chart)
    return [[tuple(map(float, pair.split())) for pair in re.findall(r"[-\d.]+ [-\d.]+", path)] for path in result]  # type: ignore[misc]


def curves(chart: str, colour: str = FIRST) -> list[list[tuple[float, float]]]:
    return paths(chart, f"fill: none; stroke: {colour}")


def frame(chart: str) -> tuple[float, float, float, float]:
    """Return left, top, right and bottom of the axes."""
    (corners,) = paths(chart, 'fill: none"')
    xs, ys = zip(*corners, strict=True)
    return min(xs), min(ys), max(xs), max(ys)


def y_labels(chart: str) -> list[str]:
    return re.findall(r"text-anchor: end; [^>]*>([^<]*)</text>", chart)


def test_a_line_runs_over_the_whole_axis() -> None:
    chart = line_chart("loss", [Line([0, 10, 20], [4.0, 3.0, 2.0])])
    (line,) = curves(chart)
    left, top, right, bottom = frame(chart)
    assert [x for x, _ in line] == pytest.approx([left, (left + right) / 2, right])
    assert top < line[0][1] < line[1][1] < line[2][1] < bottom
    assert line[1][1] == pytest.approx((top + bottom) / 2)  # 3.0 lies half-way
    assert "loss: 2 at the end" in chart


def test_the_axis_starts_at_0_and_all_lines_share_it() -> None:
    chart = line_chart("loss", [Line([10, 20], [1.0, 3.0]), Line([5, 10], [3.0, 1.0], colour=1)])
    (first,), (second,) = curves(chart), curves(chart, SECOND)
    left, _, right, _ = frame(chart)
    quarter = (right - left) / 4
    assert [x for x, _ in first] == pytest.approx([left + 2 * quarter, right])
    assert [x for x, _ in second] == pytest.approx([left + quarter, left + 2 * quarter])
    assert first[0][1] == second[1][1] and first[1][1] == second[0][1]
    assert legend_html([(0, "3"), (1, "1")]) in chart


def test_wide_ranges_are_logarithmic_and_values_that_are_no_numbers_are_left_out() -> None:
    chart = line_chart("loss", [Line([0, 1, 2], [100.0, 1.0, 0.01])])
    (line,) = curves(chart)
    assert "log scale" in chart and line[1][1] == pytest.approx((line[0][1] + line[2][1]) / 2)
    broken = line_chart("loss", [Line([0, 1, 2, 3], [1.0, float("nan"), 0.5, float("inf")])])
    assert "nan" not in broken.lower() and len(curves(broken)[0]) == 2
    assert line_chart("loss", [Line([1], [1.0])]) == line_chart("loss", []) == ""
    (flat,) = curves(line_chart("loss", [Line([0, 1], [0.0, 0.0])]))
    assert flat[0][1] == flat[1][1]
    assert "log scale" not in line_chart("rate", [Line([0, 1], [1.0, 0.001])], linear=True)


def test_long_lines_have_their_running_median_on_top() -> None:
    rise_with_a_spike = [float(step) for step in range(200)]
    rise_with_a_spike[100] = 10_000.0
    chart = line_chart("loss", [Line(range(200), rise_with_a_spike)])
    faint, median = curves(chart)
    assert (faint[0], faint[-1]) == (median[0], median[-1])  # the median of a straight line is itself, also at its ends
    assert (
        min(y for _, y in faint) < 20 and min(y for _, y in median) > 130
    )  # only the faint line reaches up to the spike
    assert len(curves(line_chart("loss", [Line(range(2000), [0.0, 2.0] * 1000)]))[0]) <= 301


def test_shares_are_stacked() -> None:
    chart = area_chart("shares", [0, 10], {"first": [0.5, 0.25], "second": [0.5, 0.5]})
    left, top, right, bottom = frame(chart)
    height = bottom - top
    for colour, expected in (
        (FIRST, {(left, bottom), (right, bottom), (left, top + height / 2), (right, top + 0.75 * height)}),
        (SECOND, {(left, top), (right, top + 0.25 * height), (left, top + height / 2), (right, top + 0.75 * height)}),
    ):
        (area,) = paths(chart, f"fill: {colour}")
        corners = {(round(x, 2), round(y, 2)) for x, y in area}
        assert corners == {(round(x, 2), round(y, 2)) for x, y in expected}
    assert "first 25%" in chart and "second 50%" in chart
    assert area_chart("shares", [1], {"first": [1.0]}) == ""


@pytest.mark.parametrize(
    ("low", "high", "labels"),
    [(0.0, 1.0, ["0", "0.5", "1"]), (0.0, 0.07, ["0", "0.02", "0.04", "0.06"]), (10.0, 5000.0, ["10", "100", "1000"]),
     (1.0, 50.0, ["1", "2", "5", "10", "20", "50"]), (-3.0, 3.0, ["-2", "0", "2"])],
)  # fmt: skip
def test_labels_are_round_numbers(low: float, high: float, labels: list[str]) -> None:
    assert y_labels(line_chart("x", [Line([0, 1], [low, high])]))[1:] == labels  # the last label of x comes first


def test_counts_and_durations_in_words() -> None:
    assert [format_count(v) for v in (0, 960, 48_000, 1_234_567)] == ["0", "960", "48k", "1.23M"]
    durations = (0.5, 59.0, 60.0, 725.0, 7200.0, 12_000.0, 172_800.0 + 4 * 3600)
    assert [format_duration(v) for v in durations] == [
        "0.5 s",
        "59 s",
        "1 min",
        "12 min",
        "2 h",
        "3 h 20 min",
        "2 d 4 h",
    ]


def test_names_stay_text_and_equal_data_give_equal_bytes() -> None:
    assert legend_html([(10, "<b>")]) == f'<div class="legend">{chip_html(0, "<b>")}</div>'
    assert "&lt;b&gt;" in chip_html(0, "<b>")
    drawn = [line_figure("<i>", {"<b> $x$": [(0, 1), (1, 2)]}, "step") for _ in range(2)]
    assert drawn[0] == drawn[1] and "&lt;b&gt; $x$" in drawn[0] and "<i>" not in drawn[0]
    ElementTree.fromstring(drawn[0])


def test_equal_series_and_their_names_have_one_colour() -> None:
    series = {"a": [(0, 1.0), (1, 0.7)], "b": [(0, 1.0), (1, 0.9)], "c": [(0, 1.0), (1, 0.7)]}
    drawn = line_figure("kept", series, "hop", percent=True)
    first, second = ([line for line in curves(drawn, colour) if len(line) == 2] for colour in (FIRST, SECOND))
    assert len(first) == 2 and first[0] == first[1] and len(second) == 1
    assert [len([line for line in curves(drawn, colour) if len(line) == 3]) for colour in (FIRST, SECOND)] == [
        2,
        1,
    ]  # legend
    assert re.findall(r">(\w)</text>", drawn) == ["a", "b", "c"]
    assert [y for y in y_labels(drawn) if "%" in y] == ["70.0%", "80.0%", "90.0%", "100.0%"]


def test_labels_lie_within_a_figure() -> None:
    letter_px = 5.2  # on average, of 10 px type
    for drawn, longest in (
        (line_figure("KL", {"a": [(1, 0.00123), (2, 0.00595)]}, "step"), "0.002"),
        (bar_figure("shares", {"anchored, through pixels": {"task": 1.0}}), "anchored, through pixels"),
    ):
        labels = [
            t for t in ElementTree.fromstring(drawn).iter(f"{SVG}text") if "text-anchor: end" in t.get("style", "")
        ]
        assert longest in [label.text for label in labels]
        assert all(float(label.get("x", 0)) >= letter_px * len(label.text or "") for label in labels)
