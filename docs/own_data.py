"""Measure the tables of docs/data.md: fine-tune on the sets of docs/public_sets.py, score before and after, and print them.

    python docs/own_data.py --out runs/own_data        # hours on two busy cores; what is there already is not repeated
    python docs/own_data.py --out runs/own_data --write

`--out` must hold the three manifests (`easy_vqa`, `digits`, `recoloured`). Every score is `latentbridge eval`'s, every time
that of one process; the tables hold per cent with 95 % intervals.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, NamedTuple

LATENTBRIDGE = str(Path(sys.executable).with_name("latentbridge"))


class Trial(NamedTuple):
    """A run on a public set, and the scores that say whether it learned."""

    name: str
    folder: str
    settings: tuple[str, ...]
    size: int
    metrics: tuple[str, ...]


TRIALS = (
    Trial("questions", "easy_vqa", (), 20, ("answers, word for word",)),
    Trial("captions", "digits", ("steps=600",), 50, ("captions, word for word", "picture to text R@1")),
    Trial(
        "edits",
        "recoloured",
        ("steps=600",),
        20,
        ("nearer to the target than unedited", "pixel difference to the target", "captions, word for word"),
    ),
)
SHAPES_SIZE = 20
MARKS = ("<!-- measured", "<!-- /measured -->")
SKILLS = (
    "questions, direct (test)",
    "questions, worked (test)",
    "caption facts (test)",
    "mean of six, query (test)",
    "right, nothing else changed (test)",
    "text to picture R@1 (test)",
    "picture to text R@1 (test)",
)


def run(done: Path, *words: object) -> None:
    """Run a verb, unless the file `done` is there; beside it goes how long it took, in seconds of the clock and of the processor."""
    if done.exists():
        return
    before, began = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    subprocess.run([LATENTBRIDGE, *map(str, words)], check=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    times = {"clock_s": round(time.perf_counter() - began), "cpu_s": round(cpu)}
    done.with_suffix(".time").write_text(json.dumps(times))


def scores(path: Path) -> dict[str, dict[str, Any]]:
    """Return the rows of a stored report by their metric."""
    return {row["metric"]: row for row in json.loads(path.read_text())["rows"]}


def cell(row: dict[str, Any]) -> str:
    """Return a share with its interval."""
    return f"{100 * row['value']:.1f} ({100 * row['low']:.1f} to {100 * row['high']:.1f})"


def measure(out: Path, trial: Trial) -> None:
    """Train and score one trial."""
    manifest, folder = out / trial.folder / "manifest.jsonl", out / trial.name
    settings = [word for setting in trial.settings for word in ("--set", setting)]
    run(
        folder / "model" / "config.json",
        "train",
        "finetune",
        "--data",
        manifest,
        *settings,
        "--out",
        folder,
        "--resume",
    )
    own, shapes = out / f"{trial.name}-own.json", out / f"{trial.name}-shapes.json"
    run(
        out / f"{trial.name}-before.json",
        "eval",
        "--world",
        manifest,
        "--size",
        trial.size,
        "--out",
        out / f"{trial.name}-before.json",
    )
    run(own, "eval", "--model", folder, "--world", manifest, "--size", trial.size, "--out", own)
    run(shapes, "eval", "--model", folder, "--world", "shapes", "--size", SHAPES_SIZE, "--out", shapes)


def tables(out: Path) -> str:
    """Return what was learned and what was lost, as two tables; trials that are not measured yet are left out."""
    lines = ["| data | time, processor | measure | before | after | n |", "|---|---|---|---|---|---|"]
    for trial in TRIALS:
        if not (out / f"{trial.name}-own.json").exists():
            continue
        time_file = out / trial.name / "model" / "config.time"
        times = json.loads(time_file.read_text())
        before, after = (scores(out / f"{trial.name}-{when}.json") for when in ("before", "own"))
        took = f"{times['clock_s'] / 60:.0f} min, {times['cpu_s'] / 60:.1f} min"
        for metric in trial.metrics:
            row = after[metric]
            lines.append(f"| {trial.name} | {took} | {metric} | {cell(before[metric])} | {cell(row)} | {row['n']:,} |")
    known = [trial.name for trial in TRIALS if (out / f"{trial.name}-shapes.json").exists()]
    start = scores(out / "shapes.json")
    lines += ["", f"| `shapes` | before | {' | '.join(known)} | n |", "|---|" + "---|" * (len(known) + 2)]
    for skill in SKILLS:
        then = start[skill]
        now = [scores(out / f"{name}-shapes.json")[skill]["value"] - then["value"] for name in known]
        lines.append(f"| {skill} | {cell(then)} | {' | '.join(f'{100 * each:+.1f}' for each in now)} | {then['n']:,} |")
    return "\n".join(lines)


def write(found: str) -> None:
    """Put tables between the marks of docs/data.md."""
    page = Path(__file__).with_name("data.md")
    begin, _, rest = page.read_text().partition(MARKS[0])
    remark, _, rest = rest.partition("-->")
    page.write_text(f"{begin}{MARKS[0]}{remark}-->\n{found}\n{MARKS[1]}{rest.partition(MARKS[1])[2]}")


def main() -> None:
    """Measure all trials and print the tables, or write those of what is measured."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--write", action="store_true", help="Write the tables of what is measured into docs/data.md.")
    chosen = parser.parse_args()
    if chosen.write:
        write(tables(chosen.out))
        return
    shapes = chosen.out / "shapes.json"
    run(shapes, "eval", "--world", "shapes", "--size", SHAPES_SIZE, "--out", shapes)
    for trial in TRIALS:
        measure(chosen.out, trial)
    print(tables(chosen.out))


if __name__ == "__main__":
    main()
