"""BAGEL (arXiv 2505.14683) as a unified backbone: two experts, SigLIP in, rectified flow over image latents out."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional as F

from latentbridge.config import ReleaseConfig, TinyBagelConfig
from latentbridge.devices import device_of
from latentbridge.images import fit_square
from latentbridge.models.autoencoder import Autoencoder
from latentbridge.models.backbones.bagel.latent_tokens import LatentTokens
from latentbridge.models.backbones.bagel.mixture_of_transformers import MixtureOfTransformers, Past, Stream, seen_before
from latentbridge.models.backbones.bagel.navit_encoder import NaViTEncoder, resized
from latentbridge.models.backbones.bagel.rectified_flow import guided, noised, sampling_times, training_times
from latentbridge.models.left_padding import IGNORE_INDEX, next_token_loss, pad_left
from latentbridge.models.pixels import quantized_levels, to_pictures, to_pixels
from latentbridge.models.tokenization import encode, token_id
from latentbridge.models.trainable import masked_mean, repeat_seeds
from latentbridge.ranks import per_rank_random
from latentbridge.rng import torch_rng
from latentbridge.types import Conversation, Picture

FIRST, LAST = "<|im_start|>", "<|im_end|>"
"""Around every text; nothing tells the user's from the model's."""
IMAGE, IMAGE_START, IMAGE_END = "<|image_pad|>", "<|vision_start|>", "<|vision_end|>"
_SHIFT = 3.0
"""Of sampling times (spec LatentUMM 6)."""
_GUIDED_FROM = 0.4
"""The time below which guidance is left out (spec LatentUMM 6)."""
_DROPPED = 0.1
"""Share of prompts left out of the generation loss, which is what makes guidance possible (spec LatentUMM 1.4)."""


class PlacedRows(NamedTuple):
    """Rows of the understanding expert's tokens, padded on the left."""

    ids: Tensor
    """int64 [b s]."""
    positions: Tensor
    """int64 [b s]; 0 for a whole picture, and words count on from there."""
    real: Tensor
    """bool [b s]; False at padding."""


class Context(NamedTuple):
    """Prompts, or pictures to be drawn again, as a drawing attends to them."""

    past: Past
    real: Tensor
    """bool [b s]; False where nothing is to be seen."""
    position: Tensor
    """int64 [b]: that of the drawing."""

    def without(self, dropped: Tensor) -> Context:
        """The context with the prompts marked in `dropped` [b] left out, as if they had never been there."""
        return Context(self.past, self.real & ~dropped[:, None], self.position.where(~dropped, 0))


