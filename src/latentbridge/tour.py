"""Demonstrations of each skill on held-out pictures, for the quickstart."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TypeVar

import numpy as np
from tqdm import tqdm

from latentbridge import prompts
from latentbridge.data.drawings.catalogue import FORTY_CONCEPTS, Drawing, Drawings
from latentbridge.data.drawings.composer import (
    SpriteBank,
    caption_composition,
    render_composition,
    sample_composition,
    sample_composition_edit,
    sample_composition_question,
)
from latentbridge.data.drawings.icons import ICON_SETS
from latentbridge.data.shapes.grading import GENEVAL_CATEGORIES, grade_edit, sample_prompt, satisfies
from latentbridge.data.shapes.language import EDIT_KINDS, describe, sample_edit, sample_question
from latentbridge.data.shapes.oracle import read_scene
from latentbridge.data.shapes.render import render
from latentbridge.data.shapes.scenes import BACKGROUNDS, Scene, Split, distinct_scenes, scenes
from latentbridge.evaluation.loopback import loopback, round_cells
from latentbridge.evaluation.metrics import format_score
from latentbridge.evaluation.pages.gallery import draw_sheet
from latentbridge.evaluation.pages.report import (
    Answer,
    EditExample,
    GenerationExample,
    LoopbackChain,
    SearchExample,
    SearchHit,
    UnderstandExample,
)
from latentbridge.evaluation.shapes import batched
from latentbridge.files import atomic_write
from latentbridge.models.checkpoint import fingerprint
from latentbridge.models.omnibridge.modeling_omnibridge import OmniBridge
from latentbridge.query import QueryPart, build_index, search_index
from latentbridge.retrieval.base_index import Index
from latentbridge.retrieval.exact_index import ExactIndex
from latentbridge.retrieval.index_factory import create_index
from latentbridge.rng import numpy_rng
from latentbridge.types import Picture

NUM_INDEXED = 600
NUM_SCENES = 200
ROUNDS = 4
_SEED = 7
_BATCH = 16
_WHITE = BACKGROUNDS["white"]
T = TypeVar("T")


# --- understand ----------------------------------------------------------------------------------


def try_understanding(model: OmniBridge, banks: Sequence[SpriteBank], credits: list[str]) -> list[UnderstandExample]:
    """Return captions and answers on scenes of shapes, compositions of drawings and single drawings."""
    rng = numpy_rng(_SEED, "quickstart understand")
    items: list[tuple[str, Picture, list[tuple[str, str]]]] = []
    for bank in banks:
        for count in (2, 3):
            composition = sample_composition(rng, bank, count)
            credits += [thing.drawing.attribution for thing in composition.things]
            artists = sorted({thing.drawing.artist for thing in composition.things})
            questions = _draw_distinct(lambda c=composition, b=bank: sample_composition_question(c, b, rng)[:2], 2)
            novelty = "unseen artists" if bank.split == "test_artist" else "things never seen together"
            questions = [(prompts.CAPTION_REQUEST, caption_composition(composition)), *questions]
            picture = render_composition(composition, bank.drawings)
            items.append((f"drawn by {', '.join(artists)}; {novelty}", picture, questions))
    if banks:
        drawings = banks[0].drawings
        known = [d for d in drawings.split("val") + drawings.split("test_artist") if d.label in FORTY_CONCEPTS]
        for drawing in _pick(rng, known, 4):
            credits.append(drawing.attribution)
            picture = drawings.on_background(drawing.index, _WHITE)
            novelty = "an unseen picture" if drawing.split == "val" else "an unseen artist"
            items.append((f"drawn by {drawing.artist}; {novelty}", picture, [(prompts.NAME_REQUEST, drawing.label)]))
    sources: dict[Split, str] = {"test": "shapes", "test_pairs": "shapes, in a colour never seen on them"}
    for split, source in sources.items():
        for scene in distinct_scenes(split, rng, 3 if banks else 6):
            questions = [(q.text, q.answer) for q in _draw_distinct(lambda s=scene: sample_question(s, rng), 3)]
            items.append((source, render(scene), [(prompts.CAPTION_REQUEST, describe(scene)), *questions]))

    flat = [(picture, question) for _, picture, questions in items for question, _ in questions]
    replies = iter(
        reply
        for batch in _batches(flat, "understanding", "question")
        for reply in model.understand([picture for picture, _ in batch], [question for _, question in batch])
    )
    return [
        UnderstandExample(picture, source, tuple(_grade(next(replies), *question) for question in questions))
        for source, picture, questions in items
    ]


def _grade(reply: str, question: str, truth: str) -> Answer:
    reply = reply.strip()
    return Answer(question, reply, truth, reply.lower() == truth.lower())


# --- draw and edit -------------------------------------------------------------------------------


def try_drawing(model: OmniBridge) -> list[GenerationExample]:
    """Return pictures of two prompts of each GenEval category, graded by the oracle, and of eight things by name."""
    rng = numpy_rng(_SEED, "quickstart draw")
    splits: tuple[Split, ...] = ("test", "test_pairs")
    targets = [sample_prompt(rng, category, split) for split in splits for category in GENEVAL_CATEGORIES]
    examples: list[GenerationExample] = []
    for batch in _batches(list(enumerate(targets)), "drawing shapes", "picture"):
        texts, seeds = [prompt.text for _, prompt in batch], [_SEED + i for i, _ in batch]
        for (_, prompt), result in zip(batch, model.generate(texts, seeds), strict=True):
            scene = read_scene(result.picture)
            verdict = f"the oracle reads: {describe(scene)}"
            examples.append(
                GenerationExample(prompt.text, result.description, result.picture, verdict, satisfies(scene, prompt))
            )
    styles = sorted({icon_set.style for icon_set in ICON_SETS if not icon_set.held_out})
    names = [
        f"{label}, {styles[i % len(styles)]}, on {list(BACKGROUNDS)[i % len(BACKGROUNDS)]}"
        for i, label in enumerate(_pick(rng, FORTY_CONCEPTS, 8))
    ]
    for batch in _batches(list(enumerate(names)), "drawing things", "picture"):
        results = model.generate([name for _, name in batch], [_SEED + i for i, _ in batch], rewrite=False)
        examples += [
            GenerationExample(name, name, result.picture, "not judged here")
            for (_, name), result in zip(batch, results, strict=True)
        ]
    return examples


def try_editing(model: OmniBridge, banks: Sequence[SpriteBank], credits: list[str]) -> list[EditExample]:
    """Return one edit of each kind on shapes, graded exactly, and two on each kind of held-out composition of drawings."""
    rng = numpy_rng(_SEED, "quickstart edit")
    jobs: list[tuple[Picture, str, Picture, tuple[Scene, Scene] | None]] = []
    source = (scene for scene in scenes("test", rng, num_things=2) if len({t.shape for t in scene.things}) == 2)
    for kind in EDIT_KINDS:
        scene = next(source)
        change = sample_edit(scene, rng, kind)
        jobs.append((render(scene), change.instruction, render(change.target), (scene, change.target)))
    for bank in banks:
        for _ in range(2):
            composition = sample_composition(rng, bank, 2, repeat_probability=0.0)
            instruction, target = sample_composition_edit(composition, bank, rng)
            credits += [thing.drawing.attribution for thing in (*composition.things, *target.things)]
            before, after = (render_composition(c, bank.drawings) for c in (composition, target))
            jobs.append((before, instruction, after, None))
    examples: list[EditExample] = []
    for batch in _batches(jobs, "editing", "picture"):
        traces = model.edit([job[0] for job in batch], [job[1] for job in batch], _SEED)
        for (before, instruction, target, truth), trace in zip(batch, traces, strict=True):
            right = None
            difference = np.abs(trace.picture.astype(np.float32) - target).mean() / 255
            verdict = f"mean pixel difference from the exact target {difference:.1%}; not judged here"
            if truth:
                grade = grade_edit(*truth, trace.picture, before)
                right = grade.right and grade.preserved
                verdict = (
                    f"the oracle reads: {describe(read_scene(trace.picture))}; "
                    f"{'nothing else changed' if grade.preserved else 'something else changed, too'}"
                )
            mask = np.ones(target.shape[:2], bool) if trace.mask is None else trace.mask
            examples.append(EditExample(instruction, before, trace.picture, target, mask, trace.after, verdict, right))
    return examples


# --- find ----------------------------------------------------------------------------------------


def try_finding(
    model: OmniBridge, drawings: Drawings | None, out: Path, credits: list[str]
) -> tuple[str, list[SearchExample]]:
    """Return recall in words and queries with their hits, over drawings, if there are any, and shapes."""
    results, examples = _find_scenes(model)
    if drawings:
        drawing_results, drawing_examples = _find_drawings(model, drawings, out, credits)
        results, examples = f"{drawing_results}; {results}", drawing_examples + examples
    return results, examples


def _find_drawings(
    model: OmniBridge, drawings: Drawings, out: Path, credits: list[str]
) -> tuple[str, list[SearchExample]]:
    rng = numpy_rng(_SEED, "quickstart find")
    held_out = [d for split in ("val", "test_artist", "test_concept") for d in drawings.split(split)]
    chosen = {
        f"{d.icon_set} {d.concept} {d.label}": d
        for d in sorted(_pick(rng, held_out, NUM_INDEXED), key=lambda d: d.index)
    }
    pictures = ((name, drawings.on_background(d.index, _WHITE)) for name, d in chosen.items())
    shutil.rmtree(out / "index", ignore_errors=True)
    index = create_index(out / "index", model.embedding_size, fingerprint(model))
    build_index(model, tqdm(pictures, desc="indexing drawings", unit="picture", total=len(chosen)), index)
    words = _index_texts(model, sorted({d.label for d in chosen.values()}), "indexing names")
    labels = list(words.ids())

    examples: list[SearchExample] = []

    def search(
        kind: str,
        text: str,
        query: Sequence[str | QueryPart],
        right: Callable[[Drawing], bool],
        picture: Picture | None = None,
    ) -> None:
        hits = [(chosen[hit.id], hit.score) for hit in search_index(model, index, *query, k=8)]
        credits.extend(d.attribution for d, _ in hits)
        items = (
            SearchHit(f"{d.label}, {d.artist}", score, drawings.on_background(d.index, _WHITE), right(d))
            for d, score in hits
        )
        examples.append(SearchExample(kind, text, tuple(items), picture))

    for label in _pick(rng, [label for label in FORTY_CONCEPTS if label in labels], 4):
        search("Words to picture", label, [label], lambda d, label=label: d.label == label)
    search("Words to picture", "a sea animal", ["a sea animal"], lambda d: d.subgroup == "animal-marine")
    queries = _pick(rng, [d for d in drawings.split("train") if d.label in FORTY_CONCEPTS and d.label in labels], 9)
    credits.extend(d.attribution for d in queries)
    picture_queries = [(d, f"{d.label}, {d.artist}", drawings.on_background(d.index, _WHITE)) for d in queries]
    for query, name, picture in picture_queries[:3]:
        part = QueryPart(picture=picture)
        search("Picture to picture", name, [part], lambda d, q=query: d.concept == q.concept, picture)
    for (_, name, picture), other in zip(picture_queries[3:6], queries, strict=False):
        parts, text = [QueryPart(picture=picture), other.label], f"{name}, but {other.label}"
        search("Picture and words to picture", text, parts, lambda d, other=other: d.label == other.label, picture)
    for query, name, picture in picture_queries[6:]:
        hits = search_index(model, words, QueryPart(picture=picture), k=5)
        items = tuple(SearchHit(hit.id, hit.score, right=hit.id == query.label) for hit in hits)
        examples.append(SearchExample("Picture to words", name, items, picture))

    return _describe_recall(index, words, chosen), examples


def _describe_recall(index: Index, words: Index, chosen: Mapping[str, Drawing]) -> str:
    """Return recall at 1 between drawings and names, both ways, in words."""
    names, labels = list(index.ids()), list(words.ids())
    to_picture = _share(
        chosen[hits[0].id].label == label
        for label, hits in zip(labels, index.search(words.vectors(labels), 1), strict=True)
    )
    to_words = _share(
        chosen[name].label == hits[0].id
        for name, hits in zip(names, words.search(index.vectors(names), 1), strict=True)
    )
    return (
        f"Among {len(index):,} held-out drawings of {len(words):,} concepts, {format_score(to_picture)} of the names find a "
        f"right picture first and {format_score(to_words)} of the pictures their name"
    )


def _find_scenes(model: OmniBridge) -> tuple[str, list[SearchExample]]:
    rng = numpy_rng(_SEED, "quickstart scenes")
    pictures = {describe(scene): render(scene) for scene in distinct_scenes("test", rng, NUM_SCENES)}
    bar = tqdm(pictures.items(), desc="indexing shapes", unit="picture")
    index, words = build_index(model, bar), _index_texts(model, list(pictures), "indexing descriptions")
    ids = list(pictures)  # in both indexes: a picture's id is its description
    by_words, by_picture = index.search(words.vectors(ids), 8), words.search(index.vectors(ids), 3)
    examples: list[SearchExample] = []
    for row, text in enumerate(ids[:2]):
        hits = tuple(SearchHit(hit.id, hit.score, pictures[hit.id], hit.id == text) for hit in by_words[row])
        examples.append(SearchExample("Words to picture, shapes", text, hits))
    for row, text in enumerate(ids[2:4], start=2):
        hits = tuple(SearchHit(hit.id, hit.score, right=hit.id == text) for hit in by_picture[row])
        examples.append(SearchExample("Picture to words, shapes", "", hits, pictures[text]))
    to_picture, to_words = (
        format_score(_share(hits[0].id == name for name, hits in zip(ids, ranked, strict=True)))
        for ranked in (by_words, by_picture)
    )
    result = (
        f"among {len(index):,} distinct scenes, {to_picture} of the descriptions find their picture first "
        f"and {to_words} of the pictures their description"
    )
    return result, examples


def _index_texts(model: OmniBridge, texts: Sequence[str], name: str) -> Index:
    index = ExactIndex(model.embedding_size)
    for batch in _batches(texts, name, "text", size=64):
        index.add(batch, model.embed(texts=batch))
    return index


# --- loopback ---


def try_loopback(model: OmniBridge, banks: Sequence[SpriteBank], out: Path, credits: list[str]) -> list[LoopbackChain]:
    """Return the chains of four pictures, two of them compositions of drawings if available; also written as `loopback.png`."""
    rng = numpy_rng(_SEED, "quickstart loopback")
    origins = [render(scene) for scene in distinct_scenes("test", rng, 4 - len(banks), num_things=2)]
    for bank in banks:
        composition = sample_composition(rng, bank, 2)
        credits += [thing.drawing.attribution for thing in composition.things]
        origins.append(render_composition(composition, bank.drawings))
    chains = loopback(model, origins, ROUNDS, _SEED)
    with atomic_write(out / "loopback.png") as temporary:
        draw_sheet([round_cells(*pair) for pair in zip(origins, chains, strict=True)]).save(temporary)
    return [LoopbackChain(picture, rounds) for picture, rounds in zip(origins, chains, strict=True)]


def _pick(rng: np.random.Generator, options: Sequence[T], count: int) -> list[T]:
    """Return `count` different options, or all if there are fewer, in random order."""
    return [options[i] for i in rng.permutation(len(options))[:count]]


def _draw_distinct(sample: Callable[[], T], count: int) -> list[T]:
    """Return `count` distinct samples."""
    samples: dict[T, None] = {}
    while len(samples) < count:
        samples.setdefault(sample())
    return list(samples)


def _share(marks: Iterable[bool]) -> float:
    return float(np.mean(list(marks)))


def _batches(items: Sequence[T], name: str, unit: str, size: int = _BATCH) -> Iterator[list[T]]:
    """Yield the items in lists of at most `size`, with a progress bar."""
    with tqdm(total=len(items), desc=name, unit=unit) as bar:
        for batch in batched(items, size):
            yield list(batch)
            bar.update(len(batch))
