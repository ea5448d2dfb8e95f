"""The `data` commands: build, check, convert, shard, embed and show data, and learn a tokenizer from it."""

from __future__ import annotations

import shlex
import sys
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Annotated

import typer

from latentbridge.cli.arguments import (
    MANIFEST_SUFFIX,
    PICTURE_SUFFIXES,
    AsJson,
    OutPicture,
    Overrides,
    Strict,
    check_at_least,
    check_folder,
    check_out,
    check_world,
)
from latentbridge.cli.output import exit_if_left_out, leave_out_lines, print_json, print_left_out
from latentbridge.config import with_overrides
from latentbridge.errors import UserError, unknown_name
from latentbridge.recipes import recipe

_HELP = """Build, check and look at data.

\b
Examples:
  latentbridge data build drawings
  latentbridge data convert llava_instruct.json --pictures coco/train2017
  latentbridge data check my_pictures/manifest.jsonl
"""
SPLITS = ("train", "val", "test")
_SHOWN_FAULTS = 20
"""Sentences about single samples that are printed; the others are counted."""
app = typer.Typer(help=_HELP, rich_markup_mode=None, no_args_is_help=True)


@app.command()
def build(
    world: Annotated[str, typer.Argument(metavar="WORLD", help='The world to build: "drawings".')],
    again: Annotated[bool, typer.Option("--again", help="Build it again if it is there.")] = False,
) -> None:
    """Download and render the drawings world.

    Takes about a minute, once per machine; a world that is there stays.

    \b
    Examples:
      latentbridge data build drawings
      LATENTBRIDGE_CACHE=/big/disk latentbridge data build drawings
    """
    if world != "drawings":
        raise unknown_name("world to build", world, ["drawings"])
    from latentbridge.data.drawings.catalogue import build_drawings, default_cache, load_drawings

    folder = default_cache() / "drawings"
    if not again and (folder / "manifest.jsonl").is_file():
        print(f"{folder}: {len(load_drawings().records):,} drawings, there already; --again builds them anew")
        return
    print(f"{folder}: {len(build_drawings().records):,} drawings")


@app.command()
def check(
    source: Annotated[
        str, typer.Argument(metavar="SOURCE", help="A JSON-lines manifest, or a folder or url of shards.")
    ],
) -> None:
    """Check your own data as training reads it, every picture included.

    Prints one line per fault and exits with 2 if there is any; else prints its contents and the recipes that take it.

    \b
    Examples:
      latentbridge data check my_pictures/manifest.jsonl
      latentbridge data check my_shards
    """
    from latentbridge.data.own.manifest import check_manifest
    from latentbridge.data.own.needs import accepting_recipes, describe_uses, missing_data, training_uses
    from latentbridge.data.own.sharding import check_shards

    is_shards = "://" in source or Path(source).is_dir()
    faults = check_shards(source) if is_shards else check_manifest(Path(source))
    for fault in faults:
        print(fault)
    if faults:
        raise typer.Exit(2)
    print(f"{source}: no faults")

    found = training_uses(source)
    print(f"for training: {describe_uses(found)}")
    print(f"recipes that take it: {', '.join(accepting_recipes(found)) or 'none'}")
    if lack := missing_data(source, found):
        print(lack)


