"""Pretraining of the backbone, in place of released Qwen2-VL weights."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import islice
from typing import cast

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from latentbridge.config import PretrainBackboneConfig, RunConfig
from latentbridge.data.shapes.render import patch_labels
from latentbridge.data.shapes.scenes import COLOURS, MAX_THINGS, SHAPES, SIZES, Scene, scenes
from latentbridge.data.shapes.tasks import scene_conversation
from latentbridge.devices import CPU
from latentbridge.models.left_padding import IGNORE_INDEX
from latentbridge.models.omnibridge.modeling_omnibridge import OmniBridge
from latentbridge.models.qwen_vl.batch import TokenBatch
from latentbridge.ranks import global_mean, local_rows
from latentbridge.rng import numpy_rng
from latentbridge.training.parallel import local_conversations, zero_weight_indices
from latentbridge.training.stage import Stage
from latentbridge.types import LossOutputs

_ATTRIBUTES = {"shape": SHAPES, "colour": tuple(COLOURS), "size": SIZES}


@dataclass
class WarmupBatch:
    """Conversations, and dense labels of their pictures."""

    conversations: TokenBatch
    labels: Tensor
    """int64 [3, pictures, patches]: shape, colour and size of the thing at each image token; 0 is background, and the
    pictures of zero-weight samples have IGNORE_INDEX."""


class PretrainBackbone(Stage):
    """Language loss and dense prediction: a linear probe predicts the attributes of the thing at each image token.

    Only a renderer has such labels; they stand in for a pretrained vision tower and are no part of the method (spec
    trials, stage 1). Curriculum: scenes have one thing at first, then up to two and four.
    """

    many_ranks = True

    def __init__(self, config: RunConfig):
        self.config = config
        self.tasks = cast(PretrainBackboneConfig, config.stage).tasks

    def build_heads(self, model: OmniBridge) -> nn.Module | None:
        return nn.ModuleList(nn.Linear(model.backbone.width, len(names) + 1) for names in _ATTRIBUTES.values())

    def trainable(self, name: str) -> bool:
        return name.startswith(("model.backbone.", "heads."))

    def batch(self, model: OmniBridge, step: int) -> WarmupBatch:
        rng = numpy_rng(self.config.seed, "pretrain backbone", step)
        max_things = min(MAX_THINGS, 1 + 6 * step // self.config.steps)
        fitting = (scene for scene in scenes("train", rng) if len(scene.things) <= max_things)
        sampled = list(islice(fitting, self.config.batch_size))
        conversations = [scene_conversation(scene, rng, self.tasks) for scene in sampled]
        while all(not one.all_pictures for one in conversations):  # nothing to label; happens in batches of one or two
            conversations = [scene_conversation(scene, rng, self.tasks) for scene in sampled]
        sizes = model.config.backbone
        patch_px = sizes.patch_size_px * sizes.merge_size
        local = local_rows(list(zip(sampled, conversations, strict=True)))
        labels = [_token_labels(scene, patch_px) for scene, one in local if one.all_pictures]
        zero_weight = [_token_labels(sampled[index], patch_px) for index in zero_weight_indices(conversations)]
        labels += [np.full_like(one, IGNORE_INDEX) for one in zero_weight]
        tokens = model.backbone.tokenize(local_conversations(conversations), device=CPU)
        return WarmupBatch(tokens, torch.from_numpy(np.stack(labels, axis=1)))

    def loss(self, model: OmniBridge, batch: WarmupBatch, rng: torch.Generator, heads: nn.ModuleList) -> LossOutputs:
        tokens = model.backbone.image_embeddings(batch.conversations)
        language = model.backbone.language_loss(batch.conversations, tokens)
        dense = torch.stack(
            [_label_loss(head(tokens), labels) for head, labels in zip(heads, batch.labels, strict=True)]
        ).sum()
        return LossOutputs(language + dense, {"language": float(language.detach()), "dense": float(dense.detach())})


def _label_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Return the mean cross-entropy of logits [pictures patches n] over the labels of all ranks."""
    total = F.cross_entropy(logits.float().flatten(0, 1), labels.flatten(), reduction="sum")
    return global_mean(total, (labels != IGNORE_INDEX).sum())


def _token_labels(scene: Scene, patch_px: int) -> np.ndarray:
    """Return int64 [3, patches]: index + 1 of shape, colour and size at each image token, 0 for background."""
    owners = patch_labels(scene, patch_px).flatten()
    values = [
        [0, *(names.index(getattr(thing, name)) + 1 for thing in scene.things)] for name, names in _ATTRIBUTES.items()
    ]
    return np.array(values)[:, owners + 1]
