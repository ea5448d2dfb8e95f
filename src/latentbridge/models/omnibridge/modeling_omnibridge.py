"""OmniBridge: a multimodal language model, a bridge and a diffusion decoder."""

from __future__ import annotations

from collections.abc import Generator, Iterator, Sequence
from typing import TYPE_CHECKING, Any, Literal, cast

import numpy as np
import torch
from torch import Tensor, nn
from transformers import Qwen2Tokenizer

from latentbridge import prompts
from latentbridge.config import ModelConfig
from latentbridge.devices import device_of
from latentbridge.errors import UserError
from latentbridge.images import fit_square
from latentbridge.models import diffusion
from latentbridge.models.autoencoder import PatchAutoencoder
from latentbridge.models.condition import Condition, map_condition
from latentbridge.models.omnibridge.aligner import BiTransformer
from latentbridge.models.omnibridge.auxiliary_embedding import AuxiliaryEmbedding
from latentbridge.models.omnibridge.editing import (
    Conditioning,
    OmniBridgeEditOptions,
    OmniBridgeOptions,
    edit_at_own_size,
    edit_in_mask_by_steps,
    edit_views,
    restore_edit,
)
from latentbridge.models.omnibridge.retrieval_head import RetrievalHead
from latentbridge.models.omnibridge.text_encoder import new_text_encoder
from latentbridge.models.options import DrawingOptions, ReplyOptions
from latentbridge.models.pixels import quantized_levels, to_pictures, to_pixels
from latentbridge.models.qwen_vl.continuous_batching import ContinuousBatch
from latentbridge.models.qwen_vl.modeling_qwen_vl import QwenVL
from latentbridge.models.qwen_vl.sampling import generate_replies
from latentbridge.models.stepwise import last_of
from latentbridge.models.tokenization import encode, token_id
from latentbridge.models.trainable import TrainableModel, masked_mean
from latentbridge.rng import repeat_seeds, torch_rng
from latentbridge.types import Conversation, EditResult, Picture, Reply, Skill, WordReport

if TYPE_CHECKING:
    from latentbridge.models.omnibridge.decoder import CaptionEncoder

_NEEDS: dict[Skill, frozenset[str]] = {
    "understand": frozenset(),
    "generate": frozenset(("bridge", "decoder")),
    "edit": frozenset(("decoder",)),
    "embed": frozenset(("bridge",)),
}
"""Parts of the model that each skill needs besides the language model."""
_BUILT_CONTEXT_LENGTH = 512
"""Context length of a model built here, longer than anything it is trained on."""
_TRAINABLE = ("backbone.", "projector.", "aligner.", "decoder.")


