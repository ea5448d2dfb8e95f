"""The worlds a stage can be fed from, behind one interface: exact scenes, real drawings, a user's own manifest."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Protocol

import numpy as np

from latentbridge import prompts
from latentbridge.config import StageConfig, TaskMix
from latentbridge.data.drawings.catalogue import describe_drawing, load_drawings
from latentbridge.data.drawings.composer import sprite_bank
from latentbridge.data.drawings.tasks import (
    BACKGROUND_NAMES,
    drawable_drawings,
    drawing_conversation,
    drawing_edit,
    drawing_request,
    render_drawing,
)
from latentbridge.data.own.manifest import Record, is_manifest, load_manifest
from latentbridge.data.own.needs import check_sources
from latentbridge.data.own.shards import ShardFolder
from latentbridge.data.own.stream import InterleavedReader, ManifestShards, Shards, Stream
from latentbridge.data.reasoning import KeyStep, Problem
from latentbridge.data.shapes.language import caption_request, describe, paraphrase
from latentbridge.data.shapes.problems import problems
from latentbridge.data.shapes.render import IMAGE_SIZE_PX, render
from latentbridge.data.shapes.scenes import scenes
from latentbridge.data.shapes.tasks import scene_conversation, scene_edit, scene_request
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

    def sample_captioned_picture(self, rng: np.random.Generator) -> tuple[Picture, str]:
        """A picture and the description a decoder is to draw it from."""
        ...

    def sample_conversation(self, rng: np.random.Generator) -> Conversation:
        """A conversation with every reply right."""
        ...

    def sample_align_item(self, rng: np.random.Generator) -> AlignItem:
        """An item of the alignment set."""
        ...


class ShapesWorld:
    """Training scenes of the `shapes` world."""

    def __init__(self, tasks: TaskMix) -> None:
        self.tasks = tasks

    def sample_captioned_picture(self, rng: np.random.Generator) -> tuple[Picture, str]:
        scene = next(scenes("train", rng))
        return render(scene), describe(scene)

    def sample_conversation(self, rng: np.random.Generator) -> Conversation:
        return scene_conversation(next(scenes("train", rng)), rng, self.tasks)

    def sample_problem(self, rng: np.random.Generator) -> tuple[Picture, Problem]:
        """A picture and a question about it that takes several steps."""
        scene, problem = next(problems("train", rng))
        return render(scene), problem

    def sample_align_item(self, rng: np.random.Generator) -> AlignItem:
        scene = next(scenes("train", rng))
        talk, target = (scene_request if rng.random() > _EDIT_SHARE else scene_edit)(scene, rng)
        return AlignItem(talk, render(target), render(scene), paraphrase(scene, rng), scene.digest() >> 8)


class DrawingsWorld:
    """Training drawings; the decoder is fed only the concepts it is meant to draw."""

    def __init__(self) -> None:
        self.drawings = load_drawings()
        self.bank = sprite_bank(self.drawings, "train")
        self.drawable = drawable_drawings(self.drawings)

    def sample_captioned_picture(self, rng: np.random.Generator) -> tuple[Picture, str]:
        drawing = self.drawable[rng.integers(len(self.drawable))]
        ground = BACKGROUND_NAMES[rng.integers(len(BACKGROUND_NAMES))]
        return render_drawing(self.drawings, drawing, ground), describe_drawing(drawing, ground)

    def sample_conversation(self, rng: np.random.Generator) -> Conversation:
        return drawing_conversation(self.drawings, self.bank, self.drawable, rng)

    def sample_align_item(self, rng: np.random.Generator) -> AlignItem:
        known = self.drawings.split("train")
        shown, ground = known[rng.integers(len(known))], BACKGROUND_NAMES[rng.integers(len(BACKGROUND_NAMES))]
        caption = shown.captions[rng.integers(len(shown.captions))]
        ask = drawing_request if rng.random() > _EDIT_SHARE else drawing_edit
        talk, drawn = ask(self.drawings, self.drawable, rng)
        return AlignItem(talk, drawn, render_drawing(self.drawings, shown, ground), caption, stable_hash(shown.label))


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

    def sample_captioned_picture(self, rng: np.random.Generator) -> tuple[Picture, str]:
        record = self.captioned(rng)
        return _open(record.image), _text(record, rng)

    def sample_conversation(self, rng: np.random.Generator) -> Conversation:
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
                turns.append((prompts.with_long_reasoning(record.question), record.chain))
        return Conversation(tuple(turns[i] for i in rng.permutation(len(turns))), _open(records[0].image))

    def sample_problem(self, rng: np.random.Generator) -> tuple[Picture, Problem]:
        """A picture and a question about it, with what a reply is graded by."""
        record = self.questioned(rng)
        return _open(record.image), record_problem(record)

    def sample_align_item(self, rng: np.random.Generator) -> AlignItem:
        """Return an item of a sample's own picture and text, or of the target of its edit; equal texts are one identity."""
        record = self.paired(rng)
        if record.target and record.description and not (record.texts and rng.random() < 0.5):
            picture, text = _open(record.target), record.description
        else:
            picture, text = _open(record.image), _text(record, rng)
        return AlignItem(_request_drawing(text), picture, picture, text, stable_hash(" ".join(text.lower().split())))


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
    """The worlds a stage config names, each by its share.

    Without `sources` a world is picked by chance, and so is what it shows. With them sources take turns, and those that are
    a user's own give each sample once an epoch.
    """

    def __init__(self, stage: StageConfig, seed: int) -> None:
        self.sources = _sources(stage)
        self.turns = InterleavedReader([weight for _, weight in self.sources], seed) if self.sources else None
        named = {name for name, _ in self.sources}
        self.shapes = ShapesWorld(stage.tasks)
        self.drawings = DrawingsWorld() if stage.drawings or "drawings" in named else None
        self.manifest = ManifestWorld(Path(stage.manifest)) if stage.manifest and not self.sources else None
        self.drawings_share = stage.drawings
        self.own = {name: _own_shards(name) for name in sorted(named - {"shapes", "drawings"})}
        self.streams = {name: Stream(shards, name, seed) for name, shards in self.own.items()}

    def world_at(self, rng: np.random.Generator, number: int) -> World:
        """The world of the sample that comes after `number` others.

        Without `sources` the manifest half of the time where there is one, else drawings by their share, else shapes.
        """
        if self.turns:
            source, place = self.turns.at(number)
            name = self.sources[source][0]
            if name in self.streams:
                return StreamedWorld(self.streams[name], place)
            return self.drawings if self.drawings and name == "drawings" else self.shapes
        if self.manifest and rng.random() < 0.5:
            return self.manifest
        if self.drawings and rng.random() < self.drawings_share:
            return self.drawings
        return self.shapes

    def sample_problem(self, rng: np.random.Generator, number: int) -> tuple[Picture, Problem]:
        """A picture and a question of several steps, as `pick` says; drawings have none, and shapes stand in for them."""
        world = self.world_at(rng, number)
        return (world if isinstance(world, (ManifestWorld, StreamedWorld)) else self.shapes).sample_problem(rng)

    def sample_pair(self, rng: np.random.Generator, number: int) -> tuple[AlignItem, bool]:
        """Return a picture with its text, as `pick` says, and whether it is the user's own.

        Where a user's data has neither texts nor described edits, the library's worlds stand in.
        """
        world = self.world_at(rng, number)
        is_own = isinstance(world, (ManifestWorld, StreamedWorld)) and world.has_pairs
        if isinstance(world, (ManifestWorld, StreamedWorld)) and not is_own:
            world = self.drawings if self.drawings and rng.random() < self.drawings_share else self.shapes
        return world.sample_align_item(rng), is_own

    @property
    def has_own_pairs(self) -> bool:
        """Return whether a source of the user's own has anything to draw: texts or described edits."""
        streamed = any(stream.has("texts or a described edit") for stream in self.streams.values())
        return streamed or bool(self.manifest and self.manifest.has_pairs)

    def digest(self) -> str:
        """What the samples depend on besides config and code."""
        known = self.drawings.drawings.manifest_sha256 if self.drawings else ""
        own = repr(self.manifest.records) if self.manifest else ""
        shares = [(name, weight, self.own[name].digest if name in self.own else "") for name, weight in self.sources]
        return sha256(f"{known} {own}{shares or ''}".encode()).hexdigest()


