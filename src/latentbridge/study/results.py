"""Page `docs/results.md`: a section per study, written from the studies' stored results."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from latentbridge.evaluation.metrics import format_score
from latentbridge.evaluation.pages.plots import bar_figure, line_figure
from latentbridge.files import atomic_write, read_json, write_json
from latentbridge.studies import STUDIES

Document = Mapping[str, Any]

_HEAD = """<!-- Written by `latentbridge study`; changes by hand are lost. -->
# Results

Each table is written by one command, which resumes after an interruption. All models of a table are measured on the same
items. Shares are in per cent; items that fail count as 0. ▲ is better and ▼ worse than the base model; unmarked differences
are not significant at 5 % after Holm's correction over the table (sign permutation test over items, each averaged over the
seeds of its arm). Intervals are 95 %, by bootstrap over items; the range over seeds is beside them. `docs/measures.md`
defines the measures.
"""
_MARKS = {"better": " ▲", "worse": " ▼", "noise": ""}


def write_results(document: Document, path: Path) -> Path:
    """Store a study's results and figures in `results/` beside `path`, and write the page `path` from all stored studies."""
    folder = path.parent / "results"
    write_json(folder / f"{document['name']}.json", document)
    for name, _, svg in (figure for group in document["groups"] for figure in _figures(document, group)):
        with atomic_write(folder / name) as temporary:
            temporary.write_text(svg, encoding="utf-8")
    stored = [read_json(folder / f"{name}.json") for name in _stored_studies(folder)]
    with atomic_write(path) as temporary:
        temporary.write_text(render(stored), encoding="utf-8")
    return path


def render(documents: Sequence[Document]) -> str:
    """Return the page of studies as Markdown."""
    return "\n".join([_HEAD, *(line for document in documents for line in _section(document))])


def _stored_studies(folder: Path) -> list[str]:
    """Return the names of stored studies, in the order of `STUDIES`."""
    names = {path.stem for path in folder.glob("*.json")}
    return [*(name for name in STUDIES if name in names), *sorted(names - STUDIES.keys())]


# --- a section -----------------------------------------------------------------------------------


def _section(document: Document) -> list[str]:
    measuring, hours = document["measuring"], document["hours"]
    worlds, seeds = " and ".join(measuring["worlds"]), ", ".join(str(seed) for seed in document["seeds"])
    lines = [
        f"## {document['title']}",
        "",
        document["question"],
        "",
        f"`latentbridge study {document['name']}`: seeds {seeds}; measured on {worlds} with {_samples(measuring)}, seed "
        f"{measuring['seed']}; {document['date']}, {document['hardware']} a run, {hours['training']:.1f} hours of training and "
        f"{hours['measuring']:.1f} of measuring.",
        "",
    ]
    for group in document["groups"]:
        lines += _group(document, group)
    return lines


def _samples(measuring: Document) -> str:
    """Return in words how many items each model was measured on."""
    parts: list[str] = []
    if measuring["pairs"]:
        parts.append(f"{measuring['pairs']} pairs, {measuring['hops']} hops, encoder {measuring['encoder']}")
    if measuring["size"]:
        parts.append(f"samples of `eval` at {measuring['size']} %")
    if measuring.get("problems"):
        parts.append(f"{measuring['problems']} problems of each kind")
    return ", ".join(parts)


def _group(document: Document, group: Document) -> list[str]:
    several = len(document["groups"]) > 1
    lines = [f"### From {group['base']}", ""] if several else []
    for about in dict.fromkeys(measure["about"] for measure in group["measures"].values()):
        lines += _overview(group, about)
    for name, alt, _ in _figures(document, group):
        lines += [f"![{alt}](results/{name})", ""]
    for arm in group["arms"]:
        if arm["recipe"]:
            lines.append(f"- {arm['name']}: `{' '.join([arm['recipe'], *arm['overrides']])}`{_size(arm)}")
    lines += ["", *_failures(group)]
    about = " and ".join(dict.fromkeys(group["measures"][row["measure"]]["about"] for row in group["against"]))
    title = f"{document['focus']} less each other arm, in {about}"
    lines += _folded(title, group, group["against"], "other arm")
    return lines + _folded(f"Every arm less {group['base']}", group, group["differences"], "arm")


def _size(arm: Document) -> str:
    if not arm.get("size"):
        return ""
    return f"; {arm['size']['moving']:,} trainable parameters, peak memory {arm['size']['peak_mib']:,} MiB"


