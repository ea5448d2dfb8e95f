"""BAGEL (arXiv 2505.14683): two experts, a SigLIP encoder, and rectified flow over image latents."""

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
from latentbridge.models.chat import BagelChat, ChatTokens, tokenize_chat
from latentbridge.models.left_padding import PaddedTokens, next_token_loss, pad_left
from latentbridge.models.options import DrawingOptions, ReplyOptions, finish_reply
from latentbridge.models.pixels import quantized_levels, to_pictures, to_pixels
from latentbridge.models.token_sampling import choose
from latentbridge.models.tokenization import token_id
from latentbridge.models.trainable import TrainableModel, masked_mean
from latentbridge.ranks import per_rank_random
from latentbridge.rng import repeat_seeds, torch_rng
from latentbridge.types import Conversation, Picture, Reply

FIRST, LAST = "<|im_start|>", "<|im_end|>"
"""Markers around every text, the user's and the model's."""
IMAGE, IMAGE_START, IMAGE_END = "<|image_pad|>", "<|vision_start|>", "<|vision_end|>"
_SHIFT = 3.0
"""Timestep shift of sampling (spec LatentUMM 6)."""
_GUIDED_FROM = 0.4
"""Time below which guidance is off (spec LatentUMM 6)."""
_PROMPT_DROPOUT = 0.1
"""Share of prompts dropped in the generation loss, for classifier-free guidance (spec LatentUMM 1.4)."""


class Context(NamedTuple):
    """The keys and values of prompts, or of pictures to reconstruct, that a drawing attends to."""

    past: Past
    mask: Tensor
    """bool [b s]; False at masked positions."""
    position: Tensor
    """int64 [b]; position of the drawing."""

    def without(self, dropped: Tensor) -> Context:
        """Return the context with the prompts marked in `dropped` [b] masked, as if they had never been there."""
        return Context(self.past, self.mask & ~dropped[:, None], self.position.where(~dropped, 0))


