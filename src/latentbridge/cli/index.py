"""The verbs that keep an index: `index build`, `add`, `delete`, `compact`, `check`, `info` and `duplicates`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from latentbridge.cli.arguments import AsJson, ModelName, check_at_least, check_folder
from latentbridge.cli.filling import fill, list_left_out, tell
from latentbridge.errors import UserError

if TYPE_CHECKING:
    from latentbridge.data.picture_sources import Source
    from latentbridge.retrieval.filters import Condition
    from latentbridge.retrieval.index import Index

_HELP = """Build and keep an index of pictures.

\b
Examples:
  latentbridge index build my_pictures
  latentbridge index check my_pictures
"""
app = typer.Typer(help=_HELP, rich_markup_mode=None, no_args_is_help=True)

INDEX_NAME = ".latentbridge-index"
"""Where a folder's index is kept unless --store says otherwise."""

Address = Annotated[
    str,
    typer.Argument(
        metavar="INDEX", help="An index, or the folder of pictures it is of, or postgres://host/database/name."
    ),
]
Where = Annotated[
    list[str] | None,
    typer.Option("--where", metavar="FIELD=VALUE", help="Only what meets this; also !=, <, <=, >, >=. Repeatable."),
]
Fields = Annotated[
    list[str] | None, typer.Option("--field", metavar="FIELD=VALUE", help="Stored with every picture. Repeatable.")
]


@app.command()
def build(
    source: Annotated[
        str,
        typer.Argument(
            metavar="SOURCE", help="A folder of pictures, a manifest (.jsonl), or a folder or url of shards."
        ),
    ],
    store: Annotated[
        str | None,
        typer.Option(
            "--store",
            "--out",
            help=f"Where the index goes: a folder (SOURCE/{INDEX_NAME} unless given), or an address.",
        ),
    ] = None,
    fields: Fields = None,
    model: ModelName = "tiny",
    as_json: AsJson = False,
) -> None:
    """Index pictures, so that `latentbridge search` answers at once.

    Again, it takes in what is new or changed and drops what is gone. Stopped at any moment, it goes on where it stopped.
    Pictures that cannot be read are named, left out, and listed beside the index.

    \b
    Examples:
      latentbridge index build my_pictures
      latentbridge index build my_pictures --store my_index --field owner=anna
      latentbridge index build pairs.jsonl --store postgres://localhost/pictures/pairs
    """
    from latentbridge.data.picture_sources import open_source

    found = open_source(source)
    target = store or (str(Path(source) / INDEX_NAME) if Path(source).is_dir() else "")
    if not target:
        raise UserError(f"{source} is not a folder of this machine; say with --store where its index goes.")
    said = _fields(fields)
    if "://" not in target:
        check_folder(Path(target))
    from latentbridge.cli.loading import open_model
    from latentbridge.models.checkpoint import fingerprint
    from latentbridge.retrieval.items import shown
    from latentbridge.retrieval.stores import create_index, holds_index

    finder, new = open_model(model), not holds_index(target)
    index = create_index(target, finder.embedding_size, fingerprint(finder))
    built = fill(finder, index, found, said)
    if "://" not in target:
        list_left_out(Path(target), built.left_out)
    if not len(index):
        index.close()
        if new and "://" not in target:
            _remove(Path(target))
        raise UserError(f"None of the {len(built.left_out)} pictures in {source} can be read; see the lines above.")
    tell(shown(target), index, built, as_json)


@app.command()
def add(
    address: Address,
    sources: Annotated[list[str], typer.Argument(metavar="SOURCES", help="Pictures, or what `index build` takes.")],
    fields: Fields = None,
    model: ModelName = "tiny",
    as_json: AsJson = False,
) -> None:
    """Add pictures to an index, or take in their new versions; nothing is dropped.

    \b
    Examples:
      latentbridge index add my_pictures new.png other.jpg
      latentbridge index add my_index holiday --field year=2026
    """
    from latentbridge.data.picture_sources import MANIFEST_SUFFIX, FilePictures, open_source

    files = [Path(source) for source in sources if Path(source).is_file() and not source.endswith(MANIFEST_SUFFIX)]
    folder = Path(address) if (Path(address) / INDEX_NAME).is_dir() else None
    found: list[Source] = [FilePictures(files, folder)] if files else []
    found += [open_source(source) for source in sources if Path(source) not in files]
    said = _fields(fields)
    from latentbridge.cli.loading import open_model
    from latentbridge.indexing import Built
    from latentbridge.query import check_maker
    from latentbridge.retrieval.items import shown

    index = open_at(address)
    finder = open_model(model)
    check_maker(finder, index, shown(address))
    built = sum((fill(finder, index, each, said, mirror=False) for each in found), Built())
    tell(shown(address), index, built, as_json)


