"""The command `bench`, which scores a model on a standard benchmark in its published format."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from latentbridge.cli.arguments import AsJson, ModelName, Seed, check_at_least, check_folder
from latentbridge.cli.drawing import Guidance, Options, Size, Steps, drawing_options
from latentbridge.cli.loading import AS_RELEASED, Loading, with_loading_flags
from latentbridge.cli.output import print_json, print_scores
from latentbridge.errors import UserError
from latentbridge.evaluation.bench.registry import BENCHMARKS, Card, card

if TYPE_CHECKING:
    from latentbridge.evaluation.bench.cached_model import CachedModel
    from latentbridge.evaluation.bench.tools import Tools


@with_loading_flags
def bench(
    name: Annotated[str | None, typer.Argument(metavar="[NAME]", help="A benchmark of --list.")] = None,
    show_list: Annotated[bool, typer.Option("--list", help="List the benchmarks and stop.")] = False,
    data: Annotated[Path | None, typer.Option("--data", help="The folder of the benchmark's files.")] = None,
    model: ModelName = "tiny",
    loading: Loading = AS_RELEASED,
    out: Annotated[
        Path | None, typer.Option("--out", help="The run folder; runs/bench/MODEL/NAME unless given.")
    ] = None,
    limit: Annotated[int | None, typer.Option("--limit", help="Score the first so many items only.")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Keep the results that the run folder holds.")] = False,
    batch: Annotated[int, typer.Option("--batch", help="Items generated at once.")] = 8,
    max_tokens: Annotated[int | None, typer.Option("--max-tokens", help="Most tokens of a reply.")] = None,
    steps: Steps = None,
    guidance: Guidance = None,
    size: Size = None,
    option: Options = None,
    encoder: Annotated[
        list[str] | None,
        typer.Option("--encoder", help='Grades pictures: "dinov2:FOLDER", clip, longclip, siglip, dinov3; repeatable.'),
    ] = None,
    detector: Annotated[Path | None, typer.Option("--detector", help="Folder of a transformers detector.")] = None,
    colours: Annotated[Path | None, typer.Option("--colours", help="Folder of a CLIP that tells colours.")] = None,
    vqa: Annotated[str | None, typer.Option("--vqa", help="Model that answers questions about pictures.")] = None,
    judge: Annotated[
        str | None, typer.Option("--judge", metavar="URL", help="OpenAI-compatible endpoint, such as http://host/v1.")
    ] = None,
    judge_model: Annotated[str | None, typer.Option("--judge-model", help="Name of the judge.")] = None,
    judge_prices: Annotated[
        tuple[float, float] | None, typer.Option("--judge-prices", help="Dollars per million tokens read and written.")
    ] = None,
    seed: Seed = 0,
    as_json: AsJson = False,
) -> None:
    """Score a model on a standard benchmark.

    Replies and pictures are kept in the run folder by content: interrupted at any moment, --resume loses and repeats
    nothing, and scoring again generates nothing.

    \b
    Examples:
      latentbridge bench --list
      latentbridge bench mme --data MME_Benchmark_release_version
      latentbridge bench mmmu --model Janus-Pro-1B --data MMMU --batch 16 --device auto
      latentbridge bench flickr30k --data flickr30k --limit 100 --json
      latentbridge bench mme --data MME_Benchmark_release_version --out runs/mme --resume
    """
    if show_list:
        _print_list(as_json)
        return
    if name is None or data is None:
        raise UserError("Give a benchmark and --data FOLDER; `latentbridge bench --list` shows the benchmarks.")
    chosen = card(name)
    for flag, value in (("--limit", limit), ("--batch", batch), ("--max-tokens", max_tokens)):
        if value is not None:
            check_at_least(flag, value, 1)
    given = drawing_options(seed, steps, guidance, size, option)
    drawing = {key: value for key, value in given.items() if value is not None}
    folder = out or Path("runs") / "bench" / Path(model).name / name
    check_folder(folder)
    from latentbridge.evaluation.bench.data_folder import DataFolder
    from latentbridge.evaluation.bench.harness import run_benchmark
    from latentbridge.evaluation.bench.registry import make_benchmark
    from latentbridge.evaluation.compare import BENCH_REPORT

    files = DataFolder(data)
    if judge and not judge_model:
        raise UserError("Name the judge that --judge serves with --judge-model.")
    graders = {"encoder": encoder, "detector": detector, "colours": colours, "vqa": vqa, "judge": judge}
    for need in chosen.needs:
        if not graders[need]:
            raise UserError(f"{name} needs a grading model; name it with --{need}.")
    tools = _tools(chosen, model, loading, folder, batch, seed, max_tokens, drawing)
    tools = _with_graders(tools, loading, folder, {**graders, "judge_model": judge_model, "judge_prices": judge_prices})
    benchmark = make_benchmark(name)
    progress = sys.stderr.isatty()
    report = run_benchmark(
        name, benchmark, files, tools, folder, limit=limit, resume=resume, progress=progress, model_name=model
    )
    if as_json:
        print_json(report)
        return
    print_scores(report["rows"])
    print(", ".join(f"{count:,} {status}" for status, count in report["counts"].items()))
    print(folder / BENCH_REPORT)


def _tools(
    chosen: Card,
    model: str,
    loading: Loading,
    folder: Path,
    batch: int,
    seed: int,
    max_tokens: int | None,
    drawing: dict[str, Any],
) -> Tools:
    """Load the model under test; raise UserError if it lacks the skill that the benchmark needs."""
    from latentbridge.evaluation.bench.cached_model import CachedModel
    from latentbridge.evaluation.bench.tools import Tools

    network = loading.open(model)
    network.require(chosen.skill)
    options: dict[str, Any] = {} if max_tokens is None else {"max_tokens": max_tokens}
    generations = folder / "generations"
    tested: CachedModel = CachedModel(
        network, generations, batch_size=batch, seed=seed, reply_options=options, drawing_options=drawing
    )
    return Tools(tested)


def _with_graders(tools: Tools, loading: Loading, folder: Path, graders: dict[str, Any]) -> Tools:
    """Load the grading models that are named."""
    from latentbridge.evaluation.bench.cached_model import CachedModel
    from latentbridge.evaluation.bench.detector import Detector
    from latentbridge.evaluation.bench.encoders import load_encoder
    from latentbridge.evaluation.bench.judge import Judge
    from latentbridge.models.teachers import load_teacher

    loaded: dict[str, Any] = {"encoders": [load_encoder(source) for source in graders["encoder"] or ()]}
    if graders["detector"]:
        loaded["detector"] = Detector(graders["detector"])
    if graders["colours"]:
        loaded["colours"] = load_teacher(f"clip:{graders['colours']}")
    if graders["vqa"]:
        batch = tools.model.batch_size
        loaded["vqa"] = CachedModel(loading.open(graders["vqa"]), folder / "generations-vqa", batch_size=batch)
    if graders["judge"]:
        loaded["judge"] = Judge(graders["judge"], graders["judge_model"], folder / "judge", graders["judge_prices"])
    return replace(tools, **loaded)


def _print_list(as_json: bool) -> None:
    if as_json:
        print_json({name: vars(entry) for name, entry in BENCHMARKS.items()})
        return
    for name, entry in BENCHMARKS.items():
        judge = "needs a judge" if entry.needs_judge else "no judge"
        others = ", ".join(f"--{need}" for need in entry.needs)
        print(f"{name:<16}{entry.title}; {entry.size}; {judge}{f'; takes {others}' if others else ''}")
        print(f"{'':<16}{entry.format}")
        print(f"{'':<16}{entry.licence}; {entry.citation}")
        if entry.deviations:
            print(f"{'':<16}differs: {entry.deviations}")
