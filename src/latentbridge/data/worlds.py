"""The worlds that stages train on: exact scenes, drawings, and a user's own data."""

from __future__ import annotations

from collections import defaultdict
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
    BACKGROUND_NAMES,
    drawable_drawings,
    drawing_conversation,
    drawing_edit,
    drawing_request,
    render_drawing,
)
from latentbridge.data.own.manifest import Record, is_manifest, load_manifest
from latentbridge.data.own.shards import ANY_USE, DRAWABLE_USE, USES, ShardFolder
from latentbridge.data.own.stream import InterleavedReader, ManifestShards, Shards, Stream, missing_use
from latentbridge.data.reasoning import KeyStep, Problem
from latentbridge.data.sampling import pick
from latentbridge.data.shapes.language import caption_request, describe, paraphrase
from latentbridge.data.shapes.problems import problems
from latentbridge.data.shapes.render import IMAGE_SIZE_PX, render
from latentbridge.data.shapes.scenes import scenes
from latentbridge.data.shapes.tasks import scene_conversation, scene_edit, scene_request
from latentbridge.errors import UserError
from latentbridge.images import fit_square, open_picture
from latentbridge.types import Conversation, Picture

_EDIT_SHARE = 0.35
"""Share of alignment items whose conversation is an edit."""
_MAX_QUESTIONS = 5
"""Largest number of a user's questions in a conversation."""
_OWN_REQUEST_SHARE = 0.2
"""Share of conversations about a user's picture with texts that ask for the picture."""
_OWN_EDIT_SHARE = 0.5
"""Share of conversations about a user's picture with an edit, and texts or questions too, that are the edit."""
_LAST = {"drawings": 1, "shapes": 2}
"""Sources that are drawn after all others."""
_TARGET_CAPTION_SHARE = 1 / 3
"""Share of edits replaced by a caption of the target; an edit compares both pictures' descriptions."""


@dataclass(frozen=True)
class AlignItem:
    """A training item of alignment: a conversation that ends in a description to draw, and a captioned picture."""

    conversation: Conversation
    target: Picture
    """The picture described by the last reply."""
    picture: Picture
    caption: str
    identity: int
    """Equal for pictures of the same thing; below 2^56."""


class World(Protocol):
    """A source of training samples, each a function of the generator alone."""

    def sample_captioned_picture(self, rng: np.random.Generator) -> tuple[Picture, str]:
        """Return a picture and the description that a decoder draws it from."""
        ...

    def sample_conversation(self, rng: np.random.Generator) -> Conversation: ...

    def sample_align_item(self, rng: np.random.Generator) -> AlignItem: ...


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
        """Return a picture and a question that takes several steps."""
        scene, problem = next(problems("train", rng))
        return render(scene), problem

    def sample_align_item(self, rng: np.random.Generator) -> AlignItem:
        scene = next(scenes("train", rng))
        conversation, target = (scene_request if rng.random() > _EDIT_SHARE else scene_edit)(scene, rng)
        return AlignItem(conversation, render(target), render(scene), paraphrase(scene, rng), scene.digest() >> 8)


class DrawingsWorld:
    """Training drawings; pictures to draw are of the forty drawable concepts only."""

    def __init__(self) -> None:
        self.drawings = load_drawings()
        self.bank = sprite_bank(self.drawings, "train")
        self.drawable = drawable_drawings(self.drawings)

    def sample_captioned_picture(self, rng: np.random.Generator) -> tuple[Picture, str]:
        drawing, background = pick(rng, self.drawable), pick(rng, BACKGROUND_NAMES)
        return render_drawing(self.drawings, drawing, background), describe_drawing(drawing, background)

    def sample_conversation(self, rng: np.random.Generator) -> Conversation:
        return drawing_conversation(self.drawings, self.bank, self.drawable, rng)

    def sample_align_item(self, rng: np.random.Generator) -> AlignItem:
        drawing, background = pick(rng, self.drawings.split("train")), pick(rng, BACKGROUND_NAMES)
        caption = pick(rng, drawing.captions)
        sample = drawing_request if rng.random() > _EDIT_SHARE else drawing_edit
        conversation, target = sample(self.drawings, self.drawable, rng)
        picture = render_drawing(self.drawings, drawing, background)
        return AlignItem(conversation, target, picture, caption, stable_hash(drawing.label))


