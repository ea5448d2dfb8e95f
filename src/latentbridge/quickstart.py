"""Quickstart: each skill of a model on held-out pictures, as one HTML page."""

from __future__ import annotations

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
from latentbridge.files import read_json
from latentbridge.models.checkpoint import TINY, as_omnibridge, as_trainable, load
from latentbridge.models.omnibridge.modeling_omnibridge import OmniBridge
from latentbridge.recipes import QUICKSTART
from latentbridge.run_folder import RunFolder
from latentbridge.tour import try_drawing, try_editing, try_finding, try_loopback, try_understanding
from latentbridge.training.loop import train
from latentbridge.training.stages import make_stage

_LOOPBACK_PAIRS = 12
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
"""Approximate duration of each part in multiples of the probe's (`forecast`)."""
_LONGEST_S = 300.0
"""Longest forecast with which the post-training is run."""
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
    ("latentbridge loopback out.png --rounds 4", "caption a picture and draw the caption, four times in a row"),
    ("latentbridge loopback --data shapes --size 20", "measure what many pictures keep on the way"),
    ("make reproduce", "train this model from scratch; it prints first how long that takes"),
    ("make test", "run the tests"),
)


@dataclass
class Progress:
    """Sections, table lines and credits collected during the run."""

    sections: list[Section] = field(default_factory=list)
    lines: list[tuple[str, str, float]] = field(default_factory=list)
    """(part, result in words, seconds) for the final table."""
    credits: list[str] = field(default_factory=list)

    @contextmanager
    def part(self, name: str) -> Iterator[Callable[[str, Section], None]]:
        """Time a part and collect its result and section from the function it yields."""
        start = time.perf_counter()
        results: list[tuple[str, Section]] = []
        yield lambda result, section: results.append((result, section))
        self.lines.append((name, "; ".join(result for result, _ in results), time.perf_counter() - start))
        self.sections += [section for _, section in results]


def run_quickstart(out: Path, source: str = "tiny") -> Path:
    """Write `report.html`, the index and the gallery of loopback chains to `out`, print a table, and return the page's path.

    `source` is "tiny", a run folder or a model folder. Missing drawings are fetched and built; without a package registry only
    the `shapes` world is used.
    """
    progress = Progress()
    folder = TINY if source == "tiny" else Path(source)
    with progress.part("load the model"):
        model = as_omnibridge(load(folder), "run the quickstart")
        if source == "tiny":
            print(PURPOSE)
        trains = print_forecast(forecast(model))
    with progress.part("get the drawings"):
        drawings = load_or_build_drawings()
        banks = load_sprite_banks(drawings) if drawings else []

    with progress.part("understand") as show:
        understood = try_understanding(model, banks, progress.credits)
        result = "{} of {} replies right".format(*tally(a.right for item in understood for a in item.answers))
        show(result, understand_section(understood))
    with progress.part("draw") as show:
        drawn = try_drawing(model)
        lead = (
            "A prompt is first completed to a full description, then drawn. In the world of shapes an exact oracle grades "
            "the picture; drawings of things are not graded here (the scores below are)."
        )
        show("{} of {} judged pictures right".format(*tally(d.right for d in drawn)), draw_section(drawn, lead))
    with progress.part("edit") as show:
        edited = try_editing(model, banks, progress.credits)
        show("{} of {} judged edits right".format(*tally(e.right for e in edited)), edit_section(edited))
    with progress.part("find") as show:
        result, searches = try_finding(model, drawings, out, progress.credits)
        show(result, find_section(searches, result + "."))
    with progress.part("loopback") as show:
        chains = try_loopback(model, banks, out, progress.credits)
        similarity = np.mean([chain.rounds[-1].to_origin for chain in chains])
        show(f"likeness {similarity:.2f} after {len(chains[0].rounds)} rounds", loopback_section(chains))

    if banks and trains:
        with progress.part("post-train") as show:
            show(*post_train(model, folder, out))

    progress.sections += stored_sections(folder)
    progress.sections.append(commands_section(COMMANDS))
    if progress.credits:
        progress.sections.append(credits_section(progress.credits))
    seconds = sum(line[2] for line in progress.lines)
    lead = (
        f"One model of {sum(p.numel() for p in model.parameters()) / 1e6:.0f} million weights understands, draws, edits and "
        f"finds pictures. Everything below was made just now, on this machine, in {seconds:.0f} seconds."
    )
    lead = f"{lead} {PURPOSE}" if source == "tiny" else lead
    path = write_page(out / "report.html", "LatentBridge at work", lead, progress.sections)
    print_table(progress, folder)
    print(f"\nLook at {path}")
    return path


