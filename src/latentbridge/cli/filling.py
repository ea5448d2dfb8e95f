"""What the verbs share that fill an index: progress and faults on stderr, what came of it, and the list of what was left out."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from latentbridge.data.pictures import Source
    from latentbridge.indexing import Built
    from latentbridge.models.omnibridge.modeling_omnibridge import Model
    from latentbridge.retrieval.index import Index

LEFT_OUT = "left_out.txt"
"""The pictures that could not be used, listed beside the index."""


def fill(
    model: Model, index: Index, source: Source, fields: dict[str, Any] | None = None, mirror: bool = True
) -> Built:
    """`fill_index` with a bar, and with what is left out named as it is met."""
    from tqdm import tqdm

    from latentbridge.indexing import fill_index

    def say(sentence: str) -> None:
        tqdm.write(f"left out: {sentence}", file=sys.stderr)

    with tqdm(total=source.count(), desc="indexing", unit="picture", disable=None) as bar:
        return fill_index(model, index, source, fields, mirror=mirror, left_out=say, progress=bar.update)


def tell(place: str, index: Index, built: Built, as_json: bool) -> None:
    """What a pass over a source came to."""
    from latentbridge.cli.output import print_json

    if as_json:
        counts = {"embedded": built.embedded, "unchanged": built.unchanged, "dropped": built.dropped}
        speed = {"seconds": round(built.seconds, 1), "pictures a second": round(built.rate, 1)}
        print_json({"index": place, "items": len(index), **counts, "left out": built.left_out, **speed})
        return
    done = f"{built.embedded:,} embedded at {built.rate:.1f} a second" if built.embedded else "none of them new"
    more = {"unchanged": built.unchanged, "dropped": built.dropped, "left out": len(built.left_out)}
    print(f"{place}: {len(index):,} pictures, {done}" + "".join(f", {n:,} {what}" for what, n in more.items() if n))


def list_left_out(folder: Path, sentences: list[str]) -> None:
    """The list beside the index, where there is anything to list."""
    from latentbridge.files import atomic_write

    if not sentences:
        (folder / LEFT_OUT).unlink(missing_ok=True)
        return
    with atomic_write(folder / LEFT_OUT) as temporary:
        temporary.write_text("".join(f"{sentence}\n" for sentence in sentences), encoding="utf-8", errors="replace")
