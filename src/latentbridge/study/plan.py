"""Runs of a study: their names and order, progress on disk, and the estimated time left."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean

from latentbridge.config import RunConfig, from_dict, with_overrides
from latentbridge.errors import UserError
from latentbridge.evaluation.compare import REPORTS
from latentbridge.evaluation.run import World
from latentbridge.files import file_digest, read_json
from latentbridge.models.checkpoint import shipped
from latentbridge.recipes import RECIPES, recipe
from latentbridge.run_folder import RunFolder
from latentbridge.studies import Arm, MeasurementConfig, Study
from latentbridge.study.documents import conditions, reports, stored_document

_SHIPPED = "tiny"
FAILURE = "failed.json"
"""File in a run's folder with the reason of a failed training."""
STARTS = "starts.json"
"""File in a run's folder with the digests of the weights it started from."""


@dataclass(frozen=True)
class Run:
    """One model of a study: a recipe with overrides, trained on one thread; or the shipped model, which has no recipe."""

    name: str
    """Name of the run and its folder, derived from the settings, so that studies share equal runs."""
    recipe: str
    overrides: tuple[str, ...] = ()
    is_base: bool = False
    """True for a run that arms start from; its settings are not compared with the recipe."""

    @property
    def config(self) -> RunConfig | None:
        return with_overrides(recipe(self.recipe), [*self.overrides, "threads=1"]) if self.recipe else None

    @property
    def variant(self) -> tuple[str, ...]:
        """Recipe and overrides except the seed."""
        return (self.recipe, *(override for override in self.overrides if not override.startswith("seed=")))

    @property
    def prerequisites(self) -> list[str]:
        """The runs that must be trained before it: those it starts from, and a teacher if a recipe trains it."""
        if not (config := self.config):
            return []
        teacher = f"{getattr(config.stage, 'teacher', 'none')}-teacher"
        return list(dict.fromkeys([*(source for _, source in config.init), *([teacher] if teacher in RECIPES else [])]))


def arm_run(arm: Arm, seed: int) -> Run:
    """Return the run of an arm with one seed; overrides that change nothing are left out."""
    base = recipe(arm.recipe)
    changes = [override for override in arm.overrides if with_overrides(base, [override]) != base]
    parts = (change.removeprefix("stage.") for change in changes)
    return Run("_".join([arm.recipe, *parts, f"seed={seed}"]), arm.recipe, (*changes, f"seed={seed}"))


def base_run(source: str) -> Run:
    """Return the run of a model that arms start from."""
    return Run(source, "" if source == _SHIPPED else source, is_base=True)


def base_of(arm: Arm) -> str:
    """Return the name of the model an arm's recipe starts from."""
    return dict(recipe(arm.recipe).init)[""]


def arms_by_base(study: Study) -> dict[str, list[Arm]]:
    """Return the study's arms by base model, without those with the same settings as the focus."""
    focus = {arm_run(arm, 0) for arm in study.arms if arm.name == study.focus}
    arms: dict[str, list[Arm]] = {}
    for arm in study.arms:
        if arm.name == study.focus or arm_run(arm, 0) not in focus:
            arms.setdefault(base_of(arm), []).append(arm)
    return arms


def planned_runs(study: Study, only: str | None = None) -> list[Run]:
    """Return the runs that the study, or the arms called `only`, need; prerequisites come first.

    Ordered by seed, so that the first results cover all arms.
    """
    arms = [arm for group in arms_by_base(study).values() for arm in group if only in (None, arm.name)]
    runs = [base_run(base_of(arm)) for arm in arms] + [arm_run(arm, seed) for seed in study.seeds for arm in arms]
    return list(dict.fromkeys(_with_prerequisites(runs)))


def _with_prerequisites(runs: Sequence[Run]) -> Iterator[Run]:
    for run in runs:
        yield from _with_prerequisites(
            [base_run(source) for source in run.prerequisites if source in RECIPES or source == _SHIPPED]
        )
        yield run


# --- progress ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class RunStatus:
    """The progress of a run, read from its folder."""

    run: Run
    folder: Path
    trained: bool
    steps_left: int
    failure: str
    """Reason of a failed training; otherwise empty."""
    missing: tuple[tuple[World, str], ...]
    """(world, report) pairs that are not measured yet."""

    @property
    def finished(self) -> bool:
        return bool(self.failure) or (self.trained and not self.missing)


