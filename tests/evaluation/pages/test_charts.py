"""Charts place values where they belong."""

from __future__ import annotations

import re

import pytest

from latentbridge.evaluation.pages.charts import Line, in_samples, in_time, show_legend, show_lines, show_stack


def points(chart: str, shape: str = "polyline") -> list[list[tuple[float, float]]]:
    found = re.findall(rf'<{shape} class="[^"]*" points="([^"]+)"', chart)
    return [[tuple(map(float, pair.split(","))) for pair in each.split()] for each in found]  # type: ignore[misc]


def test_a_line_runs_from_corner_to_corner() -> None:
    chart = show_lines("loss", [Line([0, 10, 20], [4.0, 3.0, 2.0])])
    # 44 px for the words on the left, 8 px above and on the right, 4 px of air; 3.0 lies half-way
    assert points(chart) == [[(44.0, 12.0), (198.0, 79.0), (352.0, 146.0)]]
    assert "loss: 2 at the end" in chart


def test_an_axis_begins_at_nothing_and_lines_share_it() -> None:
    chart = show_lines("loss", [Line([10, 20], [1.0, 3.0]), Line([5, 10], [3.0, 1.0], colour=9)])
    assert points(chart) == [[(198.0, 146.0), (352.0, 12.0)], [(121.0, 12.0), (198.0, 146.0)]]
    assert 'class="line c0"' in chart and 'class="line c1"' in chart
    assert '<span class="chip c0">3</span><span class="chip c1">1</span>' in chart


def test_wide_ranges_are_logarithmic_and_what_is_no_number_is_left_out() -> None:
    chart = show_lines("loss", [Line([0, 1, 2], [100.0, 1.0, 0.01])])
    assert "log scale" in chart and points(chart)[0][1] == (198.0, 79.0)  # 1 is half-way by its logarithm
    broken = show_lines("loss", [Line([0, 1, 2, 3], [1.0, float("nan"), 0.5, float("inf")])])
    assert "nan" not in broken.lower() and len(points(broken)[0]) == 2
    assert show_lines("loss", [Line([1], [1.0])]) == show_lines("loss", []) == ""
    flat = show_lines("loss", [Line([0, 1], [0.0, 0.0])])
    assert points(flat)[0] == [(44.0, 79.0), (352.0, 79.0)]


def test_long_lines_have_their_running_median_on_top() -> None:
    rise_with_a_spike = [float(step) for step in range(200)]
    rise_with_a_spike[100] = 10_000.0
    faint, median = points(show_lines("loss", [Line(range(200), rise_with_a_spike)]))
    assert len(faint) == len(median) == 200
    assert faint[100][1] == 12.0 and median[100][1] > 140.0  # the spike reaches the top, and only as the faint line
    assert median[50][1] == faint[50][1]  # eleven neighbours of a straight line, the middle of which is its own
    assert len(points(show_lines("loss", [Line(range(2000), [0.0, 2.0] * 1000)]))[0]) == 300
    assert "log scale" not in show_lines("rate", [Line([0, 1], [1.0, 0.001])], linear=True)


def test_shares_stand_on_each_other() -> None:
    chart = show_stack("shares", [0, 10], {"first": [0.5, 0.25], "second": [0.5, 0.5]})
    # 142 px are the whole: half of it is 71, a quarter 35.5
    first, second = points(chart, "polygon")
    assert first == [(44.0, 79.0), (352.0, 114.5), (352.0, 150.0), (44.0, 150.0)]
    assert second == [(44.0, 8.0), (352.0, 43.5), (352.0, 114.5), (44.0, 79.0)]
    assert "first 25%" in chart and "second 50%" in chart
    assert show_stack("shares", [1], {"first": [1.0]}) == ""


@pytest.mark.parametrize(
    ("low", "high", "ticks"),
    [(0.0, 1.0, ["0", "0.5", "1"]), (0.0, 0.07, ["0", "0.02", "0.04", "0.06"]), (10.0, 5000.0, ["10", "100", "1000"]),
     (-3.0, 3.0, ["-2", "0", "2"])],
)  # fmt: skip
def test_ticks_are_round(low: float, high: float, ticks: list[str]) -> None:
    chart = show_lines("x", [Line([0, 1], [low, high])])
    assert re.findall(r'text-anchor="end">([-\d.e+]+)</text>', chart.split('class="grid"', 1)[1]) == ticks


def test_counts_and_durations_in_words() -> None:
    assert [in_samples(v) for v in (0, 960, 48_000, 1_234_567)] == ["0", "960", "48k", "1.23M"]
    durations = (0.5, 59.0, 60.0, 725.0, 7200.0, 12_000.0, 172_800.0 + 4 * 3600)
    assert [in_time(v) for v in durations] == ["0.5 s", "59 s", "1 min", "12 min", "2 h", "3 h 20 min", "2 d 4 h"]


def test_names_in_a_legend_stay_text() -> None:
    assert show_legend([(8, "<b>")]) == '<div class="legend"><span class="chip c0">&lt;b&gt;</span></div>'
