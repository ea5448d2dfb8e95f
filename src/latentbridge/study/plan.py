"""What a study runs, what of it is already there, and how long the rest will take."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean

from latentbridge.config import RunConfig, from_dict, with_overrides
from latentbridge.errors import UserError
from latentbridge.evaluation.compare import REPORTS
from latentbridge.evaluation.run import World
from latentbridge.models.checkpoint import shipped
from latentbridge.recipes import RECIPES, recipe
from latentbridge.rundir import RunDir, file_digest, read_json
from latentbridge.studies import Arm, MeasurementConfig, Study
from latentbridge.study.documents import conditions, reports, stored_document

_SHIPPED = "tiny"
FAILURE = "failed.json"
"""In a run's folder: why its training stopped for good."""
STARTS = "starts.json"
"""In a run's folder: the digests of what it started from."""


@dataclass(frozen=True)
class Run:
    """One model of a study: a recipe with overrides, trained on one thread; or the shipped one, which has no recipe."""

    name: str
    """Also that of its folder. It follows from the settings, so that studies share what they have in common."""
    recipe: str
    overrides: tuple[str, ...] = ()
    is_base: bool = False
    """Whether arms start from it, and do so however it was trained."""

    @property
    def config(self) -> RunConfig | None:
        return with_overrides(recipe(self.recipe), [*self.overrides, "threads=1"]) if self.recipe else None

    @property
    def variant(self) -> tuple[str, ...]:
        """What it shares with the runs of its arm that have other seeds."""
        return (self.recipe, *(override for override in self.overrides if not override.startswith("seed=")))

    @property
    def prerequisites(self) -> list[str]:
        """The runs that must be trained before it: what it starts from, and a teacher that a recipe of its name makes."""
        if not (config := self.config):
            return []
        teacher = f"{config.stage.posttrain.teacher}-teacher"
        return list(dict.fromkeys([*(source for _, source in config.init), *([teacher] if teacher in RECIPES else [])]))


def arm_run(arm: Arm, seed: int) -> Run:
    """The run of an arm with one seed; overrides that change nothing are left out."""
    chosen = recipe(arm.recipe)
    changes = [each for each in arm.overrides if with_overrides(chosen, [each]) != chosen]
    named = (change.removeprefix("stage.posttrain.") for change in changes)
    return Run("_".join([arm.recipe, *named, f"seed={seed}"]), arm.recipe, (*changes, f"seed={seed}"))


def base_run(source: str) -> Run:
    """What arms start from, as a run."""
    return Run(source, "" if source == _SHIPPED else source, is_base=True)


def base_of(arm: Arm) -> str:
    """The whole model an arm's recipe starts from."""
    return dict(recipe(arm.recipe).init)[""]


def arms_by_base(study: Study) -> dict[str, list[Arm]]:
    """The study's arms by what they start from, without those that are the focus under another name."""
    focus = {arm_run(arm, 0) for arm in study.arms if arm.name == study.focus}
    found: dict[str, list[Arm]] = {}
    for arm in study.arms:
        if arm.name == study.focus or arm_run(arm, 0) not in focus:
            found.setdefault(base_of(arm), []).append(arm)
    return found


def planned_runs(study: Study, only: str | None = None) -> list[Run]:
    """Every run that the study needs, or that the arms called `only` need; what starts others comes first.

    Seed after seed, so that the first results span all arms.
    """
    arms = [arm for group in arms_by_base(study).values() for arm in group if only in (None, arm.name)]
    runs = [base_run(base_of(arm)) for arm in arms] + [arm_run(arm, seed) for seed in study.seeds for arm in arms]
    return list(dict.fromkeys(_with_starts(runs)))


def _with_starts(runs: Sequence[Run]) -> Iterator[Run]:
    for run in runs:
        yield from _with_starts(
            [base_run(source) for source in run.prerequisites if source in RECIPES or source == _SHIPPED]
        )
        yield run


# --- how far a run is ----------------------------------------------------------------------------


@dataclass(frozen=True)
class RunStatus:
    """How far a run is, as its folder tells."""

    run: Run
    folder: Path
    trained: bool
    steps_left: int
    failure: str
    """Why its training stopped for good; else empty."""
    missing: tuple[tuple[World, str], ...]
    """(world, report) still to be measured."""

    @property
    def finished(self) -> bool:
        return bool(self.failure) or (self.trained and not self.missing)


