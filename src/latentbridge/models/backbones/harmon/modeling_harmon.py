"""Harmon (arXiv 2503.21979): one masked encoder for input images and for images being generated."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial
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
    LearnedVarianceDiffusion,
    Randomness,
    draw_randomness,
    guided_prediction,
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
from latentbridge.models.backbones.harmon.options import HarmonDrawingOptions
from latentbridge.models.backbones.harmon.pictures import pad_and_resize
from latentbridge.models.backbones.sampling import sampling_processors
from latentbridge.models.chat import ChatML, ChatTokens, tokenize_chat
from latentbridge.models.diffusion import Scheduler, draw_noise, noised_loss, sample
from latentbridge.models.left_padding import (
    PaddedTokens,
    last_tokens_mask,
    next_token_loss,
    pad_left,
    position_ids,
)
from latentbridge.models.pixels import quantized_levels, to_pictures, to_pixels
from latentbridge.models.tokenization import encode, token_id
from latentbridge.models.trainable import TrainableModel, masked_mean, repeat_seeds
from latentbridge.ranks import per_rank_random
from latentbridge.types import Conversation, Picture

_PROMPT_PREFIX, _UNCOND_PROMPT = "Generate an image:", "Generate an image."
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

    known: Tensor
    """Positions known before it, ascending, int64 [b k]."""
    drawn: Tensor
    """Positions drawn by it, ascending, int64 [b j]."""
    states: Tensor
    """The decoder's states of all positions, [b n d], with gradients."""
    uncond_states: Tensor | None
    """The same without the prompt."""
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
    tokenizer: Qwen2Tokenizer

    def __init__(
        self,
        language_model: Qwen2ForCausalLM,
        mar: MarConfig,
        autoencoder: Autoencoder,
        scheduler: Scheduler,
        tokenizer: Qwen2Tokenizer,
        drawing_options: HarmonDrawingOptions,
        image_size_px: int | None = None,
        max_tokens: int = 160,
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
        self.drawing_options = drawing_options
        self.default_steps, self.default_guidance = drawing_options.steps, drawing_options.guidance
        self.max_tokens = max_tokens
        self.through_pixels = False
        self.config = config
        self.learned_variances = mar.learned_variances
        self.image_size_px = self.drawing_size_px = image_size_px or mar.grid * autoencoder.patch_px
        self.context_length = language_model.config.max_position_embeddings
        self.embedding_size = width
        self.grid = (self.image_size_px // autoencoder.patch_px,) * 2
        self.num_tokens, self.num_buffers = self.grid[0] * self.grid[1], mar.num_buffers
        self.chat = ChatML(tokenizer, image_suffix="\n")
        self._image, self._end, self._padding = (
            token_id(tokenizer, name) for name in ("<|image_pad|>", "<|im_end|>", "<|endoftext|>")
        )

    # --- properties of the contract ---

    @property
    def adapter_host(self) -> nn.Module:
        return self.language_model

    def fit(self, image: ImageLike) -> Picture:
        return open_picture(image)  # padded and resized by rules of its own, at the size that a call asks for

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
        tokens = self._pad([self._tokenize(conversation, open_ended=True).ids for conversation in conversations])
        pictures = [c.picture for c in conversations if c.picture is not None]
        features = self._encode_image(self._encode_pictures(pictures)) if pictures else None
        replies = cast(Any, self.language_model).generate(
            inputs_embeds=self._embed_tokens(tokens, features),
            attention_mask=tokens.mask,
            logits_processor=sampling_processors(temperature, generators),
            max_new_tokens=max_tokens,
            do_sample=False,
            pad_token_id=self._padding,
            eos_token_id=self._end,
        )
        return self.tokenizer.batch_decode(replies, skip_special_tokens=True)

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
        options = replace(self.drawing_options, steps=steps, guidance=guidance)
        tokens, _ = self._sample(descriptions, repeat_seeds(seeds, len(descriptions)), options)
        return to_pictures(self._decode_tokens(tokens, self._drawing_grid(options)))

    # --- latents and losses ---

    def und_latent(self, items: Sequence[Picture] | Sequence[str]) -> Tensor:
        start = encode(self.tokenizer, "<|im_start|>user\n", special=True)
        if not isinstance(items[0], str):
            image_tokens = self._encode_pictures(cast(Sequence[Picture], items))
            rows = self._pad([[*start, *self._placeholders()]] * len(image_tokens))
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
            options = replace(options, sampler="ddim", denoising_steps=None)
        noise = self._randomness(repeat_seeds(seeds, len(latents)), self.grid, options).noise
        tokens = self._denoise(states, None, noise, None, options)
        if self.through_pixels:
            tokens = self._encode_pixels(quantized_levels(self._decode_tokens(tokens, self.grid)) / 127.5 - 1)
        return tokens

    def roundtrip(self, latents: Tensor, seeds: Sequence[int] = (0,)) -> Tensor:
        return self._reconstruction_states(self.draw(latents, seeds)).flatten(1).float()

    def understanding_loss(self, conversations: Sequence[Conversation], drawn: Tensor | None = None) -> Tensor:
        """Return the mean next-token cross-entropy over the tokens of replies."""
        chats = [self._tokenize(conversation, has_drawing=drawn is not None) for conversation in conversations]
        rows = self._pad([chat.ids for chat in chats])
        pictures = [c.picture for c in conversations if c.picture is not None]
        tokens = self._encode_pictures(pictures) if pictures else drawn
        embeds = self._embed_tokens(rows, None if tokens is None else self._encode_image(tokens))
        states = self._hidden(embeds, rows.mask)
        return next_token_loss(self.language_model.lm_head, states, [chat.labels for chat in chats])

    def generation_loss(self, prompts: Sequence[str], pictures: Sequence[Picture], rng: torch.Generator) -> Tensor:
        """Return the head's diffusion loss over masked tokens, with one mask ratio for the whole batch."""
        has_prompt = per_rank_random(torch.rand, (len(prompts),), rng) >= _PROMPT_DROPOUT
        rows = self._tokenize_prompts([p if has else None for p, has in zip(prompts, has_prompt.tolist(), strict=True)])
        return self._masked_loss(self._context(rows), self._encode_pictures(pictures), rng)

    def reconstruction_loss(self, pictures: Sequence[Picture], rng: torch.Generator) -> Tensor:
        """Return `generation_loss` after the prompts of round trips, which hold an image in place of text.

        No part of the model only understands; the image's features get no gradient.
        """
        tokens = self._encode_pictures(pictures)
        rows = self._tokenize_image_prompts(len(tokens))
        with torch.no_grad():
            features = self._encode_image(tokens)
        return self._masked_loss(self._context(rows, features), tokens, rng)

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
        context = self._context(self._tokenize_prompts(prompts))
        bare = None if options.guidance == 1 else self._context(self._tokenize_prompts([None] * len(prompts)))
        steps = list(self._generate(context, bare, self._randomness(seeds, grid, options), grid, options))
        states = torch.cat([pick(step.states, step.drawn) for step in steps], dim=1)
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
        order, noise, step_noise = randomness
        tokens, num_tokens = torch.zeros_like(noise), noise.shape[1]
        for start, stop in pairwise(known_counts(num_tokens, options.steps)):
            known, drawn = order[:, :start].sort(1).values, order[:, start:stop].sort(1).values
            states = self._generation_states(context, tokens, known, grid)
            with torch.no_grad():
                others = None if bare is None else self._generation_states(bare, tokens, known, grid)
                latents = self._denoise(
                    pick(states, drawn),
                    None if others is None else pick(others, drawn),
                    pick(noise, drawn),
                    None
                    if step_noise is None
                    else pick(step_noise, drawn[:, None].expand(-1, step_noise.shape[1], -1)),
                    replace(options, guidance=options.guidance_at(min(stop, num_tokens - 1) / num_tokens)),
                )
            tokens = tokens.scatter(1, drawn[..., None].expand_as(latents), latents)
            yield GenerationStep(known, drawn, states, others, tokens)

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
        flat, others = states.flatten(0, 1), None if uncond is None else uncond.flatten(0, 1)
        if step_noise is not None:
            process = LearnedVarianceDiffusion(options.num_denoising_steps)
            rows = step_noise.transpose(0, 1).flatten(1, 2)
            predict = partial(guided_prediction, self.head, states=flat, uncond=others, guidance=options.guidance)
            return process.sample(predict, noise.flatten(0, 1), rows, options.temperature).view_as(noise)
        drawn = sample(
            lambda *inputs: self.head(*inputs)[:, : noise.shape[-1]],  # without variances
            self.scheduler,
            flat,
            flat if others is None else others,
            noise.flatten(0, 1)[..., None, None],
            [],
            steps=options.num_denoising_steps,
            guidance=1.0 if others is None else options.guidance,
        )
        return drawn.view_as(noise)

    def _randomness(self, seeds: Sequence[int], grid: Grid, options: HarmonDrawingOptions) -> Randomness:
        step_noises = options.num_denoising_steps if options.sampler == "ddpm" else 0
        drawn = draw_randomness(seeds, grid[0] * grid[1], self.autoencoder.channels, step_noises)
        return Randomness(*(None if value is None else value.to(device_of(self)) for value in drawn))

    # --- images ---

    def _drawing_grid(self, options: HarmonDrawingOptions) -> Grid:
        """Return the grid of a drawing; raise UserError for a size that is no multiple of a token's side."""
        if options.size is None:
            return self.grid
        (width, height), side = options.size, self.autoencoder.patch_px
        if min(width, height) < side or width % side or height % side:
            raise UserError(f"Harmon draws multiples of {side} pixels, not {width}x{height}; change the size.")
        return height // side, width // side

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
        context = self._context(self._tokenize_image_prompts(len(tokens)), self._encode_image(tokens))
        return self._generation_states(context, tokens, none_known, self.grid)

    def _project_in(self, encoded: Tensor) -> Tensor:
        """Return the encoder's states in the language model's width; buffers come last, where they attend to all others."""
        return self.proj_in(encoded).roll(-self.num_buffers, dims=1)

    # --- tokens ---

    def _placeholders(self, size_px: int | None = None) -> list[int]:
        """Token ids at the positions of an image that is read at `size_px`."""
        side = (size_px or self.image_size_px) // self.autoencoder.patch_px
        return [self._image] * (side**2 + self.num_buffers)

    def _tokenize_prompts(self, prompts: Sequence[str | None]) -> PaddedTokens:
        """Return prompts up to where the image begins; None is the unconditional prompt."""
        texts = [_UNCOND_PROMPT if prompt is None else f"{_PROMPT_PREFIX} {prompt}" for prompt in prompts]
        return self._pad([self.chat.user_turn(encode(self.tokenizer, text)) for text in texts])

    def _tokenize_image_prompts(self, count: int) -> PaddedTokens:
        """Return prompts that hold an image in place of text."""
        content = [*encode(self.tokenizer, _PROMPT_PREFIX), *self._placeholders()]
        return self._pad([self.chat.user_turn(content)] * count)

    def _tokenize(
        self,
        conversation: Conversation,
        open_ended: bool = False,
        has_drawing: bool = False,
        size_px: int | None = None,
    ) -> ChatTokens:
        """Return a conversation's tokens; `open_ended` omits the last reply, and a drawing may stand for the picture."""
        has_image = has_drawing or conversation.picture is not None
        return tokenize_chat(self.chat, conversation, self._placeholders(size_px) if has_image else (), open_ended)

    def _pad(self, rows: Sequence[list[int]]) -> PaddedTokens:
        return pad_left(rows, self._padding, device_of(self))

    def _embed_tokens(self, rows: PaddedTokens, features: Tensor | None = None) -> Tensor:
        """Return embeddings [b s h] with the features of `_encode_image` at the placeholders."""
        embeds = self.language_model.get_input_embeddings()(rows.ids)
        if features is None:
            return embeds
        return embeds.masked_scatter((rows.ids == self._image)[..., None], features.to(embeds.dtype))

    def _context(self, rows: PaddedTokens, features: Tensor | None = None) -> Context:
        return Context(self._embed_tokens(rows, features), rows.mask)

    def _hidden(self, embeds: Tensor, mask: Tensor) -> Tensor:
        """Return the language model's states [b s h] after the final norm."""
        output = self.language_model.model(
            inputs_embeds=embeds, attention_mask=mask, position_ids=position_ids(mask), use_cache=False
        )
        return output.last_hidden_state


def _connector(width_in: int, width: int, width_out: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(width_in, width), nn.SiLU(), nn.Linear(width, width_out))
