"""Draw watching_a_run.svg from the log of the shipped model's alignment: `python docs/watching_a_run.py`."""

from __future__ import annotations

import re
from importlib.resources import files
from pathlib import Path

from latentbridge.evaluation.pages.curves import SAMPLES, TIME, gradient_charts, step_time_chart, value_chart
from latentbridge.files import atomic_write
from latentbridge.run_folder import RunFolder

WIDTH_PX, HEIGHT_PX, TITLE_PX, GAP_PX = 360, 172, 22, 16


def main() -> None:
    assets = files("latentbridge").joinpath("assets")
    runs = {"align": RunFolder(str(assets.joinpath("tiny/training/align"))).metrics()}
    cards = [value_chart(name, runs, SAMPLES) for name in ("distillation", "retrieval")]
    cards += [gradient_charts(runs, TIME), step_time_chart(runs, TIME)]
    style = assets.joinpath("report.css").read_text(encoding="utf-8")
    body = ""
    for index, card in enumerate(cards):
        chart, caption = re.search(r"<svg[^>]*>(.*)</svg><figcaption>(.*)</figcaption>", card, re.DOTALL).groups()  # type: ignore[union-attr]
        x, y = index % 2 * (WIDTH_PX + GAP_PX), index // 2 * (HEIGHT_PX + TITLE_PX + GAP_PX)
        text = f'<text x="44" y="{HEIGHT_PX + 10}" style="fill: var(--soft); font-size: 10px">{caption}</text>'
        body += f'<g transform="translate({x} {y})">{chart}{text}</g>\n'
    width, height = 2 * WIDTH_PX + GAP_PX, 2 * (HEIGHT_PX + TITLE_PX) + GAP_PX
    with atomic_write(Path(__file__).with_suffix(".svg")) as temporary:
        temporary.write_text(
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}" '
            f'font-family="system-ui, sans-serif">\n<style>{style}</style>\n'
            f'<rect width="{width}" height="{height}" style="fill: var(--card)"/>\n{body}</svg>\n',
            encoding="utf-8",
        )


if __name__ == "__main__":
    main()