def _overview(group: Document, about: str) -> list[str]:
    """Return a table with a row for each arm and a column for each measure of a kind."""
    verdicts = {(row["arm"], row["measure"]): row["verdict"] for row in group["differences"]}
    measures = {name: measure for name, measure in group["measures"].items() if measure["about"] == about}
    lines = _table_head(
        [
            about,
            "seeds",
            *(
                f"{name} (less is better)" if measure["better"] == "lower" else name
                for name, measure in measures.items()
            ),
        ]
    )
    for arm in group["arms"]:
        cells = [arm["name"], str(arm["finished"]) if arm["recipe"] else ""]
        for name, measure in measures.items():
            value = arm["values"].get(name)
            mark = _MARKS[verdicts.get((arm["name"], name), "noise")]
            cells.append(_number(value["mean"], measure) + mark if value else "")
        lines.append(_row(cells))
    return [*lines, ""]


def _failures(group: Document) -> list[str]:
    lines = [f"- {name} failed: {reason}" for arm in group["arms"] for name, reason in arm["failures"].items()]
    for arm in group["arms"]:
        if (left := arm["planned"] - arm["finished"] - len(arm["failures"])) > 0:
            lines.append(f"- {arm['name']}: {left} of {arm['planned']} runs are not finished")
    return [*lines, ""] if lines else []


def _folded(title: str, group: Document, rows: Sequence[Document], arm: str) -> list[str]:
    """Return a collapsed table of differences."""
    if not rows:
        return []
    values = {item["name"]: item["values"] for item in group["arms"]}
    lines = [f"<details><summary>{title}</summary>", ""]
    lines += _table_head(
        ["measure", arm, "mean", "seeds from, to", "difference", "95 % interval", "p", "Holm", "", "n"]
    )
    for row in rows:
        measure, value = group["measures"][row["measure"]], values[row["arm"]][row["measure"]]
        numbers = [_number(value[name], measure) for name in ("mean", "lowest", "highest")]
        change, low, high = (_number(row[name], measure, "+") for name in ("difference", "low", "high"))
        tested = [f"{row['p']:.2g}", f"{row['holm']:.2g}", row["verdict"], str(measure["n"])]
        between = f"{numbers[1]} to {numbers[2]}"
        lines.append(_row([row["measure"], row["arm"], numbers[0], between, change, f"{low} to {high}", *tested]))
    return [*lines, "", "</details>", ""]


def _number(value: float, measure: Document, sign: str = "") -> str:
    """Return a formatted value; shares are in per cent without the sign."""
    shown = format_score(value, measure["unit"]).removesuffix(" %")
    return f"+{shown}" if sign and not shown.startswith("-") else shown


def _table_head(titles: Sequence[str]) -> list[str]:
    return [_row(titles), _row(["---"] * len(titles))]


def _row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


# --- figures -------------------------------------------------------------------------------------


def _figures(document: Document, group: Document) -> list[tuple[str, str, str]]:
    """Return (file name, alt text, SVG) of a group's figures."""
    stem = f"{document['name']}_{group['base']}"
    figures: list[tuple[str, str, str]] = []
    for world in document["measuring"]["worlds"]:
        if any(share is not None for arm in group["arms"] for share in arm["facts"][world]):
            title = f"facts kept on {world}, from words, hop by hop"
            shares = {arm["name"]: [1.0, *arm["facts"][world]] for arm in group["arms"] if arm["finished"]}
            series = {
                name: [(hop, share) for hop, share in enumerate(by_hop) if share is not None]
                for name, by_hop in shares.items()
            }
            figures.append((f"{stem}_{world}.svg", title, line_figure(title, series, "hop", percent=True)))
    gradient_shares = {arm["name"]: arm["shares"] for arm in group["arms"] if arm["shares"]}
    if gradient_shares:
        title = "shares of the gradient"
        figures.append((f"{stem}_shares.svg", title, bar_figure(title, gradient_shares)))
    for name in dict.fromkeys(name for arm in group["arms"] for name in arm.get("curves", {})):
        title = f"{name}, step by step"
        curves = {arm["name"]: arm["curves"][name] for arm in group["arms"] if name in arm.get("curves", {})}
        svg = line_figure(title, curves, "step")
        figures.append((f"{stem}_{name.replace(' ', '_')}.svg", title, svg))
    return figures
