"""Harmon (arXiv 2503.21979): one masked encoder for input images and for images being generated."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any, cast

import torch
from torch import Tensor, nn
from transformers import Qwen2ForCausalLM, Qwen2Tokenizer

from latentbridge.config import MarConfig, ReleaseConfig, TinyHarmonConfig
from latentbridge.devices import device_of
from latentbridge.images import fit_square
from latentbridge.models.autoencoder import Autoencoder
from latentbridge.models.backbones.harmon.mar import MaskedDecoder, MaskedEncoder, TokenDenoiser, known_counts, pick
from latentbridge.models.chat import ChatML, ChatTokens, tokenize_chat
from latentbridge.models.diffusion import Scheduler, draw_noise, noised_loss, sample
from latentbridge.models.left_padding import (
    PaddedTokens,
    last_tokens_mask,
    next_token_loss,
    pad_left,
    position_ids,
)
from latentbridge.models.options import DrawingOptions, ReplyOptions, finish_reply
from latentbridge.models.pixels import quantized_levels, to_pictures, to_pixels
from latentbridge.models.token_sampling import sampling_processors
from latentbridge.models.tokenization import encode, token_id
from latentbridge.models.trainable import TrainableModel, masked_mean
from latentbridge.ranks import per_rank_random
from latentbridge.rng import repeat_seeds, torch_rng
from latentbridge.types import Conversation, Picture, Reply

_PROMPT_PREFIX, _UNCOND_PROMPT = "Generate an image:", "Generate an image."
_MIN_MASK_RATIO = 0.7
"""Smallest share of the tokens that training masks (MAR)."""
_NOISINGS = 4
"""Noise levels per masked token in a training step (MAR)."""
_PROMPT_DROPOUT = 0.1
"""Share of training pictures without their prompt, for classifier-free guidance."""


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

    Unlike the release, as far as it is known here: tokens are denoised deterministically (DDIM) from noise that follows the
    seed, and no variances are learned for it; the mask ratio in training is uniform, not a truncated normal; pictures are the
    means of the autoencoder's distribution, not samples; prompts pass the language model anew at every step.
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
        guidance: float = 3.0,
        drawing_steps: int = 8,
        denoising_steps: int = 8,
        through_pixels: bool = False,
        config: TinyHarmonConfig | ReleaseConfig | None = None,
    ):
        """`guidance` is the classifier-free guidance of generated pictures; round trips have none, because the latent holds
        one branch of it.

        A picture is generated in `drawing_steps` groups of tokens, each denoised in `denoising_steps`. `config` is what the
        model was built from, if it was built here.
        """
        super().__init__()
        width = language_model.config.hidden_size
        self.language_model = language_model
        self.encoder, self.decoder, self.head = MaskedEncoder(mar), MaskedDecoder(mar), TokenDenoiser(mar)
        self.proj_in, self.proj_out = _connector(mar.width, width, width), _connector(width, width, mar.width)
        self.autoencoder = autoencoder
        self.scheduler = scheduler
        self.tokenizer = tokenizer
        self.drawing_options = DrawingOptions(drawing_steps, guidance)
        self.denoising_steps = denoising_steps
        self.through_pixels = through_pixels
        self.config = config
        self.grid = mar.grid
        self.image_size_px = self.drawing_size_px = mar.grid * autoencoder.patch_px
        self.context_length = language_model.config.max_position_embeddings
        self.embedding_size = width
        self.num_tokens, self.num_buffers = mar.grid**2, mar.num_buffers
        self.chat = ChatML(tokenizer, image_suffix="\n")
        self._image, self._end, self._padding = (
            token_id(tokenizer, name) for name in ("<|image_pad|>", "<|im_end|>", "<|endoftext|>")
        )

    # --- properties of the contract ---

    @property
    def adapter_host(self) -> nn.Module:
        return self.language_model

    # --- skills, by the batch ---

    def _reply(
        self,
        conversations: Sequence[Conversation],
        options: ReplyOptions,
        generators: Sequence[torch.Generator] | None,
    ) -> list[Reply]:
        tokens = self._pad([self._tokenize(conversation, open_ended=True).ids for conversation in conversations])
        pictures = [picture for c in conversations for picture in c.all_pictures]
        features = self._encode_image(self._encode_pictures(pictures)) if pictures else None
        replies = cast(Any, self.language_model).generate(
            inputs_embeds=self._embed_tokens(tokens, features),
            attention_mask=tokens.mask,
            logits_processor=sampling_processors(options, generators),
            max_new_tokens=options.max_tokens,
            do_sample=False,
            pad_token_id=self._padding,
            eos_token_id=self._end,
        )
        return [finish_reply(self.tokenizer, row, [self._end], options) for row in replies.tolist()]

    def _draw(self, descriptions: Sequence[str], seeds: Sequence[int], options: DrawingOptions) -> list[Picture]:
        tokens, _ = self._sample(descriptions, seeds, options.steps, options.guidance)
        return to_pictures(self._decode_tokens(tokens))

    # --- latents and losses ---

    def und_latent(self, items: Sequence[Picture] | Sequence[str]) -> Tensor:
        start = encode(self.tokenizer, "<|im_start|>user\n", special=True)
        if not isinstance(items[0], str):
            image_tokens = self._encode_pictures(cast(Sequence[Picture], items))
            rows = self._pad([[*start, *self._placeholders]] * len(image_tokens))
            embeds = self._embed_tokens(rows, self._encode_image(image_tokens))
            states = self._hidden(embeds, rows.mask)[:, len(start) :]
            return states[:, : self.num_tokens].mean(1).float()
        texts = [encode(self.tokenizer, text) for text in cast(Sequence[str], items)]
        rows = self._pad([[*start, *text] for text in texts])
        mask = last_tokens_mask(rows, [len(text) for text in texts])
        return masked_mean(self._hidden(self._embed_tokens(rows), rows.mask), mask)

    def gen_latent(self, prompts: Sequence[str], seeds: Sequence[int] = (0,)) -> Tensor:
        steps, guidance = self.drawing_options.steps, self.drawing_options.guidance
        return self._sample(prompts, repeat_seeds(seeds, len(prompts)), steps, guidance)[1].flatten(1).float()

    def draw(self, latents: Tensor, seeds: Sequence[int] = (0,)) -> Tensor:
        """Return image tokens [m n c]."""
        states = latents.unflatten(-1, (self.num_tokens, -1))
        tokens = self._denoise(states, self._noise(repeat_seeds(seeds, len(latents))))
        if self.through_pixels:
            tokens = self._encode_pixels(quantized_levels(self._decode_tokens(tokens)) / 127.5 - 1)
        return tokens

    def roundtrip(self, latents: Tensor, seeds: Sequence[int] = (0,)) -> Tensor:
        return self._reconstruction_states(self.draw(latents, seeds)).flatten(1).float()

    def understanding_loss(self, conversations: Sequence[Conversation], drawn: Tensor | None = None) -> Tensor:
        """Return the mean next-token cross-entropy over the tokens of replies."""
        chats = [self._tokenize(conversation, has_drawing=drawn is not None) for conversation in conversations]
        rows = self._pad([chat.ids for chat in chats])
        pictures = [picture for c in conversations for picture in c.all_pictures]
        tokens = self._encode_pictures(pictures) if pictures else drawn
        embeds = self._embed_tokens(rows, None if tokens is None else self._encode_image(tokens))
        states = self._hidden(embeds, rows.mask)
        return next_token_loss(self.language_model.lm_head, states, [chat.labels for chat in chats])

    def generation_loss(self, prompts: Sequence[str], pictures: Sequence[Picture], rng: torch.Generator) -> Tensor:
        """Return the head's diffusion loss over masked tokens, with one mask ratio for the whole batch."""
        has_prompt = per_rank_random(torch.rand, (len(prompts),), rng) >= _PROMPT_DROPOUT
        rows = self._tokenize_prompts([p if has else None for p, has in zip(prompts, has_prompt.tolist(), strict=True)])
        return self._masked_loss(self._embed_tokens(rows), rows.mask, self._encode_pictures(pictures), rng)

    def reconstruction_loss(self, pictures: Sequence[Picture], rng: torch.Generator) -> Tensor:
        """Return `generation_loss` after the prompts of round trips, which hold an image in place of text.

        No part of the model only understands; the image's features get no gradient.
        """
        tokens = self._encode_pictures(pictures)
        rows = self._tokenize_image_prompts(len(tokens))
        with torch.no_grad():
            features = self._encode_image(tokens)
        return self._masked_loss(self._embed_tokens(rows, features), rows.mask, tokens, rng)

    def trainable(self, name: str) -> bool:
        return not name.startswith("autoencoder.")

    # --- masked generation ---

    def _masked_loss(self, embeds: Tensor, mask: Tensor, tokens: Tensor, rng: torch.Generator) -> Tensor:
        """Return the diffusion loss of the tokens [b n c] that are masked after a prompt."""
        mask_ratio = _MIN_MASK_RATIO + (1 - _MIN_MASK_RATIO) * torch.rand((), generator=rng).item()
        count = int((1 - mask_ratio) * self.num_tokens)
        order = per_rank_random(torch.rand, tokens.shape[:2], rng).argsort(1).to(tokens.device)
        known, masked = order[:, :count].sort(1).values, order[:, count:]
        states = pick(self._generation_states(embeds, mask, tokens, known), masked)
        clean = pick(tokens, masked)[..., None, None]
        noise, timesteps = draw_noise(self.scheduler, (_NOISINGS, *clean.shape), rng, rows_dim=1)
        repeated = clean.flatten(0, 1).repeat(_NOISINGS, 1, 1, 1), states.flatten(0, 1).repeat(_NOISINGS, 1)
        return noised_loss(self.head, self.scheduler, *repeated, noise.flatten(0, 2), timesteps.flatten())

    def _sample(
        self, prompts: Sequence[str], seeds: Sequence[int], steps: int, guidance: float
    ) -> tuple[Tensor, Tensor]:
        """Return tokens [b n c], and the states [b n d] they were denoised from; only the states carry gradients."""
        steps = min(steps, self.num_tokens)
        order, noise = self._order(seeds), self._noise(seeds)
        tokens, states = torch.zeros_like(noise), []
        rows, uncond_rows = self._tokenize_prompts(prompts), self._tokenize_prompts([None] * len(prompts))
        embeds, uncond_embeds = self._embed_tokens(rows), self._embed_tokens(uncond_rows)
        for start, stop in pairwise(known_counts(self.num_tokens, steps)):
            known, next_positions = order[:, :start].sort(1).values, order[:, start:stop]
            states.append(pick(self._generation_states(embeds, rows.mask, tokens, known), next_positions))
            with torch.no_grad():
                uncond = None
                if guidance != 1:
                    every_state = self._generation_states(uncond_embeds, uncond_rows.mask, tokens, known)
                    uncond = pick(every_state, next_positions)
                drawn = self._denoise(states[-1], pick(noise, next_positions), uncond, guidance)
            tokens = tokens.scatter(1, next_positions[..., None].expand_as(drawn), drawn)
        return tokens, pick(torch.cat(states, dim=1), order.argsort(1))

    def _generation_states(self, embeds: Tensor, mask: Tensor, tokens: Tensor, known: Tensor) -> Tensor:
        """Return the states [b n d] of all positions after a prompt, given tokens [b n c] at the positions `known` [b k]."""
        encoded = self.encoder(tokens, known)
        features = self._project_in(encoded)
        mask = torch.cat([mask, mask.new_ones(features.shape[:2])], dim=1)
        states = self._hidden(torch.cat([embeds, features], dim=1), mask)[:, embeds.shape[1] :]
        projected = self.proj_out(states).roll(self.num_buffers, dims=1)
        return self.decoder(encoded + projected, known)

    def _denoise(self, states: Tensor, noise: Tensor, uncond: Tensor | None = None, guidance: float = 1.0) -> Tensor:
        """Return tokens [b k c] from states [b k d] and unit noise [b k c], guided against the states `uncond` if given."""
        drawn = sample(
            self.head,
            self.scheduler,
            states.flatten(0, 1),
            (states if uncond is None else uncond).flatten(0, 1),
            noise.flatten(0, 1)[..., None, None],
            [],
            steps=self.denoising_steps,
            guidance=guidance,
        )
        return drawn.view_as(noise)

    def _order(self, seeds: Sequence[int]) -> Tensor:
        """Return the positions [b n] in the order of generation."""
        orders = [torch.randperm(self.num_tokens, generator=torch_rng(seed, "places")) for seed in seeds]
        return torch.stack(orders).to(device_of(self))

    def _noise(self, seeds: Sequence[int]) -> Tensor:
        """Return the initial noise of each token, [b n c]."""
        size = self.num_tokens, self.autoencoder.channels
        rows = [torch.randn(size, generator=torch_rng(seed, "image tokens")) for seed in seeds]
        return torch.stack(rows).to(device_of(self))

    # --- images ---

    def _decode_tokens(self, tokens: Tensor) -> Tensor:
        return self.autoencoder.decode(tokens.mT.unflatten(2, (self.grid, self.grid)))

    @torch.no_grad()
    def _encode_pictures(self, pictures: Sequence[Picture]) -> Tensor:
        """Return the tokens [b n c] of pictures of any size."""
        squares = [fit_square(picture, self.image_size_px) for picture in pictures]
        return self._encode_pixels(to_pixels(squares, device_of(self)))

    def _encode_pixels(self, pixels: Tensor) -> Tensor:
        return self.autoencoder.encode(pixels).flatten(2).mT

    def _encode_image(self, tokens: Tensor) -> Tensor:
        """Return the language model's inputs [b n + buffers h] for whole images, from their tokens [b n c]."""
        every_position = torch.arange(self.num_tokens, device=tokens.device).expand(len(tokens), -1)
        return self._project_in(self.encoder(tokens, every_position))

    def _reconstruction_states(self, tokens: Tensor) -> Tensor:
        """Return the states [b n d] of a new image with no token known, after a prompt that holds an image in place of text."""
        rows = self._tokenize_image_prompts(len(tokens))
        none_known = torch.zeros(len(tokens), 0, dtype=torch.long, device=tokens.device)
        embeds = self._embed_tokens(rows, self._encode_image(tokens))
        return self._generation_states(embeds, rows.mask, tokens, none_known)

    def _project_in(self, encoded: Tensor) -> Tensor:
        """Return the encoder's states in the language model's width; buffers come last, where they attend to all others."""
        return self.proj_in(encoded).roll(-self.num_buffers, dims=1)

    # --- tokens ---

    @property
    def _placeholders(self) -> list[int]:
        """Token ids at the positions of an image."""
        return [self._image] * (self.num_tokens + self.num_buffers)

    def _tokenize_prompts(self, prompts: Sequence[str | None]) -> PaddedTokens:
        """Return prompts up to where the image begins; None is the unconditional prompt."""
        texts = [_UNCOND_PROMPT if prompt is None else f"{_PROMPT_PREFIX} {prompt}" for prompt in prompts]
        return self._pad([self.chat.user_turn(encode(self.tokenizer, text)) for text in texts])

    def _tokenize_image_prompts(self, count: int) -> PaddedTokens:
        """Return prompts that hold an image in place of text."""
        return self._pad([self.chat.user_turn([*encode(self.tokenizer, _PROMPT_PREFIX), *self._placeholders])] * count)

    def _tokenize(self, conversation: Conversation, open_ended: bool = False, has_drawing: bool = False) -> ChatTokens:
        """Return a conversation's tokens; `open_ended` omits the last reply, and a drawing may stand for the picture."""
        image = self._placeholders
        images = [[image]] if has_drawing else [[image] * len(turn) for turn in conversation.pictures]
        return tokenize_chat(self.chat, conversation, images, open_ended)

    def _pad(self, rows: Sequence[list[int]]) -> PaddedTokens:
        return pad_left(rows, self._padding, device_of(self))

    def _embed_tokens(self, rows: PaddedTokens, features: Tensor | None = None) -> Tensor:
        """Return embeddings [b s h] with the features of `_encode_image` at the placeholders."""
        embeds = self.language_model.get_input_embeddings()(rows.ids)
        if features is None:
            return embeds
        return embeds.masked_scatter((rows.ids == self._image)[..., None], features.to(embeds.dtype))

    def _hidden(self, embeds: Tensor, mask: Tensor) -> Tensor:
        """Return the language model's states [b s h] after the final norm."""
        output = self.language_model.model(
            inputs_embeds=embeds, attention_mask=mask, position_ids=position_ids(mask), use_cache=False
        )
        return output.last_hidden_state


def _connector(width_in: int, width: int, width_out: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Linear(width_in, width), nn.SiLU(), nn.Linear(width, width), nn.SiLU(), nn.Linear(width, width_out)
    )
