"""BAGEL (arXiv 2505.14683): two experts, a SigLIP encoder, and rectified flow over image latents."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace
from typing import cast

import torch
from torch import Tensor
from torch.nn import functional as F

from latentbridge.images import fit_square
from latentbridge.models.backbones.bagel.context import Branches, Context, Prefill, Reference
from latentbridge.models.backbones.bagel.latent_tokens import Shape
from latentbridge.models.backbones.bagel.navit_encoder import resized
from latentbridge.models.backbones.bagel.network import BagelNetwork
from latentbridge.models.backbones.bagel.options import (
    DRAWING_THINK_PROMPT,
    READING_THINK_PROMPT,
    BagelOptions,
    BagelReplyOptions,
)
from latentbridge.models.backbones.bagel.rectified_flow import noised, training_times
from latentbridge.models.chat import ChatTokens, tokenize_chat
from latentbridge.models.left_padding import next_token_loss
from latentbridge.models.options import DrawingOptions, ReplyOptions, finish_reply
from latentbridge.models.pixels import truncated_levels, truncated_pictures
from latentbridge.models.token_sampling import Generators
from latentbridge.models.trainable import masked_mean
from latentbridge.ranks import per_rank_random
from latentbridge.rng import repeat_seeds
from latentbridge.types import Conversation, EditResult, GenerationResult, Picture, Reply, Skill

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

    @property
    def skills(self) -> frozenset[Skill]:
        return frozenset((*super().skills, "edit"))

    # --- skills, by the batch ---

    def check_size(self, options: DrawingOptions) -> None:
        self.latent_shape(options.size)

    def at_size(self, options: DrawingOptions, size: tuple[int, int]) -> DrawingOptions:
        scale = min(1.0, self.drawing_size_px / max(size)) / self.stride_px
        nearest = tuple(max(1, round(side * scale)) * self.stride_px for side in size)
        return replace(options, size=nearest)

    def count_tokens(self, conversation: Conversation) -> int:
        return len(self._tokenize(conversation, self._image_tokens(conversation), open_ended=True).ids)

    def _reply(
        self, conversations: Sequence[Conversation], options: BagelReplyOptions, generators: Generators
    ) -> list[Reply]:
        if options.think:
            conversations = [replace(c, system=READING_THINK_PROMPT) if c.system is None else c for c in conversations]
        rows, log_probs = self.write(self.prefill_chat(conversations), options, generators)
        return [
            finish_reply(self.tokenizer, row, [self._eos], options, values)
            for row, values in zip(rows, log_probs, strict=True)
        ]

    def _draw(self, descriptions: Sequence[str], seeds: Sequence[int], options: BagelOptions) -> list[Picture]:
        return [result.picture for result in self._generate(descriptions, seeds, options)]

    def _generate(
        self, descriptions: Sequence[str], seeds: Sequence[int], options: BagelOptions
    ) -> list[GenerationResult]:
        shape = self.latent_shape(options.size)
        branches, thoughts = self.branches(descriptions, (), options)
        clean, _ = self.sample(branches, self.noise(seeds, shape), shape, options)
        pictures = truncated_pictures(self.decode_latents(clean, shape))
        if thoughts:
            descriptions = [f"{text}\n{thought}" for text, thought in zip(descriptions, thoughts, strict=True)]
        return [GenerationResult(*row) for row in zip(pictures, descriptions, seeds, strict=True)]

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
            branches, thoughts = self.branches([instructions[i] for i in rows], [sources[i] for i in rows], options)
            clean, _ = self.sample(branches, self.noise([seeds[i] for i in rows], shape), shape, options)
            drawn = truncated_pictures(self.decode_latents(clean, shape))
            for i, picture, thought in zip(rows, drawn, thoughts or [""] * len(rows), strict=True):
                results[i] = EditResult(picture, after=thought)
        return [results[index] for index in range(len(pictures))]

    # --- contexts ---

    def prefill_chat(self, conversations: Sequence[Conversation]) -> Prefill:
        """Run over conversations up to the start of their last reply."""
        features = self.read([picture for conversation in conversations for picture in conversation.all_pictures])
        chats = [self._tokenize(c, self._image_tokens(c), open_ended=True) for c in conversations]
        return self.prefill(self.pad([chat.ids for chat in chats]), features)

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
            system = DRAWING_THINK_PROMPT
            opened = self.prefill_request(texts, sources, system, [[self._bos]] * len(texts))
            limit = ReplyOptions(max_tokens=options.think_tokens)
            thoughts = [
                finish_reply(self.tokenizer, row, [self._eos], limit, skip_special_tokens=False).text
                for row in self.write(opened, limit)[0]
            ]
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
        return truncated_levels(self.decode_latents(clean, self._square)) / 127.5 - 1

    def roundtrip(self, latents: Tensor, seeds: Sequence[int] = (0,)) -> Tensor:
        return self._drawing_states(self.draw(latents, seeds))

    def understanding_loss(self, conversations: Sequence[Conversation], drawn: Tensor | None = None) -> Tensor:
        """Return the mean next-token cross-entropy over the tokens of replies."""
        if drawn is None:
            features = self.read([picture for conversation in conversations for picture in conversation.all_pictures])
            counts = [self._image_tokens(conversation) for conversation in conversations]
        else:
            features = self._encode_drawing(drawn)
            counts = [[[len(image)]] for image in features]
        chats = [self._tokenize(*pair) for pair in zip(conversations, counts, strict=True)]
        states = self.prefill(self.pad([chat.ids for chat in chats]), features).states
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

    def _image_tokens(self, conversation: Conversation) -> list[list[int]]:
        """Return the number of SigLIP tokens of each picture of each turn."""
        return [[self.num_image_tokens(picture) for picture in turn] for turn in conversation.pictures]

    def _tokenize(
        self, conversation: Conversation, image_tokens: Sequence[Sequence[int]], open_ended: bool = False
    ) -> ChatTokens:
        """Return the tokens of a conversation whose pictures have so many SigLIP tokens; `open_ended` omits the last reply."""
        images = [[self.image_ids(count) for count in turn] for turn in image_tokens]
        return tokenize_chat(self.chat, conversation, images, open_ended)
