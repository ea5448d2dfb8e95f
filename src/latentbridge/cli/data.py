"""The verbs about data: build the drawings, check a manifest, turn it into shards, ask a teacher ahead, look at samples."""

from __future__ import annotations

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
    check_at_least,
    check_folder,
    check_out,
    check_world,
)
from latentbridge.config import with_overrides
from latentbridge.errors import UserError, unknown_name
from latentbridge.recipes import recipe

_HELP = """Build, check and look at data.

\b
Examples:
  latentbridge data build drawings
  latentbridge data check my_pictures/manifest.jsonl
"""
app = typer.Typer(help=_HELP, rich_markup_mode=None, no_args_is_help=True)


@app.command()
def build(world: Annotated[str, typer.Argument(metavar="WORLD", help='The world to build: "drawings".')]) -> None:
    """Fetch and render the drawings world.

    Takes about a minute, once per machine.

    \b
    Examples:
      latentbridge data build drawings
      LATENTBRIDGE_CACHE=/big/disk latentbridge data build drawings
    """
    if world != "drawings":
        raise unknown_name("world to build", world, ["drawings"])
    from latentbridge.data.drawings.catalogue import build_drawings, default_cache

    drawings = build_drawings()
    print(f"{default_cache() / 'drawings'}: {len(drawings.records):,} drawings")


@app.command()
def check(manifest: Annotated[Path, typer.Argument(metavar="FILE", help="A JSON-lines manifest.")]) -> None:
    """Check a manifest of your own data.

    Prints one line per fault, and exits with 2 if there is any; else says what it holds and which recipes take it.

    \b
    Examples:
      latentbridge data check my_pictures/manifest.jsonl
    """
    from latentbridge.data.own.manifest import check_manifest

    faults = check_manifest(manifest)
    for fault in faults:
        print(fault)
    if faults:
        raise typer.Exit(2)
    print(f"{manifest}: no faults")
    from latentbridge.data.own.needs import summary_of, takers, training_uses, what_to_add

    found = training_uses(str(manifest))
    print(f"for training: {summary_of(found)}")
    print(f"recipes that take it: {', '.join(takers(found)) or 'none'}")
    if lack := what_to_add(str(manifest), found):
        print(lack)


@app.command()
def shards(
    source: Annotated[
        str, typer.Argument(metavar="SOURCE", help="A manifest, or a folder or url of tars or Parquet files.")
    ],
    out: Annotated[Path, typer.Option("--out", help="The folder to write.")],
    as_json: AsJson = False,
) -> None:
    """Turn a manifest into shards, for data too large to check at every start.

    Shards that others wrote, WebDataset's tars or Parquet files, stay where they are and get an index. Training takes the
    folder wherever it takes a manifest.

    \b
    Examples:
      latentbridge data shards my_pictures/manifest.jsonl --out my_shards
      latentbridge data shards s3://bucket/pairs --out pairs
      latentbridge train finetune --data my_shards
    """
    check_folder(out)
    from latentbridge.cli.output import print_json
    from latentbridge.data.own.sharding import index_shards, shard_manifest

    written = shard_manifest(Path(source), out) if source.endswith(MANIFEST_SUFFIX) else index_shards(source, out)
    samples = sum(shard.samples for shard in written)
    if as_json:
        print_json({"folder": str(out), "shards": len(written), "samples": samples})
    else:
        print(f"{out}: {samples:,} samples in {len(written):,} shards")


