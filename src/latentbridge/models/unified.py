"""The unified model: one backbone, one bridge, one decoder; understand, generate, edit, embed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, cast

import numpy as np
import torch
from torch import Tensor, nn
from transformers import Qwen2Tokenizer, T5Config, T5EncoderModel
from transformers.models.t5.modeling_t5 import T5Attention

from latentbridge import prompts
from latentbridge.config import AlignerConfig, ModelConfig
from latentbridge.errors import UserError
from latentbridge.images import ImageLike, fit_square, open_picture
from latentbridge.models import diffusion
from latentbridge.models.aligner import BiTransformer
from latentbridge.models.autoencoder import PatchAutoencoder
from latentbridge.models.decoder import Decoder
from latentbridge.models.qwen_vl import QwenVL, token_id
from latentbridge.models.retrieval_head import RetrievalHead
from latentbridge.rng import torch_rng
from latentbridge.types import Conversation, EditResult, Picture

Conditioning = Literal["query", "text"]
Images = ImageLike | Sequence[ImageLike]
Texts = str | Sequence[str]
_MASK_PROBES = 4
_FURTHEST = 128


class Model(nn.Module):
    """OmniBridge (arXiv 2509.19018) from library parts and our bridge.

    Parts: `backbone` (Qwen2-VL), `projector`, `aligner` (BiTransformer), `retrieval` (heads), `text_encoder` (T5),
    `decoder` (HunyuanDiT) and `autoencoder`. Pictures at the border are uint8 [h, w, 3]; every public method takes a
    batch, and an item's result does not depend on its batch-mates.
    """

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
        if "decoder" in config.parts:
            self.text_encoder = T5EncoderModel(_t5_config(config.aligner, len(tokenizer)))
            _start_local(self.text_encoder)
            self.decoder = Decoder.from_config(config)
            self.autoencoder = PatchAutoencoder(config.autoencoder)
            self.scheduler = diffusion.make_scheduler(config.decoder.num_train_timesteps)

    # --- the bridge ---

    def text_ids(self, texts: Sequence[str]) -> Tensor:
        """Token ids of the decoder's text slot: int64 [b, text_length], truncated or padded; padding counts as tokens."""
        length, padding = self.config.text_length, self.backbone.padding
        rows = [self.backbone.tokenizer.encode(text, add_special_tokens=False)[:length] for text in texts]
        return torch.tensor([row + [padding] * (length - len(row)) for row in rows])

    def text_condition(self, texts: Sequence[str]) -> Tensor:
        """The text encoder's states [b n d], over all positions including padding: what the decoder learned to read."""
        return self.text_encoder(input_ids=self.text_ids(texts)).last_hidden_state

    def drawing_hidden(self, conversations: Sequence[Conversation]) -> tuple[Tensor, Tensor]:
        """Backbone states [b s h] of conversations whose last reply is to be drawn; the mask [b s] is True from `<img>` to `</img>`.

        The released code keeps the states that predict the caption's tokens, which leaves the last sampled token
        unread; these are the states at the tokens, one more (spec 2.2 step 3).
        """
        batch = self.backbone.tokenize(conversations)
        return self.backbone.hidden(batch), _between(batch.input_ids, *self._image_markers())

    def image_hidden(self, pictures: Sequence[Picture]) -> tuple[Tensor, Tensor]:
        """Backbone states [b s h] of pictures alone; the mask [b s] is True at image tokens."""
        batch = self.backbone.tokenize([Conversation((("", ""),), picture) for picture in pictures], open_ended=True)
        return self.backbone.hidden(batch), batch.image_mask

    def text_hidden(self, texts: Sequence[str]) -> tuple[Tensor, Tensor]:
        """Backbone states [b s h] of texts as user turns; the mask [b s] is True at real tokens."""
        batch = self.backbone.tokenize([Conversation(((text, ""),)) for text in texts], open_ended=True)
        return self.backbone.hidden(batch), batch.attention_mask.bool()

    def query_condition(self, conversations: Sequence[Conversation]) -> Tensor:
        """The aligner's condition [b n d] from learned queries alone: no caption reaches the decoder by any other path."""
        hidden, mask = self.drawing_hidden(conversations)
        queries = self.aligner.query_tokens.expand(len(conversations), -1, -1)
        return self.aligner(queries, self.projector(hidden), mask)

    def _image_markers(self) -> tuple[int, int]:
        tokenizer = self.backbone.tokenizer
        return token_id(tokenizer, prompts.IMG_START), token_id(tokenizer, prompts.IMG_END)

    # --- the four skills ---

    @torch.no_grad()
    def understand(
        self,
        images: Images,
        questions: Texts = prompts.CAPTION_REQUEST,
        *,
        reasoning: bool = False,
        max_tokens: int = 160,
    ) -> Any:
        """The reply to a question about a picture: a string, or a list where images or questions are lists.

        `reasoning` asks for a worked answer: description, numbered steps, the final answer on the last line.
        """
        pictures, questions, many = self._paired(images, questions)
        asked = [prompts.reasoned(question) for question in questions] if reasoning else questions
        talks = [Conversation(((question, ""),), picture) for picture, question in zip(pictures, asked, strict=True)]
        return _one_or_many(self.backbone.reply(talks, max_tokens=max_tokens), many)

    @torch.no_grad()
    def rewrite(self, requests: Texts, seed: int | Sequence[int] = 0, *, temperature: float = 0.3) -> Any:
        """The full description the model would draw for a prompt (prompt rewriting, arXiv 2509.19018)."""
        asked = _as_list(requests)
        talks = [Conversation(((prompts.draw_request(request), ""),)) for request in asked]
        generators = [torch_rng(value, "rewrite") for value in _seeds(seed, len(asked))]
        limit = self.config.text_length + 4
        replies = self.backbone.reply(talks, max_tokens=limit, temperature=temperature, generators=generators)
        return _one_or_many([prompts.undrawable(reply) for reply in replies], not isinstance(requests, str))

    @torch.no_grad()
    def generate(
        self,
        requests: Texts,
        seed: int | Sequence[int] = 0,
        *,
        steps: int = 20,
        guidance: float = 2.5,
        conditioning: Conditioning = "query",
        rewrite: bool = True,
    ) -> Any:
        """A picture for a prompt (a list for a list). The seed decides layout and noise; item i of a list uses seed + i.

        With `rewrite` the backbone first completes the prompt; without, the prompt is taken as a full description.
        `conditioning="text"` sends the description through the text encoder instead of the bridge, for comparison.
        """
        self._require("decoder", "draw")
        asked = _as_list(requests)
        seeds = _seeds(seed, len(asked))
        descriptions = self.rewrite(asked, seeds) if rewrite else asked
        talks = [
            Conversation(((prompts.draw_request(a), prompts.drawable(d)),))
            for a, d in zip(asked, descriptions, strict=True)
        ]
        condition = self.query_condition(talks) if conditioning == "query" else self.text_condition(descriptions)
        noise = torch.stack([self._noise(value) for value in seeds])
        pictures = self._pictures(self._sample(condition, noise, steps, guidance))
        return _one_or_many(pictures, not isinstance(requests, str))

    def edit(
        self,
        images: Images,
        instructions: Texts,
        seed: int | Sequence[int] = 0,
        *,
        steps: int = 20,
        guidance: float = 2.5,
        conditioning: Conditioning = "text",
    ) -> Any:
        """The picture after an instruction (a list for lists), at the model's own size; see `trace_edit`."""
        traces = self.trace_edit(images, instructions, seed, steps=steps, guidance=guidance, conditioning=conditioning)
        return [trace.picture for trace in traces] if isinstance(traces, list) else traces.picture

    @torch.no_grad()
    def trace_edit(
        self,
        images: Images,
        instructions: Texts,
        seed: int | Sequence[int] = 0,
        *,
        steps: int = 20,
        guidance: float = 2.5,
        conditioning: Conditioning = "text",
    ) -> Any:
        """Edited pictures with what was read, written and masked on the way: an `EditResult`, or a list of them.

        1. The backbone describes the picture, and, reading picture and instruction, writes the description to draw.
        2. The decoder compares its predictions under the two descriptions; where they differ is the mask (DiffEdit,
           arXiv 2210.11427). As in the release, editing conditions on the description's text unless told otherwise.
        3. Inside the mask new content is denoised; outside, the source's own latents are kept at every step, and its
           own pixels in the end.
        The release differs: its picture states cannot see the instruction and no source latents reach the decoder, so
        identity and layout are lost by design (spec 2.3).
        """
        self._require("decoder", "edit")
        pictures, instructions, many = self._paired(images, instructions)
        seeds = _seeds(seed, len(pictures))
        before = self.backbone.reply([Conversation(((prompts.CAPTION_REQUEST, ""),), p) for p in pictures])
        asked = [Conversation(((prompts.edit_request(i), ""),), p) for i, p in zip(instructions, pictures, strict=True)]
        after = [prompts.undrawable(reply) for reply in self.backbone.reply(asked)]
        seen, wanted = (self._describe_condition(texts, conditioning) for texts in (before, after))
        source = self.encode_pictures(pictures)
        noise = torch.stack([self._noise(value) for value in seeds])
        probes = torch.stack(
            [torch.stack([self._noise(value + 1 + k) for value in seeds]) for k in range(_MASK_PROBES)]
        )
        difference = diffusion.difference_map(self.decoder, self.scheduler, source, seen, wanted, probes)
        mask = diffusion.edit_mask(difference)
        latents = self._sample(wanted, noise, steps, guidance, keep=(source, mask[:, None].float()))
        patch = self.config.autoencoder.patch_px
        results = []
        for index, drawn in enumerate(self._pictures(latents)):
            allowed = mask[index].repeat_interleave(patch, 0).repeat_interleave(patch, 1).numpy()
            results.append(
                EditResult(np.where(allowed[..., None], drawn, pictures[index]), before[index], after[index], allowed)
            )
        return _one_or_many(results, many)

    @torch.no_grad()
    def embed(self, *, images: Images | None = None, texts: Texts | None = None) -> np.ndarray:
        """Unit vectors of pictures or of texts (give one of the two): float32 [n, e], or [e] for a single item."""
        self._require("bridge", "embed")
        if (images is None) == (texts is None):
            raise UserError("embed takes either images or texts.")
        if texts is not None:
            vectors = self.embedding("text", _as_list(texts))
            return vectors.numpy() if not isinstance(texts, str) else vectors[0].numpy()
        items, many = _listed(images)
        vectors = self.embedding("image", [self._fit(item) for item in items])
        return vectors.numpy() if many else vectors[0].numpy()

    def embedding(self, kind: Literal["image", "text"], items: Sequence[Any]) -> Tensor:
        """Unit vectors [b e] with gradients: the retrieval head over the backbone's states at the item's own tokens."""
        hidden, mask = self.image_hidden(items) if kind == "image" else self.text_hidden(items)
        return self.retrieval(kind, self.projector(hidden), mask, self.aligner)

    def _describe_condition(self, descriptions: Sequence[str], conditioning: Conditioning) -> Tensor:
        if conditioning == "text":
            return self.text_condition(descriptions)
        return self.query_condition(
            [Conversation(((prompts.draw_request(d), prompts.drawable(d)),)) for d in descriptions]
        )

    def _paired(self, images: Images, texts: Texts) -> tuple[list[Picture], list[str], bool]:
        """Pictures at the model's size and texts, one each; a single one of either goes with all of the other."""
        items, many = _listed(images)
        words = _as_list(texts)
        many = many or not isinstance(texts, str)
        count = max(len(items), len(words))
        items, words = (x * count if len(x) == 1 else x for x in (items, words))
        if len(items) != len(words):
            raise UserError(
                f"There are {len(items)} pictures but {len(words)} texts; give one text for all or one for each."
            )
        return [self._fit(item) for item in items], words, many

    def _fit(self, image: ImageLike) -> Picture:
        picture, size_px = open_picture(image), self.config.backbone.image_size_px
        return fit_square(picture, size_px) if size_px else picture

    def _require(self, part: str, verb: str) -> None:
        if part not in self.config.parts:
            raise UserError(
                f"This model has no {part}, so it cannot {verb}; load one that was trained with it, such as 'tiny'."
            )

    # --- drawing ---

    def _sample(
        self, condition: Tensor, noise: Tensor, steps: int, guidance: float, keep: tuple[Tensor, Tensor] | None = None
    ) -> Tensor:
        negative = self.text_condition([""]).expand_as(condition)
        return diffusion.sample(
            self.decoder, self.scheduler, condition, negative, noise, steps=steps, guidance=guidance, keep=keep
        )

    def _noise(self, seed: int) -> Tensor:
        sizes = self.config.decoder
        return torch.randn(
            self.config.autoencoder.channels, sizes.grid, sizes.grid, generator=torch_rng(seed, "image noise")
        )

    def encode_pictures(self, pictures: Sequence[Picture] | np.ndarray) -> Tensor:
        """Image latents [b c h w] of uint8 pictures of the decoder's size."""
        stacked = torch.from_numpy(np.ascontiguousarray(np.stack(list(pictures)))).permute(0, 3, 1, 2)
        return self.autoencoder.encode(stacked.float() / 127.5 - 1)

    def _pictures(self, image_latents: Tensor) -> list[Picture]:
        pixels = ((self.autoencoder.decode(image_latents) + 1) * 127.5).round().clamp(0, 255)
        return list(pixels.permute(0, 2, 3, 1).to(torch.uint8).numpy())


