"""Harmon (arXiv 2503.21979): one masked encoder for input images and for images being generated."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import pairwise
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor, nn
from transformers import Qwen2ForCausalLM, Qwen2Tokenizer

from latentbridge.config import MarConfig, ReleaseConfig, TinyHarmonConfig
from latentbridge.devices import device_of
from latentbridge.errors import UserError
from latentbridge.images import ImageLike, open_picture
from latentbridge.models.autoencoder import Autoencoder
from latentbridge.models.backbones.harmon.denoising import (
    Randomness,
    denoise,
    draw_randomness,
    learned_variance_loss,
)
from latentbridge.models.backbones.harmon.mar import (
    Grid,
    MaskedDecoder,
    MaskedEncoder,
    TokenDenoiser,
    known_counts,
    pick,
)
from latentbridge.models.backbones.harmon.options import HarmonDrawingOptions, HarmonReplyOptions
from latentbridge.models.backbones.harmon.pictures import pad_and_resize
from latentbridge.models.backbones.harmon.prompts import HarmonPrompts
from latentbridge.models.diffusion import Scheduler, draw_noise, noised_loss
from latentbridge.models.left_padding import (
    PaddedTokens,
    last_tokens_mask,
    next_token_loss,
    pad_left,
    position_ids,
)
from latentbridge.models.options import DrawingOptions, finish_reply
from latentbridge.models.pixels import quantized_levels, to_pictures, to_pixels
from latentbridge.models.token_sampling import sampling_processors
from latentbridge.models.tokenization import encode
from latentbridge.models.trainable import TrainableModel, masked_mean
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


class Context(NamedTuple):
    """What the language model reads before the image tokens, left-padded."""

    embeds: Tensor
    """[b s h]."""
    mask: Tensor
    """1 at real tokens, int64 [b s]."""


class GenerationStep(NamedTuple):
    """One step of masked generation."""

    drawn: Tensor
    """Positions drawn by it, ascending, int64 [b j]."""
    states: Tensor
    """The decoder's states of these positions, [b j d], with gradients."""
    tokens: Tensor
    """All tokens after it, [b n c]; zero where none is drawn yet."""