def _sources(stage: StageConfig) -> tuple[tuple[str, float], ...]:
    """The sources that take turns; a manifest that has become shards is one of them."""
    check_sources(stage)
    if not stage.manifest or is_manifest(stage.manifest):
        return stage.sources
    rest = (("shapes", (1 - stage.drawings) / 2), ("drawings", stage.drawings / 2))
    return ((stage.manifest, 0.5), *((name, weight) for name, weight in rest if weight))


def _own_shards(name: str) -> Shards:
    return ManifestShards(Path(name)) if is_manifest(name) else ShardFolder(name)


def stable_hash(name: str) -> int:
    """A number that is equal where names are; fits int64."""
    return int.from_bytes(sha256(name.encode()).digest()[:7], "big")


def _request_drawing(text: str) -> Conversation:
    return Conversation(((prompts.draw_request(text), prompts.wrap_description(text)),))


def _converse_edit(record: Record, rng: np.random.Generator) -> Conversation:
    """Return an edit answered by the description to draw; a third of the time the target, described as a picture of its own."""
    assert record.instruction and record.target and record.description
    if rng.random() < _TARGETS_DESCRIBED:
        return Conversation(((caption_request(rng), record.description),), _open(record.target))
    reply = prompts.wrap_description(record.description)
    return Conversation(((prompts.edit_request(record.instruction), reply),), _open(record.image))


def _open(image: Path | bytes) -> Picture:
    return fit_square(open_picture(image), IMAGE_SIZE_PX)


def record_problem(record: Record) -> Problem:
    """A record's question as a problem; its key steps have no phrases against them."""
    assert record.question and record.answer
    return Problem(record.question, record.answer, tuple(map(KeyStep, record.key_steps)), record.chain)


def _text(record: Record, rng: np.random.Generator) -> str:
    return record.texts[rng.integers(len(record.texts))]