def _t5_config(config: AlignerConfig, vocab_size: int) -> T5Config:
    return T5Config(
        vocab_size=vocab_size,
        d_model=config.d_model,
        d_ff=config.d_ff,
        d_kv=config.d_kv,
        num_heads=config.num_heads,
        num_layers=config.num_layers,
        relative_attention_num_buckets=config.num_buckets,
        relative_attention_max_distance=config.max_distance,
        layer_norm_epsilon=config.norm_eps,
        feed_forward_proj="gated-gelu",
        dropout_rate=0.0,
        is_encoder_decoder=False,
        use_cache=False,
    )


@torch.no_grad()
def _start_local(encoder: T5EncoderModel) -> None:
    """Start the position bias so that neighbouring words mix from the first step (after ALiBi, arXiv 2108.12409).

    By turns a head prefers near words on both sides, nearest words, words before, and words after. From T5's random
    start a tiny encoder stays a bag of words for thousands of steps (docs/LOG.md, 2026-11-22).
    """
    attention = cast(T5Attention, encoder.get_submodule("encoder.block.0.layer.0.SelfAttention"))
    table = attention.relative_attention_bias.weight
    offsets = torch.arange(-_FURTHEST, _FURTHEST + 1)
    order = offsets.abs().argsort(descending=True)  # so that the nearest offset of a shared bucket is written last
    buckets = attention._relative_position_bucket(offsets, num_buckets=len(table), max_distance=_FURTHEST)
    near = offsets.abs().float()
    kinds = (0.5 * near, near, 0.5 * near + 4.0 * (offsets > 0), 0.5 * near + 4.0 * (offsets < 0))
    for head in range(table.shape[1]):
        table[buckets[order], head] = -kinds[head % len(kinds)][order]


def _between(ids: Tensor, start: int, end: int) -> Tensor:
    """bool [b s]: positions from the first `start` token to the first `end` token, both included."""
    opened = (ids == start).cumsum(dim=1) > 0
    closed_before = (ids == end).cumsum(dim=1) - (ids == end).long() > 0
    return opened & ~closed_before


def _as_list(texts: Texts) -> list[str]:
    return _not_empty([texts] if isinstance(texts, str) else list(texts))


def _listed(images: Any) -> tuple[list[Any], bool]:
    many = isinstance(images, (list, tuple)) or (isinstance(images, np.ndarray) and images.ndim == 4)
    return _not_empty(list(images) if many else [images]), many


def _not_empty(items: list[Any]) -> list[Any]:
    if not items:
        raise UserError("The list is empty; give at least one picture or text.")
    return items


def _one_or_many(results: list[Any], many: bool) -> Any:
    return results if many else results[0]


def _seeds(seed: int | Sequence[int], count: int) -> list[int]:
    seeds = [seed + i for i in range(count)] if isinstance(seed, int) else list(seed)
    if len(seeds) != count:
        raise UserError(f"There are {len(seeds)} seeds but {count} items; give one seed for all or one for each.")
    return seeds
