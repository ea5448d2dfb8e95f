"""The verbs that find pictures: `index build` and `search`."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from latentbridge.cli.arguments import AsJson, ModelName, check_at_least, check_folder, check_text
from latentbridge.errors import UserError

if TYPE_CHECKING:
    from latentbridge.models.omnibridge.model import Model
    from latentbridge.retrieval.index import Index
    from latentbridge.types import Picture

app = typer.Typer(help="Build an index of a folder of pictures.", rich_markup_mode=None, no_args_is_help=True)

INDEX_NAME = ".latentbridge-index"
"""Where a folder's index is kept unless --out says otherwise."""
SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".ppm", ".pgm")


@app.command()
def build(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="A folder of pictures, searched with its subfolders.")],
    out: Annotated[
        Path | None, typer.Option("--out", help=f"The index folder to write; DIR/{INDEX_NAME} unless given.")
    ] = None,
    model: ModelName = "tiny",
) -> None:
    """Index a folder of pictures, so that `latentbridge search` answers at once.

    Pictures that cannot be read are named and left out.

    \b
    Examples:
      latentbridge index build my_pictures
      latentbridge index build my_pictures --out my_index
    """
    paths = _pictures_in(folder)
    target = out or folder / INDEX_NAME
    check_folder(target)
    from latentbridge.models.checkpoint import load

    index = _build(folder, paths, load(model))
    index.save(target)
    print(f"{target}: {len(index):,} pictures")


def search(
    source: Annotated[Path, typer.Argument(metavar="DIR", help="An index, or a folder of pictures.")],
    query: Annotated[str | None, typer.Argument(metavar="QUERY", help="What to look for, in words.")] = None,
    image: Annotated[Path | None, typer.Option("--image", help="Look for pictures like this one.")] = None,
    text: Annotated[str | None, typer.Option("--text", help="With --image: what should be different.")] = None,
    k: Annotated[int, typer.Option("-k", help="Number of results.")] = 10,
    model: ModelName = "tiny",
    as_json: AsJson = False,
) -> None:
    """Find pictures by words, a picture, or both.

    A folder without an index is indexed in passing, which takes longer.

    \b
    Examples:
      latentbridge search my_pictures "a sea animal"
      latentbridge search my_pictures --image q.png
      latentbridge search my_pictures --image q.png --text "but red" -k 3 --json
    """
    if (query is None) == (image is None):
        raise UserError('Give either words to look for or --image; words that refine a picture go to --text "but red".')
    if text is not None and image is None:
        raise UserError("--text refines --image; to search by words alone, give them as QUERY.")
    for kind, words in (("query", query), ("text", text)):
        if words is not None:
            check_text(kind, words)
    check_at_least("-k", k, 1)
    from latentbridge.cli.output import print_json
    from latentbridge.images import open_picture
    from latentbridge.retrieval.index import Index

    stored = next((path for path in (source, source / INDEX_NAME) if (path / "manifest.json").is_file()), None)
    paths = [] if stored else _pictures_in(source)
    picture = open_picture(image) if image else None
    index = Index.load(stored) if stored else None
    from latentbridge.models.checkpoint import fingerprint, load
    from latentbridge.search import search_index

    finder = load(model)
    if index is not None and index.maker not in ("", fingerprint(finder)):
        raise UserError(f"{stored} was built with another model; build it again or name that model with --model.")
    if index is None:
        index = _build(source, paths, finder)
    hits = search_index(finder, index, text=query, image=picture, but=text, k=k)
    if as_json:
        asked = {"query": query, "image": image, "text": text}
        print_json({**asked, "hits": [{"id": hit.id, "score": round(hit.score, 6)} for hit in hits]})
    else:
        for hit in hits:
            print(f"{hit.score:.3f}  {hit.id}")


def _pictures_in(folder: Path) -> list[Path]:
    if not folder.is_dir():
        raise UserError(f"{folder} is neither an index nor a folder of pictures; check the path.")
    paths = sorted(path for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES and path.is_file())
    if not paths:
        raise UserError(f"There are no pictures in {folder}; looked for {', '.join(SUFFIXES)}.")
    return paths


def _build(folder: Path, paths: list[Path], model: Model) -> Index:
    """An index of the readable pictures, by their paths inside `folder`; the others are named on stderr."""
    from tqdm import tqdm

    from latentbridge.images import fit_square, open_picture
    from latentbridge.search import build_index

    def read() -> Iterator[tuple[str, Picture]]:
        for path in tqdm(paths, desc="indexing", disable=None):
            try:
                picture = fit_square(open_picture(path), model.config.backbone.image_size_px)
            except UserError as error:
                tqdm.write(f"left out: {error}", file=sys.stderr)
            else:
                yield path.relative_to(folder).as_posix(), picture

    index = build_index(model, read())
    if not len(index):
        raise UserError(f"None of the {len(paths)} pictures in {folder} can be read; see the lines above.")
    return index
