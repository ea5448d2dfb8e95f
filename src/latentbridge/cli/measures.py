"""The verbs that measure agreement and reasoning, and compare models: loopback, consistency, reasoning, compare."""

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
    check_sampling,
    check_world,
)
from latentbridge.errors import UserError, unknown_name

if TYPE_CHECKING:
    from latentbridge.evaluation.encoders import ItemEncoder
    from latentbridge.evaluation.loopback import Start

Encoder = Annotated[
    str, typer.Option("--encoder", help='Whose eyes also judge: "package", "clip:FOLDER", "siglip:FOLDER", "gemini".')
]
STARTS: tuple[Start, ...] = ("picture", "text")
_SIZE, _HOPS, _ROUNDS = 100, 4, 4
_SHOWN = 8
"""Walks in a gallery."""


def loopback(
    image: Annotated[Path | None, typer.Argument(metavar="[IMAGE]", help=PICTURE_KINDS)] = None,
    rounds: Annotated[
        int | None, typer.Option("--rounds", help=f"How often to go round; {_ROUNDS} if left out.")
    ] = None,
    world: Annotated[
        str | None, typer.Option("--data", help='"shapes", "drawings" or a manifest (a .jsonl file), instead of IMAGE.')
    ] = None,
    size: Annotated[
        int | None, typer.Option("--size", help=f"How many pairs of the data; {_SIZE} if left out.")
    ] = None,
    hops: Annotated[
        int | None, typer.Option("--hops", help=f"Hops, two a round, over the data; {_HOPS} if left out.")
    ] = None,
    start: Annotated[
        str | None, typer.Option("--start", help='"picture" or "text": the side to start at; both if left out.')
    ] = None,
    encoder: Encoder = "package",
    out: Annotated[
        Path | None, typer.Option("--out", help="A folder for the pictures, or measures, and a gallery.")
    ] = None,
    seed: Seed = 7,
    model: ModelName = "tiny",
    as_json: AsJson = False,
) -> None:
    """Walk pictures through words and back.

    Each round describes the picture and draws the description. Of one picture, see what drifts; over held-out data,
    measure per hop how far, and what is kept.

    \b
    Examples:
      latentbridge loopback picture.png --rounds 4
      latentbridge loopback picture.png --out walk --json
      latentbridge loopback --data shapes --size 50 --out runs/trial
      latentbridge loopback --data my-pictures.jsonl --hops 8 --start text
    """
    if (image is None) == (world is None):
        raise UserError("Give either a picture or --data; `latentbridge loopback --help` shows both.")
    for option, value in (("--size", size), ("--hops", hops), ("--start", start)):
        if image is not None and value is not None:
            raise UserError(f"{option} goes with --data; of one picture, say how far with --rounds.")
    if world is not None and rounds is not None:
        raise UserError("--rounds goes with a picture; over data, say how far with --hops.")
    check_sampling(seed, steps=1, guidance=1.0)
    if out:
        check_folder(out)
    if image is not None:
        rounds = _ROUNDS if rounds is None else rounds
        check_at_least("--rounds", rounds, 1)
        _walk_picture(image, rounds, out, seed, model, as_json)
    elif world is not None:
        check_world(world, or_manifest=True)
        size, hops = (default if value is None else value for value, default in ((size, _SIZE), (hops, _HOPS)))
        check_at_least("--size", size, 2)
        check_at_least("--hops", hops, 1)
        if start not in (None, *STARTS):
            raise unknown_name("side to start at", str(start), STARTS)
        _walk_data(world, size, hops, start, encoder, out, seed, model, as_json)


