"""The first five minutes: every skill of the model on pictures it has never seen, as one page to look at."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import torch

from latentbridge.config import RunConfig, from_dict
from latentbridge.data.drawings.catalogue import Drawings, build_drawings, load_drawings
from latentbridge.data.drawings.composer import SpriteBank, sprite_bank
from latentbridge.data.pairs import held_out_pairs
from latentbridge.errors import UserError
from latentbridge.evaluation.loopback import measure_loopback
from latentbridge.evaluation.metrics import format_score
from latentbridge.evaluation.pages.before_after import before_after_section, mean_facts_kept
from latentbridge.evaluation.pages.curves import training_section
from latentbridge.evaluation.pages.page import Section, write_page
from latentbridge.evaluation.pages.report import (
    commands_section,
    credits_section,
    draw_section,
    edit_section,
    find_section,
    loopback_section,
    scores_section,
    tally,
    understand_section,
)
from latentbridge.models.backbones.loading import load_backbone
from latentbridge.models.backbones.omnibridge import OmniBridge
from latentbridge.models.checkpoint import TINY, load
from latentbridge.models.omnibridge.modeling_omnibridge import Model
from latentbridge.recipes import QUICKSTART
from latentbridge.rundir import RunDir, read_json
from latentbridge.tour import try_drawing, try_editing, try_finding, try_loopback, try_understanding
from latentbridge.training.loop import train
from latentbridge.training.stages import make_stage

_LOOPED_PAIRS = 12
_SHOWN_PAIRS = 6
_HOPS = 4
_PROBE_STEPS = 8
_PROBES = {
    "understand": 3.0,
    "draw": 22.0,
    "edit": 13.0,
    "find": 50.0,
    "loopback": 20.0,
    "post-train": 250.0,
}
"""About how long each part takes, in times of the probe (`forecast`)."""
_LONGEST_S = 300.0
"""A forecast beyond it leaves the post-training out."""
PURPOSE = (
    "The shipped model reads, draws, edits and finds small scenes of coloured shapes and simple drawings, at 64 x 64 px; an "
    "edit comes back at that size."
)
COMMANDS = (
    ('latentbridge understand drawing.png "How many apples are there?"', "ask about a picture of your own"),
    ('latentbridge generate "a red circle left of a blue star" --out out.png --seed 7', "draw from words"),
    ('latentbridge edit out.png "make the circle green" --out edited.png', "change a picture by an instruction"),
    ('latentbridge search quickstart/index "a sea animal"', "search the pictures indexed just now"),
    ("latentbridge index build DIR", "index a folder of pictures"),
    ('latentbridge search DIR "a sea animal"', "find pictures by words"),
    ('latentbridge search DIR --image q.png --text "but red"', "find by a picture and what should differ"),
    ("latentbridge loopback out.png --rounds 4", "walk a picture through words and back"),
    ("latentbridge loopback --data shapes --size 20", "measure what many pictures keep on that way"),
    ("make reproduce", "train this model from nothing; it says beforehand how long that takes"),
    ("make test", "run the tests"),
)


@dataclass
class Outcome:
    """What the run has to show so far."""

    sections: list[Section] = field(default_factory=list)
    lines: list[tuple[str, str, float]] = field(default_factory=list)
    """(part, result in words, seconds), for the table at the end."""
    credits: list[str] = field(default_factory=list)

    @contextmanager
    def part(self, name: str) -> Iterator[Callable[[str, Section], None]]:
        """Times a part and takes what it shows."""
        began = time.perf_counter()
        shown: list[tuple[str, Section]] = []
        yield lambda result, section: shown.append((result, section))
        seconds = time.perf_counter() - began
        self.sections += [section for _, section in shown]
        self.lines.append((name, "; ".join(result for result, _ in shown), seconds))


def run_quickstart(out: Path, source: str = "tiny") -> Path:
    """`report.html` in the folder `out`, with the index and the gallery of walks beside it; prints a table on the way.

    `source` is "tiny", a run folder or a model folder. The drawings are fetched and built where they are not yet there;
    without a registry the run goes on with the `shapes` world alone.
    """
    outcome = Outcome()
    folder = TINY if source == "tiny" else Path(source)
    with outcome.part("load the model"):
        model = load(folder)
        if source == "tiny":
            print(PURPOSE)
        trains = print_forecast(forecast(model))
    with outcome.part("get the drawings"):
        drawings = load_or_build_drawings()
        banks = load_sprite_banks(drawings) if drawings else []

    with outcome.part("understand") as show:
        understood = try_understanding(model, banks, outcome.credits)
        section = understand_section(understood)
        show("{} of {} replies right".format(*tally(a.right for item in understood for a in item.answers)), section)
    with outcome.part("draw") as show:
        drawn = try_drawing(model)
        lead = (
            "A prompt is first completed into a full description, then drawn. In the world of shapes an exact oracle reads "
            "the picture back; drawings of things are not judged here (the scores below are)."
        )
        show("{} of {} judged pictures right".format(*tally(d.right for d in drawn)), draw_section(drawn, lead))
    with outcome.part("edit") as show:
        edited = try_editing(model, banks, outcome.credits)
        show("{} of {} judged edits right".format(*tally(e.right for e in edited)), edit_section(edited))
    with outcome.part("find") as show:
        result, found = try_finding(model, drawings, out, outcome.credits)
        show(result, find_section(found, result + "."))
    with outcome.part("loopback") as show:
        walks = try_loopback(model, banks, out, outcome.credits)
        likeness = np.mean([walk.rounds[-1].to_origin for walk in walks])
        show(f"likeness {likeness:.2f} after {len(walks[0].rounds)} rounds", loopback_section(walks))

    if banks and trains:
        with outcome.part("post-train") as show:
            show(*post_train(model, folder, out))

    outcome.sections += stored_sections(folder)
    outcome.sections.append(commands_section(COMMANDS))
    if outcome.credits:
        outcome.sections.append(credits_section(outcome.credits))
    taken = sum(line[2] for line in outcome.lines)
    lead = (
        f"One model of {sum(p.numel() for p in model.parameters()) / 1e6:.0f} million weights understands, draws, edits and "
        f"finds pictures. Everything below was made just now, on this machine, in {taken:.0f} seconds."
    )
    lead = f"{lead} {PURPOSE}" if source == "tiny" else lead
    path = write_page(out / "report.html", "LatentBridge at work", lead, outcome.sections)
    print_table(outcome, folder)
    print(f"\nLook at {path}")
    return path


def forecast(model: Model) -> dict[str, float]:
    """Return about how many seconds each part will take on this machine as busy as it is now, by a probe of about a second."""
    request = ["a red circle"]
    model.generate(request, steps=1, rewrite=False)  # what is done once only
    began = time.perf_counter()
    model.generate(request, steps=_PROBE_STEPS, rewrite=False)
    probe = time.perf_counter() - began
    return {part: times * probe for part, times in _PROBES.items()}


def print_forecast(seconds: dict[str, float]) -> bool:
    """Print a forecast; return whether there is time for the post-training."""
    trains = sum(seconds.values()) <= _LONGEST_S
    if not trains:
        minutes = seconds["post-train"] / 60
        seconds = {part: value for part, value in seconds.items() if part != "post-train"}
        print(
            f"Post-training is left out, which would take about {minutes:.0f} minutes more on this machine as busy as it is; "
            "`latentbridge train quickstart` runs it."
        )
    print(describe_forecast(seconds), flush=True)
    return trains


def describe_forecast(seconds: dict[str, float]) -> str:
    """Return the forecast in one sentence, in minutes and seconds."""
    total = sum(seconds.values())
    minutes = f"{total / 60:.1f} minutes" if total >= 60 else f"{total:.0f} seconds"
    parts = ", ".join(f"{part} {value:.0f} s" for part, value in seconds.items())
    return f"This will take about {minutes} on {torch.get_num_threads()} thread(s) of this machine: {parts}."


def post_train(model: Model, folder: Path, out: Path) -> tuple[str, Section]:
    """The result in words and what to show of a short post-training of the model in `folder`: the same walks before and after.

    The run is `post-trained` in `out`; a second quickstart of the same version takes it as it is.
    """
    pairs = held_out_pairs("drawings", _LOOPED_PAIRS, seed=1)
    config = replace(QUICKSTART, model=model.config, init=(("", str(folder.resolve())),))
    remove_stale_run(config, out / "post-trained")
    before = measure_loopback(OmniBridge(model), pairs, "text", _HOPS, [])
    train(config, make_stage(config), out / "post-trained", resume=True)
    after = measure_loopback(load_backbone(out / "post-trained"), pairs, "text", _HOPS, [])
    kept = [mean_facts_kept(measured, pairs) for measured in (before, after)]
    result = (
        f"{kept[0]:.0%} of what words say is kept after {_HOPS} hops before, {kept[1]:.0%} after {config.steps} steps"
    )
    lead = (
        f"Words are drawn, the drawing is put into words, and so on, {_HOPS} hops in all. Then the model learns for "
        f"{config.steps} steps to tell its own drawings, on other drawings than these, and walks again: label and background "
        f"kept by the last words of {len(pairs)} walks, {kept[0]:.0%} before and {kept[1]:.0%} after. "
        f'Try it: latentbridge generate "a cat" --model {out / "post-trained"} --out cat.png'
    )
    return result, before_after_section(pairs[:_SHOWN_PAIRS], before, after, lead)


def remove_stale_run(config: RunConfig, folder: Path) -> None:
    """Remove a run folder that an earlier version's quickstart left, whose settings are others."""
    stored = folder / "config.json"
    with suppress(UserError):
        if not stored.exists() or from_dict(RunConfig, read_json(stored)) == config:
            return
    shutil.rmtree(folder)


