"""Backbones with exactly known behaviour, so that measures can be computed by hand."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from latentbridge.data.shapes.grading import caption_facts
from latentbridge.data.shapes.language import describe, parse_description
from latentbridge.data.shapes.oracle import read_scene
from latentbridge.data.shapes.render import render
from latentbridge.data.shapes.scenes import BACKGROUNDS, COLOURS, PLACES, SHAPES, SIZES, Scene
from latentbridge.prompts import CAPTION_REQUEST
from latentbridge.types import Conversation, Picture

_WORDS = [*SHAPES, *COLOURS, *SIZES]


class Perfect:
    """Captions and draws scenes without error; to other questions it replies the number of things."""

    def scene(self, item: Any) -> Scene:
        scene = parse_description(item) if isinstance(item, str) else read_scene(item)
        assert scene is not None
        return scene

    def und_latent(self, items: Sequence[Any]) -> Tensor:
        """Return ones at shape, colour and size of each place and at the background: the squared norm is 3 per thing, plus 1."""
        vectors = torch.zeros(len(items), len(PLACES) * len(_WORDS) + len(BACKGROUNDS))
        for row, scene in zip(vectors, map(self.scene, items), strict=True):
            for thing in scene.things:
                for word in (thing.shape, thing.colour, thing.size):
                    row[thing.place * len(_WORDS) + _WORDS.index(word)] = 1
            row[len(PLACES) * len(_WORDS) + list(BACKGROUNDS).index(scene.background)] = 1
        return vectors

    def draw_descriptions(self, prompts: Sequence[str], seeds: Sequence[int] = (0,)) -> list[Picture]:
        return [render(self.scene(prompt)) for prompt in prompts]

    def understand(self, pictures: Sequence[Picture], questions: Sequence[str]) -> list[str]:
        scenes = map(self.scene, pictures)
        return [
            describe(scene) if question == CAPTION_REQUEST else str(len(scene.things))
            for scene, question in zip(scenes, questions, strict=True)
        ]

    def understanding_loss(self, conversations: Sequence[Conversation]) -> Tensor:
        """Return the share of the picture's facts that the reply lacks."""
        (conversation,) = conversations
        kept, total = caption_facts(conversation.turns[0][1], self.scene(conversation.all_pictures[0]))
        return torch.tensor(1 - kept / total)


def halved(scene: Scene) -> Scene:
    """Return the scene with the first half of its things."""
    return Scene(scene.things[: max(1, len(scene.things) // 2)], scene.background)


class Forgetful(Perfect):
    """Draws without error but captions only half of the things."""

    def understand(self, pictures: Sequence[Picture], questions: Sequence[str]) -> list[str]:
        replies = super().understand(pictures, questions)
        return [
            describe(halved(self.scene(reply))) if question == CAPTION_REQUEST else reply
            for reply, question in zip(replies, questions, strict=True)
        ]


class Clumsy(Perfect):
    """Captions without error but draws only half of the things."""

    def draw_descriptions(self, prompts: Sequence[str], seeds: Sequence[int] = (0,)) -> list[Picture]:
        return [render(halved(self.scene(prompt))) for prompt in prompts]


class Stuck(Perfect):
    """Draws the same picture for each prompt."""

    def draw_descriptions(self, prompts: Sequence[str], seeds: Sequence[int] = (0,)) -> list[Picture]:
        same = self.scene("large red circle top left, small blue star bottom, on white")
        return [np.array(render(same)) for _ in prompts]