class Bagel(TrainableModel):
    """BAGEL: a mixture of an understanding and a generation expert that share attention.

    The latent of generation is the generation expert's final states at the n tokens of the picture, [n * h], averaged
    over the steps of a flow from the seed's noise, each weighted by its length. The velocity is a linear map of the state, so
    the mean state gives the mean velocity, and one straight step by it from the same noise ends exactly where the steps did:
    the latent and the seed determine the drawing, however many `roundtrip_steps` made it (in one step, the estimate of
    the clean latents at t = 1, spec LatentUMM 6). A drawing is encoded as the understanding expert's states at the SigLIP
    tokens, at the size at which these show the same squares. Round trips are not guided. The autoencoder is never trained.

    Unlike the release, which generates any shape, generated pictures are square; the clean latents of a picture are the mean
    of the autoencoder's distribution, not a sample.
    """

    kind = "bagel"
    drawing_size_px: int

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
        config: TinyBagelConfig | ReleaseConfig | None = None,
    ):
        """`steps` and `guidance` are the defaults of generated pictures; one roundtrip step gives the mean of all drawings,
        which is blurred. `config` is what the model was built from, if it was built here."""
        super().__init__()
        self.language_model = language_model
        self.eye = eye
        self.latents = latents
        self.autoencoder = autoencoder
        self.tokenizer = tokenizer
        self.roundtrip_steps = roundtrip_steps
        self.drawing_options = DrawingOptions(steps, guidance)
        self.config = config
        self.image_size_px = None  # NaViT reads any size
        self.drawing_size_px = latents.grid * latents.patch * autoencoder.patch_px
        self.context_length = language_model.config.max_position_embeddings
        self.embedding_size = language_model.config.hidden_size
        self._bos, self._eos, self._image, self._image_start, self._image_end = (
            token_id(tokenizer, token) for token in (FIRST, LAST, IMAGE, IMAGE_START, IMAGE_END)
        )
        self.chat = BagelChat(tokenizer, self._bos, self._eos)

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
        features = self._conversation_features(conversations)
        chats = [
            self._tokenize(conversation, [len(image) for image in images], open_ended=True)
            for conversation, images in zip(conversations, features, strict=True)
        ]
        tokens = self._pad([chat.ids for chat in chats])
        states, past = self._hidden(tokens, [image for images in features for image in images])
        mask, positions, replies = tokens.mask.bool(), self._positions(tokens)[:, -1:], []
        has_ended = mask.new_zeros(len(conversations), 1)
        while len(replies) < options.max_tokens and not bool(has_ended.all()):
            logits = self.language_model.lm_head(states[:, -1]).float()
            replies.append(choose(logits, options, generators)[0][:, None])
            has_ended |= replies[-1] == self._eos
            mask, positions = torch.cat([mask, torch.ones_like(has_ended)], dim=1), positions + 1
            stream = Stream(self.language_model.embed_tokens(replies[-1]), positions)
            (states,), past = self.language_model([stream], mask[:, None], past)
        rows = torch.cat(replies, dim=1).tolist()
        return [finish_reply(self.tokenizer, row, [self._eos], options) for row in rows]

    def _draw(self, descriptions: Sequence[str], seeds: Sequence[int], options: DrawingOptions) -> list[Picture]:
        clean, _ = self._sample(descriptions, seeds, options.steps, options.guidance)
        return to_pictures(self._decode_latents(clean))

    # --- latents and losses ---

    def und_latent(self, items: Sequence[Picture] | Sequence[str]) -> Tensor:
        if not isinstance(items[0], str):
            return masked_mean(*self._image_states(self.eye(cast(Sequence[Picture], items))))
        tokens = self._tokenize_texts(cast(Sequence[str], items))
        states, _ = self._hidden(tokens)
        return masked_mean(states, tokens.mask.bool() & (self._positions(tokens) > 0))

    def gen_latent(self, prompts: Sequence[str], seeds: Sequence[int] = (0,)) -> Tensor:
        _, states = self._sample(prompts, repeat_seeds(seeds, len(prompts)), self.roundtrip_steps, guidance=1.0)
        return states.flatten(1)

    def draw(self, latents: Tensor, seeds: Sequence[int] = (0,)) -> Tensor:
        """Return pixels [m 3 h w] in [-1, 1]."""
        states = latents.unflatten(-1, (self.latents.grid**2, -1)).to(self.latents.places.dtype)
        clean = self._noise(repeat_seeds(seeds, len(latents))) - self.latents.velocity(states)
        return quantized_levels(self._decode_latents(clean)) / 127.5 - 1

    def roundtrip(self, latents: Tensor, seeds: Sequence[int] = (0,)) -> Tensor:
        return self._drawing_states(self.draw(latents, seeds))

    def understanding_loss(self, conversations: Sequence[Conversation], drawn: Tensor | None = None) -> Tensor:
        """Return the mean next-token cross-entropy over the tokens of replies."""
        features = (
            self._conversation_features(conversations)
            if drawn is None
            else [[image] for image in self._encode_drawing(drawn)]
        )
        chats = [
            self._tokenize(conversation, [len(image) for image in images])
            for conversation, images in zip(conversations, features, strict=True)
        ]
        tokens = self._pad([chat.ids for chat in chats])
        states, _ = self._hidden(tokens, [image for images in features for image in images])
        return next_token_loss(self.language_model.lm_head, states, [chat.labels for chat in chats])

    def generation_loss(self, prompts: Sequence[str], pictures: Sequence[Picture], rng: torch.Generator) -> Tensor:
        """Return the mean squared error of the velocity at one time per picture; one prompt in ten is dropped."""
        dropped = per_rank_random(torch.rand, (len(prompts),), rng) < _PROMPT_DROPOUT
        context = self._context(self._tokenize_texts(prompts)).without(dropped.to(device_of(self)))
        return self._flow_loss(pictures, context, rng)

    def reconstruction_loss(self, pictures: Sequence[Picture], rng: torch.Generator) -> Tensor:
        """Return the flow loss with the picture itself as context; SigLIP and the understanding expert get no gradient (RecA)."""
        with torch.no_grad():
            features = self.eye(pictures)
            context = self._context(self._tokenize_images(features), features)
        return self._flow_loss(pictures, context, rng, freeze_understanding=True)

    def trainable(self, name: str) -> bool:
        return not name.startswith("autoencoder.")

    # --- flow ---

    def _sample(
        self, prompts: Sequence[str], seeds: Sequence[int], steps: int, guidance: float
    ) -> tuple[Tensor, Tensor]:
        """Return clean latents [b n c], and the generation expert's states [b n h] averaged over the flow; both float32."""
        context = self._context(self._tokenize_texts(prompts))
        no_context = context.without(context.mask.new_ones(len(prompts)))
        latents, mean_states = self._noise(seeds), torch.tensor(0.0)
        for time, next_time in pairwise(sampling_times(steps, _SHIFT)):
            times = latents.new_full((len(prompts),), time)
            states = self._generation_states(latents, times, context)
            velocity = self.latents.velocity(states)
            if guidance != 1 and time > _GUIDED_FROM:
                uncond = self.latents.velocity(self._generation_states(latents, times, no_context))
                velocity = guided(velocity, uncond, guidance)
            latents = latents - (time - next_time) * velocity
            mean_states = mean_states + (time - next_time) * states.float()
        return latents, mean_states

    def _flow_loss(
        self, pictures: Sequence[Picture], context: Context, rng: torch.Generator, freeze_understanding: bool = False
    ) -> Tensor:
        """Return the mean squared error of the velocity at one time per picture."""
        clean = self._encode_latents(pictures)
        noise = per_rank_random(torch.randn, clean.shape, rng).to(clean.device)
        times = training_times(len(clean), rng).to(clean.device)
        states = self._generation_states(noised(clean, noise, times), times, context, freeze_understanding)
        return F.mse_loss(self.latents.velocity(states), noise - clean)

    def _generation_states(
        self, noisy: Tensor, times: Tensor, context: Context, freeze_understanding: bool = False
    ) -> Tensor:
        """Return the generation expert's states [b n h] at noisy latents [b n c]; a picture's tokens attend to each other.

        `freeze_understanding` keeps gradients from the understanding expert, which embeds the image markers, but lets them
        pass through it.
        """
        marker_ids = torch.tensor([[self._image_start, self._image_end]], device=noisy.device)
        markers = self.language_model.embed_tokens(marker_ids).expand(len(noisy), -1, -1)
        markers = markers.detach() if freeze_understanding else markers
        position = context.position[:, None]
        streams = [
            Stream(tokens, position.expand(tokens.shape[:2])) for tokens in (markers, self.latents.enter(noisy, times))
        ]
        count = 2 + noisy.shape[1]
        visible = torch.cat([context.mask, context.mask.new_ones(len(noisy), count)], dim=1)
        inputs = streams, visible[:, None].expand(-1, count, -1), context.past
        weights = self._frozen_understanding() if freeze_understanding else {}
        (_, states), _ = functional_call(self.language_model, weights, inputs)
        return states

    def _frozen_understanding(self) -> dict[str, Tensor]:
        """Return the language model's weights outside the generation expert, detached."""
        weights = self.language_model.named_parameters()
        return {name: weight.detach() for name, weight in weights if not name.startswith("gen.")}

    def _context(self, tokens: PaddedTokens, features: Sequence[Tensor] = ()) -> Context:
        _, past = self._hidden(tokens, features)
        return Context(past, tokens.mask.bool(), self._positions(tokens)[:, -1] + 1)

    def _noise(self, seeds: Sequence[int]) -> Tensor:
        """Return the latents at t = 1, float32 [b n c]."""
        size = self.latents.grid**2, self.latents.size
        rows = [torch.randn(size, generator=torch_rng(seed, "image noise")) for seed in seeds]
        return torch.stack(rows).to(device_of(self))

    @torch.no_grad()
    def _encode_latents(self, pictures: Sequence[Picture]) -> Tensor:
        squares = [fit_square(picture, self.drawing_size_px) for picture in pictures]
        return self.latents.split(self.autoencoder.encode(to_pixels(squares, device_of(self))))

    def _decode_latents(self, clean: Tensor) -> Tensor:
        return self.autoencoder.decode(self.latents.join(clean))

    # --- images ---

    def _conversation_features(self, conversations: Sequence[Conversation]) -> list[list[Tensor]]:
        """Return the SigLIP features [n h] of each conversation's pictures."""
        features = iter(self.eye([picture for c in conversations for picture in c.all_pictures]))
        return [[next(features) for _ in c.all_pictures] for c in conversations]

    def _image_states(self, features: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """Return states [b s h] of pictures alone from their SigLIP features [n h], and the mask [b s] of image tokens."""
        tokens = self._tokenize_images(features)
        return self._hidden(tokens, features)[0], tokens.ids == self._image

    def _drawing_states(self, pixels: Tensor) -> Tensor:
        """Return the latents [b n * h] of drawings [b 3 h w] in [-1, 1]."""
        states, mask = self._image_states(self._encode_drawing(pixels))
        return states[mask].view(len(pixels), -1).float()

    def _encode_drawing(self, pixels: Tensor) -> list[Tensor]:
        """Return SigLIP features [n h] of drawings [b 3 h w] in [-1, 1], at the size that shows the latents' squares."""
        side_px = self.latents.grid * self.eye.patch_px
        return list(self.eye.encode_pixels(resized(pixels, (side_px, side_px))))

    # --- tokens ---

    def _image_ids(self, num_tokens: int) -> list[int]:
        return [self._image_start, *[self._image] * num_tokens, self._image_end] if num_tokens else []

    def _tokenize_images(self, features: Sequence[Tensor]) -> PaddedTokens:
        return self._pad([self._image_ids(len(image)) for image in features])

    def _tokenize_texts(self, texts: Sequence[str]) -> PaddedTokens:
        return self._pad([self.chat.text(text) for text in texts])

    def _tokenize(
        self, conversation: Conversation, num_image_tokens: Sequence[int], open_ended: bool = False
    ) -> ChatTokens:
        """Return the tokens of a conversation about images of so many tokens each; `open_ended` omits the last reply."""
        images = [self._image_ids(count) for count in num_image_tokens]
        return tokenize_chat(self.chat, conversation, [images], open_ended)

    def _pad(self, rows: Sequence[list[int]]) -> PaddedTokens:
        return pad_left(rows, self._eos, device_of(self))

    def _positions(self, tokens: PaddedTokens) -> Tensor:
        """Return position ids [b s]: 0 for all of an image, which comes first, and text counts on from there."""
        is_image = torch.isin(tokens.ids, tokens.ids.new_tensor([self._image_start, self._image, self._image_end]))
        is_text = tokens.mask.bool() & ~is_image
        return (is_text.cumsum(1) - 1 + is_image.any(1, keepdim=True).long()).clamp_min(0)

    def _hidden(self, tokens: PaddedTokens, features: Sequence[Tensor] = ()) -> tuple[Tensor, Past]:
        """Return the understanding expert's final states [b s h], and keys and values, given the rows' SigLIP features."""
        embeds = self.language_model.embed_tokens(tokens.ids)
        if features:
            is_image = (tokens.ids == self._image)[..., None]
            embeds = embeds.masked_scatter(is_image, torch.cat(list(features)).to(embeds.dtype))
        positions = self._positions(tokens)
        (states,), past = self.language_model([Stream(embeds, positions)], seen_before(positions, tokens.mask.bool()))
        return states, past