class OwnWorld:
    """A user's own samples; pictures are fitted to the model's square."""

    def record(self, rng: np.random.Generator, use: str) -> Record:
        """Return a record fit for a use (`USES`); raise UserError if there is none."""
        raise NotImplementedError

    def records_of_picture(self, rng: np.random.Generator) -> Sequence[Record]:
        """Return records of one picture, each fit for `ANY_USE`."""
        raise NotImplementedError

    @property
    def has_pairs(self) -> bool:
        """Return whether any record is fit for `DRAWABLE_USE`, which `sample_align_item` needs."""
        raise NotImplementedError

    def sample_captioned_picture(self, rng: np.random.Generator) -> tuple[Picture, str]:
        record = self.record(rng, "texts")
        return _open(record.image, record), pick(rng, record.texts)

    def sample_conversation(self, rng: np.random.Generator) -> Conversation:
        """Return an edit, a request to draw, or a picture's text and up to five questions in random order."""
        records = self.records_of_picture(rng)
        edits = [record for record in records if record.description]
        texts = [text for record in records for text in record.texts]
        with_question = [record for record in records if record.question]
        if edits and (not (texts or with_question) or rng.random() < _OWN_EDIT_SHARE):
            return _edit_conversation(pick(rng, edits), rng)
        if texts and rng.random() < _OWN_REQUEST_SHARE:
            return _request_drawing(pick(rng, texts))
        turns = [(caption_request(rng), pick(rng, texts))] if texts else []
        for index in rng.permutation(len(with_question))[:_MAX_QUESTIONS]:
            record = with_question[index]
            assert record.question and record.answer
            turns.append((record.question, record.answer))
            if record.chain:
                turns.append((prompts.with_long_reasoning(record.question), record.chain))
        return Conversation.with_picture(
            tuple(turns[i] for i in rng.permutation(len(turns))), _open(records[0].image, records[0])
        )

    def sample_problem(self, rng: np.random.Generator) -> tuple[Picture, Problem]:
        """Return a picture and a question with what a reply is graded by."""
        record = self.record(rng, "a question")
        return _open(record.image, record), record_problem(record)

    def sample_align_item(self, rng: np.random.Generator) -> AlignItem:
        """Return an item of a record's picture and text, or of its edit's target; equal texts have one identity."""
        record = self.record(rng, DRAWABLE_USE)
        if record.target and record.description and not (record.texts and rng.random() < 0.5):
            picture, text = _open(record.target, record), record.description
        else:
            picture, text = _open(record.image, record), pick(rng, record.texts)
        return AlignItem(_request_drawing(text), picture, picture, text, stable_hash(" ".join(text.lower().split())))


