"""Execution of a study: child processes in parallel, each on one thread, and its section in the results."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import astuple
from pathlib import Path

from latentbridge.config import to_dict
from latentbridge.errors import unknown_name
from latentbridge.processes import start_process
from latentbridge.studies import MeasurementConfig, Study
from latentbridge.study.child_process import run_in_child
from latentbridge.study.plan import (
    FAILURE,
    Run,
    RunStatus,
    arms_by_base,
    estimate,
    model_folder,
    planned_runs,
    run_status,
)
from latentbridge.study.results import write_results
from latentbridge.study.table import study_document

_LOG = "log.txt"
_POLL_S = 0.5


def run_study(
    study: Study, out: Path, results: Path, *, jobs: int = 2, only: str | None = None, plan: bool = False
) -> Path | None:
    """Print the plan of a study; unless `plan`, execute it and write the results of all its finished runs.

    Returns the results' path, or None for a plan or if no base model could be measured. A failed run is reported and does not
    stop the others. After an interruption the same call resumes.
    """
    names = {arm.name for group in arms_by_base(study).values() for arm in group}
    if only is not None and only not in names:
        raise unknown_name("arm", only, names)
    runs = planned_runs(study, only)
    statuses = [run_status(run, out, _measuring_of(run, study)) for run in runs]
    _print_plan(statuses, jobs)
    if plan:
        return None
    _execute([status.run for status in statuses if not status.finished], study, out, jobs)
    document = study_document(study, out)
    if document is None:
        _print("No base model is measured, so there is nothing to compare yet.")
        return None
    return write_results(document, results)


def _measuring_of(run: Run, study: Study) -> MeasurementConfig | None:
    """Return how a run is measured; prerequisites of base models are not."""
    return study.measuring if not run.is_base or run.name in arms_by_base(study) else None


def _print_plan(statuses: Sequence[RunStatus], jobs: int) -> None:
    width = max(len(status.run.name) for status in statuses) + 2
    for status in statuses:
        _print(f"{status.run.name:<{width}}{_describe(status)}")
    left = [status for status in statuses if not status.finished]
    if left:
        _print(f"{len(left)} of {len(statuses)} runs are left. {estimate(statuses).describe(jobs)}")


def _describe(status: RunStatus) -> str:
    if status.failure:
        return f"failed: {status.failure} (delete {status.folder / FAILURE} to try again)"
    steps = f"{status.steps_left} steps to train" if status.steps_left else ""
    reports = f"{len(status.missing)} reports to measure" if status.missing else ""
    return ", ".join(part for part in (steps, reports) if part) or "done"


def _execute(runs: Sequence[Run], study: Study, out: Path, jobs: int) -> None:
    """Execute runs, `jobs` at a time, each once its prerequisites are trained."""
    waiting, active = list(runs), dict[Run, tuple[subprocess.Popen[bytes], float]]()
    previous_handler = signal.signal(
        signal.SIGTERM, signal.default_int_handler
    )  # interrupt as by Ctrl-C, to stop the children
    try:
        while waiting or active:
            ready = [
                r for r in waiting if all((model_folder(n, out) / "config.json").is_file() for n in r.prerequisites)
            ]
            for run in ready[: jobs - len(active)]:
                waiting.remove(run)
                active[run] = _start(run, study, out), time.monotonic()
                _print(f"{run.name} starts; {len(waiting)} wait. Its log is {out / run.name / _LOG}")
            if not active:
                for run in waiting:
                    _print(f"{run.name} cannot start: {' and '.join(run.prerequisites)} is not trained.")
                return
            time.sleep(_POLL_S)
            for run, (process, start) in list(active.items()):
                if process.poll() is not None:
                    del active[run]
                    _print_end(run, out, process.returncode, time.monotonic() - start)
    finally:
        for process, _ in active.values():
            process.terminate()
        for process, _ in active.values():
            process.wait()
        signal.signal(signal.SIGTERM, previous_handler)


def _start(run: Run, study: Study, out: Path) -> subprocess.Popen[bytes]:
    measuring = _measuring_of(run, study)
    values = to_dict(measuring) if measuring else None
    return start_process(run_in_child, astuple(run), str(out), values, threads=1, log=out / run.name / _LOG)


def _print_end(run: Run, out: Path, code: int, seconds: float) -> None:
    if code == 0:
        _print(f"{run.name} is done after {seconds / 60:.1f} minutes.")
    else:
        lines = (out / run.name / _LOG).read_text(errors="replace").splitlines()
        last = next((line for line in reversed(lines) if line.strip()), "nothing")
        reason = last.removeprefix("error: ") if code == 2 else f"exit code {code}; the last line of its log: {last}"
        _print(f"{run.name} failed after {seconds / 60:.1f} minutes: {reason}")


def _print(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
