"""Commands about runs: train, eval, study, report, quickstart, reproduce, version."""

from __future__ import annotations

import shlex
from contextlib import ExitStack
from pathlib import Path
from typing import Annotated, cast

import typer

from latentbridge.cli.arguments import (
    AsJson,
    ModelName,
    Overrides,
    Strict,
    check_at_least,
    check_folder,
    check_out,
    check_world,
    is_own_data,
)
from latentbridge.cli.loading import AS_RELEASED, Loading, with_loading_flags
from latentbridge.cli.output import exit_if_left_out, leave_out_lines, output_scores
from latentbridge.config import DataStageConfig, RunConfig, SceneConfig, with_overrides
from latentbridge.errors import UserError
from latentbridge.recipes import RECIPES, recipe
from latentbridge.studies import STUDIES, study_named

OutFolder = Annotated[Path, typer.Option("--out", help="The folder to write.")]


def train(
    name: Annotated[str, typer.Argument(metavar="RECIPE", help=f"One of: {', '.join(RECIPES)}.")],
    overrides: Overrides = None,
    data: Annotated[
        str | None,
        typer.Option("--data", metavar="SOURCE", help="Your own data, as half of the samples: a manifest or shards."),
    ] = None,
    out: Annotated[Path | None, typer.Option("--out", help="The run folder; runs/RECIPE unless given.")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Continue from the newest checkpoint.")] = False,
    track: Annotated[
        list[str] | None,
        typer.Option("--track", metavar="TRACKER", help='"tensorboard", "trackio" or "wandb", beside metrics.jsonl.'),
    ] = None,
    sample_every: Annotated[
        int, typer.Option("--sample-every", help="Save samples of the same prompts every so many steps; 0 never.")
    ] = 0,
    strict: Strict = False,
) -> None:
    """Train a model by a recipe.

    Interrupted at any moment, it continues with --resume. --track and --sample-every do not change its results, so they
    may differ from one --resume to the next. Lines of your own manifest that cannot be used are named and left out, and
    the exit code is then 3. docs/many-processes.md starts it on several processes or machines.

    \b
    Examples:
      latentbridge train finetune --data my_pictures/manifest.jsonl --out runs/mine
      latentbridge train pretrain-decoder
      latentbridge train pretrain-backbone --set steps=100 --set optim.lr=5e-4 --out runs/trial
      latentbridge train pretrain-decoder --resume
      latentbridge train post-latentumm --set steps=20
      latentbridge train pretrain-harmon --set model.width=96
      latentbridge train align --track tensorboard --sample-every 200
    """
    config = with_overrides(recipe(name), overrides or [])
    folder = out or Path("runs") / config.name
    check_folder(folder)
    from latentbridge.data.own.needs import check_own_data

    config = check_own_data(config, data or "")
    check_at_least("--sample-every", sample_every, 0)
    sources = config.stage.own_sources if isinstance(config.stage, DataStageConfig) else []
    num_left_out = leave_out_lines(sources, strict)
    model = _train(config, folder, resume, track or [], sample_every)
    from latentbridge.training.parallel import is_rank_zero

    if is_rank_zero():
        hint = ""
        if not isinstance(config.model, SceneConfig):
            own = [source for source in sources if is_own_data(source)]
            data_option = f"--world {shlex.quote(own[0])}" if own else "--size 10"
            hint = f"; try: latentbridge eval --model {shlex.quote(str(folder))} {data_option}"
        print(f"The model is in {model}{hint}")
    exit_if_left_out(num_left_out)


def _train(config: RunConfig, folder: Path, resume: bool, track: list[str], sample_every: int) -> Path:
    from latentbridge.evaluation.pages.run_report import write_run_report
    from latentbridge.evaluation.samples import Samples
    from latentbridge.run_folder import RunFolder
    from latentbridge.training.divergence import DivergenceError
    from latentbridge.training.loop import train
    from latentbridge.training.stages import make_stage
    from latentbridge.training.trackers import Tracker

    samples = [Samples(config, sample_every)] if sample_every else []
    with ExitStack() as trackers:
        tracked = [trackers.enter_context(Tracker(tracker)) for tracker in track]
        try:
            return train(config, make_stage(config), folder, resume=resume, observers=[*samples, *tracked])
        except DivergenceError:
            if RunFolder(folder).metrics():
                write_run_report([folder], RunFolder(folder).report)
            raise


@with_loading_flags
def evaluate(
    model: ModelName = "tiny",
    loading: Loading = AS_RELEASED,
    world: Annotated[
        str,
        typer.Option("--world", help='"shapes", "drawings", or your own data: a manifest (.jsonl) or shards.'),
    ] = "shapes",
    size: Annotated[int, typer.Option("--size", help="Sample size in per cent of the full one.")] = 100,
    out: Annotated[Path | None, typer.Option("--out", help="The .json file for the scores.")] = None,
    strict: Strict = False,
    as_json: AsJson = False,
) -> None:
    """Score a model on held-out data.

    On your own data the split "test" is scored: retrieval, exact match of captions and answers, and pixels of edits.
    An OmniBridge gets the full table; a Janus-Pro, BAGEL or Harmon is scored on shapes: questions, generation from full
    descriptions, and retrieval.

    \b
    Examples:
      latentbridge eval
      latentbridge eval --size 10
      latentbridge eval --model runs/trial --world drawings --out scores.json
      latentbridge eval --world my-pictures.jsonl
      latentbridge eval --world my-pictures.jsonl --size 20
    """
    if not is_own_data(world):
        check_world(world, or_manifest=True)
    elif size > 100:
        raise UserError(f"--size {size} is more than the whole test split of {world}; give 100 or less.")
    check_at_least("--size", size, 1)
    if out:
        check_out(out, (".json",))
    from latentbridge.evaluation.run import World, evaluate

    own, num_left_out = Path(world) if is_own_data(world) else None, leave_out_lines([world], strict)
    output_scores(evaluate(loading.open_trainable(model), own or cast(World, world), size=size), out, as_json)
    exit_if_left_out(num_left_out)


def study(
    name: Annotated[str, typer.Argument(metavar="STUDY", help=f"One of: {', '.join(STUDIES)}.")],
    out: Annotated[
        Path, typer.Option("--out", help="The folder of all runs; studies share runs with the same settings.")
    ] = Path("runs/studies"),
    jobs: Annotated[int, typer.Option("--jobs", help="Number of runs at a time, each on one thread.")] = 2,
    only: Annotated[str | None, typer.Option("--only", metavar="ARM", help="Run this arm alone.")] = None,
    plan: Annotated[
        bool, typer.Option("--plan", help="Print what is left to do and how long it takes, and stop.")
    ] = False,
    results: Annotated[Path, typer.Option("--results", help="The page to write; its figures go beside it.")] = Path(
        "docs/results.md"
    ),
) -> None:
    """Train and measure the arms of a study, and write its table.

    Prints beforehand what is left to do. Interrupted at any moment, the same command continues; finished runs are not
    repeated.

    \b
    Examples:
      latentbridge study methods --plan
      latentbridge study methods
      latentbridge study ablations --only sigma=0.2
      latentbridge study backbones --out runs/studies --jobs 1
    """
    chosen = study_named(name)
    check_at_least("--jobs", jobs, 1)
    check_folder(out)
    check_out(results, (".md",))
    from latentbridge.study.runner import run_study

    if page := run_study(chosen, out, results, jobs=jobs, only=only, plan=plan):
        print(f"The results are in {page}")


def report(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN...", help="A run folder, or several to compare.")],
    out: Annotated[
        Path | None, typer.Option("--out", help="The .html file to write; report.html in RUN, or beside several.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Write an HTML report about runs, finished or not.

    It has curves over samples and time, generated samples, settings and the time left. Pictures are embedded, and no
    network is needed.

    \b
    Examples:
      latentbridge report runs/align
      latentbridge report runs/post-sft runs/post-latentumm --out sft-against-latentumm.html
      latentbridge report runs/align --json
    """
    for run in runs:
        if not run.is_dir():
            raise UserError(f"There is no run folder {run}; `latentbridge train` makes one.")
    if out:
        check_out(out, (".html",))
    from latentbridge.cli.output import print_json
    from latentbridge.evaluation.pages.run_report import describe_run, write_run_report

    page = write_run_report(runs, out or (runs[0] if len(runs) == 1 else runs[0].parent) / "report.html")
    if as_json:
        print_json({"page": page, "runs": [describe_run(run) for run in runs]})
    else:
        print(page)


def quickstart(out: OutFolder = Path("quickstart"), model: ModelName = "tiny") -> None:
    """Try every skill, in about three minutes.

    Understands, generates, edits, retrieves and loops on real pictures, and writes a report.

    \b
    Examples:
      latentbridge quickstart --out quickstart
    """
    check_folder(out)
    from latentbridge.quickstart import run_quickstart

    run_quickstart(out, model)


def reproduce(out: OutFolder = Path("runs")) -> None:
    """Train the shipped tiny model from random weights.

    Takes hours, prints beforehand how many, and ends with its scores.

    \b
    Examples:
      latentbridge reproduce --out runs
    """
    check_folder(out)
    from latentbridge.reproduce import reproduce

    print(f"The model and its scores are in {reproduce(out)}")


def version() -> None:
    """Print the version.

    \b
    Examples:
      latentbridge version
    """
    from latentbridge import __version__

    print(__version__)
