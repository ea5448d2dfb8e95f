"""The unified model: one backbone, one bridge, one decoder; understand, generate, edit, embed."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np
import torch
from torch import Tensor, nn
from transformers import Qwen2Tokenizer

from latentbridge import prompts
from latentbridge.config import ModelConfig
from latentbridge.devices import device_of
from latentbridge.errors import UserError, unknown_name
from latentbridge.images import ImageLike, fit_square, open_picture
from latentbridge.models import diffusion
from latentbridge.models.autoencoder import PatchAutoencoder
from latentbridge.models.condition import Condition, map_condition
from latentbridge.models.input_check import InputCheck
from latentbridge.models.omnibridge.aligner import BiTransformer
from latentbridge.models.omnibridge.auxiliary_embedding import AuxiliaryEmbedding
from latentbridge.models.omnibridge.retrieval_head import RetrievalHead
from latentbridge.models.omnibridge.text_encoder import new_text_encoder
from latentbridge.models.pixels import to_pictures, to_pixels
from latentbridge.models.qwen_vl.modeling_qwen_vl import QwenVL
from latentbridge.models.qwen_vl.sampling import replies_to
from latentbridge.models.vocabulary import encode, token_id
from latentbridge.rng import torch_rng
from latentbridge.types import Conversation, EditResult, Picture, WordReport

if TYPE_CHECKING:
    from latentbridge.models.omnibridge.decoder import CaptionSlots

Conditioning = Literal["query", "text"]
EditMethod = Literal["masked", "reference"]
Images = ImageLike | Sequence[ImageLike]
Texts = str | Sequence[str]
_MASK_PROBES = 4


@dataclass(frozen=True)
class EditPlan:
    """What is known of b edits before the first denoising step."""

    pictures: list[Picture]
    """The sources at the decoder's size."""
    before: list[str]
    after: list[str]
    mask: np.ndarray
    """bool [b h w]: where new content is allowed."""
    condition: Condition
    keep: tuple[Tensor, Tensor]
    """The sources' image latents [b c h w], and 1 where new ones go [b 1 h w]."""


