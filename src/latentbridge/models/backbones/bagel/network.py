"""The parts of BAGEL, and their passes over texts, pictures and noisy latents."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.func import functional_call

from latentbridge.config import ReleaseConfig, TinyBagelConfig
from latentbridge.devices import device_of
from latentbridge.errors import UserError
from latentbridge.models.autoencoder import Autoencoder
from latentbridge.models.backbones.bagel.context import Branches, Context, Prefill, Reference
from latentbridge.models.backbones.bagel.latent_tokens import LatentTokens, Shape
from latentbridge.models.backbones.bagel.mixture_of_transformers import MixtureOfTransformers, Stream, seen_before
from latentbridge.models.backbones.bagel.navit_encoder import NaViTEncoder
from latentbridge.models.backbones.bagel.options import EDIT_OPTIONS, BagelOptions, BagelReplyOptions
from latentbridge.models.backbones.bagel.pictures import ResizeRule
from latentbridge.models.backbones.bagel.rectified_flow import guided, sampling_times
from latentbridge.models.chat import BagelChat
from latentbridge.models.left_padding import PaddedTokens, pad_left
from latentbridge.models.options import ReplyOptions
from latentbridge.models.pixels import to_pixels
from latentbridge.models.token_sampling import Generators, choose
from latentbridge.models.tokenization import token_id
from latentbridge.models.trainable import TrainableModel
from latentbridge.rng import torch_rng
from latentbridge.types import Picture

FIRST, LAST = "<|im_start|>", "<|im_end|>"
"""Markers around every text, the user's and the model's."""
IMAGE, IMAGE_START, IMAGE_END = "<|image_pad|>", "<|vision_start|>", "<|vision_end|>"


class BagelNetwork(TrainableModel):
    """A mixture of an understanding and a generation expert that share attention, a SigLIP encoder, and an autoencoder.

    Texts take a position per token. A picture takes one position, whichever encoder reads it, and its tokens attend to each
    other.
    """

    kind = "bagel"
    drawing_size_px: int
    drawing_options: BagelOptions
    edit_options: BagelOptions

    def __init__(
        self,
        language_model: MixtureOfTransformers,
        eye: NaViTEncoder,
        latents: LatentTokens,
        autoencoder: Autoencoder,
        tokenizer: Any,
        resize: Literal["app", "chat"] = "chat",
        config: TinyBagelConfig | ReleaseConfig | None = None,
    ):
        """`config` is what the model was built from, if it was built here."""
        super().__init__()
        self.language_model = language_model
        self.eye = eye
        self.latents = latents
        self.autoencoder = autoencoder
        self.tokenizer = tokenizer
        self.resize: Literal["app", "chat"] = resize
        """"app" resizes a picture to read by the autoencoder's rule before SigLIP's, as the authors' app and notebook do;
        "chat" by SigLIP's alone, as the release's method `chat` and their evaluation of understanding do."""
        self.config = config
        self.image_size_px = None  # NaViT reads any size
        self.stride_px = latents.patch * autoencoder.patch_px
        self.drawing_size_px = latents.grid * self.stride_px
        self.rule = ResizeRule(self.drawing_size_px, self.drawing_size_px // 2, self.stride_px)
        """Size at which the autoencoder reads pictures."""
        self.context_length = language_model.config.max_position_embeddings
        self.embedding_size = language_model.config.hidden_size
        self._bos, self._eos, self._image, self._image_start, self._image_end = (
            token_id(tokenizer, token) for token in (FIRST, LAST, IMAGE, IMAGE_START, IMAGE_END)
        )
        self.chat = BagelChat(tokenizer, self._bos, self._eos)
        self.reply_options = BagelReplyOptions()
        self.drawing_options = BagelOptions()
        self.edit_options = EDIT_OPTIONS
        self.roundtrip_steps = 4
        """Moves of a drawing in a round trip; one gives the mean of all drawings, which is blurred."""

    @property
    def adapter_host(self) -> nn.Module:
        return self.language_model

    # --- tokens ---

    def image_ids(self, num_tokens: int) -> list[int]:
        """Return the ids around and in place of a picture's SigLIP tokens."""
        return [self._image_start, *[self._image] * num_tokens, self._image_end]

    def tokenize_images(self, features: Sequence[Tensor]) -> PaddedTokens:
        return self.pad([self.image_ids(len(image)) for image in features])

    def tokenize_texts(self, texts: Sequence[str]) -> PaddedTokens:
        return self.pad([self.chat.text(text) for text in texts])

    def pad(self, rows: Sequence[list[int]]) -> PaddedTokens:
        return pad_left(rows, self._eos, device_of(self))

    def positions(self, tokens: PaddedTokens) -> Tensor:
        """Return position ids [b s]: all tokens of a picture have that of its first."""
        inside = (tokens.ids == self._image) | (tokens.ids == self._image_end)
        return ((tokens.mask.bool() & ~inside).cumsum(1) - 1).clamp_min(0)

    # --- pictures ---

    def num_image_tokens(self, picture: Picture) -> int:
        """Return the number of SigLIP tokens of a picture to understand."""
        height, width = self.rule.size(*picture.shape[:2]) if self.resize == "app" else picture.shape[:2]
        height, width = self.eye.rule.size(height, width)
        return (height // self.eye.patch_px) * (width // self.eye.patch_px)

    def read(self, pictures: Sequence[Picture]) -> list[Tensor]:
        """Return the SigLIP tokens [n h] of pictures to understand."""
        return self.eye([self.rule.resize(picture) for picture in pictures] if self.resize == "app" else pictures)

    @torch.no_grad()
    def encode_latents(self, pictures: Sequence[Picture]) -> Tensor:
        """Return the clean latents [b n c] of pictures of one size, whose sides are multiples of the stride."""
        return self.latents.split(self.autoencoder.encode(to_pixels(pictures, device_of(self))))

    def decode_latents(self, clean: Tensor, shape: Shape) -> Tensor:
        """Return pixels [b 3 h w], not clamped, of clean latents [b n c]."""
        return self.autoencoder.decode(self.latents.join(clean, shape))

    def latent_shape(self, size: Sequence[int] | None) -> Shape:
        """Return the shape of drawings of a width and height in pixels; raise UserError if the model draws no such size."""
        sides = size or (self.drawing_size_px, self.drawing_size_px)
        drawable = all(side % self.stride_px == 0 and 0 < side <= self.drawing_size_px for side in sides)
        if len(sides) != 2 or not drawable:
            raise UserError(
                f"This model does not draw {'x'.join(map(str, sides))}; give two multiples of {self.stride_px} up to "
                f"{self.drawing_size_px}, such as {self.drawing_size_px}x{self.drawing_size_px}."
            )
        return sides[1] // self.stride_px, sides[0] // self.stride_px

    # --- passes ---

    def prefill(
        self, tokens: PaddedTokens, features: Sequence[Tensor] = (), reference: Reference | None = None
    ) -> Prefill:
        """Run the understanding expert over tokens with the SigLIP tokens `features`, in order, in place of image ids.

        With a `reference`, the generation expert runs over its latents at t = 0 at the position of their markers in `tokens`.
        """
        embeds = self.language_model.embed_tokens(tokens.ids)
        if features:
            is_image = (tokens.ids == self._image)[..., None]
            embeds = embeds.masked_scatter(is_image, torch.cat(list(features)).to(embeds.dtype))
        positions, real = self.positions(tokens), tokens.mask.bool()
        streams, end = [Stream(embeds, positions)], positions[:, -1] + 1
        if reference is not None:
            times = end.new_zeros(len(end), dtype=torch.float32)
            clean = self.latents.enter(reference.latents, times, reference.shape)
            places = positions.new_full(clean.shape[:2], reference.position)
            streams.append(Stream(clean, places))
            positions, real = torch.cat([positions, places], 1), torch.cat([real, torch.ones_like(places).bool()], 1)
        states, past = self.language_model(streams, seen_before(positions, real))
        return Prefill(states[0], states[1] if reference else None, Context(past, real, positions, end))

    def write(
        self, prefill: Prefill, options: ReplyOptions, generators: Generators = None
    ) -> tuple[list[list[int]], list[list[float]]]:
        """Return token ids that follow each row and their log-probabilities; a row that has ended goes on until all have."""
        context, states = prefill.context, prefill.states[:, -1]
        past, mask, position = context.past, context.mask, context.end[:, None]
        tokens, log_probs, ended = list[Tensor](), list[Tensor](), mask.new_zeros(len(mask), 1)
        while True:
            token, log_prob = choose(self.language_model.lm_head(states).float(), options, generators)
            tokens.append(token[:, None])
            log_probs.append(log_prob[:, None])
            ended |= tokens[-1] == self._eos
            if len(tokens) == options.max_tokens or bool(ended.all()):
                return torch.cat(tokens, 1).tolist(), torch.cat(log_probs, 1).tolist()
            mask = torch.cat([mask, torch.ones_like(ended)], dim=1)
            stream = Stream(self.language_model.embed_tokens(tokens[-1]), position)
            (following,), past = self.language_model([stream], mask[:, None], past)
            states, position = following[:, -1], position + 1

    def generation_states(
        self, noisy: Tensor, times: Tensor, context: Context, shape: Shape, freeze_understanding: bool = False
    ) -> Tensor:
        """Return the generation expert's states [b n h] at noisy latents [b n c]; a picture's tokens attend to each other.

        `freeze_understanding` keeps gradients from the understanding expert, which embeds the image markers, but lets them
        pass through it.
        """
        marker_ids = torch.tensor([[self._image_start, self._image_end]], device=noisy.device)
        markers = self.language_model.embed_tokens(marker_ids).expand(len(noisy), -1, -1)
        markers = markers.detach() if freeze_understanding else markers
        end = context.end[:, None]
        drawn = self.latents.enter(noisy, times, shape)
        streams = [Stream(tokens, end.expand(tokens.shape[:2])) for tokens in (markers, drawn)]
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

    # --- flow ---

    def noise(self, seeds: Sequence[int], shape: Shape) -> Tensor:
        """Return the latents at t = 1, float32 [b n c]."""
        size = shape[0] * shape[1], self.latents.size
        rows = [torch.randn(size, generator=torch_rng(seed, "image noise")) for seed in seeds]
        return torch.stack(rows).to(device_of(self))

    def sample(self, branches: Branches, noise: Tensor, shape: Shape, options: BagelOptions) -> tuple[Tensor, Tensor]:
        """Return clean latents [b n c], and the generation expert's states [b n h] averaged over the flow; both float32."""
        latents, mean_states = noise, torch.tensor(0.0)
        for time, following in pairwise(sampling_times(options.steps, options.shift)):
            times, move = noise.new_full((len(noise),), float(time)), float(time - following)
            states = self.generation_states(latents, times, branches.full, shape)
            velocity = self.latents.velocity(states)
            if options.guides(time):
                velocity = self.guided_velocity(velocity, latents, times, branches, shape, options)
            latents = latents - move * velocity
            mean_states = mean_states + move * states.float()
        return latents, mean_states

    def guided_velocity(
        self, full: Tensor, noisy: Tensor, times: Tensor, branches: Branches, shape: Shape, options: BagelOptions
    ) -> Tensor:
        """Return the guided velocity [b n c] at noisy latents [b n c] whose velocity with the whole context is `full`."""
        branch: Tensor | None = None
        if options.image_guidance > 1:
            same = branches.without_image is branches.full
            branch = full if same else self.velocity(noisy, times, branches.without_image, shape)
        return guided(
            full,
            self.velocity(noisy, times, branches.without_text, shape),
            options.guidance,
            without_image=branch,
            image_guidance=options.image_guidance,
            renorm=options.renorm,
            renorm_min=options.renorm_min,
        )

    def velocity(self, noisy: Tensor, times: Tensor, context: Context, shape: Shape) -> Tensor:
        """Return velocities, float32 [b n c], of noisy latents [b n c] at times [b]."""
        return self.latents.velocity(self.generation_states(noisy, times, context, shape))