class Harmon(TrainableModel):
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
    image_size_px: int
    drawing_size_px: int
    drawing_options: HarmonDrawingOptions
    reply_options: HarmonReplyOptions
    tokenizer: Qwen2Tokenizer

    def __init__(
        self,
        language_model: Qwen2ForCausalLM,
        mar: MarConfig,
        autoencoder: Autoencoder,
        scheduler: Scheduler,
        tokenizer: Qwen2Tokenizer,
        drawing_options: HarmonDrawingOptions,
        reply_options: HarmonReplyOptions,
        image_size_px: int | None = None,
        config: TinyHarmonConfig | ReleaseConfig | None = None,
    ):
        """`scheduler` is that of the head, for the loss without learned variances and for deterministic sampling.

        `image_size_px` is the side of pictures that are read and drawn, by default that of the grid of learned positions.
        `config` is what the model was built from, if it was built here.
        """
        super().__init__()
        width = language_model.config.hidden_size
        self.language_model = language_model
        self.encoder, self.decoder, self.head = MaskedEncoder(mar), MaskedDecoder(mar), TokenDenoiser(mar)
        self.proj_in, self.proj_out = _connector(mar.width, width, width), _connector(width, width, mar.width)
        self.autoencoder = autoencoder
        self.scheduler = scheduler
        self.tokenizer = tokenizer
        self.drawing_options, self.reply_options = drawing_options, reply_options
        self.through_pixels = False
        self.config = config
        self.learned_variances = mar.learned_variances
        self.image_size_px = self.drawing_size_px = image_size_px or mar.grid * autoencoder.patch_px
        self.context_length = language_model.config.max_position_embeddings
        self.embedding_size = width
        side = self.image_size_px // autoencoder.patch_px
        self.grid: Grid = (side, side)
        self.num_tokens, self.num_buffers = side**2, mar.num_buffers
        self.prompts = HarmonPrompts(tokenizer, mar.num_buffers)

    # --- properties of the contract ---

    @property
    def adapter_host(self) -> nn.Module:
        return self.language_model

    def fit(self, image: ImageLike) -> Picture:
        return open_picture(image)  # padded and resized by rules of its own, at the size that a call asks for

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
        replies = cast(Any, self.language_model).generate(
            inputs_embeds=self._embed_tokens(rows, features),
            attention_mask=rows.mask,
            logits_processor=sampling_processors(options, generators),
            max_new_tokens=options.max_tokens,
            do_sample=False,
            pad_token_id=self.prompts.padding,
            eos_token_id=self.prompts.end,
        )
        return [finish_reply(self.tokenizer, row, [self.prompts.end], options) for row in replies.tolist()]

    def _draw(self, descriptions: Sequence[str], seeds: Sequence[int], options: HarmonDrawingOptions) -> list[Picture]:
        self.check_size(options)
        tokens, _ = self._sample(descriptions, seeds, options)
        return to_pictures(self._decode_tokens(tokens, self._drawing_grid(options)))

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
        seeds = repeat_seeds(seeds, len(prompts))
        return self._sample(prompts, seeds, self.drawing_options)[1].flatten(1).float()

    def draw(self, latents: Tensor, seeds: Sequence[int] = (0,)) -> Tensor:
        """Return image tokens [m n c]."""
        states = latents.unflatten(-1, (self.num_tokens, -1))
        options = self.drawing_options
        if options.sampler != "ddim":
            options = replace(options, sampler="ddim", denoising_steps=0)
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

    # --- masked generation ---

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

    def _sample(
        self, prompts: Sequence[str], seeds: Sequence[int], options: HarmonDrawingOptions
    ) -> tuple[Tensor, Tensor]:
        """Return tokens [b n c], and the states [b n d] they were denoised from; only the states carry gradients."""
        grid = self._drawing_grid(options)
        context = self._drawing_context(prompts)
        bare = None if options.guidance == 1 else self._drawing_context([None] * len(prompts))
        steps = list(self._generate(context, bare, self._randomness(seeds, grid, options), grid, options))
        states = torch.cat([step.states for step in steps], dim=1)
        order = torch.cat([step.drawn for step in steps], dim=1)
        return steps[-1].tokens, pick(states, order.argsort(1))

    def _generate(
        self,
        context: Context,
        bare: Context | None,
        randomness: Randomness,
        grid: Grid,
        options: HarmonDrawingOptions,
    ) -> Iterator[GenerationStep]:
        """Draw the tokens of a grid in groups, guided away from the context `bare` if it is given."""
        order, tokens = randomness.order, torch.zeros_like(randomness.noise)
        for start, stop in pairwise(sorted({*known_counts(order.shape[1], options.steps)})):
            known, drawn = order[:, :start].sort(1).values, order[:, start:stop].sort(1).values
            step = self._step(context, bare, tokens, known, drawn, randomness, grid, options)
            tokens = step.tokens
            yield step

    def _step(
        self,
        context: Context,
        bare: Context | None,
        tokens: Tensor,
        known: Tensor,
        drawn: Tensor,
        randomness: Randomness,
        grid: Grid,
        options: HarmonDrawingOptions,
    ) -> GenerationStep:
        """Draw tokens at the positions `drawn` [b j], given `tokens` [b n c] at those `known` [b k]."""
        states = self._generation_states(context, tokens, known, grid)
        with torch.no_grad():
            others = None if bare is None else self._generation_states(bare, tokens, known, grid)
            latents = self._denoise(
                pick(states, drawn),
                None if others is None else pick(others, drawn),
                *randomness.at(drawn),
                options.at_step(known.shape[1] + drawn.shape[1], tokens.shape[1]),
            )
        return GenerationStep(
            drawn, pick(states, drawn), tokens.scatter(1, drawn[..., None].expand_as(latents), latents)
        )

    def _generation_states(self, context: Context, tokens: Tensor, known: Tensor, grid: Grid) -> Tensor:
        """Return the states [b n d] of all positions after a prompt, given tokens [b n c] at the positions `known` [b k]."""
        return self.decoder(self._encode_known(context, tokens, known, grid), known, grid)

    def _encode_known(self, context: Context, tokens: Tensor, known: Tensor, grid: Grid) -> Tensor:
        """Return the decoder's inputs [b buffers + k d]: the encoder's states plus what the language model makes of them."""
        encoded = self.encoder(tokens, known, grid)
        features = self._project_in(encoded)
        mask = torch.cat([context.mask, context.mask.new_ones(features.shape[:2])], dim=1)
        states = self._hidden(torch.cat([context.embeds, features], dim=1), mask)[:, context.embeds.shape[1] :]
        return encoded + self.proj_out(states).roll(self.num_buffers, dims=1)

    def _denoise(
        self,
        states: Tensor,
        uncond: Tensor | None,
        noise: Tensor,
        step_noise: Tensor | None,
        options: HarmonDrawingOptions,
    ) -> Tensor:
        """Return tokens [b k c] from states [b k d] and unit noise [b k c], guided away from the states `uncond` if given.

        `step_noise` [b steps k c] is that of stochastic steps.
        """
        rows = None if step_noise is None else step_noise.transpose(0, 1).flatten(1, 2)
        others = None if uncond is None else uncond.flatten(0, 1)
        arguments = states.flatten(0, 1), others, noise.flatten(0, 1), rows
        return denoise(self.head, self.scheduler, *arguments, options).view_as(noise)

    def _randomness(self, seeds: Sequence[int], grid: Grid, options: HarmonDrawingOptions) -> Randomness:
        return draw_randomness(seeds, grid[0] * grid[1], self.autoencoder.channels, options, device_of(self))

    # --- images ---

    def check_size(self, options: DrawingOptions) -> None:
        side = self.autoencoder.patch_px
        assert isinstance(options, HarmonDrawingOptions)
        if options.sampler == "ddpm" and not (self.learned_variances and options.num_denoising_steps > 1):
            raise UserError(
                "The sampler ddpm takes learned variances, which the release has, and 2 denoising steps or more; set "
                'sampler="ddim".'
            )
        if options.size and any(length < side or length % side for length in options.size):
            size = "x".join(map(str, options.size))
            raise UserError(f"Harmon draws sides of multiples of {side} pixels, not {size}; change the size.")

    def _drawing_grid(self, options: HarmonDrawingOptions) -> Grid:
        width, height = options.size or (self.image_size_px, self.image_size_px)
        return height // self.autoencoder.patch_px, width // self.autoencoder.patch_px

    def _decode_tokens(self, tokens: Tensor, grid: Grid) -> Tensor:
        return self.autoencoder.decode(tokens.to(self.dtype).mT.unflatten(2, grid))

    @torch.no_grad()
    def _encode_pictures(self, pictures: Sequence[Picture], size_px: int | None = None) -> Tensor:
        """Return the tokens [b n c] of pictures of any size, read at `size_px`."""
        squares = [pad_and_resize(picture, size_px or self.image_size_px) for picture in pictures]
        return self._encode_pixels(to_pixels(squares, device_of(self)))

    def _encode_pixels(self, pixels: Tensor) -> Tensor:
        return self.autoencoder.encode(pixels.to(self.dtype)).flatten(2).mT

    def _encode_image(self, tokens: Tensor) -> Tensor:
        """Return the language model's inputs [b n + buffers h] for whole square images, from their tokens [b n c]."""
        return self._project_in(self._encode_all(tokens))

    def _encode_all(self, tokens: Tensor) -> Tensor:
        """Return the encoder's states [b buffers + n d] of whole square images."""
        every_position = torch.arange(tokens.shape[1], device=tokens.device).expand(len(tokens), -1)
        side = math.isqrt(tokens.shape[1])
        return self.encoder(tokens, every_position, (side, side))

    def _reconstruction_states(self, tokens: Tensor) -> Tensor:
        """Return the states [b n d] of a new image with no token known, after a prompt that holds an image in place of text."""
        none_known = torch.zeros(len(tokens), 0, dtype=torch.long, device=tokens.device)
        context = self._reconstruction_context(self._encode_image(tokens))
        return self._generation_states(context, tokens, none_known, self.grid)

    def _project_in(self, encoded: Tensor) -> Tensor:
        """Return the encoder's states in the language model's width; buffers come last, where they attend to all others."""
        return self.proj_in(encoded).roll(-self.num_buffers, dims=1)

    # --- the language model ---

    def _pad(self, rows: Sequence[list[int]]) -> PaddedTokens:
        return pad_left(rows, self.prompts.padding, device_of(self))

    def _embed_tokens(self, rows: PaddedTokens, features: Tensor | None = None) -> Tensor:
        """Return embeddings [b s h] with the features of `_encode_image` at the placeholders."""
        embeds = self.language_model.get_input_embeddings()(rows.ids)
        if features is None:
            return embeds
        return embeds.masked_scatter((rows.ids == self.prompts.placeholder)[..., None], features.to(embeds.dtype))

    def _drawing_context(self, descriptions: Sequence[str | None]) -> Context:
        rows = self._pad(self.prompts.drawings(descriptions))
        return Context(self._embed_tokens(rows), rows.mask)

    def _reconstruction_context(self, features: Tensor) -> Context:
        rows = self._pad([self.prompts.reconstruction(self.num_tokens)] * len(features))
        return Context(self._embed_tokens(rows, features), rows.mask)

    def _hidden(self, embeds: Tensor, mask: Tensor) -> Tensor:
        """Return the language model's states [b s h] after the final norm."""
        output = self.language_model.model(
            inputs_embeds=embeds, attention_mask=mask, position_ids=position_ids(mask), use_cache=False
        )
        return output.last_hidden_state


def _connector(width_in: int, width: int, width_out: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(width_in, width), nn.SiLU(), nn.Linear(width, width_out))
