"""The worlds a stage can be fed from, behind one interface: exact scenes, real drawings, a user's own manifest."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Protocol

import numpy as np

from latentbridge import prompts
from latentbridge.config import DataStageConfig, TaskMix
from latentbridge.data.drawings.catalogue import describe_drawing, load_drawings
from latentbridge.data.drawings.composer import sprite_bank
from latentbridge.data.drawings.tasks import (
    GROUNDS,
    converse_drawing,
    draw_drawing,
    drawable_drawings,
    redraw_drawing,
    show,
)
from latentbridge.data.own.manifest import Record, is_manifest, load_manifest
from latentbridge.data.own.shards import ShardFolder
from latentbridge.data.own.stream import InterleavedReader, ManifestShards, Shards, Stream
from latentbridge.data.reasoning import KeyStep, Problem
from latentbridge.data.shapes.language import caption_request, describe, paraphrase
from latentbridge.data.shapes.problems import problems
from latentbridge.data.shapes.render import IMAGE_SIZE_PX, render
from latentbridge.data.shapes.scenes import scenes
from latentbridge.data.shapes.tasks import converse, draw, redraw
from latentbridge.errors import UserError
from latentbridge.images import fit_square, open_picture
from latentbridge.types import Conversation, Picture

_EDIT_SHARE = 0.35
"""Share of alignment items whose description was written while reading a picture and an instruction."""
_QUESTIONS_EACH = 5
"""Most questions of one's own in a conversation, as many as about a scene."""
_OWN_DRAWINGS = 0.2
"""Share of conversations about a picture with texts in which it is asked for instead of shown."""
_OWN_EDITS = 0.5
"""Share of conversations about a picture with an edit, and texts or questions too, that are the edit."""
_LAST = {"drawings": 1, "shapes": 2}
"""Sources that are drawn after all others."""
_TARGETS_DESCRIBED = 1 / 3
"""Share of edits of which the target is described: an edit compares the source's description with the target's."""


@dataclass(frozen=True)
class AlignItem:
    """What alignment learns from: a conversation that ends in something to draw, and a picture with its caption."""

    drawing: Conversation
    drawn: Picture
    """What the conversation's last reply describes."""
    picture: Picture
    caption: str
    identity: int
    """Equal where two pictures show the same thing; below 2^56."""


class World(Protocol):
    """Training samples, each a function of the generator alone."""

    def depict(self, rng: np.random.Generator) -> tuple[Picture, str]:
        """A picture and the description a decoder is to draw it from."""
        ...

    def converse(self, rng: np.random.Generator) -> Conversation:
        """A conversation with every reply right."""
        ...

    def align(self, rng: np.random.Generator) -> AlignItem:
        """An item of the alignment set."""
        ...


class ShapesWorld:
    """Training scenes of the `shapes` world."""

    def __init__(self, tasks: TaskMix) -> None:
        self.tasks = tasks

    def depict(self, rng: np.random.Generator) -> tuple[Picture, str]:
        scene = next(scenes("train", rng))
        return render(scene), describe(scene)

    def converse(self, rng: np.random.Generator) -> Conversation:
        return converse(next(scenes("train", rng)), rng, self.tasks)

    def problem(self, rng: np.random.Generator) -> tuple[Picture, Problem]:
        """A picture and a question about it that takes several steps."""
        scene, problem = next(problems("train", rng))
        return render(scene), problem

    def align(self, rng: np.random.Generator) -> AlignItem:
        scene = next(scenes("train", rng))
        talk, target = (draw if rng.random() > _EDIT_SHARE else redraw)(scene, rng)
        return AlignItem(talk, render(target), render(scene), paraphrase(scene, rng), scene.digest() >> 8)


class DrawingsWorld:
    """Training drawings; the decoder is fed only the concepts it is meant to draw."""

    def __init__(self) -> None:
        self.drawings = load_drawings()
        self.bank = sprite_bank(self.drawings, "train")
        self.drawable = drawable_drawings(self.drawings)

    def depict(self, rng: np.random.Generator) -> tuple[Picture, str]:
        drawing = self.drawable[rng.integers(len(self.drawable))]
        ground = GROUNDS[rng.integers(len(GROUNDS))]
        return show(self.drawings, drawing, ground), describe_drawing(drawing, ground)

    def converse(self, rng: np.random.Generator) -> Conversation:
        return converse_drawing(self.drawings, self.bank, self.drawable, rng)

    def align(self, rng: np.random.Generator) -> AlignItem:
        known = self.drawings.split("train")
        shown, ground = known[rng.integers(len(known))], GROUNDS[rng.integers(len(GROUNDS))]
        caption = shown.captions[rng.integers(len(shown.captions))]
        ask = draw_drawing if rng.random() > _EDIT_SHARE else redraw_drawing
        talk, drawn = ask(self.drawings, self.drawable, rng)
        return AlignItem(talk, drawn, show(self.drawings, shown, ground), caption, identity_of(shown.label))


