"""Harmon (arXiv 2503.21979) as a unified backbone: one masked encoder for pictures that are read and for those being drawn."""

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
from latentbridge.models.diffusion import Scheduler, draw_noise, noised_loss, sample
from latentbridge.models.left_padding import (
    IGNORE_INDEX,
    PaddedTokens,
    last_tokens_mask,
    next_token_loss,
    pad_left,
    position_ids,
)
from latentbridge.models.pixels import quantized_levels, to_pictures, to_pixels
from latentbridge.models.tokenization import encode, token_id
from latentbridge.models.trainable import masked_mean, repeat_seeds
from latentbridge.ranks import per_rank_random
from latentbridge.rng import torch_rng
from latentbridge.types import Conversation, Picture

_DRAW, _DRAW_ANYTHING = "Generate an image:", "Generate an image."
_LEAST_MASKED = 0.7
"""In training between this share of the places and all are masked (MAR)."""
_NOISINGS = 4
"""Noise levels at which every masked token is learned in a step (MAR)."""
_UNPROMPTED = 0.1
"""Share of training drawings without their prompt, for guidance."""


class Harmon(nn.Module):
    """Masked encoder, language model and masked decoder under the contract of `TrainableModel`.

    A picture is n tokens, the image latents of its squares. What is known of it passes the encoder, then the language
    model after the words; the decoder adds what both say and gives every place a state, from which the head draws its
    token. A drawing starts with nothing known and learns a group of tokens a step, in an order that follows the seed.

    The latent of generation is the n states that tokens were drawn from, each given the tokens known by then, [n * d]:
    the head alone turns them into a picture. A drawing is read by the encoder that sees it whole, and by the language
    model in the place of the words of a request (as RecA does, spec LatentUMM section 3); what comes back are the states
    from which the model would now draw. Tokens go into the encoder as they were drawn (spec section 6): that leaves out
    what a viewer's picture suffers on its way, the decoding, rounding to 8 bits and encoding by the autoencoder, through
    which `und_latent` and `understand` read. `through_pixels` puts it back.

    Unlike the release, as far as it is known here: tokens are denoised without chance (DDIM) from noise that follows the
    seed, and no variances are learned for it; the share to mask in training is drawn uniformly, not from a truncated
    normal; pictures are the autoencoder's means, not samples; prompts pass the language model anew at every step.
    """

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
        max_tokens: int = 160,
        config: TinyHarmonConfig | ReleaseConfig | None = None,
    ):
        """`guidance` is that of drawing; round trips have none, for the latent holds one branch of it.

        `drawing_steps` groups of tokens make a drawing, each denoised in `denoising_steps`. `max_tokens` is the longest
        answer. `config` is what the model was built from, where it was built here.
        """
        super().__init__()
        width = language_model.config.hidden_size
        self.language_model = language_model
        self.encoder, self.decoder, self.head = MaskedEncoder(mar), MaskedDecoder(mar), TokenDenoiser(mar)
        self.proj_in, self.proj_out = _connector(mar.width, width, width), _connector(width, width, mar.width)
        self.autoencoder = autoencoder
        self.scheduler = scheduler
        self.tokenizer = tokenizer
        self.guidance = guidance
        self.drawing_steps = drawing_steps
        self.denoising_steps = denoising_steps
        self.through_pixels = through_pixels
        self.max_tokens = max_tokens
        self.config = config
        self.grid = mar.grid
        self.image_size_px = mar.grid * autoencoder.patch_px
        self.num_tokens, self.num_buffers = mar.grid**2, mar.num_buffers
        self._image, self._end, self._pad = (
            token_id(tokenizer, name) for name in ("<|image_pad|>", "<|im_end|>", "<|endoftext|>")
        )

    # --- the contract ---

    def und_latent(self, items: Sequence[Picture] | Sequence[str]) -> Tensor:
        asked = self._encode("<|im_start|>user\n", special=True)
        if not isinstance(items[0], str):
            tokens = self._tokens_of(cast(Sequence[Picture], items))
            rows = self._padded([[*asked, *self._placeholders]] * len(tokens))
            states = self._states(self._embed(rows, self._see(tokens)), rows.mask)[:, len(asked) :]
            return states[:, : self.num_tokens].mean(1).float()
        texts = [self._encode(text) for text in cast(Sequence[str], items)]
        rows = self._padded([[*asked, *text] for text in texts])
        words = last_tokens_mask(rows, [len(text) for text in texts])
        return masked_mean(self._states(self._embed(rows), rows.mask), words)

    def gen_latent(self, prompts: Sequence[str], seeds: Sequence[int] = (0,)) -> Tensor:
        return self._draw(prompts, repeat_seeds(seeds, len(prompts)))[1].flatten(1).float()

    def draw(self, latents: Tensor, seeds: Sequence[int] = (0,)) -> Tensor:
        """Tokens [m n c]."""
        states = latents.unflatten(-1, (self.num_tokens, -1))
        tokens = self._denoise(states, self._noise(repeat_seeds(seeds, len(latents))))
        if self.through_pixels:
            tokens = self._tokens(quantized_levels(self._pixels(tokens)) / 127.5 - 1)
        return tokens

    def roundtrip(self, latents: Tensor, seeds: Sequence[int] = (0,)) -> Tensor:
        return self._redrawing_states(self.draw(latents, seeds)).flatten(1).float()

    @torch.no_grad()
    def generate(self, prompts: Sequence[str], seeds: Sequence[int] = (0,)) -> list[Picture]:
        return to_pictures(self._pixels(self._draw(prompts, repeat_seeds(seeds, len(prompts)))[0]))

    @torch.no_grad()
    def understand(self, pictures: Sequence[Picture], questions: Sequence[str]) -> list[str]:
        talks = [Conversation(((q, ""),), p) for p, q in zip(pictures, questions, strict=True)]
        rows = self._padded([self._talk(talk, open_ended=True)[0] for talk in talks])
        replies = cast(Any, self.language_model).generate(
            inputs_embeds=self._embed(rows, self._see(self._tokens_of(pictures))),
            attention_mask=rows.mask,
            max_new_tokens=self.max_tokens,
            do_sample=False,
            pad_token_id=self._pad,
            eos_token_id=self._end,
        )
        return self.tokenizer.batch_decode(replies, skip_special_tokens=True)

    def understanding_loss(self, conversations: Sequence[Conversation], drawn: Tensor | None = None) -> Tensor:
        """Mean next-token cross-entropy over the tokens of replies."""
        talks = [self._talk(talk, drawn=drawn is not None) for talk in conversations]
        rows = self._padded([ids for ids, _ in talks])
        pictures = [c.picture for c in conversations if c.picture is not None]
        tokens = self._tokens_of(pictures) if pictures else drawn
        embeds = self._embed(rows, None if tokens is None else self._see(tokens))
        states = self._states(embeds, rows.mask)
        return next_token_loss(self.language_model.lm_head, states, [labels for _, labels in talks])

    def generation_loss(self, prompts: Sequence[str], pictures: Sequence[Picture], rng: torch.Generator) -> Tensor:
        """Diffusion loss of the head over masked tokens; one share of the places is masked in the whole batch."""
        prompted = per_rank_random(torch.rand, (len(prompts),), rng) >= _UNPROMPTED
        rows = self._requests([p if kept else None for p, kept in zip(prompts, prompted.tolist(), strict=True)])
        return self._masked_loss(self._embed(rows), rows.mask, self._tokens_of(pictures), rng)

    def reconstruction_loss(self, pictures: Sequence[Picture], rng: torch.Generator) -> Tensor:
        """`generation_loss` after the requests of round trips, which show pictures for words.

        No part of the model only reads; what is held still is the reading itself.
        """
        tokens = self._tokens_of(pictures)
        rows = self._requests_again(len(tokens))
        with torch.no_grad():
            seen = self._see(tokens)
        return self._masked_loss(self._embed(rows, seen), rows.mask, tokens, rng)

    def trainable(self, name: str) -> bool:
        return not name.startswith("autoencoder.")

    # --- drawing ---

    def _masked_loss(self, embeds: Tensor, mask: Tensor, tokens: Tensor, rng: torch.Generator) -> Tensor:
        """The diffusion loss of the tokens [b n c] that are masked after a request."""
        masked_share = _LEAST_MASKED + (1 - _LEAST_MASKED) * torch.rand((), generator=rng).item()
        count = int((1 - masked_share) * self.num_tokens)
        order = per_rank_random(torch.rand, tokens.shape[:2], rng).argsort(1).to(tokens.device)
        known, masked = order[:, :count].sort(1).values, order[:, count:]
        states = pick(self._drawing_states(embeds, mask, tokens, known), masked)
        clean = pick(tokens, masked)[..., None, None]
        noise, timesteps = draw_noise(self.scheduler, (_NOISINGS, *clean.shape), rng, rows_dim=1)
        noisings = clean.flatten(0, 1).repeat(_NOISINGS, 1, 1, 1), states.flatten(0, 1).repeat(_NOISINGS, 1)
        return noised_loss(self.head, self.scheduler, *noisings, noise.flatten(0, 2), timesteps.flatten())

    def _draw(self, prompts: Sequence[str], seeds: Sequence[int]) -> tuple[Tensor, Tensor]:
        """Tokens [b n c], and the states [b n d] they were drawn from; gradients reach the states, not the tokens."""
        order, noise = self._order(seeds), self._noise(seeds)
        tokens, states = torch.zeros_like(noise), []
        rows, anything = self._requests(prompts), self._requests([None] * len(prompts))
        asked, unasked = self._embed(rows), self._embed(anything)
        for start, stop in pairwise(known_counts(self.num_tokens, self.drawing_steps)):
            known, chosen = order[:, :start].sort(1).values, order[:, start:stop]
            states.append(pick(self._drawing_states(asked, rows.mask, tokens, known), chosen))
            with torch.no_grad():
                bare = None
                if self.guidance != 1:
                    bare = pick(self._drawing_states(unasked, anything.mask, tokens, known), chosen)
                drawn = self._denoise(states[-1], pick(noise, chosen), bare)
            tokens = tokens.scatter(1, chosen[..., None].expand_as(drawn), drawn)
        return tokens, pick(torch.cat(states, dim=1), order.argsort(1))

    def _drawing_states(self, embeds: Tensor, mask: Tensor, tokens: Tensor, known: Tensor) -> Tensor:
        """The states [b n d] of all places after a request, given the tokens of [b n c] at the places `known` [b k]."""
        encoded = self.encoder(tokens, known)
        canvas = self._for_words(encoded)
        mask = torch.cat([mask, mask.new_ones(canvas.shape[:2])], dim=1)
        states = self._states(torch.cat([embeds, canvas], dim=1), mask)[:, embeds.shape[1] :]
        said = self.proj_out(states).roll(self.num_buffers, dims=1)
        return self.decoder(encoded + said, known)

    def _denoise(self, states: Tensor, noise: Tensor, bare: Tensor | None = None) -> Tensor:
        """Tokens [b k c] from states [b k d] and unit noise [b k c], guided against the states `bare` where given."""
        drawn = sample(
            self.head,
            self.scheduler,
            states.flatten(0, 1),
            (states if bare is None else bare).flatten(0, 1),
            noise.flatten(0, 1)[..., None, None],
            [],
            steps=self.denoising_steps,
            guidance=1.0 if bare is None else self.guidance,
        )
        return drawn.view_as(noise)

    def _order(self, seeds: Sequence[int]) -> Tensor:
        """The places [b n] in the order in which they are drawn."""
        orders = [torch.randperm(self.num_tokens, generator=torch_rng(seed, "places")) for seed in seeds]
        return torch.stack(orders).to(device_of(self))

    def _noise(self, seeds: Sequence[int]) -> Tensor:
        """What the token of each place is denoised from, [b n c]."""
        size = self.num_tokens, self.autoencoder.channels
        drawn = [torch.randn(size, generator=torch_rng(seed, "image tokens")) for seed in seeds]
        return torch.stack(drawn).to(device_of(self))

    def _pixels(self, tokens: Tensor) -> Tensor:
        return self.autoencoder.decode(tokens.mT.unflatten(2, (self.grid, self.grid)))

    # --- reading ---

    @torch.no_grad()
    def _tokens_of(self, pictures: Sequence[Picture]) -> Tensor:
        """The tokens [b n c] of pictures of any size."""
        return self._tokens(
            to_pixels([fit_square(picture, self.image_size_px) for picture in pictures], device_of(self))
        )

    def _tokens(self, pixels: Tensor) -> Tensor:
        return self.autoencoder.encode(pixels).flatten(2).mT

    def _see(self, tokens: Tensor) -> Tensor:
        """What the language model reads of whole pictures, [b n + buffers h]."""
        everywhere = torch.arange(self.num_tokens, device=tokens.device).expand(len(tokens), -1)
        return self._for_words(self.encoder(tokens, everywhere))

    def _redrawing_states(self, tokens: Tensor) -> Tensor:
        """The states [b n d] of a new drawing, of which nothing is known, after a request that shows pictures for words."""
        rows = self._requests_again(len(tokens))
        nothing = torch.zeros(len(tokens), 0, dtype=torch.long, device=tokens.device)
        return self._drawing_states(self._embed(rows, self._see(tokens)), rows.mask, tokens, nothing)

    def _for_words(self, encoded: Tensor) -> Tensor:
        """The encoder's states in the language model's width; buffers come last, where they see all the others."""
        return self.proj_in(encoded).roll(-self.num_buffers, dims=1)

    # --- words ---

    @property
    def adapter_host(self) -> nn.Module:
        """The library's module that holds the language model, where LoRA adapters go."""
        return self.language_model

    @property
    def _placeholders(self) -> list[int]:
        """The token ids that stand where a picture is read."""
        return [self._image] * (self.num_tokens + self.num_buffers)

    def _encode(self, text: str, special: bool = False) -> list[int]:
        """As `vocabulary.encode`, by the tokenizer of this model."""
        return encode(self.tokenizer, text, special=special)

    def _requests(self, prompts: Sequence[str | None]) -> PaddedTokens:
        """Prompts up to where the picture begins; None asks for any picture."""
        wanted = [_DRAW_ANYTHING if prompt is None else f"{_DRAW} {prompt}" for prompt in prompts]
        return self._padded([self._turn(self._encode(words)) for words in wanted])

    def _requests_again(self, count: int) -> PaddedTokens:
        """Requests that show a picture where `_requests` have words."""
        return self._padded([self._turn([*self._encode(_DRAW), *self._placeholders])] * count)

    def _turn(self, words: list[int]) -> list[int]:
        """A user's turn, and the start of the reply."""
        before, after = "<|im_start|>user\n", "<|im_end|>\n<|im_start|>assistant\n"
        return [*self._encode(before, special=True), *words, *self._encode(after, special=True)]

    def _talk(
        self, conversation: Conversation, open_ended: bool = False, drawn: bool = False
    ) -> tuple[list[int], list[int]]:
        """Token ids of a conversation and its labels; `open_ended` leaves out the last reply, and where `drawn`, a
        drawing stands for the picture."""
        ids: list[int] = []
        labels: list[int] = []
        pictured = drawn or conversation.picture is not None
        for index, (user, assistant) in enumerate(conversation.turns):
            image = [*self._placeholders, *self._encode("\n")] if pictured and index == 0 else []
            between = self._encode("\n") if index else []
            asked = [*between, *self._turn([*image, *self._encode(user)])]
            last = index == len(conversation.turns) - 1
            reply = [] if open_ended and last else [*self._encode(assistant), self._end]
            ids += asked + reply
            labels += [IGNORE_INDEX] * len(asked) + (reply if conversation.counts else [IGNORE_INDEX] * len(reply))
        return ids, labels

    def _padded(self, rows: Sequence[list[int]]) -> PaddedTokens:
        return pad_left(rows, self._pad, device_of(self))

    def _embed(self, rows: PaddedTokens, seen: Tensor | None = None) -> Tensor:
        """Token rows as the language model reads them, with pictures as `_see` gives them in the placeholders."""
        embeds = self.language_model.get_input_embeddings()(rows.ids)
        if seen is None:
            return embeds
        return embeds.masked_scatter((rows.ids == self._image)[..., None], seen.to(embeds.dtype))

    def _states(self, embeds: Tensor, mask: Tensor) -> Tensor:
        """The language model's states [b s h] after the final norm."""
        output = self.language_model.model(
            inputs_embeds=embeds, attention_mask=mask, position_ids=position_ids(mask), use_cache=False
        )
        return output.last_hidden_state


def _connector(width_in: int, width: int, width_out: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Linear(width_in, width), nn.SiLU(), nn.Linear(width, width), nn.SiLU(), nn.Linear(width, width_out)
    )
