"""Runs a benchmark: batches, one line per item on the disk, and a report that names all it depends on."""

from __future__ import annotations

import json
import subprocess
from collections import Counter
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from latentbridge import __version__
from latentbridge.errors import UserError
from latentbridge.evaluation.bench.benchmark import STATUSES, Benchmark, Result
from latentbridge.evaluation.bench.data_folder import DataFolder
from latentbridge.evaluation.bench.json_log import JsonLog
from latentbridge.evaluation.bench.tools import Tools
from latentbridge.evaluation.compare import BENCH_REPORT
from latentbridge.evaluation.run import make_report
from latentbridge.evaluation.shapes import batched
from latentbridge.files import read_json, write_json
from latentbridge.processes import folder_lock
from latentbridge.run_folder import describe_environment

RESULTS, CONDITIONS = "results.jsonl", "conditions.json"
_NAMED = 20
"""Most items named in the report per status that counts as 0; `results.jsonl` names all."""


def run_benchmark(
    name: str,
    benchmark: Benchmark[Any],
    files: DataFolder,
    tools: Tools,
    out: Path,
    *,
    limit: int | None = None,
    resume: bool = False,
    progress: bool = True,
    **conditions: Any,
) -> dict[str, Any]:
    """Score a model on a benchmark and write `results.jsonl` and `bench.json` in `out`; return the report.

    With `resume` the items that `results.jsonl` holds are kept; without it all are scored again, from the generations that
    are kept. Raises UserError if `out` holds results of another model, of other data or with other conditions.
    """
    items = benchmark.load(files)
    repeated = [id for id, count in Counter(item.id for item in items).items() if count > 1]
    if repeated:
        raise UserError(f"{files.path} has several items with the id {repeated[0]}; download the benchmark again.")
    if not items:
        raise UserError(f"{files.path} has no items; download the benchmark again.")
    complete = len(items)
    items = benchmark.first(items, limit) if limit else items
    stated = {
        "benchmark": name,
        "data_sha256": files.digest,
        "items": len(items),
        "items_of_benchmark": complete,
        **tools.model.identity,
        "seed": tools.model.seed,
        "options": {"reply": tools.model.reply_options, "drawing": tools.model.drawing_options},
        **tools.describe(),
        **conditions,
    }
    with folder_lock(out, wait=False):
        log = _open_results(out, json.loads(json.dumps(stated, default=str)), resume)
        todo = [item for item in items if item.id not in log]
        if todo:
            benchmark.prepare(todo, tools)
        bar = tqdm(total=len(items), initial=len(items) - len(todo), desc=name, unit="item", disable=not progress)
        with bar:
            for part in batched(todo, tools.model.batch_size):
                results = benchmark.evaluate(part, tools)
                assert [result.id for result in results] == [item.id for item in part], name
                log.append(result.to_dict() for result in results)
                bar.update(len(part))
        results = [_read_result(log.records[item.id]) for item in items]
        benchmark.finish(items, results, tools)
        report = _report(benchmark, results, stated)
        write_json(out / BENCH_REPORT, report)
    return report


def code_version() -> str:
    """Return the commit of the checkout that this package runs from, with "+changes" if it has any, or the version."""
    package = Path(__file__).parent
    try:
        commit = _git(package, "rev-parse", "HEAD")
        changes = _git(package, "status", "--porcelain", "--untracked-files=no", ".")
    except (OSError, subprocess.SubprocessError):
        return f"version {__version__}"
    return f"{commit}+changes" if changes else commit


def _git(folder: Path, *arguments: str) -> str:
    command = ["git", "-C", str(folder), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=10).stdout.strip()


def _open_results(out: Path, stated: dict[str, Any], resume: bool) -> JsonLog:
    """Return the results of a run folder; raise UserError if they are of something else."""
    path = out / CONDITIONS
    if path.exists():
        stored = read_json(path)
        differing = [key for key in sorted(stored | stated) if stored.get(key) != stated.get(key)]
        if differing and (resume or stored.get("benchmark") != stated["benchmark"]):
            key = differing[0]
            raise UserError(
                f"{out} holds results with {key.replace('_', ' ')} {stored.get(key)!r}, not {stated.get(key)!r}; choose another --out."
            )
    log = JsonLog(out / RESULTS, "id")
    if not resume:
        log.clear()
    write_json(path, stated)
    return log


def _read_result(record: dict[str, Any]) -> Result:
    return Result(**{field.name: record[field.name] for field in fields(Result)})


def _report(benchmark: Benchmark[Any], results: Sequence[Result], stated: dict[str, Any]) -> dict[str, Any]:
    counts = Counter(result.status for result in results)
    failures = {
        status: [{"id": r.id, "answer": r.answer[:200], "reason": r.reason} for r in results if r.status == status]
        for status in ("unparsed", "missing")
    }
    environment = describe_environment()
    return make_report(
        benchmark.aggregate(results),
        **stated,
        command=environment["command"],
        commit=code_version(),
        torch_threads=torch.get_num_threads(),
        packages=environment["packages"],
        counts={status: counts[status] for status in STATUSES},
        failures={status: named[:_NAMED] for status, named in failures.items()},
    )
