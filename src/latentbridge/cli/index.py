"""The subcommands of `latentbridge index`: `build`, `add`, `delete`, `compact`, `check`, `info` and `duplicates`."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from latentbridge.cli.arguments import AsJson, ModelName, Strict, check_at_least, check_folder
from latentbridge.cli.loading import AS_RELEASED, Loading, with_loading_flags
from latentbridge.cli.output import exit_if_left_out, print_json, print_warnings
from latentbridge.errors import StorageError, UserError
from latentbridge.retrieval.filters import SCALAR_TYPES, Condition, parse_condition, scalar_type

if TYPE_CHECKING:
    from collections import Counter

    from latentbridge.data.picture_sources import Source
    from latentbridge.indexing import IndexingResult
    from latentbridge.models.unified import UnifiedModel
    from latentbridge.retrieval.base_index import Index

_HELP = """Build and maintain an index of pictures.

\b
Examples:
  latentbridge index build my_pictures
  latentbridge index check my_pictures
"""
app = typer.Typer(help=_HELP, rich_markup_mode=None, no_args_is_help=True)

INDEX_NAME = ".latentbridge-index"
"""Default folder of an index, inside the folder of pictures."""
_LEFT_OUT_FILE = "left_out.txt"

Address = Annotated[
    str, typer.Argument(metavar="INDEX", help="An index, an indexed folder, or postgres://host/database/name.")
]
Where = Annotated[
    list[str] | None, typer.Option("--where", metavar="FIELD=VALUE", help="Filter; also !=, <, <=, >, >=. Repeatable.")
]
Fields = Annotated[
    list[str] | None, typer.Option("--field", metavar="FIELD=VALUE", help="Metadata for every picture. Repeatable.")
]


@app.command()
@with_loading_flags
def build(
    source: Annotated[
        str,
        typer.Argument(metavar="SOURCE", help="A folder of pictures, a manifest (.jsonl), or shards (folder, URL)."),
    ],
    store: Annotated[
        str | None, typer.Option("--store", "--out", help=f"Folder or address; default SOURCE/{INDEX_NAME}.")
    ] = None,
    fields: Fields = None,
    strict: Strict = False,
    model: ModelName = "tiny",
    loading: Loading = AS_RELEASED,
    as_json: AsJson = False,
) -> None:
    """Index pictures for `latentbridge search`.

    Run again, it indexes new and changed pictures and drops deleted ones; interrupted, it resumes. Unreadable pictures
    are left out and listed in left_out.txt beside the index; the exit code is then 3. What cannot be read now but was
    indexed before stays in the index.

    \b
    Examples:
      latentbridge index build my_pictures
      latentbridge index build my_pictures --store my_index --field owner=anna
      latentbridge index build pairs.jsonl --store postgres://localhost/pictures/pairs
    """
    from latentbridge.data.picture_sources import open_source

    pictures = open_source(source)
    target = store or (str(Path(source) / INDEX_NAME) if Path(source).is_dir() else "")
    if not target:
        raise UserError(f"{source} is not a local folder; say with --store where its index goes.")
    metadata, is_folder = _parse_fields(fields), "://" not in target
    if is_folder:
        check_folder(Path(target))
    from latentbridge.models.checkpoint import fingerprint
    from latentbridge.retrieval.index_factory import create_index, is_index_folder
    from latentbridge.retrieval.validation import redact_password

    loaded, is_new = loading.open(model), not is_index_folder(target)
    index = create_index(target, loaded.embedding_size, fingerprint(loaded))
    try:
        result = sync_with_progress(loaded, index, pictures, metadata, strict=strict)
        if not len(index):
            raise UserError(
                f"None of the {len(result.left_out)} pictures in {source} can be read; see the lines above."
            )
    except StorageError:  # what is committed stays, and the next build goes on
        raise
    except UserError:
        index.close()
        if is_new and is_folder:
            shutil.rmtree(target)
        raise
    if is_folder:
        _write_left_out(Path(target), result.left_out)
    _print_result(redact_password(target), index, result, pictures.passed_over, as_json)
    exit_if_left_out(len(result.left_out))


@app.command()
@with_loading_flags
def add(
    address: Address,
    sources: Annotated[list[str], typer.Argument(metavar="SOURCES", help="Pictures, or sources as in `index build`.")],
    fields: Fields = None,
    strict: Strict = False,
    model: ModelName = "tiny",
    loading: Loading = AS_RELEASED,
    as_json: AsJson = False,
) -> None:
    """Add pictures to an index, or replace changed ones; nothing is dropped. Left-out pictures make the exit code 3.

    \b
    Examples:
      latentbridge index add my_pictures new.png other.jpg
      latentbridge index add my_index holiday --field year=2026
    """
    from collections import Counter

    from latentbridge.data.picture_sources import MANIFEST_SUFFIX, FilePictures, open_source

    files = [Path(source) for source in sources if Path(source).is_file() and not source.endswith(MANIFEST_SUFFIX)]
    folder = Path(address) if (Path(address) / INDEX_NAME).is_dir() else None
    opened: list[Source] = [FilePictures(files, folder)] if files else []
    opened += [open_source(source) for source in sources if Path(source) not in files]
    metadata = _parse_fields(fields)
    from latentbridge.indexing import IndexingResult
    from latentbridge.query import check_index_model
    from latentbridge.retrieval.validation import redact_password

    index = open_index_at(address)
    loaded = loading.open(model)
    check_index_model(loaded, index, redact_password(address))
    results = [
        sync_with_progress(loaded, index, pictures, metadata, mirror=False, strict=strict) for pictures in opened
    ]
    result, passed_over = sum(results, IndexingResult()), sum((each.passed_over for each in opened), Counter[str]())
    _print_result(redact_password(address), index, result, passed_over, as_json)
    exit_if_left_out(len(result.left_out))


@app.command()
def delete(
    address: Address,
    ids: Annotated[list[str] | None, typer.Argument(metavar="IDS", help="Ids of items.")] = None,
    where: Where = None,
    as_json: AsJson = False,
) -> None:
    """Remove items from an index by id or metadata; the picture files stay.

    \b
    Examples:
      latentbridge index delete my_pictures sub/c.png
      latentbridge index delete my_index --where owner=anna --where "width<100"
    """
    if bool(ids) == bool(where):
        raise UserError("Say which items to remove: either their ids, or --where.")
    conditions = parse_conditions(where)
    index = open_index_at(address)
    ids = known_ids(index, ids) if ids else list(index.ids(conditions))
    if unknown := unknown_fields(index, conditions, bool(ids)):
        raise UserError(unknown[0])
    missing = [name for name, metadata in zip(ids, index.metadata(ids), strict=True) if metadata is None]
    if missing:
        raise UserError(
            f"The index holds no item {missing[0]!r}, so nothing was removed; `latentbridge search` prints ids."
        )
    removed, items = index.delete(ids), len(index)
    if as_json:
        print_json({"removed": removed, "items": items})
    else:
        print(f"{removed:,} removed, {items:,} left")


@app.command()
def compact(address: Address) -> None:
    """Reclaim the space of removed items, and optimise searches.

    \b
    Examples:
      latentbridge index compact my_pictures
    """
    index = open_index_at(address)
    index.compact()
    print(f"{len(index):,} items; " + ", ".join(f"{name}: {value}" for name, value in index.description().items()))


@app.command()
def check(
    address: Address,
    sample: Annotated[int, typer.Option("--sample", help="Number of searches compared with exact ones.")] = 100,
    as_json: AsJson = False,
) -> None:
    """Check the integrity of an index and the recall of its searches.

    Exits with code 1 if there are errors or the recall is below 0.95.

    \b
    Examples:
      latentbridge index check my_pictures
      latentbridge index check my_index --sample 1000 --json
    """
    check_at_least("--sample", sample, 1)
    from dataclasses import asdict

    from latentbridge.retrieval.health_check import LEAST_RECALL, check_health

    report = check_health(open_index_at(address), sample)
    if as_json:
        print_json(asdict(report))
    else:
        for error in report.errors:
            print(f"error: {error}")
        counts = f"{report.items:,} items, {len(report.errors)} errors"
        print(f"{counts}, recall@10 {report.recall:.3f} of {report.queries} searches")
    if report.errors or report.recall < LEAST_RECALL:
        raise typer.Exit(1)


@app.command()
def info(address: Address, as_json: AsJson = False) -> None:
    """Print the size of an index, its location and its search method.

    \b
    Examples:
      latentbridge index info my_pictures
      latentbridge index info my_index --json
    """
    index = open_index_at(address)
    values = {"items": len(index), "dimension": index.dimension, "model": index.model_fingerprint}
    values |= index.description()
    if as_json:
        print_json(values)
    else:
        for name, value in values.items():
            print(f"{name:<10}{f'{value:,}' if isinstance(value, int) else value}")


@app.command()
def duplicates(
    address: Address,
    above: Annotated[float, typer.Option("--above", help="Least cosine of near-duplicates.")] = 0.995,
    where: Where = None,
    as_json: AsJson = False,
) -> None:
    """List pairs of near-duplicate pictures, the one indexed first in front.

    \b
    Examples:
      latentbridge index duplicates my_pictures
      latentbridge index duplicates my_index --above 0.98 --where kind=png --json
    """
    if not 0 < above <= 1:
        raise UserError(f"--above {above} is out of range; give a cosine above 0 and up to 1, such as 0.98.")
    conditions = parse_conditions(where)
    from latentbridge.retrieval.near_duplicates import find_near_duplicates

    index = open_index_at(address)
    pairs = find_near_duplicates(index, above, conditions)
    print_warnings(unknown_fields(index, conditions, bool(pairs)))
    if as_json:
        print_json({"above": above, "pairs": [{"ids": [a, b], "score": round(score, 6)} for a, b, score in pairs]})
    else:
        for first, second, score in pairs:
            print(f"{score:.3f}  {first}  {second}")


def open_index_at(address: str) -> Index:
    """Open the index at an address, or the one inside a folder of pictures."""
    from latentbridge.retrieval.index_factory import is_index_folder, open_index

    inside = Path(address) / INDEX_NAME
    return open_index(str(inside) if "://" not in address and is_index_folder(inside) else address)


def parse_conditions(where: list[str] | None) -> list[Condition]:
    """Parse the values of --where."""
    return [parse_condition(text) for text in where or []]


def unknown_fields(index: Index, conditions: list[Condition], found: bool) -> list[str]:
    """Return a sentence per condition on a field that no item has, or that holds values of another type only.

    Reads all metadata, unless something was `found` by conditions that need their fields.
    """
    negated = any(condition.operator == "!=" for condition in conditions)
    known = index.fields() if conditions and (negated or not found) and len(index) else {}
    sentences: list[str] = []
    for condition in conditions if known else ():
        types, name = known.get(condition.field), condition.field
        if types is None:
            own = sorted(field for field in known if not field.startswith("latentbridge."))
            sentences.append(f"No item has the field {name!r}; the index has {', '.join(own) or 'none'}.")
        elif condition.operator != "!=" and scalar_type(condition.value) not in types and types & SCALAR_TYPES:
            as_text = f", so write it as --where '{name}{condition.operator}\"{condition.value}\"'"
            sentences.append(
                f"The field {name!r} holds {' or '.join(sorted(types))}{as_text if types == {'text'} else ''}."
            )
    return sentences


def known_ids(index: Index, ids: list[str]) -> list[str]:
    """Return ids as the index spells them: accents are composed there, whatever the keyboard or the shell writes."""
    from latentbridge.data.picture_sources import normal_form

    known = index.metadata(ids)
    return [name if metadata is not None else normal_form(name) for name, metadata in zip(ids, known, strict=True)]


def sync_with_progress(
    model: UnifiedModel,
    index: Index,
    source: Source,
    metadata: dict[str, Any] | None = None,
    mirror: bool = True,
    strict: bool = False,
) -> IndexingResult:
    """Call `sync_index` with a progress bar; print what is left out on stderr or, if `strict`, raise UserError for it."""
    from tqdm import tqdm

    from latentbridge.indexing import sync_index

    def print_left_out(sentence: str) -> None:
        if strict:
            raise UserError(f"{sentence.removesuffix('.')}; mend or remove it, or go on without --strict.")
        tqdm.write(f"left out: {sentence}", file=sys.stderr)

    with tqdm(total=source.count(), desc="indexing", unit="picture", disable=None) as bar:
        return sync_index(
            model, index, source, metadata, mirror=mirror, on_left_out=print_left_out, on_progress=bar.update
        )


def _parse_fields(fields: list[str] | None) -> dict[str, Any]:
    """Parse the values of --field."""
    metadata = {}
    for text in fields or []:
        try:
            condition = parse_condition(text)
        except UserError:
            condition = None
        if condition is None or condition.operator != "=":
            raise UserError(f"--field {text} has no value to store; write it like owner=anna.")
        metadata[condition.field] = condition.value
    from latentbridge.data.picture_sources import reserved_field

    if name := reserved_field(metadata):
        raise UserError(f"--field {name} begins like the index's own fields; choose another name.")
    return metadata


def _print_result(address: str, index: Index, result: IndexingResult, passed_over: Counter[str], as_json: bool) -> None:
    rate = result.embedded / max(result.seconds, 1e-9)
    if as_json:
        counts = {"embedded": result.embedded, "unchanged": result.unchanged, "dropped": result.dropped}
        speed = {"seconds": round(result.seconds, 1), "pictures a second": round(rate, 1)}
        without = {"left out": result.left_out, "passed over": dict(passed_over)}
        print_json({"index": address, "items": len(index), **counts, **without, **speed})
        return
    from latentbridge.data.picture_sources import describe_counts

    embedded = f"{result.embedded:,} embedded at {rate:.1f} a second" if result.embedded else "none of them new"
    counts = {"unchanged": result.unchanged, "dropped": result.dropped, "left out": len(result.left_out)}
    others = "".join(f", {count:,} {name}" for name, count in counts.items() if count)
    files = f"; passed over {describe_counts(passed_over)}" if passed_over else ""
    print(f"{address}: {len(index):,} pictures, {embedded}{others}{files}")


def _write_left_out(folder: Path, sentences: list[str]) -> None:
    from latentbridge.files import atomic_write

    if not sentences:
        (folder / _LEFT_OUT_FILE).unlink(missing_ok=True)
        return
    with atomic_write(folder / _LEFT_OUT_FILE) as temporary:
        temporary.write_text("".join(f"{sentence}\n" for sentence in sentences), encoding="utf-8", errors="replace")
