"""A study from its first run to its section in the results: processes beside each other, each on one thread."""

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
    """Say what is to be done; unless only the `plan` is wanted, do it, and write what all its runs so far came to.

    The results' path, or None for a plan, or where what the arms start from could not be measured. A run that fails is
    told and does not stop the others. Interrupted at any moment, the same call goes on.
    """
    names = {arm.name for group in arms_by_base(study).values() for arm in group}
    if only is not None and only not in names:
        raise unknown_name("arm", only, names)
    runs = planned_runs(study, only)
    standings = [run_status(run, out, _measuring_of(run, study)) for run in runs]
    _tell_plan(standings, jobs)
    if plan:
        return None
    _work_off([each.run for each in standings if not each.finished], study, out, jobs)
    document = study_document(study, out)
    if document is None:
        _say("What the arms start from is not measured, so there is nothing to compare yet.")
        return None
    return write_results(document, results)


def _measuring_of(run: Run, study: Study) -> MeasurementConfig | None:
    """How a run is measured; what only leads to the models that arms start from is not."""
    return study.measuring if not run.is_base or run.name in arms_by_base(study) else None


def _tell_plan(standings: Sequence[RunStatus], jobs: int) -> None:
    width = max(len(each.run.name) for each in standings) + 2
    for each in standings:
        _say(f"{each.run.name:<{width}}{_words(each)}")
    left = [each for each in standings if not each.finished]
    if left:
        _say(f"{len(left)} of {len(standings)} runs are left. {estimate(standings).words(jobs)}")


def _words(each: RunStatus) -> str:
    if each.failure:
        return f"failed: {each.failure} (delete {each.folder / FAILURE} to try again)"
    steps = f"{each.steps_left} steps to train" if each.steps_left else ""
    reports = f"{len(each.missing)} reports to measure" if each.missing else ""
    return ", ".join(part for part in (steps, reports) if part) or "done"


def _work_off(runs: Sequence[Run], study: Study, out: Path, jobs: int) -> None:
    """All runs, `jobs` at a time and each as soon as what it starts from is trained."""
    waiting, active = list(runs), dict[Run, tuple[subprocess.Popen[bytes], float]]()
    heeded = signal.signal(signal.SIGTERM, signal.default_int_handler)  # so that no child is left behind
    try:
        while waiting or active:
            for run in [run for run in waiting if _can_start(run, out)][: jobs - len(active)]:
                waiting.remove(run)
                active[run] = _start(run, study, out), time.monotonic()
                _say(f"{run.name} begins; {len(waiting)} wait. It tells how it goes in {out / run.name / _LOG}")
            if not active:
                for run in waiting:
                    _say(f"{run.name} cannot begin, for {' and '.join(run.prerequisites)} is not trained.")
                return
            time.sleep(_POLL_S)
            for run, (process, began) in list(active.items()):
                if process.poll() is not None:
                    del active[run]
                    _tell_end(run, out, process.returncode, time.monotonic() - began)
    finally:
        for process, _ in active.values():
            process.terminate()
        for process, _ in active.values():
            process.wait()
        signal.signal(signal.SIGTERM, heeded)


def _can_start(run: Run, out: Path) -> bool:
    return all((model_folder(name, out) / "config.json").is_file() for name in run.prerequisites)


def _start(run: Run, study: Study, out: Path) -> subprocess.Popen[bytes]:
    measuring = _measuring_of(run, study)
    values = to_dict(measuring) if measuring else None
    return start_process(run_in_child, astuple(run), str(out), values, threads=1, log=out / run.name / _LOG)


def _tell_end(run: Run, out: Path, code: int, seconds: float) -> None:
    if code == 0:
        _say(f"{run.name} is done after {seconds / 60:.1f} minutes.")
    else:
        lines = (out / run.name / _LOG).read_text(errors="replace").splitlines()
        last = next((line for line in reversed(lines) if line.strip()), "nothing")
        reason = last.removeprefix("error: ") if code == 2 else f"it ended with {code}, and said last: {last}"
        _say(f"{run.name} failed after {seconds / 60:.1f} minutes: {reason}")


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