def run_status(run: Run, out: Path, measuring: MeasurementConfig | None) -> RunStatus:
    """Return the progress of a run under `out`; without `measuring` it needs no reports.

    Raises UserError if the folder has a training with other settings or from other weights.
    """
    folder, config = out / run.name, run.config
    missing: list[tuple[World, str]] = []
    if measuring:
        missing = [(world, report) for world in measuring.worlds for report in reports(measuring)]
    failure = str(read_json(folder / FAILURE)["reason"]) if (folder / FAILURE).is_file() else ""
    if config and not run.is_base:
        _check_same_training(run, config, out)
    trained, steps_left = True, 0
    if config and not (RunFolder(folder).model / "config.json").is_file():
        newest = RunFolder(folder).newest_checkpoint()
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
    """Return the folder of the finished model of a run under `out`, or of the shipped model of that name."""
    return shipped(name) if name == _SHIPPED else RunFolder(out / name).model


def weights_digest(name: str, out: Path) -> str:
    """Return a digest of the weights of a finished run or of the shipped model."""
    return file_digest(model_folder(name, out) / "model.safetensors")[:16]


def prerequisite_digests(run: Run, out: Path) -> dict[str, str]:
    """Return the digests of a run's prerequisites that exist."""
    existing = [name for name in run.prerequisites if (model_folder(name, out) / "model.safetensors").is_file()]
    return {name: weights_digest(name, out) for name in existing}


def _check_same_training(run: Run, config: RunConfig, out: Path) -> None:
    folder = out / run.name
    if not (folder / "config.json").is_file():
        return
    fix = f"move it away, or give the study another folder with --out to keep both: {folder}."
    if from_dict(RunConfig, read_json(folder / "config.json")) != config:
        raise UserError(f"The run {run.name} was trained with other settings than its recipe has now; {fix}")
    if (folder / STARTS).is_file() and read_json(folder / STARTS) != prerequisite_digests(run, out):
        raise UserError(
            f"The run {run.name} started from other weights than {', '.join(run.prerequisites)} has now; {fix}"
        )


# --- time left -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Estimate:
    """The time left on one core, estimated from the runs in the same folder."""

    hours: float
    unknown: int
    """Number of runs with a part that cannot be estimated, since no similar run has finished."""

    def describe(self, jobs: int) -> str:
        """Return a sentence for `jobs` runs at a time."""
        if not self.hours and self.unknown:
            return "The time left is unknown until the first runs have finished."
        least = f"At least {self.hours / jobs:.1f} hours" if self.unknown else f"About {self.hours / jobs:.1f} hours"
        rest = f"; {self.unknown} runs are of kinds that have not run yet" if self.unknown else ""
        return f"{least} with {jobs} at a time, estimated from finished runs{rest}."


def estimate(statuses: Sequence[RunStatus]) -> Estimate:
    """Estimate the time left from the mean times of a step and of each report on each world.

    The time of a step is taken from other seeds if there are any, otherwise from other variants of the recipe.
    """
    step_times: dict[str | tuple[str, ...], list[float]] = {}
    report_times: dict[tuple[str, str], list[float]] = {}
    for status in statuses:
        if records := RunFolder(status.folder).metrics():
            for kind in (status.run.recipe, status.run.variant):
                step_times.setdefault(kind, []).append(records[-1]["seconds"] / records[-1]["step"])
        for path in (path for report in REPORTS for path in status.folder.glob(f"*/{report}")):
            report_times.setdefault((path.parent.name, path.name), []).append(read_json(path).get("seconds", 0.0))
    seconds, unknown = 0.0, 0
    for status in statuses:
        if status.finished:
            continue
        reports = [report_times.get(key) for key in status.missing]
        steps = step_times.get(status.run.variant) or step_times.get(status.run.recipe)
        steps = steps if status.steps_left else [0.0]
        seconds += sum(mean(values) for values in reports if values) + (
            mean(steps) * status.steps_left if steps else 0.0
        )
        unknown += steps is None or None in reports
    return Estimate(seconds / 3600, unknown)