@app.command()
def delete(
    address: Address,
    ids: Annotated[list[str] | None, typer.Argument(metavar="IDS", help="Items, by their ids.")] = None,
    where: Where = None,
    as_json: AsJson = False,
) -> None:
    """Remove items from an index, by id or by what is known of them; the pictures themselves stay.

    \b
    Examples:
      latentbridge index delete my_pictures sub/c.png
      latentbridge index delete my_index --where owner=anna --where "width<100"
    """
    if bool(ids) == bool(where):
        raise UserError("Say which items are removed: either their ids, or --where.")
    conditions = conditions_of(where)
    from latentbridge.cli.output import print_json

    index = open_at(address)
    chosen = ids or list(index.ids(conditions))
    missing = [name for name, known in zip(chosen, index.metadata(chosen), strict=True) if known is None]
    if missing:
        raise UserError(
            f"The index holds no item {missing[0]!r}, so nothing was removed; `latentbridge search` tells ids."
        )
    removed = index.delete(chosen)
    print_json({"removed": removed, "items": len(index)}) if as_json else print(
        f"{removed:,} removed, {len(index):,} left"
    )


@app.command()
def compact(address: Address) -> None:
    """Give back the room of what was removed, and make searches quick again.

    \b
    Examples:
      latentbridge index compact my_pictures
    """
    index = open_at(address)
    index.compact()
    print(_described(index))


@app.command()
def check(
    address: Address,
    sample: Annotated[int, typer.Option("--sample", help="Number of searches compared with exact ones.")] = 100,
    as_json: AsJson = False,
) -> None:
    """Check that an index is sound, and how much of what is best its searches find.

    Ends with exit code 1 where there are faults or the recall is below 0.95.

    \b
    Examples:
      latentbridge index check my_pictures
      latentbridge index check my_index --sample 1000 --json
    """
    check_at_least("--sample", sample, 1)
    from dataclasses import asdict

    from latentbridge.cli.output import print_json
    from latentbridge.retrieval.health import LEAST_RECALL, health

    found = health(open_at(address), sample)
    if as_json:
        print_json(asdict(found))
    else:
        for fault in found.faults:
            print(f"fault: {fault}")
        print(
            f"{found.items:,} items, {len(found.faults)} faults, recall@10 {found.recall:.3f} of {found.queries} searches"
        )
    if found.faults or found.recall < LEAST_RECALL:
        raise typer.Exit(1)


@app.command()
def info(address: Address, as_json: AsJson = False) -> None:
    """Say what an index holds, what keeps it and how it is searched.

    \b
    Examples:
      latentbridge index info my_pictures
      latentbridge index info my_index --json
    """
    from latentbridge.cli.output import print_json

    index = open_at(address)
    known = {"items": len(index), "dimension": index.dimension, "model": index.maker, **index.description()}
    if as_json:
        print_json(known)
    else:
        for name, value in known.items():
            print(f"{name:<10}{f'{value:,}' if isinstance(value, int) else value}")


@app.command()
def duplicates(
    address: Address,
    above: Annotated[float, typer.Option("--above", help="Cosine from which on two pictures are the same.")] = 0.995,
    where: Where = None,
    as_json: AsJson = False,
) -> None:
    """List pairs of pictures that are nearly the same, the one that was indexed first in front.

    \b
    Examples:
      latentbridge index duplicates my_pictures
      latentbridge index duplicates my_index --above 0.98 --where kind=png --json
    """
    if not 0 < above <= 1:
        raise UserError(f"--above {above} is out of range; give a cosine above 0 and up to 1, such as 0.98.")
    conditions = conditions_of(where)
    from latentbridge.cli.output import print_json
    from latentbridge.retrieval.duplicates import near_duplicates

    pairs = near_duplicates(open_at(address), above, conditions)
    if as_json:
        print_json({"above": above, "pairs": [{"ids": [a, b], "score": round(score, 6)} for a, b, score in pairs]})
    else:
        for one, other, score in pairs:
            print(f"{score:.3f}  {one}  {other}")


def open_at(address: str) -> Index:
    """The index at an address, or the one that was built inside a folder of pictures."""
    from latentbridge.retrieval.stores import holds_index, open_index

    inside = Path(address) / INDEX_NAME
    return open_index(str(inside) if "://" not in address and holds_index(inside) else address)


def conditions_of(where: list[str] | None) -> list[Condition]:
    """What --where asks for."""
    from latentbridge.retrieval.filters import parse_condition

    return [parse_condition(text) for text in where or []]


def _fields(written: list[str] | None) -> dict[str, Any]:
    from latentbridge.retrieval.filters import parse_condition

    found = {}
    for text in written or []:
        try:
            condition = parse_condition(text)
        except UserError:
            condition = None
        if condition is None or condition.operator != "=":
            raise UserError(f"--field {text} says nothing to store; write it like owner=anna.")
        found[condition.field] = condition.value
    return found


def _described(index: Index) -> str:
    return f"{len(index):,} items; " + ", ".join(f"{name}: {value}" for name, value in index.description().items())


def _remove(folder: Path) -> None:
    """A new index that holds nothing leaves nothing."""
    import shutil

    shutil.rmtree(folder)
