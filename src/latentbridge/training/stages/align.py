"""Stage 2: latent alignment of projector, aligner and retrieval head between a frozen backbone and a frozen decoder."""

from __future__ import annotations

import json
from dataclasses import dataclass
from hashlib import sha256
from math import isqrt
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from latentbridge import prompts
from latentbridge.config import AlignConfig, RunConfig, to_dict
from latentbridge.data.drawings.catalogue import default_cache
from latentbridge.data.stores.array_log import RaggedArray
from latentbridge.data.stores.features import cached_features
from latentbridge.data.worlds import AlignItem
from latentbridge.models.checkpoint import unique_state
from latentbridge.models.diffusion import diffusion_loss
from latentbridge.models.omnibridge.aligner import init_from_t5
from latentbridge.models.omnibridge.modeling_omnibridge import OmniBridge
from latentbridge.ranks import local_rows
from latentbridge.rng import numpy_rng
from latentbridge.training.fits.auxiliary_embedding import fit_auxiliary_embedding
from latentbridge.training.items import ItemOrder
from latentbridge.training.objectives.annealing import ANNEALED_SHARE, mix_text_and_queries
from latentbridge.training.objectives.losses import distillation_loss, retrieval_loss
from latentbridge.training.stage import DataStage
from latentbridge.types import LossOutputs

_PROBED_ITEMS = 64


@dataclass
class AlignBatch:
    """Frozen features of one step's items, and the progress of the run from 0 to 1."""

    progress: float
    draw: Tensor
    """float32 [b s h]: backbone states from `<img>` to `</img>`."""
    draw_mask: Tensor
    """bool [b s], as the masks below."""
    image: Tensor
    """float32 [b s h]: backbone states at image tokens."""
    image_mask: Tensor
    text: Tensor
    """float32 [b s h]: backbone states of a caption."""
    text_mask: Tensor
    target_ids: Tensor
    """int64 [b n]: the description in the text encoder's tokens."""
    target: Tensor
    """float32 [b n d]: the text encoder's states of the description."""
    image_latents: Tensor
    """float32 [b c h w] of the described picture."""
    identity: Tensor
    """int64 [b]; equal if pictures show the same thing."""


