"""The commands `loopback`, `consistency`, `reasoning` and `compare`, which measure and compare models."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from latentbridge.cli.arguments import (
    PICTURE_KINDS,
    AsJson,
    ModelName,
    Seed,
    check_at_least,
    check_folder,
    check_out,
    check_world,
)
from latentbridge.cli.loading import AS_RELEASED, Loading, with_loading_flags
from latentbridge.cli.output import (
    exit_if_left_out,
    leave_out_lines,
    output_scores,
    print_json,
    print_scores,
    print_warnings,
    save_picture,
)
from latentbridge.errors import UserError, unknown_name
from latentbridge.sampling_limits import check_sampling

if TYPE_CHECKING:
    from latentbridge.evaluation.encoders import ItemEncoder
    from latentbridge.evaluation.loopback import Start

Encoder = Annotated[
    str, typer.Option("--encoder", help='External encoder: "package", "clip:FOLDER", "siglip:FOLDER", "gemini".')
]
OutScores = Annotated[Path | None, typer.Option("--out", help="The .json file to write the scores to.")]
STARTS: tuple[Start, ...] = ("picture", "text")
_SIZE, _HOPS, _ROUNDS = 100, 4, 4
_NUM_GALLERY_ROWS = 8


@with_loading_flags
def loopback(
    image: Annotated[Path | None, typer.Argument(metavar="[IMAGE]", help=PICTURE_KINDS)] = None,
    rounds: Annotated[int | None, typer.Option("--rounds", help=f"Rounds of a picture; default {_ROUNDS}.")] = None,
    world: Annotated[
        str | None, typer.Option("--data", help='"shapes", "drawings" or a manifest (a .jsonl file), instead of IMAGE.')
    ] = None,
    size: Annotated[int | None, typer.Option("--size", help=f"Pairs of the data; default {_SIZE}.")] = None,
    hops: Annotated[int | None, typer.Option("--hops", help=f"Hops, two per round; default {_HOPS}.")] = None,
    start: Annotated[str | None, typer.Option("--start", help='Start at "picture" or "text"; default both.')] = None,
    encoder: Encoder = "package",
    out: Annotated[Path | None, typer.Option("--out", help="Folder for pictures or scores, and a gallery.")] = None,
    seed: Seed = 7,
    model: ModelName = "tiny",
    loading: Loading = AS_RELEASED,
    as_json: AsJson = False,
) -> None:
    """Describe a picture, draw the description, and repeat.

    Shows how one picture drifts; over held-out data, measures drift and kept facts per hop.

    \b
    Examples:
      latentbridge loopback picture.png --rounds 4
      latentbridge loopback picture.png --out chain --json
      latentbridge loopback --data shapes --size 50 --out runs/trial
      latentbridge loopback --data my-pictures.jsonl --hops 8 --start text
    """
    if (image is None) == (world is None):
        raise UserError("Give either a picture or --data; `latentbridge loopback --help` shows both.")
    for option, value in (("--size", size), ("--hops", hops), ("--start", start)):
        if image is not None and value is not None:
            raise UserError(f"{option} goes with --data; for one picture use --rounds.")
    if world is not None and rounds is not None:
        raise UserError("--rounds goes with a picture; for data use --hops.")
    check_sampling(seed, steps=1, guidance=1.0, prefix="--")
    if out:
        check_folder(out)
    if image is not None:
        rounds = _ROUNDS if rounds is None else rounds
        check_at_least("--rounds", rounds, 1)
        _loopback_picture(image, rounds, out, seed, model, loading, as_json)
    elif world is not None:
        check_world(world, or_manifest=True)
        size, hops = (default if value is None else value for value, default in ((size, _SIZE), (hops, _HOPS)))
        check_at_least("--size", size, 2)
        check_at_least("--hops", hops, 1)
        if start not in (None, *STARTS):
            raise unknown_name("side to start at", str(start), STARTS)
        num_left_out = leave_out_lines([world])
        _loopback_data(world, size, hops, start, encoder, out, seed, model, loading, as_json)
        exit_if_left_out(num_left_out)


def _loopback_picture(
    image: Path, rounds: int, out: Path | None, seed: int, model: str, loading: Loading, as_json: bool
) -> None:
    import numpy as np

    from latentbridge.images import open_picture

    picture = open_picture(image)
    from latentbridge.evaluation.loopback import loopback, round_cells
    from latentbridge.evaluation.pages.gallery import draw_sheet
    from latentbridge.models.checkpoint import model_folder, shipped
    from latentbridge.models.input_check import read_input_check

    (chain,) = loopback(loading.open_trainable(model), [picture], rounds, seed)
    if out:
        for number, step in enumerate(chain, start=1):
            save_picture(step.picture, out / f"round_{number}.png")
        save_picture(np.asarray(draw_sheet([round_cells(picture, chain)])), out / "sheet.png")
    warnings = read_input_check(model_folder(shipped(model))).picture_warnings(picture)
    fields = ("words", "to_origin", "to_previous", "words_kept", "picture_kept")
    if as_json:
        rows = [{name: getattr(step, name) for name in fields} for step in chain]
        print_json({"image": image, "seed": seed, "rounds": rows, "out": out, "warnings": warnings})
    else:
        print_warnings(warnings)
        for number, step in enumerate(chain, start=1):
            print(f"{number}  likeness {step.to_origin:.2f}  {step.words}")
        if out:
            print(out / "sheet.png")


def _loopback_data(
    world: str,
    size: int,
    hops: int,
    start: str | None,
    encoder: str,
    out: Path | None,
    seed: int,
    model: str,
    loading: Loading,
    as_json: bool,
) -> None:
    import numpy as np

    from latentbridge.data.pairs import held_out_pairs

    pairs = held_out_pairs(world, size, seed)
    from latentbridge.evaluation.agreement import evaluate_loopback
    from latentbridge.evaluation.loopback import pair_cells
    from latentbridge.evaluation.pages.gallery import draw_sheet
    from latentbridge.files import write_json

    starts: list[Start] = [side for side in STARTS if start in (None, side)]
    judge = _load_view(encoder, len(starts) * len(pairs) * (1 + hops // 2))
    conditions: dict[str, Any] = {"model": model, "world": world, "encoder": encoder}
    document, results = evaluate_loopback(
        loading.open_trainable(model), pairs, judge, hops=hops, seed=seed, starts=starts, **conditions
    )
    if out:
        for result in results:
            sheet = draw_sheet(pair_cells(result, pairs[:_NUM_GALLERY_ROWS]))
            save_picture(np.asarray(sheet), out / f"loopback_{result.start}_first.png")
        write_json(out / "loopback.json", document)
    if as_json:
        print_json(document)
        return
    print_scores(document["rows"])
    for start_name, half_lives in document["half_life"].items():
        for name, half_life in half_lives.items():
            decay = f"halves after {half_life:.1f} hops" if half_life else f"does not halve within {hops} hops"
            print(f"{start_name}: {name} {decay}")
    if out:
        print(out / "loopback.json")


@with_loading_flags
def consistency(
    model: ModelName = "tiny",
    loading: Loading = AS_RELEASED,
    world: Annotated[str, typer.Option("--data", help='"shapes", "drawings", or a manifest (.jsonl).')] = "shapes",
    size: Annotated[int, typer.Option("--size", help="Number of pairs.")] = _SIZE,
    encoder: Encoder = "package",
    seed: Seed = 7,
    out: OutScores = None,
    as_json: AsJson = False,
) -> None:
    """Measure the agreement of a model's understanding and generation.

    Compares pictures after a loopback round, and answers about pictures with answers about their drawings.

    \b
    Examples:
      latentbridge consistency
      latentbridge consistency --model runs/trial --size 50 --out runs/trial/consistency.json
      latentbridge consistency --data drawings --json
    """
    _check_options(world, size, 2, seed, out)
    from latentbridge.data.pairs import held_out_pairs

    num_left_out = leave_out_lines([world])
    pairs = held_out_pairs(world, size, seed)
    from latentbridge.evaluation.agreement import evaluate_consistency

    judge = _load_view(encoder, 2 * len(pairs))
    conditions: dict[str, Any] = {"model": model, "world": world, "encoder": encoder}
    output_scores(
        evaluate_consistency(loading.open_trainable(model), pairs, judge, seed=seed, **conditions), out, as_json
    )
    exit_if_left_out(num_left_out)


@with_loading_flags
def reasoning(
    model: ModelName = "tiny",
    loading: Loading = AS_RELEASED,
    world: Annotated[str, typer.Option("--data", help='"shapes", or a manifest (.jsonl) with questions.')] = "shapes",
    size: Annotated[int, typer.Option("--size", help="Problems of each kind; a manifest gives all.")] = 50,
    seed: Seed = 7,
    out: OutScores = None,
    as_json: AsJson = False,
) -> None:
    """Measure multi-step reasoning on held-out problems.

    Scores answers, key steps reached, and the form of the reasoning. The shipped model is not trained on long chains;
    recipes that begin with reason- are.

    \b
    Examples:
      latentbridge reasoning --model runs/reason-sft
      latentbridge reasoning --model runs/reason-step-grpo --out runs/reason-step-grpo/reasoning.json
      latentbridge reasoning --model runs/trial --data my-questions.jsonl --json
    """
    if world == "drawings":
        raise UserError("The drawings have no multi-step problems; use --data shapes or a manifest.")
    _check_options(world, size, 1, seed, out)
    from latentbridge.evaluation.reasoning import evaluate_reasoning, held_out_problems

    num_left_out = leave_out_lines([world])
    problems = held_out_problems(world, size, seed)

    conditions: dict[str, Any] = {"model": model, "world": world, "size": size, "seed": seed}
    output_scores(evaluate_reasoning(loading.open(model).understand, problems, **conditions), out, as_json)
    exit_if_left_out(num_left_out)


def compare(
    before: Annotated[str, typer.Argument(metavar="RUN_A", help='A run or model folder with scores.json, or "tiny".')],
    after: Annotated[str, typer.Argument(metavar="RUN_B", help="Another one, scored in the same way.")],
    fail_on_worse: Annotated[bool, typer.Option("--fail-on-worse", help="Exit with 1 if anything is worse.")] = False,
    as_json: AsJson = False,
) -> None:
    """Compare the scores of two models.

    Reads scores.json, consistency.json, loopback.json and reasoning.json if both folders have them. Differences that are
    not significant after Holm's correction for the number of metrics are reported as noise.

    \b
    Examples:
      latentbridge compare runs/base runs/trial
      latentbridge compare runs/base runs/trial --fail-on-worse
      latentbridge compare runs/base runs/trial --json
    """
    from latentbridge.evaluation.compare import compare
    from latentbridge.evaluation.metrics import format_score
    from latentbridge.models.checkpoint import shipped

    rows = compare(shipped(before), shipped(after))
    if as_json:
        print_json({"before": before, "after": after, "rows": [row.to_dict() for row in rows]})
    else:
        for row in rows:
            values = " to ".join(format_score(value, row.unit) for value in (row.before, row.after))
            print(f"{row.verdict:<8}{row.skill:<24}{row.metric:<48}{values:<20}  p = {row.p:.2g} ({row.test})")
        counts = ", ".join(f"{sum(row.verdict == v for row in rows)} {v}" for v in ("better", "worse", "noise"))
        print(f"{counts}, of {len(rows)} measures")
    if fail_on_worse and any(row.verdict == "worse" for row in rows):
        raise typer.Exit(1)


def _check_options(world: str, size: int, least_size: int, seed: int, out: Path | None) -> None:
    check_world(world, or_manifest=True)
    check_at_least("--size", size, least_size)
    check_sampling(seed, steps=1, guidance=1.0, prefix="--")
    if out:
        check_out(out, (".json",))


def _load_view(encoder: str, num_pictures: int) -> ItemEncoder:
    """Load an external encoder, and print the cost of embedding the pictures."""
    from latentbridge.evaluation.encoders import external_encoder
    from latentbridge.models.teachers import load_teacher

    teacher = load_teacher(encoder)
    if cost := teacher.cost(num_pictures, []):
        print(cost, file=sys.stderr)
    return external_encoder(encoder.partition(":")[0], teacher)
