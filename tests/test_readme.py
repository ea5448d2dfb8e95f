"""What the README promises is there: its commands parse, its links lead somewhere, and its figures are the stored ones."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path

import pytest
import typer
from typer.core import TyperGroup
from typer.main import get_command

from latentbridge.cli import app
from latentbridge.recipes import recipe

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


def commands(page: Path) -> list[str]:
    """Every command line of ours in the fenced blocks of a page, one verb each, without its remark."""
    blocks = re.findall(r"^```\w*\n(.*?)^```", page.read_text(), re.MULTILINE | re.DOTALL)
    lines = [line.split("  #")[0].strip() for block in blocks for line in block.replace("\\\n", " ").splitlines()]
    return [part.strip() for line in lines for part in line.split(" && ") if part.strip().startswith("latentbridge ")]


def parse(line: str) -> None:
    """Raises where the command line knows no such verb, option or recipe. Nothing is carried out."""
    command, words = get_command(app), shlex.split(line)[1:]
    context = typer.Context(command, info_name="latentbridge")
    while isinstance(command, TyperGroup):
        name, found, words = command.resolve_command(context, words)
        assert found is not None
        command, context = found, typer.Context(found, parent=context, info_name=name)
    command.make_parser(context).parse_args(list(words))
    if context.info_name == "train" and not words[0].startswith("-"):
        recipe(words[0])


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_command_of_a_page_parses(page: Path) -> None:
    lines = commands(page)
    assert len(lines) > 20 or page.name != "README.md"
    for line in lines:
        parse(line)


@pytest.mark.parametrize(
    "line", ["latentbridge trian align", "latentbridge train aling", "latentbridge eval --wrold x"]
)
def test_a_command_that_is_not_there_is_found(line: str) -> None:
    with pytest.raises(Exception, match="No such (command|option)|Unknown recipe"):
        parse(line)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    links = re.findall(r"\]\(([^)#\s]+)[^)]*\)", page.read_text())
    missing = [link for link in links if "://" not in link and not (page.parent / link).exists()]
    assert not missing


def rows(page: Path) -> dict[str, list[str]]:
    """Every row of every table of a page by its first cell; the first of its name, and the others' cells as they are."""
    found: dict[str, list[str]] = {}
    for line in page.read_text().splitlines():
        if line.startswith("| "):
            first, *rest = [cell.strip() for cell in line.strip("|").split("|")]
            found.setdefault(first, rest)
    return found


def test_scores_are_the_shipped_ones() -> None:
    stored = json.loads((ROOT / "src/latentbridge/assets/tiny/scores.json").read_text())["rows"]
    stored = {row["metric"].strip(): row for row in stored}
    lines = [
        line for line in (ROOT / "README.md").read_text().splitlines() if re.match(r"\| (underst|draw|edit|find)", line)
    ]
    assert len(lines) > 10
    for line in lines:
        skill, metric, score, interval, n, aim = [cell.strip() for cell in line.strip("|").split("|")]
        row = stored[metric]
        assert skill == row["skill"] and n == str(row["n"])
        assert score == f"{100 * row['value']:.1f}"
        assert interval == f"{100 * row['low']:.1f} to {100 * row['high']:.1f}"
        assert aim == ("" if row["aim"] is None else f"{100 * row['aim']:.1f}")


def test_what_post_training_brings_is_what_the_study_measured() -> None:
    arms = {
        "nothing (`tiny`)": "tiny",
        "`post-sft`": "sft",
        "`post-reca`": "reca",
        "`post-unigame`": "unigame",
        "`post-unicot`": "unicot",
        "`post-latentumm-reference`, the released objective": "reference",
        "`post-latentumm`, ours": "anchored",
        "`post-latentumm`, half-way back (`--set blend=0.5`)": "anchored, half-way",
    }
    said, page = rows(ROOT / "README.md"), (ROOT / "docs/results.md").read_text().splitlines()
    for name, arm in arms.items():
        skills, agreement = [
            [c.strip(" ▲▼") for c in line.strip("|").split("|")] for line in page if line.startswith(f"| {arm} |")
        ][:2]
        _, _, questions, drawing, edits, finding, *_ = skills
        assert said[name] == [agreement[7], questions, drawing, edits, finding]