class Align(DataStage):
    """OmniBridge's latent alignment over cached features of a finite set of items.

    Losses, each by its weight: distillation to the text encoder's output (the released code's), diffusion through the
    frozen decoder (the paper's), retrieval InfoNCE.
    """

    many_ranks = True
    settings: AlignConfig  # pyright: ignore[reportIncompatibleVariableOverride]

    def __init__(self, config: RunConfig):
        super().__init__(config)
        self.order = ItemOrder(config, "align order")
        self.features: dict[str, RaggedArray] = {}

    def prepare(self, model: OmniBridge) -> None:
        if not self.config.inherits("aligner."):
            init_from_t5(model.aligner, model.text_encoder)
        if model.config.second_view.words and not self.config.inherits("second_view."):
            fit_auxiliary_embedding(model.second_view)

    def setup(self, model: OmniBridge) -> None:
        """Load the frozen features of all items; those that are not cached yet are computed now."""
        key = {
            "weights": _frozen_digest(model),
            "model": to_dict(self.config.model),
            "first items": self._digest_items(),
            "worlds": self.worlds.digest(),
            "seed": self.config.seed,
            "dtype": "float16",
        }
        cache = Path(default_cache() / "features")
        self.features = cached_features(
            cache, key, self.settings.items, lambda indices: self.compute_features(model, indices)
        )

    def trainable(self, name: str) -> bool:
        return name.startswith(("model.projector.", "model.aligner.", "model.retrieval."))

    def phase(self, step: int) -> int:
        """Return the number of annealing steps so far; the loss begins near 0 and rises while text gives way to queries."""
        annealed = round(ANNEALED_SHARE * self.config.steps)
        return 0 if self.settings.beta_schedule == "none" else min(step, annealed)

    def batch(self, model: OmniBridge, step: int) -> AlignBatch:
        indices = local_rows(self.order.indices(step))
        draw, draw_mask = self._padded("draw", indices)
        image, image_mask = self._padded("image", indices)
        text, text_mask = self._padded("text", indices)
        latents = self._padded("latents", indices)[0]
        channels = model.autoencoder.channels
        grid = isqrt(latents[0].numel() // channels)
        return AlignBatch(
            progress=step / self.config.steps,
            draw=draw,
            draw_mask=draw_mask,
            image=image,
            image_mask=image_mask,
            text=text,
            text_mask=text_mask,
            target_ids=self._padded("ids", indices)[0].long(),
            target=self._padded("target", indices)[0],
            image_latents=latents.view(len(indices), channels, grid, grid),
            identity=torch.from_numpy(self.features["identity"].padded(indices)[0][:, 0]),
        )

    def loss(self, model: OmniBridge, batch: AlignBatch, rng: torch.Generator, heads: nn.Module | None) -> LossOutputs:
        settings = self.settings
        text = model.text_encoder.shared(batch.target_ids)
        inputs = mix_text_and_queries(settings.beta_schedule, batch.progress, text, model.aligner.query_tokens, rng)
        condition = model.aligner(inputs, model.projector(batch.draw), batch.draw_mask)
        distillation = distillation_loss(condition, batch.target)
        loss = settings.distillation_weight * distillation
        parts = {"distillation": float(distillation.detach())}
        if settings.diffusion_weight:
            diffusion = diffusion_loss(model.decoder, model.scheduler, batch.image_latents, condition, rng)
            loss = loss + settings.diffusion_weight * diffusion
            parts["diffusion"] = float(diffusion.detach())
        if settings.retrieval_weight:
            image = model.retrieval("image", model.projector(batch.image), batch.image_mask, model.aligner)
            caption = model.retrieval("text", model.projector(batch.text), batch.text_mask, model.aligner)
            retrieval = retrieval_loss(image, caption, batch.identity, model.retrieval.logit_scale.exp())
            loss = loss + settings.retrieval_weight * retrieval.total
            parts["retrieval"] = float(retrieval.total.detach())
        return LossOutputs(loss, parts)

    def _padded(self, name: str, indices: list[int]) -> tuple[Tensor, Tensor]:
        values, mask = self.features[name].padded(indices)
        return torch.from_numpy(values).float(), torch.from_numpy(mask)

    def _item(self, index: int) -> AlignItem:
        rng = numpy_rng(self.config.seed, "align item", index)
        return self.worlds.world_at(rng, index).sample_align_item(rng)

    def _digest_items(self) -> str:
        """Return a hash of the first items, which changes with templates, captions and renderers."""
        digest = sha256()
        for item in map(self._item, range(min(_PROBED_ITEMS, self.settings.items))):
            digest.update(repr((item.conversation.turns, item.caption, item.identity)).encode())
            pictures = (item.target, item.picture, *item.conversation.all_pictures)
            digest.update(b"".join(picture.tobytes() for picture in pictures if picture is not None))
        return digest.hexdigest()

    @torch.no_grad()
    def compute_features(self, model: OmniBridge, indices: range) -> dict[str, list[np.ndarray]]:
        items = [self._item(index) for index in indices]
        descriptions = [prompts.unwrap_description(item.conversation.turns[-1][1]) for item in items]
        ids = model.text_ids(descriptions)
        latents = model.encode_pictures([item.target for item in items]).flatten(1)
        return {
            "draw": _half(*model.drawing_hidden([item.conversation for item in items])),
            "image": _half(*model.image_hidden([item.picture for item in items])),
            "text": _half(*model.text_hidden([item.caption for item in items])),
            "ids": list(ids.cpu().numpy().astype(np.int32)),
            "target": list(model.text_condition(descriptions).half().cpu().numpy()),
            "latents": [row.half().cpu().numpy()[None] for row in latents],
            "identity": [np.array([item.identity]) for item in items],
        }


class Adaption(Align):
    """The first half of stage 2: projector and learned queries are trained, the aligner keeps the text encoder's weights.

    Deviation: the aligner's cross-attention is trained too. In the paper it is frozen at random weights; ours starts at
    zero (`models/omnibridge/aligner.py`), and a frozen zero would pass the projector no gradient.
    """

    def trainable(self, name: str) -> bool:
        return name.startswith(("model.projector.", "model.aligner.query_tokens")) or "EncDecAttention" in name


def _half(hidden: Tensor, mask: Tensor) -> list[np.ndarray]:
    return [row[keep].half().cpu().numpy() for row, keep in zip(hidden, mask, strict=True)]


def _frozen_digest(model: OmniBridge) -> str:
    digest = sha256()
    for name, tensor in unique_state(model).items():
        if name.startswith(("backbone.", "text_encoder.", "autoencoder.")):
            digest.update(name.encode())
            digest.update(tensor.cpu().contiguous().numpy().tobytes())
    digest.update(json.dumps(model.backbone.tokenizer.get_vocab(), sort_keys=True).encode())
    return digest.hexdigest()