class OwnWorld(Protocol):
    """A user's own samples; pictures are fitted to the model's square."""

    has_pairs: bool
    """Whether any sample has texts or a described edit, which is what `align` needs."""

    def captioned(self, rng: np.random.Generator) -> Record:
        """A sample with texts."""
        ...

    def told(self, rng: np.random.Generator) -> Sequence[Record]:
        """Return samples about one picture, with texts, a question or a described edit."""
        ...

    def paired(self, rng: np.random.Generator) -> Record:
        """Return a sample with texts or a described edit."""
        ...

    def questioned(self, rng: np.random.Generator) -> Record:
        """A sample with a question and its answer."""
        ...

    def depict(self, rng: np.random.Generator) -> tuple[Picture, str]:
        record = self.captioned(rng)
        return _open(record.image), _text(record, rng)

    def converse(self, rng: np.random.Generator) -> Conversation:
        """Return a conversation about one picture: an edit, a drawing, or its text and up to five questions in any order."""
        records = self.told(rng)
        edits = [record for record in records if record.description]
        texts = [text for record in records for text in record.texts]
        asked = [record for record in records if record.question]
        if edits and (not (texts or asked) or rng.random() < _OWN_EDITS):
            return _converse_edit(edits[rng.integers(len(edits))], rng)
        if texts and rng.random() < _OWN_DRAWINGS:
            return _request_drawing(texts[rng.integers(len(texts))])
        turns = [(caption_request(rng), texts[rng.integers(len(texts))])] if texts else []
        for index in rng.permutation(len(asked))[:_QUESTIONS_EACH]:
            record = asked[index]
            assert record.question and record.answer
            turns.append((record.question, record.answer))
            if record.chain:
                turns.append((prompts.deliberated(record.question), record.chain))
        return Conversation(tuple(turns[i] for i in rng.permutation(len(turns))), _open(records[0].image))

    def problem(self, rng: np.random.Generator) -> tuple[Picture, Problem]:
        """A picture and a question about it, with what a reply is graded by."""
        record = self.questioned(rng)
        return _open(record.image), problem_of(record)

    def align(self, rng: np.random.Generator) -> AlignItem:
        """Return an item of a sample's own picture and text, or of the target of its edit; equal texts are one identity."""
        record = self.paired(rng)
        if record.target and record.description and not (record.texts and rng.random() < 0.5):
            picture, text = _open(record.target), record.description
        else:
            picture, text = _open(record.image), _text(record, rng)
        return AlignItem(_request_drawing(text), picture, picture, text, identity_of(" ".join(text.lower().split())))