class ManifestWorld(OwnWorld):
    """The training split of a manifest, sampled with replacement."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.records = [record for record in load_manifest(path) if record.split == "train"]
        self._fit = {use: [record for record in self.records if is_fit(record)] for use, is_fit in USES.items()}
        by_picture: dict[Path | bytes, list[Record]] = defaultdict(list)
        for record in self._fit[ANY_USE]:
            by_picture[record.image].append(record)
        self._by_picture = list(by_picture.values())
        if not self._by_picture:
            raise missing_use(str(path), ANY_USE)

    @property
    def has_pairs(self) -> bool:
        return bool(self._fit[DRAWABLE_USE])

    def record(self, rng: np.random.Generator, use: str) -> Record:
        if not self._fit[use]:
            raise missing_use(str(self.path), use)
        return pick(rng, self._fit[use])

    def records_of_picture(self, rng: np.random.Generator) -> list[Record]:
        return pick(rng, self._by_picture)


@dataclass(frozen=True)
class StreamedWorld(OwnWorld):
    """One position of a stream, which gives its samples in order."""

    stream: Stream
    position: int

    @property
    def has_pairs(self) -> bool:
        return self.stream.has(DRAWABLE_USE)

    def record(self, rng: np.random.Generator, use: str) -> Record:
        return self.stream.record(self.position, use)

    def records_of_picture(self, rng: np.random.Generator) -> list[Record]:
        return [self.record(rng, ANY_USE)]


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

    def world_at(self, rng: np.random.Generator, number: int) -> World:
        """Return the world of the training sample with this number."""
        if self.turns:
            source, position = self.turns.at(number)
            name = self.sources[source][0]
            return StreamedWorld(self.streams[name], position) if name in self.streams else self._world(name)
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

    def sample_problem(self, rng: np.random.Generator, number: int) -> tuple[Picture, Problem]:
        """Return a picture and a question of the sample's world; shapes stand in for drawings, which have none."""
        world = self.world_at(rng, number)
        return (world if isinstance(world, OwnWorld) else self.shapes).sample_problem(rng)

    def sample_pair(self, rng: np.random.Generator, number: int) -> tuple[AlignItem, bool]:
        """Return an item of the sample's world, and whether it is the user's own.

        Built-in worlds stand in for a user's data with neither texts nor described edits.
        """
        world = self.world_at(rng, number)
        if isinstance(world, OwnWorld) and not world.has_pairs:
            world = self.drawings if self.drawings and rng.random() < self.drawings_share else self.shapes
        return world.sample_align_item(rng), isinstance(world, OwnWorld)

    @property
    def has_own_pairs(self) -> bool:
        """Return whether the user's data have texts or described edits."""
        streamed = any(stream.has(DRAWABLE_USE) for stream in self.streams.values())
        return streamed or any(manifest.has_pairs for manifest in self.manifests.values())

    def digest(self) -> str:
        """Return a hash of the data that samples depend on."""
        drawings = self.drawings.drawings.manifest_sha256 if self.drawings else ""
        manifests = [manifest.records for manifest in self.manifests.values()]
        shards = [shards.digest for shards in self.shards.values()]
        return sha256(repr((self.sources, drawings, manifests, shards)).encode()).hexdigest()


def _own_shards(name: str) -> Shards:
    return ManifestShards(Path(name)) if is_manifest(name) else ShardFolder(name)


def stable_hash(name: str) -> int:
    """Return a number below 2^56 that is equal for equal names in every process."""
    return int.from_bytes(sha256(name.encode()).digest()[:7], "big")


def record_problem(record: Record) -> Problem:
    """Return a record's question as a problem; its key steps have no contradictions."""
    assert record.question and record.answer
    return Problem(record.question, record.answer, tuple(map(KeyStep, record.key_steps)), record.chain)


def _request_drawing(text: str) -> Conversation:
    return Conversation(((prompts.draw_request(text), prompts.wrap_description(text)),))


def _edit_conversation(record: Record, rng: np.random.Generator) -> Conversation:
    assert record.instruction and record.target and record.description
    if rng.random() < _TARGET_CAPTION_SHARE:
        return Conversation.with_picture(((caption_request(rng), record.description),), _open(record.target, record))
    reply = prompts.wrap_description(record.description)
    return Conversation.with_picture(((prompts.edit_request(record.instruction), reply),), _open(record.image, record))


def _open(image: Path | bytes, record: Record) -> Picture:
    """Return a picture of a record; raise UserError that names its shard and key, if it comes from a shard."""
    try:
        return fit_square(open_picture(image), IMAGE_SIZE_PX)
    except UserError as error:
        raise UserError(f"In {record.place}: {error}" if record.place else str(error)) from error
