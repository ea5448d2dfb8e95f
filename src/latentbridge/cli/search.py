"""The `search` command."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from latentbridge.cli.arguments import PICTURE_SUFFIXES, AsJson, ModelName, check_at_least, check_out
from latentbridge.cli.index import (
    INDEX_NAME,
    Where,
    known_ids,
    open_index_at,
    parse_conditions,
    sync_with_progress,
    unknown_fields,
)
from latentbridge.cli.loading import AS_RELEASED, Loading, with_loading_flags
from latentbridge.cli.output import exit_if_left_out, make_grid, print_json, print_warnings, save_picture
from latentbridge.errors import UserError
from latentbridge.prompts import check_text

if TYPE_CHECKING:
    from latentbridge.data.picture_sources import Source
    from latentbridge.models.unified import UnifiedModel
    from latentbridge.query import QueryPart
    from latentbridge.retrieval.base_index import Index
    from latentbridge.types import Hit

_PAGE_SUFFIX = ".html"
_THUMBNAIL_PX = 160
_MAX_WEIGHT = 100.0


@with_loading_flags
def search(
    address: Annotated[
        str, typer.Argument(metavar="INDEX", help="An index, a folder of pictures, or postgres://host/database/name.")
    ],
    query: Annotated[str | None, typer.Argument(metavar="QUERY", help="The text to search for.")] = None,
    image: Annotated[Path | None, typer.Option("--image", help="Search for pictures like this one.")] = None,
    like: Annotated[
        list[str] | None, typer.Option("--like", metavar="ID", help="Search for more like this item. Repeatable.")
    ] = None,
    also: Annotated[
        list[str] | None, typer.Option("--also", metavar="WORDS[:WEIGHT]", help="Text to add; weight 1. Repeatable.")
    ] = None,
    but_not: Annotated[
        list[str] | None, typer.Option("--not", metavar="WORDS[:WEIGHT]", help="Text to avoid; weight 0.5. Repeatable.")
    ] = None,
    where: Where = None,
    k: Annotated[int, typer.Option("-k", help="Number of results.")] = 10,
    out: Annotated[Path | None, typer.Option("--out", help="Page (.html) or grid of pictures (.png) to write.")] = None,
    allow_unknown: Annotated[bool, typer.Option("--allow-unknown", help="Rank by unknown words alone.")] = False,
    model: ModelName = "tiny",
    loading: Loading = AS_RELEASED,
    as_json: AsJson = False,
) -> None:
    """Find pictures by text, a picture, items of the index, or any of them together.

    A folder without an index is indexed in memory first, which takes longer. Words that the model does not know are
    reported and ignored; if nothing else is left to search for, nothing is found. The exit code is 3 if pictures of a
    folder without an index could not be read.

    \b
    Examples:
      latentbridge search my_pictures "a sea animal"
      latentbridge search my_pictures "but red" --image q.png
      latentbridge search my_pictures "a harbour" --also night:0.5 --not people --where "width>=640"
      latentbridge search my_index --like sub/c.png -k 3 --out results.html
    """
    if query is None and image is None and not like:
        raise UserError("Give something to look for: words as QUERY, --image, or --like with the id of an item.")
    texts = [(query, 1.0)] if query is not None else []
    texts += [_parse_weight(text, 1.0) for text in also or []]
    texts += [(text, -weight) for text, weight in (_parse_weight(text, 0.5) for text in but_not or [])]
    for text, _ in texts:
        check_text("query", text)
    check_at_least("-k", k, 1)
    if out:
        check_out(out, (_PAGE_SUFFIX, *PICTURE_SUFFIXES))
    conditions = parse_conditions(where)
    from latentbridge.images import open_picture
    from latentbridge.query import QueryPart, check_index_model, search_index
    from latentbridge.retrieval.base_index import Index
    from latentbridge.retrieval.validation import redact_password

    parts = [QueryPart(text=text, weight=weight) for text, weight in texts]
    if image:
        parts.append(QueryPart(picture=open_picture(image)))
    opened = _open_index_or_source(address)

    loaded, num_left_out = loading.open(model), 0
    index = opened
    if not isinstance(index, Index):
        index, num_left_out = _index_in_memory(loaded, index)
    parts += [QueryPart(item=name) for name in known_ids(index, like or [])]
    check_index_model(loaded, index, redact_password(address))
    hits = search_index(loaded, index, *parts, k=k, where=conditions, allow_unknown=allow_unknown)
    warnings = hits.warnings + unknown_fields(index, conditions, bool(hits))
    print_warnings([f"{sentence[0].lower()}{sentence[1:]}" for sentence in warnings])
    if out:
        _write_results(index, hits, _describe_query(parts, image), out)
    if as_json:
        options = {"query": query, "image": image, "like": like, "also": also, "not": but_not, "where": where}
        rows = [
            {"id": hit.id, "score": round(hit.score, 6), "metadata": metadata}
            for hit, metadata in zip(hits, index.metadata([hit.id for hit in hits]), strict=True)
        ]
        results = {"hits": rows, "warnings": warnings, "unknown_words": hits.unknown_words}
        print_json({**{name: value for name, value in options.items() if value}, **results})
    else:
        for hit in hits:
            print(f"{hit.score:.3f}  {hit.id}")
        if not hits:
            print("Nothing was found.", file=sys.stderr)
    exit_if_left_out(num_left_out)


def _parse_weight(text: str, weight: float) -> tuple[str, float]:
    """Split a text from the weight after its last colon, if there is one."""
    if match := re.fullmatch(
        r"(.*):\s*((?:\d+\.?\d*|\.\d+)(?:e[+-]?\d+)?|nan|inf)\s*", text, re.DOTALL | re.IGNORECASE
    ):
        text, weight = match[1], float(match[2])
    if not 0 < weight <= _MAX_WEIGHT:
        raise UserError(f"The weight of {text!r} is out of range; give a number above 0 and up to {_MAX_WEIGHT:.0f}.")
    return text, weight


def _open_index_or_source(address: str) -> Index | Source:
    """Open the index at an address or, if there is none, the source of pictures."""
    from latentbridge.data.picture_sources import open_source
    from latentbridge.retrieval.index_factory import is_index_folder

    if "://" in address or is_index_folder(address) or is_index_folder(Path(address) / INDEX_NAME):
        return open_index_at(address)
    return open_source(address)


def _index_in_memory(model: UnifiedModel, source: Source) -> tuple[Index, int]:
    """Index all readable pictures, and return also how many were left out; raises UserError if there are none."""
    from latentbridge.models.checkpoint import fingerprint
    from latentbridge.retrieval.exact_index import ExactIndex

    index = ExactIndex(model.embedding_size, fingerprint(model))
    result = sync_with_progress(model, index, source)
    if not len(index):
        raise UserError(
            f"None of the {len(result.left_out)} pictures in {source.name} can be read; see the lines above."
        )
    return index, len(result.left_out)


def _describe_query(parts: list[QueryPart], image: Path | None) -> str:
    """Return a title for the results of a query."""

    def describe(part: QueryPart) -> str:
        what = part.text or (f"like {part.item}" if part.item else f"like {image}")
        return f"{'not ' if part.weight < 0 else ''}{what}" + ("" if part.weight == 1 else f" ({abs(part.weight):g})")

    return ", ".join(map(describe, parts))


def _write_results(index: Index, hits: list[Hit], title: str, out: Path) -> None:
    """Write the hits as a page, or as a grid of thumbnails."""
    from latentbridge.query import item_thumbnails

    ids = [hit.id for hit in hits]
    thumbnails = item_thumbnails(index, ids, index.metadata(ids), _THUMBNAIL_PX)
    if out.suffix.lower() == _PAGE_SUFFIX:
        from latentbridge.evaluation.pages.page import Section, figure_html, write_page

        captions = (f"{hit.score:.3f}  {hit.id}" for hit in hits)
        body = f'<div class="cards narrow">{"".join(map(figure_html, thumbnails, captions))}</div>'
        write_page(out, title, f"{len(hits)} results, best first", [Section("results", "Results", "", body)])
        return
    if not thumbnails:
        raise UserError(f"Nothing was found, so there is nothing to show in {out}; search for something else.")
    save_picture(make_grid(thumbnails, columns=5, scale=1), out)