@app.command()
def embed(
    name: Annotated[
        str, typer.Option("--recipe", metavar="RECIPE", help="Whose pairs to embed: a recipe of post-training.")
    ] = "post-latentumm",
    overrides: Overrides = None,
    teacher: Annotated[
        str, typer.Option("--teacher", help="Who embeds them; the recipe's own teacher unless given.")
    ] = "",
    as_json: AsJson = False,
) -> None:
    """Embed a recipe's pairs ahead of its runs.

    Says beforehand what it will cost. Interrupted at any moment, it goes on where it stopped; runs that start later, also
    several at once, find everything done.

    \b
    Examples:
      latentbridge data embed
      latentbridge data embed --teacher scene
      latentbridge data embed --recipe post-latentumm --set seed=1 --teacher siglip:my-siglip --json
    """
    config = with_overrides(recipe(name), overrides or [])
    teacher = teacher or config.stage.posttrain.teacher
    if teacher == "none":
        raise UserError(f"The recipe {name} has no teacher; name one with --teacher, such as package.")
    from latentbridge.cli.output import print_json
    from latentbridge.models.teachers import load_teacher
    from latentbridge.training.objectives.teacher_embeddings import TeacherEmbeddings
    from latentbridge.training.stages import STAGES
    from latentbridge.training.stages.posttrain import PostTrain

    kind = STAGES[config.stage.kind]
    if not issubclass(kind, PostTrain):
        raise UserError(
            f"The recipe {name} has no teacher to ask; choose one of post-training, such as post-latentumm."
        )
    asked, stage = load_teacher(teacher), kind(config)
    anchors = TeacherEmbeddings(asked, stage.items(), announce=partial(print, file=sys.stderr))
    document = {
        "teacher": asked.space.model,
        "store": str(anchors.store.folder),
        "pairs": config.stage.items,
        "known pairs": anchors.known,
        "embeddings": len(anchors.store),
        "new embeddings": anchors.added,
    }
    if as_json:
        print_json(document)
    else:
        print(
            f"{anchors.store.folder}: {len(anchors.store):,} embeddings by {asked.space.model}, "
            f"{anchors.added:,} of them new; it knows {anchors.known:,} of {config.stage.items:,} pairs"
        )


@app.command()
def sample(
    world: Annotated[str, typer.Argument(metavar="WORLD", help='"shapes" or "drawings".')],
    out: OutPicture = Path("sheet.png"),
    count: Annotated[int, typer.Option("--count", help="Number of pictures.")] = 24,
    seed: Annotated[int, typer.Option("--seed", help="Same seed, same pictures.")] = 0,
) -> None:
    """Draw a sheet of a world's pictures.

    Their captions are printed.

    \b
    Examples:
      latentbridge data sample shapes --out sheet.png
      latentbridge data sample drawings --out sheet.png --count 40 --seed 3
    """
    check_world(world)
    check_at_least("--count", count, 1)
    check_at_least("--seed", seed, 0)
    check_out(out, PICTURE_SUFFIXES)
    from latentbridge.cli.output import lay_out, save_picture
    from latentbridge.rng import numpy_rng

    rng = numpy_rng(seed, "sample sheet")
    if world == "shapes":
        from latentbridge.data.shapes.language import describe
        from latentbridge.data.shapes.render import render
        from latentbridge.data.shapes.scenes import scenes

        drawn = list(islice(scenes("train", rng), count))
        pictures, captions = [render(scene) for scene in drawn], [describe(scene) for scene in drawn]
    else:
        from latentbridge.data.drawings.catalogue import load_drawings

        drawings = load_drawings()
        chosen = rng.choice(len(drawings.records), size=min(count, len(drawings.records)), replace=False)
        pictures = [drawings.on_background(int(index), (255, 255, 255)) for index in chosen]
        captions = [drawings.records[index].captions[0] for index in chosen]
    save_picture(lay_out(pictures, columns=8), out)
    for number, caption in enumerate(captions, start=1):
        print(f"{number:>3}  {caption}")
    print(out)


@app.command()
def vocabulary(
    out: Annotated[Path, typer.Option("--out", help="The folder to write the tokenizer to.")],
    size: Annotated[int, typer.Option("--size", help="Tokens, special ones included.")] = 2048,
) -> None:
    """Learn a tokenizer from the texts of both worlds, as the shipped one was.

    \b
    Examples:
      latentbridge data vocabulary --out my_tokenizer
    """
    check_folder(out)
    check_at_least("--size", size, 512)
    from latentbridge.data.drawings.catalogue import load_drawings
    from latentbridge.data.words import vocabulary_texts
    from latentbridge.models.checkpoint import save_tokenizer
    from latentbridge.models.vocabulary import learn_tokenizer

    tokenizer = learn_tokenizer(vocabulary_texts(load_drawings()), size)
    save_tokenizer(tokenizer, out)
    print(f"{out}: {len(tokenizer):,} tokens")