def load_or_build_drawings() -> Drawings | None:
    """The drawings, from the cache or built now; None, said in a sentence, where they cannot be had."""
    try:
        return load_drawings()
    except UserError:
        print("Building the drawings world: fetching packages, then about a minute of rendering.")
    try:
        return build_drawings()
    except UserError as missing:
        print(f"{missing} Going on with the world of shapes alone.")
        return None


def load_sprite_banks(drawings: Drawings) -> list[SpriteBank]:
    """What held-out compositions are made of; without `npm` there are no training drawings and fewer names to count."""
    banks: list[SpriteBank] = []
    for split in ("test_artist", "test_pairs"):
        try:
            banks.append(sprite_bank(drawings, split))
        except UserError as too_few:
            print(too_few)
    return banks


def stored_sections(folder: Path) -> list[Section]:
    """What is stored beside the model, where it is: `scores.json`, and the runs it was trained by in `training/NAME/`."""
    found: list[Section] = []
    if (folder / "scores.json").exists():
        found.append(scores_section(json.loads((folder / "scores.json").read_text())))
    curves = {path.name: RunDir(path).metrics() for path in sorted(folder.glob("training/*"))}
    if any(curves.values()):
        found.append(training_section({name: records for name, records in curves.items() if records}))
    return found


def print_table(outcome: Outcome, folder: Path) -> None:
    """What each part did and how long it took, then the stored scores."""
    print()
    for name, result, seconds in outcome.lines:
        print(f"{name:<18}{seconds:>7.1f} s   {result}")
    if (folder / "scores.json").exists():
        print("\nOn held-out data (measured beforehand):")
        for row in json.loads((folder / "scores.json").read_text())["rows"]:
            print(f"{row['skill']:<18}{format_score(row['value']):>9}   {row['metric']}")