def forecast(model: OmniBridge) -> dict[str, float]:
    """Return estimated seconds of each part under the machine's current load, from a probe of about a second."""
    request = ["a red circle"]
    model.generate(request, steps=1, rewrite=False)  # warm up
    start = time.perf_counter()
    model.generate(request, steps=_PROBE_STEPS, rewrite=False)
    probe = time.perf_counter() - start
    return {part: times * probe for part, times in _PROBES.items()}


def print_forecast(seconds: dict[str, float]) -> bool:
    """Print a forecast and return whether there is time for the post-training."""
    trains = sum(seconds.values()) <= _LONGEST_S
    if not trains:
        minutes = seconds["post-train"] / 60
        seconds = {part: value for part, value in seconds.items() if part != "post-train"}
        print(
            f"Post-training is left out, which would take about {minutes:.0f} minutes more under the current load; "
            "`latentbridge train quickstart` runs it."
        )
    print(describe_forecast(seconds), flush=True)
    return trains


def describe_forecast(seconds: dict[str, float]) -> str:
    """Return the forecast as a sentence."""
    total = sum(seconds.values())
    minutes = f"{total / 60:.1f} minutes" if total >= 60 else f"{total:.0f} seconds"
    parts = ", ".join(f"{part} {value:.0f} s" for part, value in seconds.items())
    return f"This will take about {minutes} on {torch.get_num_threads()} thread(s) of this machine: {parts}."


def post_train(model: OmniBridge, folder: Path, out: Path) -> tuple[str, Section]:
    """Post-train the model in `folder` briefly and return the result in words and a section with chains before and after.

    The run is `out/post-trained`; a later quickstart of the same version reuses it.
    """
    pairs = held_out_pairs("drawings", _LOOPBACK_PAIRS, seed=1)
    config = replace(QUICKSTART, model=model.config, init=(("", str(folder.resolve())),))
    remove_stale_run(config, out / "post-trained")
    before = measure_loopback(model, pairs, "text", _HOPS, [])
    train(config, make_stage(config), out / "post-trained", resume=True)
    after = measure_loopback(as_trainable(load(out / "post-trained")), pairs, "text", _HOPS, [])
    kept = [mean_facts_kept(measured, pairs) for measured in (before, after)]
    result = (
        f"{kept[0]:.0%} of what words say is kept after {_HOPS} hops before, {kept[1]:.0%} after {config.steps} steps"
    )
    lead = (
        f"A text is drawn, the drawing is captioned, and so on, {_HOPS} hops in all. Then the model is trained for "
        f"{config.steps} steps to caption its own drawings, on other drawings than these, and measured again: the last words of "
        f"{len(pairs)} chains keep {kept[0]:.0%} of labels and backgrounds before and {kept[1]:.0%} after. "
        f'Try it: latentbridge generate "a cat" --model {out / "post-trained"} --out cat.png'
    )
    return result, before_after_section(pairs[:_SHOWN_PAIRS], before, after, lead)


def remove_stale_run(config: RunConfig, folder: Path) -> None:
    """Remove a run folder with other settings, left by another version's quickstart."""
    stored = folder / "config.json"
    with suppress(UserError):
        if not stored.exists() or from_dict(RunConfig, read_json(stored)) == config:
            return
    shutil.rmtree(folder)


def load_or_build_drawings() -> Drawings | None:
    """Return the drawings, from the cache or built now; print the reason and return None if they are unavailable."""
    try:
        return load_drawings()
    except UserError:
        print("Building the drawings world: fetching packages, then about a minute of rendering.")
    try:
        return build_drawings()
    except UserError as missing:
        print(f"{missing} Continuing with the shapes world only.")
        return None


def load_sprite_banks(drawings: Drawings) -> list[SpriteBank]:
    """Return the sprites of held-out compositions; without `npm` there are no training drawings and fewer names to count."""
    banks: list[SpriteBank] = []
    for split in ("test_artist", "test_pairs"):
        try:
            banks.append(sprite_bank(drawings, split))
        except UserError as too_few:
            print(too_few)
    return banks


def stored_sections(folder: Path) -> list[Section]:
    """Return sections about `scores.json` and the training logs `training/NAME/` in the model's folder, if it has them."""
    sections = [scores_section(read_json(path)) for path in folder.glob("scores.json")]
    curves = {path.name: RunFolder(path).metrics() for path in sorted(folder.glob("training/*"))}
    if any(curves.values()):
        sections.append(training_section({name: records for name, records in curves.items() if records}))
    return sections


def print_table(progress: Progress, folder: Path) -> None:
    """Print result and duration of each part, then the stored scores."""
    print()
    for name, result, seconds in progress.lines:
        print(f"{name:<18}{seconds:>7.1f} s   {result}")
    for path in folder.glob("scores.json"):
        print("\nOn held-out data (measured beforehand):")
        for row in read_json(path)["rows"]:
            print(f"{row['skill']:<18}{format_score(row['value']):>9}   {row['metric']}")