class ManifestWorld(OwnWorld):
    """The training split of a manifest, any sample at any time."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.records = [record for record in load_manifest(path) if record.split == "train"]
        self._captioned = [record for record in self.records if record.texts]
        self._questioned = [record for record in self.records if record.question and record.answer]
        self._paired = [record for record in self.records if record.texts or record.description]
        self.has_pairs = bool(self._paired)
        about: dict[Path | bytes, list[Record]] = {}
        for record in self.records:
            if record.texts or record.question or record.description:
                about.setdefault(record.image, []).append(record)
        self._told = list(about.values())
        if not self._told:
            raise UserError(
                f'{path} has no training record with texts, a question or a described edit; give some lines any and the split "train".'
            )

    def captioned(self, rng: np.random.Generator) -> Record:
        return self._one(self._captioned, '"texts"', rng)

    def told(self, rng: np.random.Generator) -> list[Record]:
        return self._told[rng.integers(len(self._told))]

    def paired(self, rng: np.random.Generator) -> Record:
        return self._one(self._paired, '"texts" or a described "edit"', rng)

    def questioned(self, rng: np.random.Generator) -> Record:
        return self._one(self._questioned, '"question" and "answer"', rng)

    def _one(self, records: list[Record], fields: str, rng: np.random.Generator) -> Record:
        if not records:
            raise UserError(
                f'{self.path} has no training record with {fields}; give some lines those and the split "train".'
            )
        return records[rng.integers(len(records))]


@dataclass(frozen=True)
class StreamedWorld(OwnWorld):
    """One place of a stream, whose samples come in turn."""

    stream: Stream
    place: int

    def captioned(self, rng: np.random.Generator) -> Record:
        return self.stream.record(self.place, "texts")

    @property
    def has_pairs(self) -> bool:  # pyright: ignore[reportIncompatibleVariableOverride]
        return self.stream.has("texts or a described edit")

    def told(self, rng: np.random.Generator) -> list[Record]:
        return [self.stream.record(self.place, "texts, a question or a described edit")]

    def paired(self, rng: np.random.Generator) -> Record:
        return self.stream.record(self.place, "texts or a described edit")

    def questioned(self, rng: np.random.Generator) -> Record:
        return self.stream.record(self.place, "a question")


class Mixture:
    """The sources of a stage config, each by its share.

    Samples are drawn at random: the user's sources first, in their order, then drawings, then shapes. Interleaved sources
    take turns instead (`data/own/stream.py`).
    """

    def __init__(self, stage: DataStageConfig, seed: int, tasks: TaskMix | None = None) -> None:
        """`tasks` are the conversations about `shapes`."""
        self.sources = stage.sources
        names, own = [name for name, _ in stage.sources], sorted(set(stage.own_sources))
        interleaved = stage.interleave or not all(map(is_manifest, own))
        self.turns = InterleavedReader([weight for _, weight in stage.sources], seed) if interleaved else None
        self.shapes = ShapesWorld(tasks or TaskMix())
        self.drawings = DrawingsWorld() if "drawings" in names else None
        self.drawings_share = stage.drawings_share
        self.manifests = {} if interleaved else {name: ManifestWorld(Path(name)) for name in own}
        self.shards = {name: _own_shards(name) for name in own} if interleaved else {}
        self.streams = {name: Stream(shards, name, seed) for name, shards in self.shards.items()}
        self._random_order = sorted(stage.sources, key=lambda source: _LAST.get(source[0], 0))

    def pick(self, rng: np.random.Generator, number: int) -> World:
        """Return the world of the sample that comes after `number` others."""
        if self.turns:
            source, place = self.turns.at(number)
            name = self.sources[source][0]
            return StreamedWorld(self.streams[name], place) if name in self.streams else self._world(name)
        left = sum(weight for _, weight in self._random_order)
        for name, weight in self._random_order:
            if name == "shapes" or rng.random() < weight / left:
                return self._world(name)
            left -= weight
        return self._world(self._random_order[-1][0])

    def _world(self, name: str) -> World:
        if name == "drawings" and self.drawings:
            return self.drawings
        return self.manifests.get(name, self.shapes)

    def problem(self, rng: np.random.Generator, number: int) -> tuple[Picture, Problem]:
        """Return a picture and a question of several steps, from `pick`; `drawings` have none, and `shapes` stand in for them."""
        world = self.pick(rng, number)
        return (world if isinstance(world, (ManifestWorld, StreamedWorld)) else self.shapes).problem(rng)

    def pair(self, rng: np.random.Generator, number: int) -> tuple[AlignItem, bool]:
        """Return a picture with its text, from `pick`, and whether it is the user's own.

        The library's worlds stand in for a user's data without texts or described edits.
        """
        world = self.pick(rng, number)
        is_own = isinstance(world, (ManifestWorld, StreamedWorld)) and world.has_pairs
        if isinstance(world, (ManifestWorld, StreamedWorld)) and not is_own:
            world = self.drawings if self.drawings and rng.random() < self.drawings_share else self.shapes
        return world.align(rng), is_own

    @property
    def has_own_pairs(self) -> bool:
        """Whether a source of the user's own has texts or described edits."""
        streamed = any(stream.has("texts or a described edit") for stream in self.streams.values())
        return streamed or any(manifest.has_pairs for manifest in self.manifests.values())

    def digest(self) -> str:
        """Return a hash of the data that samples depend on."""
        drawings = self.drawings.drawings.manifest_sha256 if self.drawings else ""
        manifests = [manifest.records for manifest in self.manifests.values()]
        shards = [shards.digest for shards in self.shards.values()]
        return sha256(repr((self.sources, drawings, manifests, shards)).encode()).hexdigest()


def _own_shards(name: str) -> Shards:
    return ManifestShards(Path(name)) if is_manifest(name) else ShardFolder(name)


def identity_of(name: str) -> int:
    """A number that is equal where names are; fits int64."""
    return int.from_bytes(sha256(name.encode()).digest()[:7], "big")


def _request_drawing(text: str) -> Conversation:
    return Conversation(((prompts.draw_request(text), prompts.drawable(text)),))


def _converse_edit(record: Record, rng: np.random.Generator) -> Conversation:
    """Return an edit answered by the description to draw; a third of the time the target, described as a picture of its own."""
    assert record.instruction and record.target and record.description
    if rng.random() < _TARGETS_DESCRIBED:
        return Conversation(((caption_request(rng), record.description),), _open(record.target))
    reply = prompts.drawable(record.description)
    return Conversation(((prompts.edit_request(record.instruction), reply),), _open(record.image))


def _open(image: Path | bytes) -> Picture:
    return fit_square(open_picture(image), IMAGE_SIZE_PX)


def problem_of(record: Record) -> Problem:
    """A record's question as a problem; its key steps have no phrases against them."""
    assert record.question and record.answer
    return Problem(record.question, record.answer, tuple(map(KeyStep, record.key_steps)), record.chain)


def _text(record: Record, rng: np.random.Generator) -> str:
    return record.texts[rng.integers(len(record.texts))]