def _walk_picture(image: Path, rounds: int, out: Path | None, seed: int, model: str, as_json: bool) -> None:
    import numpy as np

    from latentbridge.cli.output import print_json, print_warnings, save_picture
    from latentbridge.images import open_picture

    picture = open_picture(image)
    from latentbridge.evaluation.loopback import loopback, round_cells
    from latentbridge.evaluation.pages.gallery import draw_sheet
    from latentbridge.models.backbones.loading import load_backbone
    from latentbridge.models.checkpoint import model_folder, shipped
    from latentbridge.models.input_check import read_input_check

    (walk,) = loopback(load_backbone(model), [picture], rounds, seed)
    if out:
        for number, each in enumerate(walk, start=1):
            save_picture(each.picture, out / f"round_{number}.png")
        save_picture(np.asarray(draw_sheet([round_cells(picture, walk)])), out / "sheet.png")
    warnings = read_input_check(model_folder(shipped(model))).picture_warnings(picture)
    measures = ("words", "to_origin", "to_previous", "words_kept", "picture_kept")
    if as_json:
        told = [{name: getattr(each, name) for name in measures} for each in walk]
        print_json({"image": image, "seed": seed, "rounds": told, "out": out, "warnings": warnings})
    else:
        print_warnings(warnings)
        for number, each in enumerate(walk, start=1):
            print(f"{number}  likeness {each.to_origin:.2f}  {each.words}")
        if out:
            print(out / "sheet.png")


