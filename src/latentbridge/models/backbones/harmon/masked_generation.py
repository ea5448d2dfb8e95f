"""Masked generation of Harmon: its parts, reading of whole images, and drawing group by group."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from itertools import chain, pairwise
from typing import NamedTuple

import torch
from torch import Tensor, nn
from transformers import Qwen2ForCausalLM, Qwen2Tokenizer

from latentbridge.config import MarConfig, ReleaseConfig, TinyHarmonConfig
from latentbridge.devices import device_of
from latentbridge.models.autoencoder import Autoencoder
from latentbridge.models.backbones.harmon.denoising import (
    Randomness,
    denoise,
    draw_randomness,
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
from latentbridge.models.diffusion import Scheduler
from latentbridge.models.left_padding import (
    PaddedTokens,
    pad_left,
    position_ids,
)
from latentbridge.models.pixels import to_pixels
from latentbridge.models.trainable import TrainableModel
from latentbridge.types import Picture


class Context(NamedTuple):
    """Inputs of the language model before the image tokens, left-padded."""

    embeds: Tensor
    """[b s h]."""
    mask: Tensor
    """1 at real tokens, int64 [b s]."""


class DrawingPlan(NamedTuple):
    """All inputs of a batch of drawings."""

    prompts: Context
    bare: Context | None
    """Without the prompts, for classifier-free guidance; None without guidance."""
    randomness: Randomness
    grid: Grid
    options: HarmonDrawingOptions


class GenerationStep(NamedTuple):
    """Tokens drawn by one step of masked generation."""

    drawn: Tensor
    """Positions drawn by it, ascending, int64 [b j]."""
    states: Tensor
    """The decoder's states of these positions, [b j d], with gradients."""
    tokens: Tensor
    """All tokens after it, [b n c]; zero where none is drawn yet."""


class MaskedGeneration(TrainableModel):
    """The parts of a Harmon and what they compute of images: reading them, and drawing them step by step."""

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

    # --- drawing ---

    def _plan(self, descriptions: Sequence[str], seeds: Sequence[int], options: HarmonDrawingOptions) -> DrawingPlan:
        width, height = options.size or (self.image_size_px, self.image_size_px)
        grid = height // self.autoencoder.patch_px, width // self.autoencoder.patch_px
        bare = None if options.guidance == 1 else self._drawing_context([None] * len(descriptions))
        randomness = self._randomness(seeds, grid, options)
        return DrawingPlan(self._drawing_context(descriptions), bare, randomness, grid, options)

    def _randomness(self, seeds: Sequence[int], grid: Grid, options: HarmonDrawingOptions) -> Randomness:
        return draw_randomness(seeds, grid[0] * grid[1], self.autoencoder.channels, options, device_of(self))

    def _drawing_steps(self, plan: DrawingPlan) -> Iterator[GenerationStep]:
        """Draw groups of tokens until all are drawn; only `states` carry gradients."""
        order, tokens = plan.randomness.order, torch.zeros_like(plan.randomness.noise)
        for start, stop in pairwise(sorted({*known_counts(order.shape[1], plan.options.steps)})):
            known, drawn = order[:, :start].sort(1).values, order[:, start:stop].sort(1).values
            step = self._step(plan, tokens, known, drawn)
            tokens = step.tokens
            yield step

    def _step(self, plan: DrawingPlan, tokens: Tensor, known: Tensor, drawn: Tensor) -> GenerationStep:
        """Draw tokens at the positions `drawn` [b j], given `tokens` [b n c] at those `known` [b k]."""
        states = pick(self._generation_states(plan.prompts, tokens, known, plan.grid), drawn)
        with torch.no_grad():
            uncond = None
            if plan.bare is not None:
                uncond = pick(self._generation_states(plan.bare, tokens, known, plan.grid), drawn)
            options = plan.options.at_step(known.shape[1] + drawn.shape[1], tokens.shape[1])
            latents = self._denoise(states, uncond, *plan.randomness.at(drawn), options)
        return GenerationStep(drawn, states, tokens.scatter(1, drawn[..., None].expand_as(latents), latents))

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

    # --- images ---

    @property
    def _pixel_dtype(self) -> torch.dtype:
        return next(chain(self.autoencoder.parameters(), self.autoencoder.buffers())).dtype

    def _decode_tokens(self, tokens: Tensor, grid: Grid) -> Tensor:
        return self.autoencoder.decode(tokens.to(self._pixel_dtype).mT.unflatten(2, grid))

    @torch.no_grad()
    def _encode_pictures(self, pictures: Sequence[Picture], size_px: int | None = None) -> Tensor:
        """Return the tokens [b n c] of pictures of any size, read at `size_px`."""
        squares = [pad_and_resize(picture, size_px or self.image_size_px) for picture in pictures]
        return self._encode_pixels(to_pixels(squares, device_of(self)))

    def _encode_pixels(self, pixels: Tensor) -> Tensor:
        return self.autoencoder.encode(pixels.to(self._pixel_dtype)).flatten(2).mT

    def _encode_image(self, tokens: Tensor) -> Tensor:
        """Return the language model's inputs [b n + buffers h] for whole square images, from their tokens [b n c]."""
        return self._project_in(self._encode_all(tokens))

    def _encode_all(self, tokens: Tensor) -> Tensor:
        """Return the encoder's states [b buffers + n d] of whole square images."""
        every_position = torch.arange(tokens.shape[1], device=tokens.device).expand(len(tokens), -1)
        side = math.isqrt(tokens.shape[1])
        return self.encoder(tokens, every_position, (side, side))

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