@app.command()
def shards(
    source: Annotated[
        str, typer.Argument(metavar="SOURCE", help="A manifest, or a folder or url of tars or Parquet files.")
    ],
    out: Annotated[Path, typer.Option("--out", help="The folder to write.")],
    strict: Strict = False,
    as_json: AsJson = False,
) -> None:
    """Turn a manifest into shards, for data too large to check at every start.

    Existing shards, WebDataset tars or Parquet files, stay in place and get an index. Training takes the folder wherever
    it takes a manifest. Every picture is opened; samples that cannot be used are named and left out, and the exit code is
    then 3.

    \b
    Examples:
      latentbridge data shards my_pictures/manifest.jsonl --out my_shards
      latentbridge data shards s3://bucket/pairs --out pairs
      latentbridge train finetune --data my_shards
    """
    check_folder(out)
    from latentbridge.data.own.manifest import is_manifest
    from latentbridge.data.own.sharding import index_shards, shard_manifest

    left_out: list[str] = []

    def leave_out(sentence: str) -> None:
        print_left_out(sentence)
        left_out.append(sentence)

    if is_manifest(source):
        count = leave_out_lines([source], strict)
        written = shard_manifest(Path(source), out)
    else:
        written = index_shards(source, out, on_fault=None if strict else leave_out)
        count = len(left_out)
    samples = sum(shard.samples for shard in written)
    if as_json:
        print_json({"folder": str(out), "shards": len(written), "samples": samples, "left out": count})
    else:
        print(f"{out}: {samples:,} samples in {len(written):,} shards{f', {count:,} left out' if count else ''}")
    exit_if_left_out(count)


@app.command()
def convert(
    sources: Annotated[
        list[Path], typer.Argument(metavar="SOURCES", help="A file, files that belong together, or a folder.")
    ],
    out: Annotated[
        Path | None, typer.Option("--out", help="The manifest to write; default manifest.jsonl beside the pictures.")
    ] = None,
    pictures: Annotated[
        Path | None, typer.Option("--pictures", help="The folder of the pictures; that of the source unless given.")
    ] = None,
    split: Annotated[
        str | None,
        typer.Option("--split", help='"train", "val" or "test" for all; default the source\'s own, or train.'),
    ] = None,
    strict: Strict = False,
    as_json: AsJson = False,
) -> None:
    """Make a manifest of data in another format.

    Reads conversations of LLaVA and ShareGPT, metadata.jsonl and metadata.csv of Hugging Face, COCO captions, questions
    and annotations of VQA, tables (CSV) with a picture and a caption a row, and folders with NAME.txt beside NAME.jpg.
    Samples that a manifest cannot hold (without a picture, or with several) are named and left out; the exit code is
    then 3.

    \b
    Examples:
      latentbridge data convert llava_instruct.json --pictures coco/train2017
      latentbridge data convert captions_val2017.json --pictures val2017 --split test
      latentbridge data convert questions.json annotations.json --pictures images --out images/vqa.jsonl
      latentbridge data convert my_pictures
    """
    if split is not None and split not in SPLITS:
        raise unknown_name("split", split, SPLITS)
    if out:
        check_out(out, (MANIFEST_SUFFIX,))
    from latentbridge.data.own.convert import convert as convert_to_manifest

    left_out: list[str] = []

    def leave_out(sentence: str) -> None:
        if strict:
            raise UserError(f"{sentence.removesuffix('.')}; mend or remove it, or go on without --strict.")
        if len(left_out) < _SHOWN_FAULTS:
            print_left_out(sentence)
        left_out.append(sentence)

    written, lines = convert_to_manifest(sources, out, pictures, split=split, on_fault=leave_out)
    if as_json:
        print_json({"manifest": str(written), "lines": lines, "left out": left_out})
    else:
        rest = f", {len(left_out):,} samples left out" if left_out else ""
        print(f"{written}: {lines:,} lines{rest}; check it with: latentbridge data check {shlex.quote(str(written))}")
    exit_if_left_out(len(left_out))