def _walk_data(
    world: str,
    size: int,
    hops: int,
    start: str | None,
    encoder: str,
    out: Path | None,
    seed: int,
    model: str,
    as_json: bool,
) -> None:
    import numpy as np

    from latentbridge.cli.output import print_json, print_scores, save_picture
    from latentbridge.data.pairs import held_out_pairs

    pairs = held_out_pairs(world, size, seed)
    from latentbridge.evaluation.agreement import evaluate_loopback
    from latentbridge.evaluation.loopback import pair_cells
    from latentbridge.evaluation.pages.gallery import draw_sheet
    from latentbridge.models.backbones.loading import load_backbone
    from latentbridge.rundir import write_json

    starts: list[Start] = [side for side in STARTS if start in (None, side)]
    judge = _load_view(encoder, len(starts) * len(pairs) * (1 + hops // 2))
    named: dict[str, Any] = {"model": model, "world": world, "encoder": encoder}
    document, measured = evaluate_loopback(
        load_backbone(model), pairs, judge, hops=hops, seed=seed, starts=starts, **named
    )
    if out:
        for each in measured:
            sheet = draw_sheet(pair_cells(each, pairs[:_SHOWN]))
            save_picture(np.asarray(sheet), out / f"loopback_{each.start}_first.png")
        write_json(out / "loopback.json", document)
    if as_json:
        print_json(document)
        return
    print_scores(document["rows"])
    for walked, halves in document["half_life"].items():
        for name, half in halves.items():
            fall = f"halves after {half:.1f} hops" if half else f"does not halve within {hops} hops"
            print(f"{walked}: {name} {fall}")
    if out:
        print(out / "loopback.json")


def consistency(
    model: ModelName = "tiny",
    world: Annotated[
        str, typer.Option("--data", help='"shapes", "drawings", or a manifest of your own (a .jsonl file).')
    ] = "shapes",
    size: Annotated[int, typer.Option("--size", help="How many pairs.")] = _SIZE,
    encoder: Encoder = "package",
    seed: Seed = 7,
    out: Annotated[Path | None, typer.Option("--out", help="The .json file to write the scores to.")] = None,
    as_json: AsJson = False,
) -> None:
    """Measure whether a model draws what it says and sees what it drew.

    Needs no judge: pictures are compared after a round through words, answers about pictures with those about drawings.

    \b
    Examples:
      latentbridge consistency
      latentbridge consistency --model runs/trial --size 50 --out runs/trial/consistency.json
      latentbridge consistency --data drawings --json
    """
    check_world(world, or_manifest=True)
    check_at_least("--size", size, 2)
    check_sampling(seed, steps=1, guidance=1.0)
    if out:
        check_out(out, (".json",))
    from latentbridge.cli.output import hand_over
    from latentbridge.data.pairs import held_out_pairs

    pairs = held_out_pairs(world, size, seed)
    from latentbridge.evaluation.agreement import evaluate_consistency
    from latentbridge.models.backbones.loading import load_backbone

    judge = _load_view(encoder, 2 * len(pairs))
    named: dict[str, Any] = {"model": model, "world": world, "encoder": encoder}
    document = evaluate_consistency(load_backbone(model), pairs, judge, seed=seed, **named)
    hand_over(document, out, as_json)


def reasoning(
    model: ModelName = "tiny",
    world: Annotated[
        str, typer.Option("--data", help='"shapes", or a manifest of your own (a .jsonl file) with questions.')
    ] = "shapes",
    size: Annotated[int, typer.Option("--size", help="How many problems of each kind; a manifest gives all.")] = 50,
    seed: Seed = 7,
    out: Annotated[Path | None, typer.Option("--out", help="The .json file to write the scores to.")] = None,
    as_json: AsJson = False,
) -> None:
    """Measure how well a model reasons at length.

    Held-out problems of several steps: right answers, key steps reached, and valid forms of reasoning. The shipped model
    has not learned long chains; recipes that begin with reason- teach them.

    \b
    Examples:
      latentbridge reasoning --model runs/reason-sft
      latentbridge reasoning --model runs/reason-step-grpo --out runs/reason-step-grpo/reasoning.json
      latentbridge reasoning --model runs/trial --data my-questions.jsonl --json
    """
    check_world(world, or_manifest=True)
    if world == "drawings":
        raise UserError("The drawings have no problems of several steps; take --data shapes or a manifest.")
    check_at_least("--size", size, 1)
    check_sampling(seed, steps=1, guidance=1.0)
    if out:
        check_out(out, (".json",))
    from latentbridge.cli.output import hand_over
    from latentbridge.evaluation.reasoning import evaluate_reasoning, held_out_problems

    posed = held_out_problems(world, size, seed)
    from latentbridge.models.backbones.loading import load_backbone

    named: dict[str, Any] = {"model": model, "world": world, "size": size, "seed": seed}
    hand_over(evaluate_reasoning(load_backbone(model).understand, posed, **named), out, as_json)


def compare(
    before: Annotated[str, typer.Argument(metavar="RUN_A", help='A run or model folder with scores.json, or "tiny".')],
    after: Annotated[str, typer.Argument(metavar="RUN_B", help="Another, scored alike.")],
    fail_on_worse: Annotated[
        bool, typer.Option("--fail-on-worse", help="Exit with 1 if anything is worse, for a CI job.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Say what one model does better or worse than another.

    Compares scores.json, consistency.json, loopback.json and reasoning.json where both folders have them. What chance would explain is
    noise; the bar rises with the number of measures (Holm), so that one run's luck raises no alarm.

    \b
    Examples:
      latentbridge compare runs/base runs/trial
      latentbridge compare runs/base runs/trial --fail-on-worse
      latentbridge compare runs/base runs/trial --json
    """
    from latentbridge.cli.output import print_json
    from latentbridge.evaluation.compare import compare
    from latentbridge.evaluation.metrics import format_score
    from latentbridge.models.checkpoint import shipped

    found = compare(shipped(before), shipped(after))
    if as_json:
        print_json({"before": before, "after": after, "rows": [row.to_dict() for row in found]})
    else:
        for row in found:
            values = " to ".join(format_score(value, row.unit) for value in (row.before, row.after))
            print(f"{row.verdict:<8}{row.skill:<24}{row.metric:<48}{values:<20}  p = {row.p:.2g} ({row.test})")
        counts = ", ".join(f"{sum(row.verdict == v for row in found)} {v}" for v in ("better", "worse", "noise"))
        print(f"{counts}, of {len(found)} measures")
    if fail_on_worse and any(row.verdict == "worse" for row in found):
        raise typer.Exit(1)


def _load_view(encoder: str, pictures: int) -> ItemEncoder:
    """The external encoder; what it will cost to read so many pictures is said before."""
    from latentbridge.evaluation.encoders import external_encoder
    from latentbridge.models.teachers import load_teacher

    teacher = load_teacher(encoder)
    if cost := teacher.cost(pictures, []):
        print(cost, file=sys.stderr)
    return external_encoder(encoder.partition(":")[0], teacher)
