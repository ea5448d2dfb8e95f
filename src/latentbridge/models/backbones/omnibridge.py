"""OmniBridge as a unified backbone: it draws from the aligner's condition, and reads drawings back into it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor, nn

from latentbridge.images import fit_square
from latentbridge.models.diffusion import diffusion_loss
from latentbridge.models.omnibridge.modeling_omnibridge import OmniBridge, drawing_talks
from latentbridge.models.pixels import shown_levels
from latentbridge.models.trainable import masked_mean, repeat_seeds
from latentbridge.types import Conversation, Picture

_MOVING = ("model.backbone.", "model.projector.", "model.aligner.", "model.decoder.")


class OmniBridgeAdapter(nn.Module):
    """A `OmniBridge` under the contract of `TrainableModel`.

    The latent of generation is the whole condition [n * d], position after position: pooled, it would no longer say what
    to draw. A drawing is read as the same queries of the same aligner read the backbone's states of it, which is also
    how the release conditions an edit on its picture. The text encoder stays, for it says what conditions mean, and so
    do autoencoder and retrieval head.
    """

    def __init__(self, model: OmniBridge, roundtrip_steps: int = 4):
        """`roundtrip_steps` of denoising from pure noise; one gives the mean of all drawings, which is blurred.

        Round trips are not guided, so the text encoder takes no part in them. A released decoder is shown the latent
        alone in them, not the caption's own slots.
        """
        super().__init__()
        for part in ("bridge", "decoder"):
            model.require(part, "make round trips")
        self.model = model
        self.roundtrip_steps = roundtrip_steps

    def und_latent(self, items: Sequence[Picture] | Sequence[str]) -> Tensor:
        if isinstance(items[0], str):
            return masked_mean(*self.model.text_hidden(cast(Sequence[str], items)))
        return masked_mean(*self.model.image_hidden([self.model.fit(picture) for picture in items]))

    def gen_latent(self, prompts: Sequence[str], seeds: Sequence[int] = (0,)) -> Tensor:
        return self.model.query_condition(drawing_talks(prompts, prompts)).flatten(1).float()

    def draw(self, latents: Tensor, seeds: Sequence[int] = (0,)) -> Tensor:
        """Levels [m 3 h w] from 0 to 255."""
        model = self.model
        condition = latents.unflatten(-1, (-1, model.config.aligner.d_model)).to(model.decoder.transformer.dtype)
        drawn = model.denoise(condition, repeat_seeds(seeds, len(latents)), self.roundtrip_steps, guidance=1.0)
        return shown_levels(model.autoencoder.decode(drawn))

    def roundtrip(self, latents: Tensor, seeds: Sequence[int] = (0,)) -> Tensor:
        return self.model.aligned(*self.model.image_hidden(self.draw(latents, seeds))).flatten(1).float()

    def generate(self, prompts: Sequence[str], seeds: Sequence[int] = (0,)) -> list[Picture]:
        return self.model.generate(list(prompts), repeat_seeds(seeds, len(prompts)), rewrite=False)

    def understand(self, pictures: Sequence[Picture], questions: Sequence[str]) -> list[str]:
        return self.model.understand(list(pictures), list(questions))

    def understanding_loss(self, conversations: Sequence[Conversation], drawn: Tensor | None = None) -> Tensor:
        return self.model.backbone.language_loss(self.model.backbone.tokenize(conversations, drawn=drawn))

    def generation_loss(self, prompts: Sequence[str], pictures: Sequence[Picture], rng: torch.Generator) -> Tensor:
        return self._diffusion_loss(pictures, self.model.query_condition(drawing_talks(prompts, prompts)), rng)

    def text_generation_loss(self, prompts: Sequence[str], pictures: Sequence[Picture], rng: torch.Generator) -> Tensor:
        """Return `generation_loss` with the frozen text encoder's condition in place of the bridge's, as edits are drawn."""
        with torch.no_grad():
            condition = self.model.text_condition(prompts)
        return self._diffusion_loss(pictures, condition, rng)

    def reconstruction_loss(self, pictures: Sequence[Picture], rng: torch.Generator) -> Tensor:
        with torch.no_grad():
            hidden, mask = self.model.image_hidden([self.model.fit(picture) for picture in pictures])
        return self._diffusion_loss(pictures, self.model.aligned(hidden, mask), rng)

    def trainable(self, name: str) -> bool:
        return name.startswith(_MOVING)

    def _diffusion_loss(self, pictures: Sequence[Picture], condition: Tensor, rng: torch.Generator) -> Tensor:
        model = self.model
        side_px = model.decoder.grid * model.autoencoder.patch_px
        clean = model.encode_pictures([fit_square(picture, side_px) for picture in pictures])
        return diffusion_loss(model.decoder, model.scheduler, clean, condition, rng)