class OmniBridge(TrainableModel):
    """OmniBridge (arXiv 2509.19018) from library parts and our bridge.

    Parts: `backbone` (a Qwen-VL), `projector`, `aligner` (BiTransformer), `retrieval` (heads), `second_view` if the config has
    one, `text_encoder` (T5), `decoder` (HunyuanDiT) and `autoencoder`. A Qwen-VL release is a model of backbone only.

    The latent of generation is the decoder's whole condition [n * d], position after position: pooled, it would no longer
    determine the drawing. A drawing is encoded by the same aligner queries over the backbone's states of it, which is also how
    the release conditions an edit on its picture. Post-training trains neither text encoder, autoencoder nor retrieval head.
    """

    kind = "omnibridge"
    config: ModelConfig
    tokenizer: Qwen2Tokenizer

    def __init__(self, config: ModelConfig, tokenizer: Qwen2Tokenizer):
        super().__init__()
        if config.text_length != config.aligner.num_queries:
            raise UserError(
                "model.text_length and model.aligner.num_queries are one slot; set both to the same number."
            )
        self.config = config
        self.backbone = QwenVL.from_config(config.backbone, tokenizer)
        if "bridge" in config.parts:
            self.projector = nn.Linear(config.backbone.hidden_size, config.aligner.d_model, bias=False)
            self.aligner = BiTransformer(config.aligner)
            self.retrieval = RetrievalHead(config.retrieval, config.aligner.d_model)
            if config.second_view.words:
                self.second_view = AuxiliaryEmbedding(config.second_view)
        if "decoder" in config.parts:
            from latentbridge.models.omnibridge.decoder import Decoder  # diffusers loads slowly; replies do not need it

            self.text_encoder = new_text_encoder(config.aligner, len(tokenizer))
            self.decoder = Decoder.from_config(config)
            self.autoencoder = PatchAutoencoder(config.autoencoder)
            self.scheduler = diffusion.make_scheduler(config.decoder.num_train_timesteps)
        self.reply_options = self.backbone.reply_options
        self.drawing_options = OmniBridgeOptions()
        self.edit_options = OmniBridgeEditOptions()
        self.tokenizer = tokenizer
        self.captions: CaptionEncoder | None = None
        """Caption inputs of an attached released decoder."""
        self.roundtrip_steps = 4
        """Denoising steps of `draw`, from pure noise; one gives the mean of all drawings, which is blurred."""
        if config.backbone.image_size_px:  # built here and trained on conversations about one picture
            self.max_pictures, self.takes_system_message = 1, False

    # --- properties of the contract ---

    @property
    def skills(self) -> frozenset[Skill]:
        return frozenset(skill for skill in _NEEDS if not self._missing_parts(skill))

    def _missing_parts(self, skill: Skill) -> frozenset[str]:
        """Return the parts that the model lacks for a skill; a released backbone embeds without a bridge."""
        needed = frozenset() if skill == "embed" and self.config.backbone.release.config else _NEEDS[skill]
        return needed - {*self.config.parts, *(["decoder"] if self.captions is not None else [])}

    def require(self, skill: Skill) -> None:
        for part in sorted(self._missing_parts(skill), reverse=True):
            raise UserError(
                f"This model has no {part}, so it cannot {skill}; load an OmniBridge that was trained with it, such as 'tiny'."
            )

    @property
    def image_size_px(self) -> int | None:
        return self.config.backbone.image_size_px or None

    @property
    def drawing_size_px(self) -> int | None:
        return self.decoder.grid * self.autoencoder.patch_px if "edit" in self.skills else None

    @property
    def context_length(self) -> int:
        if self.config.backbone.image_size_px:
            return _BUILT_CONTEXT_LENGTH
        return self.backbone.model.config.get_text_config().max_position_embeddings

    @property
    def embedding_size(self) -> int:
        if "bridge" not in self.config.parts:
            return self.backbone.width
        auxiliary = self.config.second_view
        return self.config.retrieval.embedding_size + (auxiliary.width if auxiliary.words else 0)

    @property
    def adapter_host(self) -> nn.Module:
        return self.backbone.model

    @property
    def description_tokens(self) -> int:
        return self.config.text_length + 4

    # --- skills, by the batch ---

    def _reply(
        self, conversations: Sequence[Conversation], options: ReplyOptions, generators: Sequence[torch.Generator] | None
    ) -> list[Reply]:
        return generate_replies(self.backbone, conversations, options, generators)

    def _draw(self, descriptions: Sequence[str], seeds: Sequence[int], options: OmniBridgeOptions) -> list[Picture]:
        """Generate a picture from each full description.

        The bridge reads the description as request and as reply, whatever the prompt was (the release keeps the prompt):
        states after a prompt that leaves a colour open hardly hold the colour that was chosen (docs/LOG.md, 2026-11-23).
        `conditioning="text"` sends the description through the text encoder instead of the bridge, for comparison.
        """
        condition = self.describe_condition(descriptions, options.conditioning)
        return self.decode_pictures(self.denoise(condition, seeds, options.steps, options.guidance))

    def _edit(
        self, pictures: Sequence[Picture], instructions: Sequence[str], seeds: Sequence[int], options: Any
    ) -> list[EditResult]:
        return edit_at_own_size(self, pictures, instructions, seeds, options)

    def check_size(self, options: DrawingOptions) -> None:
        if options.size is not None and isinstance(options, OmniBridgeEditOptions):
            raise UserError("This model returns an edit at the picture's own size; leave out the size.")
        super().check_size(options)

    def count_tokens(self, conversation: Conversation) -> int:
        return self.backbone.tokenize([conversation], open_ended=True).input_ids.shape[1]

    def embedding(self, kind: Literal["image", "text"], items: Sequence[Any]) -> Tensor:
        if "bridge" not in self.config.parts:
            return super().embedding(kind, items)
        vectors = self.retrieval_vectors(kind, items)
        return self.second_view.concatenate(vectors, kind, items) if self.config.second_view.words else vectors

    def retrieval_vectors(self, kind: Literal["image", "text"], items: Sequence[Any]) -> Tensor:
        """Return the retrieval head's unit vectors [b e] with gradients: `embedding` without the auxiliary one."""
        hidden, mask = self.image_hidden(items) if kind == "image" else self.text_hidden(items)
        return self.retrieval(kind, self.projector(hidden), mask, self.aligner)

    def read_words(self, text: str) -> WordReport:
        """Return the words of a text that are neither in the lexicon nor in the worlds of the training data.

        Case and regular inflection do not count, and stop words are never reported.
        """
        report = self.second_view.report_unknown_words if self.config.second_view.words else super().read_words
        return report(text)

    # --- latents and losses ---

    def und_latent(self, items: Sequence[Picture] | Sequence[str]) -> Tensor:
        if isinstance(items[0], str):
            return masked_mean(*self.text_hidden(cast(Sequence[str], items)))
        return masked_mean(*self.image_hidden([self.fit(picture) for picture in items]))

    def gen_latent(self, prompts: Sequence[str], seeds: Sequence[int] = (0,)) -> Tensor:
        return self.description_condition(prompts).flatten(1).float()

    def draw(self, latents: Tensor, seeds: Sequence[int] = (0,)) -> Tensor:
        """Return levels [m 3 h w] from 0 to 255, without guidance: the text encoder takes no part.

        A released decoder reads the latent alone here, without the caption's slots.
        """
        condition = latents.unflatten(-1, (-1, self.config.aligner.d_model)).to(self.decoder.transformer.dtype)
        drawn = self.denoise(condition, repeat_seeds(seeds, len(latents)), self.roundtrip_steps, guidance=1.0)
        return quantized_levels(self.autoencoder.decode(drawn))

    def roundtrip(self, latents: Tensor, seeds: Sequence[int] = (0,)) -> Tensor:
        return self.aligned(*self.image_hidden(self.draw(latents, seeds))).flatten(1).float()

    def understanding_loss(self, conversations: Sequence[Conversation], drawn: Tensor | None = None) -> Tensor:
        return self.backbone.language_loss(self.backbone.tokenize(conversations, drawn=drawn))

    def generation_loss(self, prompts: Sequence[str], pictures: Sequence[Picture], rng: torch.Generator) -> Tensor:
        return self._diffusion_loss(pictures, self.description_condition(prompts), rng)

    def text_generation_loss(self, prompts: Sequence[str], pictures: Sequence[Picture], rng: torch.Generator) -> Tensor:
        """Return `generation_loss` with the frozen text encoder's condition in place of the bridge's, as edits are drawn."""
        with torch.no_grad():
            condition = self.text_condition(prompts)
        return self._diffusion_loss(pictures, condition, rng)

    def reconstruction_loss(self, pictures: Sequence[Picture], rng: torch.Generator) -> Tensor:
        with torch.no_grad():
            hidden, mask = self.image_hidden([self.fit(picture) for picture in pictures])
        return self._diffusion_loss(pictures, self.aligned(hidden, mask), rng)

    def trainable(self, name: str) -> bool:
        return name.startswith(_TRAINABLE)

    def _diffusion_loss(self, pictures: Sequence[Picture], condition: Tensor, rng: torch.Generator) -> Tensor:
        side_px = self.decoder.grid * self.autoencoder.patch_px
        clean = self.encode_pictures([fit_square(picture, side_px) for picture in pictures])
        return diffusion.diffusion_loss(self.decoder, self.scheduler, clean, condition, rng)

    # --- conditions ---

    def text_ids(self, texts: Sequence[str]) -> Tensor:
        """Return token ids of the decoder's text slot, int64 [b, text_length], truncated or padded; padding counts as tokens."""
        if self.captions is not None:
            return self.captions.text_tokens(texts)[0]
        length, padding = self.config.text_length, self.backbone.padding
        rows = [encode(self.tokenizer, text)[:length] for text in texts]
        return torch.tensor([row + [padding] * (length - len(row)) for row in rows], device=device_of(self))

    def text_condition(self, texts: Sequence[str]) -> Tensor:
        """Return the text encoder's states [b n d] at all positions, padding included, as the decoder was trained to read."""
        if self.captions is not None:
            ids, mask = self.captions.text_tokens(texts)
            return self.text_encoder(input_ids=ids, attention_mask=mask).last_hidden_state
        return self.text_encoder(input_ids=self.text_ids(texts)).last_hidden_state

    def drawing_hidden(self, conversations: Sequence[Conversation]) -> tuple[Tensor, Tensor]:
        """Return backbone states [b s h] of conversations that end with a description to draw, and the mask [b s] of it.

        The mask is True from `<img>` to `</img>`. With `compat="reference"` it ends two tokens earlier: the released code keeps the
        states that predict the caption's tokens (spec 2.2 step 3).
        """
        batch = self.backbone.tokenize(conversations)
        tokenizer = self.backbone.tokenizer
        start, end = token_id(tokenizer, prompts.IMG_START), token_id(tokenizer, prompts.IMG_END)
        mask = _between(batch.input_ids, start, end)
        if self.backbone.compat == "reference":
            mask = mask & mask.roll(-1, dims=1) & mask.roll(-2, dims=1)
        return self.backbone.hidden(batch), mask

    def image_hidden(self, pictures: Sequence[Picture] | Tensor) -> tuple[Tensor, Tensor]:
        """Return backbone states [b s h] of pictures alone, and the mask [b s] of image tokens.

        A tensor holds float levels from 0 to 255, [b 3 h w]. Positions are M-RoPE's, in the release too (spec 2.3 step 3).
        """
        drawn, images = (pictures, [None] * len(pictures)) if isinstance(pictures, Tensor) else (None, pictures)
        alone = [Conversation.with_picture((("", ""),), image) for image in images]
        batch = self.backbone.tokenize(alone, open_ended=True, drawn=drawn)
        return self.backbone.hidden(batch, compat="corrected"), batch.image_mask

    def text_hidden(self, texts: Sequence[str]) -> tuple[Tensor, Tensor]:
        """Return backbone states [b s h] of texts as user turns, and the mask [b s] of real tokens.

        With `compat="reference"` the mask leaves out the chat template (spec 2.4).
        """
        batch = self.backbone.tokenize([Conversation(((text, ""),)) for text in texts], open_ended=True)
        if self.backbone.compat == "reference":
            return self.backbone.hidden(batch), self.backbone.last_text_mask(batch, texts)
        return self.backbone.hidden(batch), batch.attention_mask.bool()

    def query_condition(self, conversations: Sequence[Conversation]) -> Tensor:
        """Return the aligner's condition [b n d] from learned queries alone; no caption reaches the decoder by another path."""
        return self.aligned(*self.drawing_hidden(conversations))

    def description_condition(self, descriptions: Sequence[str]) -> Tensor:
        """Return `query_condition` [b n d] of full descriptions, each read as request and as reply."""
        return self.query_condition(
            [
                Conversation(((self.templates.rewrite_request(text), prompts.wrap_description(text)),))
                for text in descriptions
            ]
        )

    def aligned(self, hidden: Tensor, mask: Tensor) -> Tensor:
        """Return the condition [b n d] that the aligner's queries read from backbone states [b s h] where the mask is True."""
        queries = self.aligner.query_tokens.expand(len(hidden), -1, -1)
        return self.aligner(queries, self.projector(hidden), mask)

    def describe_condition(self, descriptions: Sequence[str], conditioning: Conditioning) -> Condition:
        """Return the decoder's condition for full descriptions, from the bridge ("query") or the text encoder ("text")."""
        states = self.text_condition if conditioning == "text" else self.description_condition
        return self.decoder_condition(states(descriptions), descriptions)

    def decoder_condition(self, states: Tensor, captions: Sequence[str]) -> Condition:
        """Return the decoder's input: the states [b n d], and for a released decoder the captions too."""
        return states if self.captions is None else self.captions(states, captions)

    # --- denoising ---

    def denoise(
        self,
        condition: Condition,
        seeds: Sequence[int],
        steps: int,
        guidance: float,
        keep: tuple[Tensor, Tensor] | None = None,
    ) -> Tensor:
        """Return image latents [b c h w] drawn from a condition, with gradients; item i starts from the noise of `seeds[i]`."""
        return diffusion.last(self.denoise_steps(condition, seeds, steps, guidance, keep))

    def denoise_steps(
        self,
        condition: Condition,
        seeds: Sequence[int],
        steps: int,
        guidance: float,
        keep: tuple[Tensor, Tensor] | None = None,
    ) -> Iterator[Tensor]:
        """Yield the image latents of `denoise` after each step."""
        caption = [self.captions.negative if self.captions is not None else ""]
        negative = self.decoder_condition(self.text_condition(caption), caption)
        return diffusion.sample_steps(
            self.decoder,
            self.scheduler,
            condition,
            map_condition(lambda tensor: tensor.expand(len(seeds), *tensor.shape[1:]), negative),
            torch.stack([self.noise(seed) for seed in seeds]),
            [torch_rng(seed, "sampling steps") for seed in seeds],
            steps=steps,
            guidance=guidance,
            keep=keep,
        )

    def noise(self, seed: int) -> Tensor:
        """Return the initial noise of a drawing, [c h w]."""
        size = self.autoencoder.channels, self.decoder.grid, self.decoder.grid
        return torch.randn(size, generator=torch_rng(seed, "image noise")).to(device_of(self))

    def encode_pictures(self, pictures: Sequence[Picture] | np.ndarray) -> Tensor:
        """Return image latents [b c h w] of pictures of the decoder's size."""
        return self.autoencoder.encode(to_pixels(pictures, device_of(self)))

    def decode_pictures(self, image_latents: Tensor) -> list[Picture]:
        """Return the pictures of image latents [b c h w]."""
        return to_pictures(self.autoencoder.decode(image_latents))

    def new_reply_batch(self, slots: int, length: int) -> ContinuousBatch:
        return ContinuousBatch(self.backbone, slots, length)

    def draw_steps(
        self, descriptions: Sequence[str], seeds: Sequence[int], options: OmniBridgeOptions
    ) -> Generator[None, None, list[Picture]]:
        conditions: list[Condition] = []  # one by one, since descriptions differ in length
        for description in descriptions:
            conditions.append(self.describe_condition([description], options.conditioning))
            yield
        condition = map_condition(lambda *rows: torch.cat(rows), *conditions)
        latents = self.denoise_steps(condition, seeds, options.steps, options.guidance)
        return self.decode_pictures((yield from last_of(latents)))

    edit_steps = edit_in_mask_by_steps
    edit_views = edit_views
    restore_edit = restore_edit


def _between(ids: Tensor, start: int, end: int) -> Tensor:
    """Return the mask, bool [b s], of positions from the first `start` token to the first `end` token, both included."""
    opened = (ids == start).cumsum(dim=1) > 0
    closed_before = (ids == end).cumsum(dim=1) - (ids == end).long() > 0
    return opened & ~closed_before
