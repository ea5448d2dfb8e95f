"""BAGEL (arXiv 2505.14683): two experts, a SigLIP encoder, and rectified flow over image latents."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from latentbridge.images import fit_square
from latentbridge.models.backbones.bagel.context import Branches, Context, Prefill, Reference
from latentbridge.models.backbones.bagel.latent_tokens import Shape
from latentbridge.models.backbones.bagel.navit_encoder import resized
from latentbridge.models.backbones.bagel.network import BagelNetwork
from latentbridge.models.backbones.bagel.options import EDIT_OPTIONS, THINK_PROMPT, BagelOptions
from latentbridge.models.backbones.bagel.pictures import write_pictures, written_levels
from latentbridge.models.backbones.bagel.rectified_flow import noised, training_times
from latentbridge.models.chat import ChatTokens, tokenize_chat
from latentbridge.models.left_padding import next_token_loss
from latentbridge.models.trainable import masked_mean, repeat_seeds
from latentbridge.ranks import per_rank_random
from latentbridge.types import Conversation, EditMethod, EditResult, Picture, Skill

_PROMPT_DROPOUT = 0.1
"""Share of prompts dropped in the generation loss, for classifier-free guidance (spec LatentUMM 1.4)."""


class Bagel(BagelNetwork):
    """BAGEL in all skills, and the latents and losses of its training.

    The latent of generation is the generation expert's final states at the n tokens of the picture, [n * h], averaged
    over the moves of a flow from the seed's noise, each weighted by its length. The velocity is a linear map of the state, so
    the mean state gives the mean velocity, and one straight move by it from the same noise ends exactly where the moves did:
    the latent and the seed determine the drawing, however many `roundtrip_steps` made it (in one move, the estimate of
    the clean latents at t = 1, spec LatentUMM 6). A drawing is encoded as the understanding expert's states at the SigLIP
    tokens, at the size at which these show the same squares. Round trips are square and not guided. The autoencoder is
    never trained.

    Unlike in the release, the clean latents of a picture are the mean of the autoencoder's distribution, not a sample.
    """

    def __init__(self, *parts: Any, roundtrip_steps: int = 4, **settings: Any):
        """Take the arguments of `BagelNetwork`; one roundtrip step, which is one move, gives the mean of all drawings, a blur."""
        super().__init__(*parts, **settings)
        self.roundtrip_steps = roundtrip_steps
        self.drawing_options = BagelOptions()
        self.edit_options = EDIT_OPTIONS
        self.default_steps, self.default_guidance = self.drawing_options.steps, self.drawing_options.guidance

    @property
    def skills(self) -> frozenset[Skill]:
        return frozenset((*super().skills, "edit"))

    # --- skills, by the batch ---

    @torch.no_grad()
    def reply(
        self,
        conversations: Sequence[Conversation],
        *,
        max_tokens: int,
        temperature: float = 0.0,
        generators: Sequence[torch.Generator] | None = None,
    ) -> list[str]:
        rows = self.write(self.prefill_chat(conversations), max_tokens, temperature, generators)
        return self.tokenizer.batch_decode(rows, skip_special_tokens=True)

    @torch.no_grad()
    def draw_descriptions(
        self,
        descriptions: Sequence[str],
        seeds: Sequence[int],
        *,
        steps: int | None = None,
        guidance: float | None = None,
    ) -> list[Picture]:
        steps, guidance = self.sampling_settings(steps, guidance)
        return self._draw(descriptions, seeds, replace(self.drawing_options, steps=steps, guidance=guidance))

    def _draw(self, descriptions: Sequence[str], seeds: Sequence[int], options: BagelOptions) -> list[Picture]:
        shape = self.latent_shape(options.size)
        branches, _ = self.branches(descriptions, (), options)
        clean, _ = self.sample(branches, self.noise(seeds, shape), shape, options)
        return write_pictures(self.decode_latents(clean, shape))

    @torch.no_grad()
    def edit_pictures(
        self,
        pictures: Sequence[Picture],
        instructions: Sequence[str],
        seeds: Sequence[int],
        *,
        steps: int | None = None,
        guidance: float | None = None,
        method: EditMethod = "masked",
    ) -> list[EditResult]:
        steps, guidance = self.sampling_settings(steps, guidance)
        return self._edit(pictures, instructions, seeds, replace(self.edit_options, steps=steps, guidance=guidance))

    def _edit(
        self, pictures: Sequence[Picture], instructions: Sequence[str], seeds: Sequence[int], options: BagelOptions
    ) -> list[EditResult]:
        sources = [self.rule.resize(picture) for picture in pictures]
        by_size: dict[tuple[int, ...], list[int]] = defaultdict(list)
        for index, source in enumerate(sources):
            by_size[source.shape].append(index)
        results: dict[int, EditResult] = {}
        for (height, width, _), rows in by_size.items():
            shape = self.latent_shape(options.size or (width, height))
            texts = [instructions[row] for row in rows]
            branches, thoughts = self.branches(texts, [sources[row] for row in rows], options)
            clean, _ = self.sample(branches, self.noise([seeds[row] for row in rows], shape), shape, options)
            for row, text, picture in zip(rows, texts, write_pictures(self.decode_latents(clean, shape)), strict=True):
                results[row] = EditResult(picture, "", text, np.ones(picture.shape[:2], bool))
        return [results[index] for index in range(len(pictures))]

    # --- contexts ---

    def prefill_chat(self, conversations: Sequence[Conversation]) -> Prefill:
        """Run over conversations up to the start of their last reply."""
        features = self._conversation_features(conversations)
        chats = [
            self.tokenize(conversation, 0 if image is None else len(image), open_ended=True)
            for conversation, image in zip(conversations, features, strict=True)
        ]
        return self.prefill(self.pad([chat.ids for chat in chats]), [image for image in features if image is not None])

    def prefill_request(
        self, texts: Sequence[str], sources: Sequence[Picture] = (), system: str = "", ends: Sequence[list[int]] = ()
    ) -> Prefill:
        """Run over requests to draw: the system prompt, the picture to edit as latents and as SigLIP tokens, the text, an end.

        The pictures have one size, at which the autoencoder reads them.
        """
        head, reference = self.chat.text(system) if system else [], None
        features = self.eye(sources) if sources else []
        images = [[*self.image_ids(0), *self.image_ids(len(image))] for image in features] or [[] for _ in texts]
        rows = [[*head, *image, *self.chat.text(text)] for image, text in zip(images, texts, strict=True)]
        if ends:
            rows = [[*row, *end] for row, end in zip(rows, ends, strict=True)]
        if sources:
            height, width = sources[0].shape[:2]
            shape = height // self.stride_px, width // self.stride_px
            reference = Reference(self.encode_latents(sources), shape, len(head))
        return self.prefill(self.pad(rows), features, reference)

    def branches(
        self, texts: Sequence[str], sources: Sequence[Picture], options: BagelOptions
    ) -> tuple[Branches, list[str]]:
        """Return the contexts of drawings from texts or of edits, and the thoughts that are part of them, if asked for."""
        system, thoughts = "", list[str]()
        if options.think:
            system = THINK_PROMPT
            opened = self.prefill_request(texts, sources, system, [[self._bos]] * len(texts))
            thoughts = self.tokenizer.batch_decode(self.write(opened, options.think_tokens))
        full = self.prefill_request(texts, sources, system, [self.chat.text(thought) for thought in thoughts]).context
        head = len(self.chat.text(system)) if system else 0
        without_text = full.before(torch.full_like(full.end, head + 2 * bool(sources)))
        without_image = self.prefill_request(texts, system=system).context if sources or thoughts else full
        return Branches(full, without_text, without_image), thoughts

    # --- latents and losses ---

    def und_latent(self, items: Sequence[Picture] | Sequence[str]) -> Tensor:
        if not isinstance(items[0], str):
            return masked_mean(*self._image_states(self.read(cast(Sequence[Picture], items))))
        tokens = self.tokenize_texts(cast(Sequence[str], items))
        return masked_mean(self.prefill(tokens).states, tokens.mask.bool() & (self.positions(tokens) > 0))

    def gen_latent(self, prompts: Sequence[str], seeds: Sequence[int] = (0,)) -> Tensor:
        context = self.prefill_request(prompts).context
        options = replace(self.drawing_options, steps=self.roundtrip_steps + 1, guidance=1.0)
        noise = self.noise(repeat_seeds(seeds, len(prompts)), self._square)
        _, states = self.sample(Branches(context, context, context), noise, self._square, options)
        return states.flatten(1)

    def draw(self, latents: Tensor, seeds: Sequence[int] = (0,)) -> Tensor:
        """Return pixels [m 3 h w] in [-1, 1]."""
        states = latents.unflatten(-1, (self.latents.grid**2, -1)).to(self.latents.places.dtype)
        clean = self.noise(repeat_seeds(seeds, len(latents)), self._square) - self.latents.velocity(states)
        return written_levels(self.decode_latents(clean, self._square)) / 127.5 - 1

    def roundtrip(self, latents: Tensor, seeds: Sequence[int] = (0,)) -> Tensor:
        return self._drawing_states(self.draw(latents, seeds))

    def understanding_loss(self, conversations: Sequence[Conversation], drawn: Tensor | None = None) -> Tensor:
        """Return the mean next-token cross-entropy over the tokens of replies."""
        features = self._conversation_features(conversations) if drawn is None else self._encode_drawing(drawn)
        chats = [
            self.tokenize(conversation, 0 if image is None else len(image))
            for conversation, image in zip(conversations, features, strict=True)
        ]
        tokens = self.pad([chat.ids for chat in chats])
        states = self.prefill(tokens, [image for image in features if image is not None]).states
        return next_token_loss(self.language_model.lm_head, states, [chat.labels for chat in chats])

    def generation_loss(self, prompts: Sequence[str], pictures: Sequence[Picture], rng: torch.Generator) -> Tensor:
        """Return the mean squared error of the velocity at one time per picture; one prompt in ten is dropped."""
        dropped = per_rank_random(torch.rand, (len(prompts),), rng) < _PROMPT_DROPOUT
        context = self.prefill_request(prompts).context
        context = context.before(context.end.where(~dropped.to(context.end.device), 0))
        return self._flow_loss(pictures, context, rng)

    def reconstruction_loss(self, pictures: Sequence[Picture], rng: torch.Generator) -> Tensor:
        """Return the flow loss with the picture itself as context; SigLIP and the understanding expert get no gradient (RecA)."""
        with torch.no_grad():
            features = self.read(pictures)
            context = self.prefill(self.tokenize_images(features), features).context
        return self._flow_loss(pictures, context, rng, freeze_understanding=True)

    def trainable(self, name: str) -> bool:
        return not name.startswith("autoencoder.")

    @property
    def _square(self) -> Shape:
        """The shape of drawings in training."""
        return self.latents.grid, self.latents.grid

    def _flow_loss(
        self, pictures: Sequence[Picture], context: Context, rng: torch.Generator, freeze_understanding: bool = False
    ) -> Tensor:
        """Return the mean squared error of the velocity at one time per picture."""
        clean = self.encode_latents([fit_square(picture, self.drawing_size_px) for picture in pictures])
        noise = per_rank_random(torch.randn, clean.shape, rng).to(clean.device)
        times = training_times(len(clean), rng).to(clean.device)
        noisy = noised(clean, noise, times)
        states = self.generation_states(noisy, times, context, self._square, freeze_understanding)
        return F.mse_loss(self.latents.velocity(states), noise - clean)

    def _image_states(self, features: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """Return states [b s h] of pictures alone from their SigLIP tokens [n h], and the mask [b s] of these tokens."""
        tokens = self.tokenize_images(features)
        return self.prefill(tokens, features).states, tokens.ids == self._image

    def _drawing_states(self, pixels: Tensor) -> Tensor:
        """Return the latents [b n * h] of drawings [b 3 h w] in [-1, 1]."""
        states, mask = self._image_states(self._encode_drawing(pixels))
        return states[mask].view(len(pixels), -1).float()

    def _encode_drawing(self, pixels: Tensor) -> list[Tensor]:
        """Return SigLIP tokens [n h] of drawings [b 3 h w] in [-1, 1], at the size that shows the latents' squares."""
        side_px = self.latents.grid * self.eye.patch_px
        return list(self.eye.encode_pixels(resized(pixels, (side_px, side_px))))

    # --- conversations ---

    def _conversation_features(self, conversations: Sequence[Conversation]) -> list[Tensor | None]:
        """Return the SigLIP tokens [n h] of each conversation's picture, None if it has none."""
        features = iter(self.read([c.picture for c in conversations if c.picture is not None]))
        return [next(features) if c.picture is not None else None for c in conversations]

    def tokenize(self, conversation: Conversation, num_image_tokens: int, open_ended: bool = False) -> ChatTokens:
        """Return the tokens of a conversation about an image, if any; `open_ended` omits the last reply."""
        image = self.image_ids(num_image_tokens) if num_image_tokens else []
        return tokenize_chat(self.chat, conversation, image, open_ended)