class Bagel(nn.Module):
    """BAGEL under the contract of `TrainableModel`.

    The latent of generation is the generation expert's final states at the n tokens of the picture, [n * h], averaged
    over the steps of a flow from the seed's noise, each by its length. The velocity is a linear map of the state, so the
    mean state gives the mean velocity, and one straight step by it from the same noise ends exactly where the steps did:
    the latent and the seed are all a drawing needs, however many `roundtrip_steps` made it (in one step, the estimate of
    the clean latents at t = 1, spec LatentUMM 6). A drawing is read as the understanding expert's states at the eye's
    tokens, at the size at which these show the same squares. Round trips are not guided. The autoencoder stays as it is.

    Unlike the release, which draws any shape, drawings are squares; the clean latents of a picture are the mean the
    autoencoder gives, not a sample.
    """

    def __init__(
        self,
        language_model: MixtureOfTransformers,
        eye: NaViTEncoder,
        latents: LatentTokens,
        autoencoder: Autoencoder,
        tokenizer: Any,
        roundtrip_steps: int = 4,
        steps: int = 50,
        guidance: float = 4.0,
        max_tokens: int = 160,
        config: TinyBagelConfig | ReleaseConfig | None = None,
    ):
        """`steps` and `guidance` are those of drawing, `max_tokens` the longest answer; one roundtrip step gives the mean
        of all drawings, which is blurred. `config` is what the model was built from, where it was built here."""
        super().__init__()
        self.language_model = language_model
        self.eye = eye
        self.latents = latents
        self.autoencoder = autoencoder
        self.tokenizer = tokenizer
        self.roundtrip_steps = roundtrip_steps
        self.steps = steps
        self.guidance = guidance
        self.max_tokens = max_tokens
        self.config = config
        self.image_size_px = latents.grid * latents.patch * autoencoder.patch_px
        self._first, self._last, self._image, self._start, self._end = (
            token_id(tokenizer, token) for token in (FIRST, LAST, IMAGE, IMAGE_START, IMAGE_END)
        )

    # --- the contract ---

    def und_latent(self, items: Sequence[Picture] | Sequence[str]) -> Tensor:
        if not isinstance(items[0], str):
            return masked_mean(*self._read(self.eye(cast(Sequence[Picture], items))))
        rows = self._texts(cast(Sequence[str], items))
        states, _ = self._states(rows)
        return masked_mean(states, rows.real & (rows.positions > 0))

    def gen_latent(self, prompts: Sequence[str], seeds: Sequence[int] = (0,)) -> Tensor:
        _, states = self._draw(prompts, repeat_seeds(seeds, len(prompts)), self.roundtrip_steps, guidance=1.0)
        return states.flatten(1)

    def draw(self, latents: Tensor, seeds: Sequence[int] = (0,)) -> Tensor:
        """Pixels [m 3 h w] in [-1, 1]."""
        states = latents.unflatten(-1, (self.latents.grid**2, -1)).to(self.latents.places.dtype)
        clean = self._noise(repeat_seeds(seeds, len(latents))) - self.latents.velocity(states)
        return quantized_levels(self._decode(clean)) / 127.5 - 1

    def roundtrip(self, latents: Tensor, seeds: Sequence[int] = (0,)) -> Tensor:
        return self._read_drawn(self.draw(latents, seeds))

    @property
    def adapter_host(self) -> nn.Module:
        """The library's module that holds the language model, where LoRA adapters go."""
        return self.language_model

    @torch.no_grad()
    def generate(self, prompts: Sequence[str], seeds: Sequence[int] = (0,)) -> list[Picture]:
        clean, _ = self._draw(prompts, repeat_seeds(seeds, len(prompts)), self.steps, self.guidance)
        return to_pictures(self._decode(clean))

    @torch.no_grad()
    def understand(self, pictures: Sequence[Picture], questions: Sequence[str]) -> list[str]:
        seen = self.eye(pictures)
        talks = [Conversation(((question, ""),)) for question in questions]
        rows = self._padded(
            [self._talk(talk, len(tokens), open_ended=True)[0] for talk, tokens in zip(talks, seen, strict=True)]
        )
        states, past = self._states(rows, seen)
        real, positions, said = rows.real, rows.positions[:, -1:], []
        ended = real.new_zeros(len(talks), 1)
        while len(said) < self.max_tokens and not bool(ended.all()):
            said.append(self.language_model.lm_head(states[:, -1:]).argmax(-1))
            ended |= said[-1] == self._last
            real, positions = torch.cat([real, torch.ones_like(ended)], dim=1), positions + 1
            word = Stream(self.language_model.embed_tokens(said[-1]), positions)
            (states,), past = self.language_model([word], real[:, None], past)
        replies = [[*row, self._last] for row in torch.cat(said, dim=1).tolist()]
        replies = [row[: row.index(self._last)] for row in replies]
        return self.tokenizer.batch_decode(replies, skip_special_tokens=True)

    def understanding_loss(self, conversations: Sequence[Conversation], drawn: Tensor | None = None) -> Tensor:
        """Mean next-token cross-entropy over the tokens of replies."""
        if drawn is not None:
            tokens = self._look(drawn)
        else:
            seen = iter(self.eye([c.picture for c in conversations if c.picture is not None]))
            tokens = [next(seen) if c.picture is not None else None for c in conversations]
        talks = [
            self._talk(talk, 0 if given is None else len(given))
            for talk, given in zip(conversations, tokens, strict=True)
        ]
        rows = self._padded([ids for ids, _ in talks])
        states, _ = self._states(rows, [given for given in tokens if given is not None])
        return next_token_loss(self.language_model.lm_head, states, [labels for _, labels in talks])

    def generation_loss(self, prompts: Sequence[str], pictures: Sequence[Picture], rng: torch.Generator) -> Tensor:
        """Mean squared error of the velocity at one time for each picture; one prompt in ten is left out."""
        dropped = per_rank_random(torch.rand, (len(prompts),), rng) < _DROPPED
        context = self._context(self._texts(prompts)).without(dropped.to(device_of(self)))
        return self._flow_loss(pictures, context, rng)

    def reconstruction_loss(self, pictures: Sequence[Picture], rng: torch.Generator) -> Tensor:
        """The picture is the context, without a word; the eye and the understanding expert are held still, as in RecA."""
        with torch.no_grad():
            seen = self.eye(pictures)
            context = self._context(self._blocks(seen), seen)
        return self._flow_loss(pictures, context, rng, still=True)

    def trainable(self, name: str) -> bool:
        return not name.startswith("autoencoder.")

    # --- drawing ---

    def _draw(self, prompts: Sequence[str], seeds: Sequence[int], steps: int, guidance: float) -> tuple[Tensor, Tensor]:
        """Clean latents [b n c], and the generation expert's states [b n h], averaged over the way there; both float32."""
        context = self._context(self._texts(prompts))
        nothing = context.without(context.real.new_ones(len(prompts)))
        latents, mean_states = self._noise(seeds), torch.tensor(0.0)
        for time, following in pairwise(sampling_times(steps, _SHIFT)):
            times = latents.new_full((len(prompts),), time)
            states = self._drawing_states(latents, times, context)
            velocity = self.latents.velocity(states)
            if guidance != 1 and time > _GUIDED_FROM:
                bare = self.latents.velocity(self._drawing_states(latents, times, nothing))
                velocity = guided(velocity, bare, guidance)
            latents = latents - (time - following) * velocity
            mean_states = mean_states + (time - following) * states.float()
        return latents, mean_states

    def _flow_loss(
        self, pictures: Sequence[Picture], context: Context, rng: torch.Generator, still: bool = False
    ) -> Tensor:
        """Mean squared error of the velocity at one time for each picture."""
        clean = self._encode(pictures)
        noise = per_rank_random(torch.randn, clean.shape, rng).to(clean.device)
        times = training_times(len(clean), rng).to(clean.device)
        velocity = self.latents.velocity(self._drawing_states(noised(clean, noise, times), times, context, still))
        return F.mse_loss(velocity, noise - clean)

    def _drawing_states(self, noisy: Tensor, times: Tensor, context: Context, still: bool = False) -> Tensor:
        """The generation expert's states [b n h] at noisy latents [b n c]; all tokens of the picture see each other.

        Where `still`, gradients pass through the understanding expert, which takes the picture's marks, but do not reach it.
        """
        ends = torch.tensor([[self._start, self._end]], device=noisy.device)
        marks = self.language_model.embed_tokens(ends).expand(len(noisy), -1, -1)
        marks = marks.detach() if still else marks
        place = context.position[:, None]
        streams = [
            Stream(tokens, place.expand(tokens.shape[:2])) for tokens in (marks, self.latents.enter(noisy, times))
        ]
        count = 2 + noisy.shape[1]
        visible = torch.cat([context.real, context.real.new_ones(len(noisy), count)], dim=1)
        given = streams, visible[:, None].expand(-1, count, -1), context.past
        (_, states), _ = functional_call(self.language_model, self._held() if still else {}, given)
        return states

    def _held(self) -> dict[str, Tensor]:
        """The language model's weights outside the generation expert, as constants."""
        weights = self.language_model.named_parameters()
        return {name: weight.detach() for name, weight in weights if not name.startswith("gen.")}

    def _context(self, rows: PlacedRows, seen: Sequence[Tensor] = ()) -> Context:
        _, past = self._states(rows, seen)
        return Context(past, rows.real, rows.positions[:, -1] + 1)

    def _noise(self, seeds: Sequence[int]) -> Tensor:
        """The latents at t = 1, float32 [b n c]."""
        size = self.latents.grid**2, self.latents.size
        drawn = [torch.randn(size, generator=torch_rng(seed, "image noise")) for seed in seeds]
        return torch.stack(drawn).to(device_of(self))

    @torch.no_grad()
    def _encode(self, pictures: Sequence[Picture]) -> Tensor:
        squares = [fit_square(picture, self.image_size_px) for picture in pictures]
        return self.latents.split(self.autoencoder.encode(to_pixels(squares, device_of(self))))

    def _decode(self, clean: Tensor) -> Tensor:
        return self.autoencoder.decode(self.latents.join(clean))

    # --- reading ---

    def _read(self, seen: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """States [b s h] of pictures alone, from the eye's tokens [n h] of each, and the mask [b s] of these tokens."""
        rows = self._blocks(seen)
        return self._states(rows, seen)[0], rows.ids == self._image

    def _read_drawn(self, pixels: Tensor) -> Tensor:
        """Drawings [b 3 h w] in [-1, 1] as latents [b n * h]."""
        states, mask = self._read(self._look(pixels))
        return states[mask].view(len(pixels), -1).float()

    def _look(self, pixels: Tensor) -> list[Tensor]:
        """The eye's tokens [n h] of each drawing [b 3 h w] in [-1, 1], at the size at which they show its latents' squares."""
        side_px = self.latents.grid * self.eye.patch_px
        return list(self.eye.look(resized(pixels, (side_px, side_px))))

    # --- words ---

    def _block(self, num_tokens: int) -> list[int]:
        """A picture's token ids."""
        return [self._start, *[self._image] * num_tokens, self._end]

    def _blocks(self, seen: Sequence[Tensor]) -> PlacedRows:
        """Rows of pictures alone."""
        return self._padded([self._block(len(tokens)) for tokens in seen])

    def _texts(self, texts: Sequence[str]) -> PlacedRows:
        return self._padded([self._text(text) for text in texts])

    def _text(self, text: str) -> list[int]:
        """Token ids; the names of special tokens are text like any other, as what users type must be."""
        words = encode(self.tokenizer, text)
        return [self._first, *words, self._last]

    def _talk(
        self, conversation: Conversation, num_tokens: int, open_ended: bool = False
    ) -> tuple[list[int], list[int]]:
        """Token ids of a conversation about a picture of `num_tokens`, or about none, and its labels; `open_ended` leaves
        out the last reply."""
        ids = self._block(num_tokens) if num_tokens else []
        labels = [IGNORE_INDEX] * len(ids)
        for index, (user, assistant) in enumerate(conversation.turns):
            asked, reply = [*self._text(user), self._first], self._text(assistant)[1:]
            if open_ended and index == len(conversation.turns) - 1:
                reply = []
            ids += asked + reply
            labels += [IGNORE_INDEX] * len(asked) + (reply if conversation.counts else [IGNORE_INDEX] * len(reply))
        return ids, labels

    def _padded(self, rows: Sequence[list[int]]) -> PlacedRows:
        """Rows of token ids; a picture stands first where there is one."""
        ids, mask = pad_left(rows, self._last, device_of(self))
        pictured = torch.isin(ids, ids.new_tensor([self._start, self._image, self._end]))
        real = mask.bool()
        first = pictured.any(1, keepdim=True).long()
        positions = ((real & ~pictured).cumsum(1) - 1 + first).clamp_min(0)
        return PlacedRows(ids, positions, real)

    def _states(self, rows: PlacedRows, seen: Sequence[Tensor] = ()) -> tuple[Tensor, Past]:
        """The understanding expert's final states [b s h], with the eye's tokens of the rows' pictures, and keys and values."""
        embeds = self.language_model.embed_tokens(rows.ids)
        if seen:
            embeds = embeds.masked_scatter((rows.ids == self._image)[..., None], torch.cat(list(seen)).to(embeds.dtype))
        words = Stream(embeds, rows.positions)
        (states,), past = self.language_model([words], seen_before(rows.positions, rows.real))
        return states, past
