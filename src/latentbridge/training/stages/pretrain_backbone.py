"""Pretraining of the backbone: the stand-in for what released Qwen2-VL weights bring."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from latentbridge.config import RunConfig
from latentbridge.data.shapes.render import patch_owners
from latentbridge.data.shapes.scenes import COLOURS, MAX_THINGS, SHAPES, SIZES, Scene, scenes
from latentbridge.data.shapes.tasks import converse
from latentbridge.devices import CPU
from latentbridge.models.left_padding import IGNORE_INDEX
from latentbridge.models.omnibridge.modeling_omnibridge import OmniBridge
from latentbridge.models.qwen_vl.batch import TokenBatch
from latentbridge.ranks import global_mean, local_rows
from latentbridge.rng import numpy_rng
from latentbridge.training.parallel import local_conversations, zero_weight_indices
from latentbridge.training.stage import Stage
from latentbridge.types import LossOutputs

_ATTRIBUTES = (SHAPES, tuple(COLOURS), SIZES)


@dataclass
class WarmupBatch:
    """Conversations, with dense labels of their pictures."""

    conversations: TokenBatch
    labels: Tensor
    """int64 [3, pictures, patches]: shape, colour and size of the thing at each image token; 0 is background, and a
    picture that another rank lent has IGNORE_INDEX."""


class PretrainBackbone(Stage):
    """Language modelling with a vision warm-up on dense labels: what lies at each image token.

    The labels are ones only a renderer has, so this stands in for a pretrained vision tower and is no part of the
    method (spec trials, stage 1). The number of things grows over the run: one, then two, then four.
    """

    many_ranks = True

    def __init__(self, config: RunConfig):
        self.config = config

    def attach(self, model: OmniBridge) -> nn.Module | None:
        return nn.ModuleList(nn.Linear(model.backbone.width, len(names) + 1) for names in _ATTRIBUTES)

    def trainable(self, name: str) -> bool:
        return name.startswith(("model.backbone.", "heads."))

    def batch(self, model: OmniBridge, step: int) -> WarmupBatch:
        rng = numpy_rng(self.config.seed, "pretrain backbone", step)
        most = min(MAX_THINGS, 1 + 6 * step // self.config.steps)
        drawn: list[Scene] = []
        for scene in scenes("train", rng):
            if len(scene.things) <= most:
                drawn.append(scene)
            if len(drawn) == self.config.batch_size:
                break
        talks = [converse(scene, rng, self.config.stage.tasks) for scene in drawn]
        while all(talk.picture is None for talk in talks):  # nothing to label; happens in batches of one or two
            talks = [converse(scene, rng, self.config.stage.tasks) for scene in drawn]
        sizes = model.config.backbone
        patch_px = sizes.patch_size_px * sizes.merge_size
        shown = [scene for scene, talk in local_rows(list(zip(drawn, talks, strict=True))) if talk.picture is not None]
        labels = [_token_labels(scene, patch_px) for scene in shown]
        labels += [
            np.full_like(_token_labels(drawn[index], patch_px), IGNORE_INDEX) for index in zero_weight_indices(talks)
        ]
        conversations = model.backbone.tokenize(local_conversations(talks), device=CPU)
        return WarmupBatch(conversations, torch.from_numpy(np.stack(labels, axis=1)))

    def loss(self, model: OmniBridge, batch: WarmupBatch, rng: torch.Generator, heads: nn.ModuleList) -> LossOutputs:
        tokens = model.backbone.image_embeddings(batch.conversations)
        language = model.backbone.language_loss(batch.conversations, tokens)
        dense = torch.stack(
            [_label_loss(head(tokens), labels) for head, labels in zip(heads, batch.labels, strict=True)]
        ).sum()
        return LossOutputs(language + dense, {"language": float(language.detach()), "dense": float(dense.detach())})


def _label_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Mean cross-entropy of logits [pictures patches n] over the labels of all ranks."""
    total = F.cross_entropy(logits.float().flatten(0, 1), labels.flatten(), reduction="sum")
    return global_mean(total, (labels != IGNORE_INDEX).sum())


def _token_labels(scene: Scene, patch_px: int) -> np.ndarray:
    """int64 [3, patches]: index + 1 of shape, colour and size at each image token, 0 where nothing lies."""
    owners = patch_owners(scene, patch_px).flatten()
    values = [
        [0, *(names.index(value) + 1 for value in column)]
        for names, column in zip(_ATTRIBUTES, _columns(scene), strict=True)
    ]
    return np.array(values)[:, owners + 1]


def _columns(scene: Scene) -> tuple[list[str], list[str], list[str]]:
    things = scene.things
    return [t.shape for t in things], [t.colour for t in things], [t.size for t in things]
