"""The verb that finds pictures: `search`."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from latentbridge.cli.arguments import PICTURE_SUFFIXES, AsJson, ModelName, check_at_least, check_out
from latentbridge.cli.filling import fill
from latentbridge.cli.index import INDEX_NAME, Where, conditions_of, open_at
from latentbridge.errors import UserError
from latentbridge.prompts import check_text

if TYPE_CHECKING:
    from latentbridge.data.pictures import Source
    from latentbridge.models.omnibridge.modeling_omnibridge import Model
    from latentbridge.query import QueryPart
    from latentbridge.retrieval.index import Index
    from latentbridge.types import Hit

_PAGE_SUFFIX = ".html"
_THUMB_PX = 160
_MAX_WEIGHT = 100.0


def search(
    address: Annotated[
        str,
        typer.Argument(metavar="INDEX", help="An index, a folder of pictures, or postgres://host/database/name."),
    ],
    query: Annotated[str | None, typer.Argument(metavar="QUERY", help="What to look for, in words.")] = None,
    image: Annotated[Path | None, typer.Option("--image", help="Look for pictures like this one.")] = None,
    like: Annotated[
        list[str] | None, typer.Option("--like", metavar="ID", help="Look for more like this item. Repeatable.")
    ] = None,
    also: Annotated[
        list[str] | None,
        typer.Option("--also", metavar="WORDS[:WEIGHT]", help="What counts too; weight 1 unless given. Repeatable."),
    ] = None,
    but_not: Annotated[
        list[str] | None,
        typer.Option(
            "--not", metavar="WORDS[:WEIGHT]", help="What counts against; weight 0.5 unless given. Repeatable."
        ),
    ] = None,
    where: Where = None,
    k: Annotated[int, typer.Option("-k", help="Number of results.")] = 10,
    out: Annotated[
        Path | None, typer.Option("--out", help="Show the results on a page (.html) or a sheet (.png).")
    ] = None,
    allow_unknown: Annotated[
        bool, typer.Option("--allow-unknown", help="Rank by words even where the model knows none of them: a guess.")
    ] = False,
    model: ModelName = "tiny",
    as_json: AsJson = False,
) -> None:
    """Find pictures by words, a picture, items of the index, or any of them together.

    A folder without an index is indexed in passing, which takes longer. Words that the model does not know are named
    and left out; where it knows no word and there is nothing else to go by, nothing is found.

    \b
    Examples:
      latentbridge search my_pictures "a sea animal"
      latentbridge search my_pictures "but red" --image q.png
      latentbridge search my_pictures "a harbour" --also night:0.5 --not people --where "width>=640"
      latentbridge search my_index --like sub/c.png -k 3 --out results.html
    """
    if query is None and image is None and not like:
        raise UserError("Give something to look for: words as QUERY, --image, or --like with the id of an item.")
    words = [(query, 1.0)] if query is not None else []
    words += [_weighed(text, 1.0) for text in also or []]
    words += [(text, -weight) for text, weight in (_weighed(text, 0.5) for text in but_not or [])]
    for text, _ in words:
        check_text("query", text)
    check_at_least("-k", k, 1)
    if out:
        check_out(out, (_PAGE_SUFFIX, *PICTURE_SUFFIXES))
    conditions = conditions_of(where)
    from latentbridge.cli.output import print_json
    from latentbridge.images import open_picture
    from latentbridge.query import QueryPart, check_maker, search_index
    from latentbridge.retrieval.items import shown

    wishes = [QueryPart(words=text, weight=weight) for text, weight in words]
    if image:
        wishes.append(QueryPart(picture=open_picture(image)))
    wishes += [QueryPart(item=name) for name in like or []]
    index, source = _stored(address)
    from latentbridge.cli.loading import open_model

    finder = open_model(model)
    if index is None:
        assert source is not None
        index = _built(finder, source)
    check_maker(finder, index, shown(address))
    hits = search_index(finder, index, *wishes, k=k, where=conditions, allow_unknown=allow_unknown)
    for sentence in hits.warnings:
        print(f"warning: {sentence[0].lower()}{sentence[1:]}", file=sys.stderr)
    if out:
        _show(index, hits, _in_words(wishes, image), out)
    if as_json:
        known = index.metadata([hit.id for hit in hits])
        asked = {"query": query, "image": image, "like": like, "also": also, "not": but_not, "where": where}
        rows = [
            {"id": hit.id, "score": round(hit.score, 6), "metadata": metadata}
            for hit, metadata in zip(hits, known, strict=True)
        ]
        told = {"hits": rows, "warnings": hits.warnings, "unknown_words": hits.unknown_words}
        print_json({**{name: value for name, value in asked.items() if value}, **told})
    else:
        for hit in hits:
            print(f"{hit.score:.3f}  {hit.id}")
        if not hits:
            print("Nothing was found.", file=sys.stderr)


def _weighed(text: str, weight: float) -> tuple[str, float]:
    """Words and the weight after their last colon, if there is one."""
    if written := re.fullmatch(
        r"(.*):\s*((?:\d+\.?\d*|\.\d+)(?:e[+-]?\d+)?|nan|inf)\s*", text, re.DOTALL | re.IGNORECASE
    ):
        text, weight = written[1], float(written[2])
    if not 0 < weight <= _MAX_WEIGHT:
        raise UserError(f"The weight of {text!r} is out of range; give a number above 0 and up to {_MAX_WEIGHT:.0f}.")
    return text, weight


def _stored(address: str) -> tuple[Index | None, Source | None]:
    """The index at an address; where there is none, the pictures to make one of."""
    from latentbridge.data.pictures import open_source
    from latentbridge.retrieval.stores import holds_index

    if "://" in address or any(map(holds_index, (address, Path(address) / INDEX_NAME))):
        return open_at(address), None
    return None, open_source(address)


def _built(model: Model, source: Source) -> Index:
    """An index in memory of all pictures that can be read; the others are named on stderr."""
    from latentbridge.models.checkpoint import fingerprint
    from latentbridge.retrieval.exact import ExactIndex

    index = ExactIndex(model.embedding_size, fingerprint(model))
    built = fill(model, index, source)
    if not len(index):
        raise UserError(
            f"None of the {len(built.left_out)} pictures in {source.name} can be read; see the lines above."
        )
    return index


def _in_words(wishes: list[QueryPart], image: Path | None) -> str:
    """What was asked for, for a title."""

    def told(wish: QueryPart) -> str:
        what = wish.words or (f"like {wish.item}" if wish.item else f"like {image}")
        return f"{'not ' if wish.weight < 0 else ''}{what}" + ("" if wish.weight == 1 else f" ({abs(wish.weight):g})")

    return ", ".join(map(told, wishes))


def _show(index: Index, hits: list[Hit], title: str, out: Path) -> None:
    """The hits as a page, or as a sheet of small pictures in their order."""
    from latentbridge.query import show_items

    ids = [hit.id for hit in hits]
    thumbs = show_items(index, ids, index.metadata(ids), _THUMB_PX)
    if out.suffix.lower() == _PAGE_SUFFIX:
        from latentbridge.evaluation.pages.page import Section, figure_html, write_page

        figures = (figure_html(thumb, f"{hit.score:.3f}  {hit.id}") for hit, thumb in zip(hits, thumbs, strict=True))
        body = f'<div class="cards narrow">{"".join(figures)}</div>'
        write_page(out, title, f"{len(hits)} results, best first", [Section("results", "Results", "", body)])
        return
    from latentbridge.cli.output import lay_out, save_picture

    if not thumbs:
        raise UserError(f"Nothing was found, so there is nothing to show in {out}; ask for something else.")
    save_picture(lay_out(thumbs, columns=5, scale=1), out)