class Model(nn.Module):
    """OmniBridge (arXiv 2509.19018) from library parts and our bridge.

    Parts: `backbone` (Qwen2-VL), `projector`, `aligner` (BiTransformer), `retrieval` (heads), `second_view` where
    the config asks for one, `text_encoder` (T5), `decoder` (HunyuanDiT) and `autoencoder`. Pictures at the border are
    uint8 [h, w, 3]; every public method takes a
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
            if config.second_view.words:
                self.second_view = AuxiliaryEmbedding(config.second_view)
        if "decoder" in config.parts:
            from latentbridge.models.omnibridge.decoder import Decoder  # diffusers loads slowly; answers do without it

            self.text_encoder = new_text_encoder(config.aligner, len(tokenizer))
            self.decoder = Decoder.from_config(config)
            self.autoencoder = PatchAutoencoder(config.autoencoder)
            self.scheduler = diffusion.make_scheduler(config.decoder.num_train_timesteps)
        self.tokenizer = tokenizer
        self.captions: CaptionSlots | None = None
        """Set where a released decoder was attached, which reads captions by slots of its own."""
        self.input_check = InputCheck()
        """What `load_model` found in the model's folder; empty otherwise, since training outdates it."""

    # --- the bridge ---

    def text_ids(self, texts: Sequence[str]) -> Tensor:
        """Token ids of the decoder's text slot: int64 [b, text_length], truncated or padded; padding counts as tokens."""
        if self.captions is not None:
            return self.captions.text_tokens(texts)[0]
        length, padding = self.config.text_length, self.backbone.padding
        rows = [encode(self.backbone.tokenizer, text)[:length] for text in texts]
        return torch.tensor([row + [padding] * (length - len(row)) for row in rows], device=device_of(self))

    def text_condition(self, texts: Sequence[str]) -> Tensor:
        """The text encoder's states [b n d], over all positions including padding: what the decoder learned to read."""
        if self.captions is not None:
            ids, mask = self.captions.text_tokens(texts)
            return self.text_encoder(input_ids=ids, attention_mask=mask).last_hidden_state
        return self.text_encoder(input_ids=self.text_ids(texts)).last_hidden_state

    def drawing_hidden(self, conversations: Sequence[Conversation]) -> tuple[Tensor, Tensor]:
        """Backbone states [b s h] of conversations whose last reply is to be drawn; the mask [b s] is True from `<img>` to `</img>`.

        The released code keeps the states that predict the caption's tokens, which leaves the last sampled token
        unread; these are the states at the tokens, one more (spec 2.2 step 3).
        """
        batch = self.backbone.tokenize(conversations)
        return self.backbone.hidden(batch), _between(batch.input_ids, *self._image_markers())

    def image_hidden(self, pictures: Sequence[Picture] | Tensor) -> tuple[Tensor, Tensor]:
        """Backbone states [b s h] of pictures alone; the mask [b s] is True at image tokens.

        A tensor holds pictures as float levels from 0 to 255, [b 3 h w], and passes gradients on.
        """
        if isinstance(pictures, Tensor):
            batch = self.backbone.tokenize([Conversation((("", ""),))] * len(pictures), open_ended=True, drawn=pictures)
        else:
            alone = [Conversation((("", ""),), picture) for picture in pictures]
            batch = self.backbone.tokenize(alone, open_ended=True)
        return self.backbone.hidden(batch), batch.image_mask

    def text_hidden(self, texts: Sequence[str]) -> tuple[Tensor, Tensor]:
        """Backbone states [b s h] of texts as user turns; the mask [b s] is True at real tokens."""
        batch = self.backbone.tokenize([Conversation(((text, ""),)) for text in texts], open_ended=True)
        return self.backbone.hidden(batch), batch.attention_mask.bool()

    def query_condition(self, conversations: Sequence[Conversation]) -> Tensor:
        """The aligner's condition [b n d] from learned queries alone: no caption reaches the decoder by any other path."""
        return self.aligned(*self.drawing_hidden(conversations))

    def aligned(self, hidden: Tensor, mask: Tensor) -> Tensor:
        """The condition [b n d] that the aligner's learned queries read from backbone states [b s h] where the mask is True."""
        queries = self.aligner.query_tokens.expand(len(hidden), -1, -1)
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
        asked = [prompts.with_reasoning(question) for question in questions] if reasoning else questions
        talks = [Conversation(((question, ""),), picture) for picture, question in zip(pictures, asked, strict=True)]
        return _one_or_many(replies_to(self.backbone, talks, max_tokens=max_tokens), many)

    @torch.no_grad()
    def rewrite(self, requests: Texts, seed: int | Sequence[int] = 0, *, temperature: float = 0.3) -> Any:
        """The full description the model would draw for a prompt (prompt rewriting, arXiv 2509.19018)."""
        asked = _as_list(requests)
        talks = [Conversation(((prompts.draw_request(request), ""),)) for request in asked]
        generators = [torch_rng(value, "rewrite") for value in _seeds(seed, len(asked))]
        limit = self.config.text_length + 4
        replies = replies_to(self.backbone, talks, max_tokens=limit, temperature=temperature, generators=generators)
        return _one_or_many([prompts.unwrap_description(reply) for reply in replies], not isinstance(requests, str))

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

        With `rewrite` the backbone first completes the prompt; without, the prompt is taken as a full description. The
        bridge reads the description as request and as reply, whatever the prompt was (the release keeps the prompt):
        states after a prompt that leaves a colour open hardly hold the colour chosen (docs/LOG.md, 2026-11-23).
        `conditioning="text"` sends the description through the text encoder instead of the bridge, for comparison.
        """
        self.require("decoder", "draw")
        asked = _as_list(requests)
        seeds = _seeds(seed, len(asked))
        descriptions = self.rewrite(asked, seeds) if rewrite else asked
        condition = self.describe_condition(descriptions, conditioning)
        pictures = self.decode_pictures(self.denoise(condition, seeds, steps, guidance))
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
        method: EditMethod = "masked",
    ) -> Any:
        """The picture after an instruction (a list for lists), at the model's own size; see `trace_edit`."""
        traces = self.trace_edit(
            images, instructions, seed, steps=steps, guidance=guidance, conditioning=conditioning, method=method
        )
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
        method: EditMethod = "masked",
    ) -> Any:
        """Edited pictures with what was read, written and masked on the way: an `EditResult`, or a list of them.

        1. The backbone describes the picture, and, reading picture and instruction, writes the description to draw.
        2. The decoder envisions the picture under each description; the pixels that differ are the mask (DiffEdit,
           arXiv 2210.11427). As in the release, editing conditions on the description's text unless told otherwise.
        3. In image latents the mask touches, new content is denoised; all others keep the source's own at every step.
           Outside the mask the source's own pixels stay in the end.
        `method="reference"` is the release's way instead (spec 2.3): the picture is drawn anew from the description's
        tokens, which the aligner lets read the picture's states. Those cannot see the instruction and no source
        latents reach the decoder, so identity and layout are lost by design; the mask is the whole picture, and the
        source is not described.
        """
        self.require("decoder", "edit")
        if method not in get_args(EditMethod):
            raise unknown_name("edit method", method, get_args(EditMethod))
        if method == "reference":
            self.require("bridge", "edit as the release does")
        pictures, instructions, many = self._paired(images, instructions)
        seeds = _seeds(seed, len(pictures))
        asked = [Conversation(((prompts.edit_request(i), ""),), p) for i, p in zip(instructions, pictures, strict=True)]
        after = [prompts.unwrap_description(reply) for reply in replies_to(self.backbone, asked)]
        if method == "reference":
            condition = self._condition(self._picture_condition(pictures, after), after)
            drawn = self.decode_pictures(self.denoise(condition, seeds, steps, guidance))
            everywhere = np.ones(drawn[0].shape[:2], bool)
            results = [EditResult(new, "", text, everywhere) for new, text in zip(drawn, after, strict=True)]
            return _one_or_many(results, many)
        before = replies_to(self.backbone, [Conversation(((prompts.CAPTION_REQUEST, ""),), p) for p in pictures])
        plan = self.plan_edit(pictures, before, after, seeds, conditioning)
        drawn = self.denoise(plan.condition, seeds, steps, guidance, keep=plan.keep)
        return _one_or_many(self.finish_edit(plan, drawn), many)

    @torch.no_grad()
    def plan_edit(
        self,
        pictures: Sequence[Picture],
        before: Sequence[str],
        after: Sequence[str],
        seeds: Sequence[int],
        conditioning: Conditioning = "text",
    ) -> EditPlan:
        """Step 2 of `trace_edit`: where pictures change that are described as `before` and shall be as `after`."""
        seen, wanted = (self.describe_condition(texts, conditioning) for texts in (before, after))
        patch = self.autoencoder.patch_px
        pictures = [fit_square(picture, self.decoder.grid * patch) for picture in pictures]
        source = self.encode_pictures(pictures)
        probes = torch.stack(
            [torch.stack([self._noise(value + 1 + k) for value in seeds]) for k in range(_MASK_PROBES)]
        )
        old, new = (
            self.autoencoder.decode(diffusion.predict_x0(self.decoder, self.scheduler, source, condition, probes))
            for condition in (seen, wanted)
        )
        mask = diffusion.edit_mask(old, new)
        touched = torch.nn.functional.max_pool2d(mask[:, None].float(), patch)
        return EditPlan(pictures, list(before), list(after), mask.cpu().numpy(), wanted, (source, touched))

    def finish_edit(self, plan: EditPlan, image_latents: Tensor) -> list[EditResult]:
        """Step 3 of `trace_edit`, once the plan's condition was denoised around what it keeps."""
        drawn = self.decode_pictures(image_latents)
        return [
            EditResult(np.where(allowed[..., None], drawn[i], plan.pictures[i]), plan.before[i], plan.after[i], allowed)
            for i, allowed in enumerate(plan.mask)
        ]

    @torch.no_grad()
    def embed(self, *, images: Images | None = None, texts: Texts | None = None) -> np.ndarray:
        """Unit vectors of pictures or of texts (give one of the two): float32 [n, e], or [e] for a single item."""
        self.require("bridge", "embed")
        if (images is None) == (texts is None):
            raise UserError("embed takes either images or texts.")
        if texts is not None:
            vectors = self.embedding("text", _as_list(texts)).cpu()
            return vectors.numpy() if not isinstance(texts, str) else vectors[0].numpy()
        items, many = _listed(images)
        vectors = self.embedding("image", [self.fit(item) for item in items]).cpu()
        return vectors.numpy() if many else vectors[0].numpy()

    def read_words(self, text: str) -> WordReport:
        """Return which words of a text the model does not know; none where it has no record of those it knows.

        It knows the words of its lexicon and of the worlds it was trained on, in any case and in their regular forms.
        Stop words are never reported.
        """
        return self.second_view.read(text) if self.config.second_view.words else WordReport((), text)

    @property
    def adapter_host(self) -> nn.Module:
        """The library's module that holds the language model, where LoRA adapters go."""
        return self.backbone.model

    @property
    def embedding_size(self) -> int:
        """Numbers in a vector of `embed`."""
        view = self.config.second_view
        return self.config.retrieval.embedding_size + (view.width if view.words else 0)

    def embedding(self, kind: Literal["image", "text"], items: Sequence[Any]) -> Tensor:
        """Unit vectors [b e] with gradients: the retrieval head over the backbone's states at the item's own tokens."""
        vectors = self.retrieval_vectors(kind, items)
        return self.second_view.beside(vectors, kind, items) if self.config.second_view.words else vectors

    def retrieval_vectors(self, kind: Literal["image", "text"], items: Sequence[Any]) -> Tensor:
        """Return the retrieval head's unit vectors [b e] alone, with gradients: `embedding` without the second view."""
        hidden, mask = self.image_hidden(items) if kind == "image" else self.text_hidden(items)
        return self.retrieval(kind, self.projector(hidden), mask, self.aligner)

    def describe_condition(self, descriptions: Sequence[str], conditioning: Conditioning) -> Condition:
        """What the decoder draws full descriptions from."""
        if conditioning == "text":
            return self._condition(self.text_condition(descriptions), descriptions)
        return self._condition(self.query_condition(drawing_talks(descriptions, descriptions)), descriptions)

    def _picture_condition(self, pictures: Sequence[Picture], descriptions: Sequence[str]) -> Tensor:
        """What the release conditions an edit on [b n d]: the description's token embeddings, aligned with the picture's states."""
        hidden, mask = self.image_hidden(pictures)
        words = self.text_encoder.shared(self.text_ids(descriptions))
        return self.aligner(words.to(hidden.dtype), self.projector(hidden), mask)

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
        return [self.fit(item) for item in items], words, many

    def fit(self, image: ImageLike) -> Picture:
        """The picture at the backbone's size, on white; as it is where the backbone reads any size."""
        picture, size_px = open_picture(image), self.config.backbone.image_size_px
        return fit_square(picture, size_px) if size_px else picture

    def require(self, part: str, verb: str) -> None:
        """Raises UserError where the model lacks what it takes to do what the verb says."""
        if part not in self.config.parts and not (part == "decoder" and self.captions is not None):
            raise UserError(
                f"This model has no {part}, so it cannot {verb}; load one that was trained with it, such as 'tiny'."
            )

    # --- drawing ---

    def _condition(self, states: Tensor, captions: Sequence[str]) -> Condition:
        """What the decoder reads: the states alone, unless it is a released one, which also sees the captions."""
        return states if self.captions is None else self.captions(states, captions)

    def denoise(
        self,
        condition: Condition,
        seeds: Sequence[int],
        steps: int,
        guidance: float,
        keep: tuple[Tensor, Tensor] | None = None,
    ) -> Tensor:
        """Image latents [b c h w] drawn from a condition, with gradients; item i starts from the noise of `seeds[i]`."""
        return diffusion.last(self.denoise_steps(condition, seeds, steps, guidance, keep))

    def denoise_steps(
        self,
        condition: Condition,
        seeds: Sequence[int],
        steps: int,
        guidance: float,
        keep: tuple[Tensor, Tensor] | None = None,
    ) -> Iterator[Tensor]:
        """What `denoise` ends with, after every step, for who has other things to do in between."""
        against = [self.captions.negative if self.captions is not None else ""]
        negative = self._condition(self.text_condition(against), against)
        return diffusion.sample_steps(
            self.decoder,
            self.scheduler,
            condition,
            map_condition(lambda tensor: tensor.expand(len(seeds), *tensor.shape[1:]), negative),
            torch.stack([self._noise(seed) for seed in seeds]),
            [torch_rng(seed, "sampling steps") for seed in seeds],
            steps=steps,
            guidance=guidance,
            keep=keep,
        )

    def _noise(self, seed: int) -> Tensor:
        size = self.autoencoder.channels, self.decoder.grid, self.decoder.grid
        return torch.randn(size, generator=torch_rng(seed, "image noise")).to(device_of(self))

    def encode_pictures(self, pictures: Sequence[Picture] | np.ndarray) -> Tensor:
        """Image latents [b c h w] of uint8 pictures of the decoder's size."""
        return self.autoencoder.encode(to_pixels(pictures, device_of(self)))

    def decode_pictures(self, image_latents: Tensor) -> list[Picture]:
        """The inverse of `encode_pictures`."""
        return to_pictures(self.autoencoder.decode(image_latents))


def drawing_talks(requests: Sequence[str], descriptions: Sequence[str]) -> list[Conversation]:
    """Conversations in which each request is answered by the description to draw."""
    pairs = zip(requests, descriptions, strict=True)
    return [
        Conversation(((prompts.draw_request(asked), prompts.wrap_description(described)),))
        for asked, described in pairs
    ]


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
