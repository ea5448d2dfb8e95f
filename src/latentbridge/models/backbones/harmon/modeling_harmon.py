"""Harmon (arXiv 2503.21979): one masked encoder for input images and for images being generated."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import cast

import torch
from torch import Tensor, nn

from latentbridge.errors import UserError
from latentbridge.images import ImageLike, open_picture
from latentbridge.models.backbones.harmon.denoising import (
    learned_variance_loss,
)
from latentbridge.models.backbones.harmon.mar import (
    pick,
)
from latentbridge.models.backbones.harmon.masked_generation import Context, MaskedGeneration
from latentbridge.models.backbones.harmon.options import HarmonDrawingOptions, HarmonReplyOptions
from latentbridge.models.backbones.text_decoding import decode_replies
from latentbridge.models.diffusion import draw_noise, noised_loss
from latentbridge.models.left_padding import (
    last_tokens_mask,
    next_token_loss,
)
from latentbridge.models.options import DrawingOptions, finish_reply
from latentbridge.models.pixels import quantized_levels, to_pictures
from latentbridge.models.tokenization import encode
from latentbridge.models.trainable import masked_mean
from latentbridge.ranks import per_rank_random
from latentbridge.rng import repeat_seeds
from latentbridge.types import Conversation, Picture, Reply

_MIN_MASK_RATIO = 0.7
"""Smallest share of the tokens that training masks (MAR)."""
_MASK_RATIO_STD = 0.25
"""Spread of the share, a normal distribution around 1 that is cut off there and at the smallest."""
_NOISINGS = 4
"""Noise levels per masked token in a training step (MAR)."""
_PROMPT_DROPOUT = 0.1
"""Share of training pictures without their prompt, for classifier-free guidance."""


class Harmon(MaskedGeneration):
    """Harmon: a masked encoder, a language model and a masked decoder.

    A picture is n tokens, the image latents of its squares. The known tokens pass the encoder, then the language model
    after the text; the decoder adds both outputs and gives every position a state, from which the head denoises its token.
    Generation starts with no token known and adds a group of tokens per step, in an order that follows the seed.

    The latent of generation is the n states that tokens were denoised from, each given the tokens known by then, [n * d]:
    the head alone turns them into a picture. A drawing is encoded whole by the encoder, and by the language model in the
    place of a prompt's text (as RecA does, spec LatentUMM section 3); the round trip returns the states from which the model
    would now draw. Tokens go into the encoder as they were denoised (spec section 6): that leaves out decoding, rounding to
    8 bits and encoding by the autoencoder, through which `und_latent` and `understand` read. `through_pixels` includes it.

    Compared with wusize/Harmon at 4eb6087 (`src/models`), in numbers by `tests/models/backbones/test_harmon_parity.py`. Unlike
    there, prompts pass the language model anew at every step, and round trips are denoised deterministically (DDIM).
    """

    kind = "harmon"

    # --- properties of the contract ---

    @property
    def adapter_host(self) -> nn.Module:
        return self.language_model

    @property
    def roundtrip_options(self) -> HarmonDrawingOptions:
        """Options of the drawings of round trips, which are denoised deterministically."""
        options = self.drawing_options
        return options if options.sampler == "ddim" else replace(options, sampler="ddim", denoising_steps=0)

    def fit(self, image: ImageLike) -> Picture:
        return open_picture(image)  # padded and resized by rules of its own, at the size that a call asks for

    def count_tokens(self, conversation: Conversation) -> int:
        """Return the number of tokens of a conversation's prompt, with those of its pictures."""
        return len(self.prompts.conversation(conversation, self.num_tokens, open_ended=True).ids)

    def check_size(self, options: DrawingOptions) -> None:
        side = self.autoencoder.patch_px
        assert isinstance(options, HarmonDrawingOptions)
        if options.sampler == "ddpm" and not (self.learned_variances and options.num_denoising_steps > 1):
            raise UserError(
                "The sampler ddpm takes learned variances, which the release has, and 2 denoising steps or more; set "
                'sampler="ddim".'
            )
        wrong = any(length < side or length % side for length in options.size or ())
        if options.size is not None and (wrong or len(options.size) != 2):
            size = "x".join(map(str, options.size))
            raise UserError(
                f"Harmon draws widths and heights that are multiples of {side} pixels, not {size}; change the size."
            )

    # --- skills, by the batch ---

    def _reply(
        self,
        conversations: Sequence[Conversation],
        options: HarmonReplyOptions,
        generators: Sequence[torch.Generator] | None,
    ) -> list[Reply]:
        size_px = options.picture_size_px or self.image_size_px
        if size_px % self.autoencoder.patch_px:
            raise UserError(
                f"Harmon reads pictures at multiples of {self.autoencoder.patch_px} pixels, not {size_px}; change "
                "picture_size_px."
            )
        num_tokens = (size_px // self.autoencoder.patch_px) ** 2
        rows = self._pad([self.prompts.conversation(c, num_tokens, open_ended=True).ids for c in conversations])
        pictures = [picture for c in conversations for picture in c.all_pictures]
        features = self._encode_image(self._encode_pictures(pictures, size_px)) if pictures else None
        embeds, end = self._embed_tokens(rows, features), self.prompts.end
        language_model, head = self.language_model.model, self.language_model.lm_head
        decoded = decode_replies(language_model, head, embeds, rows.mask, end, options, generators)
        return [finish_reply(self.tokenizer, ids, [end], options, logprobs) for ids, logprobs in decoded]

    def _draw(self, descriptions: Sequence[str], seeds: Sequence[int], options: HarmonDrawingOptions) -> list[Picture]:
        self.check_size(options)
        plan = self._plan(descriptions, seeds, options)
        *_, last = self._drawing_steps(plan)
        return to_pictures(self._decode_tokens(last.tokens, plan.grid))

    # --- latents and losses ---

    def und_latent(self, items: Sequence[Picture] | Sequence[str]) -> Tensor:
        start = encode(self.tokenizer, "<|im_start|>user\n", special=True)
        if not isinstance(items[0], str):
            image_tokens = self._encode_pictures(cast(Sequence[Picture], items))
            rows = self._pad([[*start, *self.prompts.image(self.num_tokens)]] * len(image_tokens))
            embeds = self._embed_tokens(rows, self._encode_image(image_tokens))
            states = self._hidden(embeds, rows.mask)[:, len(start) :]
            return states[:, : self.num_tokens].mean(1).float()
        texts = [encode(self.tokenizer, text) for text in cast(Sequence[str], items)]
        rows = self._pad([[*start, *text] for text in texts])
        mask = last_tokens_mask(rows, [len(text) for text in texts])
        return masked_mean(self._hidden(self._embed_tokens(rows), rows.mask), mask)

    def gen_latent(self, prompts: Sequence[str], seeds: Sequence[int] = (0,)) -> Tensor:
        plan = self._plan(prompts, repeat_seeds(seeds, len(prompts)), self.drawing_options)
        steps = list(self._drawing_steps(plan))
        order = torch.cat([step.drawn for step in steps], dim=1)
        return pick(torch.cat([step.states for step in steps], dim=1), order.argsort(1)).flatten(1).float()

    def draw(self, latents: Tensor, seeds: Sequence[int] = (0,)) -> Tensor:
        """Return image tokens [m n c]."""
        states = latents.unflatten(-1, (self.num_tokens, -1))
        options = self.roundtrip_options
        noise = self._randomness(repeat_seeds(seeds, len(latents)), self.grid, options).noise
        tokens = self._denoise(states, None, noise, None, options)
        if self.through_pixels:
            tokens = self._encode_pixels(quantized_levels(self._decode_tokens(tokens, self.grid)) / 127.5 - 1)
        return tokens

    def roundtrip(self, latents: Tensor, seeds: Sequence[int] = (0,)) -> Tensor:
        return self._reconstruction_states(self.draw(latents, seeds)).flatten(1).float()

    def understanding_loss(self, conversations: Sequence[Conversation], drawn: Tensor | None = None) -> Tensor:
        """Return the mean next-token cross-entropy over the tokens of replies."""
        has_drawing = drawn is not None
        chats = [self.prompts.conversation(c, self.num_tokens, has_drawing=has_drawing) for c in conversations]
        rows = self._pad([chat.ids for chat in chats])
        pictures = [picture for c in conversations for picture in c.all_pictures]
        tokens = self._encode_pictures(pictures) if pictures else drawn
        embeds = self._embed_tokens(rows, None if tokens is None else self._encode_image(tokens))
        states = self._hidden(embeds, rows.mask)
        return next_token_loss(self.language_model.lm_head, states, [chat.labels for chat in chats])

    def generation_loss(self, prompts: Sequence[str], pictures: Sequence[Picture], rng: torch.Generator) -> Tensor:
        """Return the head's diffusion loss over masked tokens, with one mask ratio for the whole batch."""
        has_prompt = per_rank_random(torch.rand, (len(prompts),), rng) >= _PROMPT_DROPOUT
        texts = [prompt if has else None for prompt, has in zip(prompts, has_prompt.tolist(), strict=True)]
        return self._masked_loss(self._drawing_context(texts), self._encode_pictures(pictures), rng)

    def reconstruction_loss(self, pictures: Sequence[Picture], rng: torch.Generator) -> Tensor:
        """Return `generation_loss` after the prompts of round trips, which hold an image in place of text.

        No part of the model only understands; the image's features get no gradient.
        """
        tokens = self._encode_pictures(pictures)
        with torch.no_grad():
            features = self._encode_image(tokens)
        return self._masked_loss(self._reconstruction_context(features), tokens, rng)

    def trainable(self, name: str) -> bool:
        return not name.startswith("autoencoder.")

    def _masked_loss(self, context: Context, tokens: Tensor, rng: torch.Generator) -> Tensor:
        """Return the diffusion loss of the tokens [b n c] that are masked after a prompt."""
        share = nn.init.trunc_normal_(torch.empty(()), 1.0, _MASK_RATIO_STD, _MIN_MASK_RATIO, 1.0, generator=rng).item()
        count = self.num_tokens - math.ceil(share * self.num_tokens)
        order = per_rank_random(torch.rand, tokens.shape[:2], rng).argsort(1).to(tokens.device)
        known, masked = order[:, :count].sort(1).values, order[:, count:]
        states = pick(self._generation_states(context, tokens, known, self.grid), masked)
        clean = pick(tokens, masked)[..., None, None]
        noise, timesteps = draw_noise(self.scheduler, (_NOISINGS, *clean.shape), rng, rows_dim=1)
        clean, states = clean.flatten(0, 1).repeat(_NOISINGS, 1, 1, 1), states.flatten(0, 1).repeat(_NOISINGS, 1)
        noise, timesteps = noise.flatten(0, 2), timesteps.flatten()
        if self.learned_variances:
            return learned_variance_loss(self.head, clean[..., 0, 0], states, noise[..., 0, 0], timesteps)
        return noised_loss(self.head, self.scheduler, clean, states, noise, timesteps)

    def _reconstruction_states(self, tokens: Tensor) -> Tensor:
        """Return the states [b n d] of a new image with no token known, after a prompt that holds an image in place of text."""
        none_known = torch.zeros(len(tokens), 0, dtype=torch.long, device=tokens.device)
        context = self._reconstruction_context(self._encode_image(tokens))
        return self._generation_states(context, tokens, none_known, self.grid)