@app.command()
def embed(
    name: Annotated[
        str, typer.Option("--recipe", metavar="RECIPE", help="Whose pairs to embed: a recipe of post-training.")
    ] = "post-latentumm",
    overrides: Overrides = None,
    teacher: Annotated[str, typer.Option("--teacher", help="The teacher; the recipe's own by default.")] = "",
    as_json: AsJson = False,
) -> None:
    """Embed a recipe's pairs before its runs.

    Prints the cost first. An interrupted command can be resumed; later runs, also in parallel, read the embeddings.

    \b
    Examples:
      latentbridge data embed
      latentbridge data embed --teacher scene
      latentbridge data embed --recipe post-latentumm --set seed=1 --teacher siglip:my-siglip --json
    """
    config = with_overrides(recipe(name), overrides or [])
    teacher = teacher or getattr(config.stage, "teacher", "none")
    if teacher == "none":
        raise UserError(f"The recipe {name} has no teacher; name one with --teacher, such as package.")
    from latentbridge.models.teachers import load_teacher
    from latentbridge.training.objectives.teacher_embeddings import TeacherEmbeddings
    from latentbridge.training.stages import STAGES
    from latentbridge.training.stages.posttrain import PostTrain

    kind = STAGES[config.stage.kind]
    if not issubclass(kind, PostTrain):
        raise UserError(
            f"The recipe {name} has no teacher to ask; choose one of post-training, such as post-latentumm."
        )
    model, pairs = load_teacher(teacher), kind(config).items()
    anchors = TeacherEmbeddings(model, pairs, announce=partial(print, file=sys.stderr))
    document = {
        "teacher": model.space.model,
        "store": str(anchors.store.folder),
        "pairs": len(pairs),
        "known pairs": anchors.known,
        "embeddings": len(anchors.store),
        "new embeddings": anchors.added,
    }
    if as_json:
        print_json(document)
    else:
        print(
            f"{anchors.store.folder}: {len(anchors.store):,} embeddings by {model.space.model}, "
            f"{anchors.added:,} of them new; the teacher knows {anchors.known:,} of {len(pairs):,} pairs"
        )


@app.command()
def sample(
    world: Annotated[str, typer.Argument(metavar="WORLD", help='"shapes" or "drawings".')],
    out: OutPicture = Path("sheet.png"),
    count: Annotated[int, typer.Option("--count", help="Number of pictures.")] = 24,
    seed: Annotated[int, typer.Option("--seed", help="Same seed, same pictures.")] = 0,
) -> None:
    """Draw a sheet of a world's pictures and print their captions.

    \b
    Examples:
      latentbridge data sample shapes --out sheet.png
      latentbridge data sample drawings --out sheet.png --count 40 --seed 3
    """
    check_world(world)
    check_at_least("--count", count, 1)
    check_at_least("--seed", seed, 0)
    check_out(out, PICTURE_SUFFIXES)
    from latentbridge.cli.output import make_grid, save_picture
    from latentbridge.rng import numpy_rng

    rng = numpy_rng(seed, "sample sheet")
    if world == "shapes":
        from latentbridge.data.shapes.language import describe
        from latentbridge.data.shapes.render import render
        from latentbridge.data.shapes.scenes import scenes

        sampled = list(islice(scenes("train", rng), count))
        pictures, captions = [render(scene) for scene in sampled], [describe(scene) for scene in sampled]
    else:
        from latentbridge.data.drawings.catalogue import load_drawings

        drawings = load_drawings()
        chosen = rng.choice(len(drawings.records), size=min(count, len(drawings.records)), replace=False)
        pictures = [drawings.on_background(int(index), (255, 255, 255)) for index in chosen]
        captions = [drawings.records[index].captions[0] for index in chosen]
    save_picture(make_grid(pictures, columns=8), out)
    for number, caption in enumerate(captions, start=1):
        print(f"{number:>3}  {caption}")
    print(out)


@app.command()
def vocabulary(
    out: Annotated[Path, typer.Option("--out", help="The folder to write the tokenizer to.")],
    size: Annotated[int, typer.Option("--size", help="Tokens, special ones included.")] = 2048,
) -> None:
    """Learn a tokenizer from the texts of both worlds, like the shipped one.

    \b
    Examples:
      latentbridge data vocabulary --out my_tokenizer
    """
    check_folder(out)
    check_at_least("--size", size, 512)
    from latentbridge.data.drawings.catalogue import load_drawings
    from latentbridge.data.tokenizer_corpus import vocabulary_texts
    from latentbridge.models.checkpoint import save_tokenizer
    from latentbridge.models.tokenization import train_tokenizer

    tokenizer = train_tokenizer(vocabulary_texts(load_drawings()), size)
    save_tokenizer(tokenizer, out)
    print(f"{out}: {len(tokenizer):,} tokens")