def run_status(run: Run, out: Path, measuring: MeasurementConfig | None) -> RunStatus:
    """How far a run under `out` is, which is to be measured so, or not at all.

    Raises UserError where the folder holds a training by other settings or from other weights.
    """
    folder, config = out / run.name, run.config
    missing: list[tuple[World, str]] = []
    if measuring:
        missing = [(world, report) for world in measuring.worlds for report in reports(measuring)]
    failure = str(read_json(folder / FAILURE)["reason"]) if (folder / FAILURE).is_file() else ""
    if config and not run.is_base:
        _check_same_training(run, config, out)
    trained, steps_left = True, 0
    if config and not (RunDir(folder).model / "config.json").is_file():
        newest = RunDir(folder).newest_checkpoint()
        trained, steps_left = False, config.steps - (read_json(newest / "state.json")["step"] if newest else 0)
    if trained and measuring:
        weights = weights_digest(run.name, out)
        missing = [
            (world, report)
            for world, report in missing
            if stored_document(folder, world, report, conditions(report, measuring, weights)) is None
        ]
    return RunStatus(run, folder, trained, steps_left, failure, tuple(missing))


def model_folder(name: str, out: Path) -> Path:
    """Where the finished model of a run under `out` lies, or the shipped one of that name."""
    return shipped(name) if name == _SHIPPED else RunDir(out / name).model


def weights_digest(name: str, out: Path) -> str:
    """What tells the weights of a finished run, or of the shipped model, from all others."""
    return file_digest(model_folder(name, out) / "model.safetensors")[:16]


def prerequisite_digests(run: Run, out: Path) -> dict[str, str]:
    """The digests of what a run starts from, where it is there."""
    there = [name for name in run.prerequisites if (model_folder(name, out) / "model.safetensors").is_file()]
    return {name: weights_digest(name, out) for name in there}


def _check_same_training(run: Run, config: RunConfig, out: Path) -> None:
    folder = out / run.name
    if not (folder / "config.json").is_file():
        return
    mend = f"move it away, or give the study another folder with --out to keep both: {folder}."
    if from_dict(RunConfig, read_json(folder / "config.json")) != config:
        raise UserError(f"The run {run.name} was trained with other settings than its recipe has now; {mend}")
    if (folder / STARTS).is_file() and read_json(folder / STARTS) != prerequisite_digests(run, out):
        raise UserError(
            f"The run {run.name} started from other weights than {', '.join(run.prerequisites)} has now; {mend}"
        )


# --- how long the rest takes ---------------------------------------------------------------------


@dataclass(frozen=True)
class Estimate:
    """How long what is missing takes on one core, as far as runs under the same folder tell."""

    hours: float
    unknown: int
    """Runs of which part is not known, since none like them has run."""

    def words(self, jobs: int) -> str:
        """In words, for so many jobs at a time."""
        if not self.hours and self.unknown:
            return "How long it takes is not known before the first runs have ended."
        least = f"At least {self.hours / jobs:.1f} hours" if self.unknown else f"About {self.hours / jobs:.1f} hours"
        rest = f"; {self.unknown} runs are of kinds that have not run yet" if self.unknown else ""
        return f"{least} with {jobs} at a time, by the runs already there{rest}."


def estimate(standings: Sequence[RunStatus]) -> Estimate:
    """What the standings still need, by the mean time of a step and of each report on each world.

    A step is that of other seeds where there are any, else of the recipe's other variants.
    """
    paces: dict[str | tuple[str, ...], list[float]] = {}
    times: dict[tuple[str, str], list[float]] = {}
    for each in standings:
        if records := RunDir(each.folder).metrics():
            for kind in (each.run.recipe, each.run.variant):
                paces.setdefault(kind, []).append(records[-1]["seconds"] / records[-1]["step"])
        for path in (path for report in REPORTS for path in each.folder.glob(f"*/{report}")):
            times.setdefault((path.parent.name, path.name), []).append(read_json(path).get("seconds", 0.0))
    seconds, unknown = 0.0, 0
    for each in standings:
        if each.finished:
            continue
        known = [times.get(at) for at in each.missing]
        pace = (paces.get(each.run.variant) or paces.get(each.run.recipe)) if each.steps_left else [0.0]
        seconds += sum(mean(found) for found in known if found) + (mean(pace) * each.steps_left if pace else 0.0)
        unknown += pace is None or None in known
    return Estimate(seconds / 3600, unknown)
