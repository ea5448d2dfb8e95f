"""Janus-Pro (arXiv 2501.17811): transformers' model, which generates images code by code and encodes them with SigLIP."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, NamedTuple, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import JanusForConditionalGeneration
from transformers.models.janus.image_processing_pil_janus import JanusImageProcessorPil

from latentbridge.config import ReleaseConfig, TinyJanusConfig
from latentbridge.devices import device_of, without_autocast
from latentbridge.images import ImageLike, open_picture
from latentbridge.models.backbones.janus.codes import codebook, decode_entries, nearest_codes, square_latents
from latentbridge.models.backbones.janus.pictures import resize_longest_side
from latentbridge.models.backbones.text_decoding import decode_replies
from latentbridge.models.chat import ChatTokens, JanusChat, tokenize_chat
from latentbridge.models.left_padding import (
    PaddedTokens,
    last_tokens_mask,
    next_token_loss,
    pad_left,
    position_ids,
)
from latentbridge.models.options import DrawingOptions, ReplyOptions, finish_reply
from latentbridge.models.pixels import truncated_levels, truncated_pictures
from latentbridge.models.tokenization import encode
from latentbridge.models.trainable import TrainableModel, masked_mean
from latentbridge.rng import repeat_seeds, torch_rng
from latentbridge.sampling_limits import MAX_GUIDANCE, MAX_STEPS
from latentbridge.types import Conversation, Picture, Reply

USER, ASSISTANT = "<|User|>", "<|Assistant|>"
IMAGE, IMAGE_START, IMAGE_END = "<image_placeholder>", "<begin_of_image>", "<end_of_image>"
SPECIAL_TOKENS = (USER, ASSISTANT, IMAGE, IMAGE_START, IMAGE_END)


@dataclass(frozen=True)
class JanusOptions(DrawingOptions):
    """Options of drawings, with the defaults of the authors' `generation_inference.py`.

    `steps` is the number of codes, one after another; another number changes nothing, since the codes fill a fixed grid, and
    calls that name one number for any model must work with this one.
    """

    steps: Annotated[int, (1.0, float(MAX_STEPS))] = 576
    guidance: Annotated[float, (0.0, MAX_GUIDANCE)] = 5.0
    temperature: Annotated[float, (0.0, 100.0)] = 1.0
    """Temperature of the codes' distribution under guidance; greedy at 0."""


class GuidedLogits(NamedTuple):
    """Logits of the next code of each drawing, float32 [b codes]."""

    given: Tensor
    """After the prompt."""
    bare: Tensor
    """After padding in the prompt's place; equal to `given` without guidance."""
    guided: Tensor


class JanusPro(TrainableModel):
    """transformers' JanusForConditionalGeneration, unmodified.

    The latent of generation is the language model's states at the positions that predict the n codes, [n * h]: the
    generation head alone turns them into a picture (spec LatentUMM section 6). A drawing is encoded as the states at its n
    image tokens, patch by patch over the same squares. In a round trip codes are sampled with Gumbel noise from the row's
    seed, without guidance, because the latent holds one branch of it; the gradient is that of the soft choice
    (straight-through). The VQ model is never trained here, as in the release.
    """

    kind = "janus"
    drawing_options: JanusOptions
    image_size_px: int
    drawing_size_px: int
    tokenizer: Any

    def __init__(
        self,
        model: JanusForConditionalGeneration,
        tokenizer: Any,
        image_processor: JanusImageProcessorPil,
        system_prompt: str = "",
        config: TinyJanusConfig | ReleaseConfig | None = None,
    ):
        """`system_prompt` precedes conversations that name none; `config` is what the model was built from, if it was built
        here."""
        super().__init__()
        self.model = model
        self.tokenizer = tokenizer
        self.image_processor = image_processor
        self.config = config
        sizes: Any = model.config
        self.num_codes: int = sizes.vision_config.num_image_tokens
        self.drawing_options = JanusOptions(steps=min(self.num_codes, MAX_STEPS))
        self.codebook_size: int = sizes.vq_config.num_embeddings
        self.width: int = sizes.text_config.hidden_size
        self.image_size_px = self.drawing_size_px = sizes.vision_config.image_size
        self.context_length = sizes.text_config.max_position_embeddings
        self.embedding_size = self.width
        self.chat = JanusChat(tokenizer, system_prompt)
        self._image, self._image_start, self._image_end = (
            tokenizer.convert_tokens_to_ids(token) for token in (IMAGE, IMAGE_START, IMAGE_END)
        )

    # --- properties of the contract ---

    @property
    def adapter_host(self) -> nn.Module:
        return self.model

    def fit(self, image: ImageLike) -> Picture:
        """Return the image as it is: the image processor resizes and pads it."""
        return open_picture(image)

    def count_tokens(self, conversation: Conversation) -> int:
        """Return the number of tokens of a conversation's prompt, with those of its pictures."""
        return len(self._tokenize(conversation, open_ended=True).ids)

    # --- skills, by the batch ---

    def _reply(
        self,
        conversations: Sequence[Conversation],
        options: ReplyOptions,
        generators: Sequence[torch.Generator] | None,
    ) -> list[Reply]:
        tokens, embeds = self.embed_conversations(conversations)
        language_model, head, end = self.model.model.language_model, self.model.lm_head, self.tokenizer.eos_token_id
        decoded = decode_replies(language_model, head, embeds, tokens.mask, end, options, generators)
        return [finish_reply(self.tokenizer, ids, [end], options, logprobs) for ids, logprobs in decoded]

    def _draw(self, descriptions: Sequence[str], seeds: Sequence[int], options: JanusOptions) -> list[Picture]:
        return truncated_pictures(self.decode_pixels(self._sample_codes(descriptions, seeds, options)))

    # --- latents and losses ---

    def und_latent(self, items: Sequence[Picture] | Sequence[str]) -> Tensor:
        if not isinstance(items[0], str):
            return self._image_states(self.pixel_values(cast(Sequence[Picture], items))).mean(1).float()
        texts = [encode(self.tokenizer, f": {text}") for text in cast(Sequence[str], items)]
        tokens = self._pad([[*self._user_turn_start(), *text] for text in texts])
        mask = last_tokens_mask(tokens, [len(text) for text in texts])
        return masked_mean(self.states(self._embed_tokens(tokens.ids), tokens.mask), mask)

    def gen_latent(self, prompts: Sequence[str], seeds: Sequence[int] = (0,)) -> Tensor:
        codes = self._sample_codes(prompts, repeat_seeds(seeds, len(prompts)), self.drawing_options)
        return self._code_states(prompts, codes).flatten(1).float()

    def draw(self, latents: Tensor, seeds: Sequence[int] = (0,)) -> Tensor:
        """Return levels [m 3 h w] from 0 to 255."""
        states = latents.unflatten(-1, (self.num_codes, self.width)).to(self.model.dtype)
        logits = self.model.model.generation_head(states).float()
        gumbel_noise = self._gumbel_noise(repeat_seeds(seeds, len(latents)))
        soft = (logits + gumbel_noise).softmax(-1)
        hard = F.one_hot(soft.argmax(-1), soft.shape[-1]).to(soft.dtype)
        return truncated_levels(self._decode_weighted(hard + soft - soft.detach()))

    def roundtrip(self, latents: Tensor, seeds: Sequence[int] = (0,)) -> Tensor:
        return self._image_states(self._normalize_levels(self.draw(latents, seeds))).flatten(1).float()

    def understanding_loss(self, conversations: Sequence[Conversation], drawn: Tensor | None = None) -> Tensor:
        """Return the mean next-token cross-entropy over the tokens of replies."""
        chats = [self._tokenize(conversation, has_drawing=drawn is not None) for conversation in conversations]
        tokens = self._pad([chat.ids for chat in chats])
        pictures = [picture for c in conversations for picture in c.all_pictures]
        embeds = self._embed_tokens(tokens.ids)
        if drawn is not None or pictures:
            pixel_values = self.pixel_values(pictures) if drawn is None else self._normalize_levels(drawn)
            embeds = self._embed_with_images(tokens.ids, self.encode_image(pixel_values))
        states = self.states(embeds, tokens.mask)
        return next_token_loss(self.model.lm_head, states, [chat.labels for chat in chats])

    def generation_loss(self, prompts: Sequence[str], pictures: Sequence[Picture], rng: torch.Generator) -> Tensor:
        """Return the mean cross-entropy over the codes of the pictures; nothing in it is random."""
        codes = self.encode_codes(self.pixel_values(pictures))
        return self._code_loss(self._code_states(prompts, codes), codes)

    def reconstruction_loss(self, pictures: Sequence[Picture], rng: torch.Generator) -> Tensor:
        """Return the loss over the codes of pictures after the pictures themselves; SigLIP gets no gradient."""
        pixel_values = self.pixel_values(pictures)
        codes = self.encode_codes(pixel_values)
        with torch.no_grad():
            features = self.encode_image(pixel_values)
        conversations = [Conversation.with_picture((("", ""),), picture) for picture in pictures]
        tokens = self._pad([[*self._tokenize(c, open_ended=True).ids, self._image_start] for c in conversations])
        embeds = self._embed_with_images(tokens.ids, features)
        return self._code_loss(self._code_states_after(embeds, tokens.mask, codes), codes)

    def trainable(self, name: str) -> bool:
        return not name.startswith("model.model.vqmodel.")

    # --- image codes ---

    @torch.no_grad()
    def _sample_codes(self, prompts: Sequence[str], seeds: Sequence[int], options: JanusOptions) -> Tensor:
        """Return codes, int64 [b n], sampled one after another with one generator per item."""
        noise = (
            self._gumbel_noise(seeds) * options.temperature
        )  # an argmax of logits / temperature + noise samples, too
        return self.decode_codes(
            prompts, options.guidance, lambda index, logits: (logits.guided + noise[:, index]).argmax(-1)
        )

    @torch.no_grad()
    def decode_codes(
        self, prompts: Sequence[str], guidance: float, choose: Callable[[int, GuidedLogits], Tensor]
    ) -> Tensor:
        """Return codes, int64 [b n]: `choose` gets the index and the logits of the next one, and returns it for each drawing."""
        ids, mask = self.prompt_branches(prompts) if guidance != 1 else self._tokenize_prompts(prompts)
        embeds, positions, cache, codes = self._embed_tokens(ids), position_ids(mask), None, []
        for index in range(self.num_codes):
            output = self.model.model.language_model(
                inputs_embeds=embeds,
                attention_mask=mask,
                position_ids=positions,
                past_key_values=cache,
                use_cache=True,
            )
            cache = output.past_key_values
            logits = self.model.model.generation_head(output.last_hidden_state[:, -1]).float()
            given, bare = logits[: len(prompts)], logits[-len(prompts) :]
            codes.append(choose(index, GuidedLogits(given, bare, bare + guidance * (given - bare))))
            embeds = self._embed_codes(codes[-1][:, None]).repeat(len(ids) // len(prompts), 1, 1)
            positions = mask.sum(1, keepdim=True)
            mask = torch.cat([mask, torch.ones_like(mask[:, :1])], dim=1)
        return torch.stack(codes, dim=1)

    def prompt_branches(self, prompts: Sequence[str]) -> PaddedTokens:
        """Return the tokens of prompts, and after them as many rows with padding in place of all but the first and last token.

        The model attends to that padding, unlike that which fills a row up to the longest.
        """
        ids, mask = self._tokenize_prompts(prompts)
        kept = (ids == self.tokenizer.bos_token_id) | (ids == self._image_start)
        return PaddedTokens(torch.cat([ids, ids.where(kept, self.tokenizer.pad_token_id)]), mask.repeat(2, 1))

    def _code_states(self, prompts: Sequence[str], codes: Tensor) -> Tensor:
        """Return the states [b n h] that predict each of `codes` [b n] from the ones before it."""
        tokens = self._tokenize_prompts(prompts)
        return self._code_states_after(self._embed_tokens(tokens.ids), tokens.mask, codes)

    def _code_states_after(self, embeds: Tensor, mask: Tensor, codes: Tensor) -> Tensor:
        """Return `_code_states` after prompt embeddings [b s h] that end where the first code is predicted."""
        embeds = torch.cat([embeds, self._embed_codes(codes[:, :-1])], dim=1)
        mask = torch.cat([mask, torch.ones_like(codes[:, :-1])], dim=1)
        return self.states(embeds, mask)[:, -self.num_codes :]

    def _code_loss(self, states: Tensor, codes: Tensor) -> Tensor:
        """Return the mean cross-entropy of codes [b n] under the states [b n h] that predict them."""
        logits = self.model.model.generation_head(states)
        return F.cross_entropy(logits.flatten(0, 1).float(), codes.flatten())

    def _gumbel_noise(self, seeds: Sequence[int]) -> Tensor:
        """Return Gumbel noise [b n codes]; the argmax of logits plus noise is a sample."""
        size = self.num_codes, self.codebook_size
        rows = [torch.rand(size, generator=torch_rng(seed, "image codes")) for seed in seeds]
        uniform = torch.stack(rows).to(device_of(self))
        return -(-uniform.clamp_min(torch.finfo(uniform.dtype).tiny).log()).log()

    @torch.no_grad()
    def decode_pixels(self, codes: Tensor) -> Tensor:
        """Return the pixels [b 3 h w] of codes [b n]."""
        vq = self.model.model.vqmodel
        return decode_entries(vq, codebook(vq)[codes])

    def _decode_weighted(self, weights: Tensor) -> Tensor:
        """Return the pixels that the VQ model decodes from weights [b n codes] over the codebook at every position."""
        vq = self.model.model.vqmodel
        book = codebook(vq)
        return decode_entries(vq, weights.to(book.dtype) @ book)

    @torch.no_grad()
    def encode_codes(self, pixel_values: Tensor) -> Tensor:
        """Return the nearest code at every position, int64 [b n], in float32: bfloat16 cannot tell neighbours apart."""
        vq = self.model.model.vqmodel
        with without_autocast(pixel_values.device):
            return nearest_codes(square_latents(vq, pixel_values), codebook(vq))

    # --- images ---

    def pixel_values(self, pictures: Sequence[Picture]) -> Tensor:
        """Return the input [b 3 h w] of SigLIP and of the VQ model."""
        fitted = [
            resize_longest_side(picture, self.image_size_px, self.image_processor.min_size) for picture in pictures
        ]
        batch = self.image_processor(images=fitted, return_tensors="pt", input_data_format="channels_last")
        return batch["pixel_values"].to(device_of(self), self.model.dtype)

    def _normalize_levels(self, levels: Tensor) -> Tensor:
        """Return `pixel_values` of float levels from 0 to 255 at the model's size, with gradients."""
        processor = self.image_processor
        mean, std = (levels.new_tensor(v)[:, None, None] for v in (processor.image_mean, processor.image_std))
        return ((levels / 255 - mean) / std).to(self.model.dtype)

    def encode_image(self, pixel_values: Tensor) -> Tensor:
        """Return SigLIP's features in the language model's width, [b n h]."""
        return cast(Tensor, self.model.model.get_image_features(pixel_values).pooler_output)  # pyright: ignore

    def _image_states(self, pixel_values: Tensor) -> Tensor:
        """Return the language model's states at the image tokens of pictures alone, [b n h]."""
        features = self.encode_image(pixel_values)
        start = [*self._user_turn_start(), *encode(self.tokenizer, ": "), self._image_start]
        embeds = self._embed_tokens(self._pad([start]).ids).expand(len(features), -1, -1)
        embeds = torch.cat([embeds, features], dim=1)
        mask = torch.ones(embeds.shape[:2], dtype=torch.long, device=features.device)
        return self.states(embeds, mask)[:, -self.num_codes :]

    # --- tokens ---

    def _user_turn_start(self) -> list[int]:
        return [self.tokenizer.bos_token_id, *encode(self.tokenizer, USER, special=True)]

    def _tokenize_prompts(self, prompts: Sequence[str]) -> PaddedTokens:
        """Return prompts up to where the first code is predicted."""
        conversations = [Conversation(((prompt, ""),), system="") for prompt in prompts]
        chats = [self._tokenize(conversation, open_ended=True) for conversation in conversations]
        return self._pad([[*chat.ids, self._image_start] for chat in chats])

    def _tokenize(self, conversation: Conversation, open_ended: bool = False, has_drawing: bool = False) -> ChatTokens:
        """Return a conversation's tokens; `open_ended` omits the last reply, and a drawing may stand for the picture."""
        image = [self._image_start, *[self._image] * self.num_codes, self._image_end]
        images = [[image]] if has_drawing else [[image] * len(turn) for turn in conversation.pictures]
        return tokenize_chat(self.chat, conversation, images, open_ended)

    def embed_conversations(self, conversations: Sequence[Conversation]) -> tuple[PaddedTokens, Tensor]:
        """Return the tokens of conversations up to where the next reply starts, and their embeddings [b s h]."""
        tokens = self._pad([self._tokenize(conversation, open_ended=True).ids for conversation in conversations])
        pictures = [picture for c in conversations for picture in c.all_pictures]
        if not pictures:
            return tokens, self._embed_tokens(tokens.ids)
        return tokens, self._embed_with_images(tokens.ids, self.encode_image(self.pixel_values(pictures)))

    def _pad(self, rows: Sequence[list[int]]) -> PaddedTokens:
        return pad_left(rows, self.tokenizer.pad_token_id, device_of(self))

    def _embed_tokens(self, ids: Tensor) -> Tensor:
        return self.model.get_input_embeddings()(ids)

    def _embed_with_images(self, ids: Tensor, features: Tensor) -> Tensor:
        """Return embeddings [b s h] with the features [pictures n h] of the rows' pictures, in order, at their placeholders."""
        embeds = self._embed_tokens(ids)
        return embeds.masked_scatter((ids == self._image)[..., None], features.to(embeds.dtype))

    def _embed_codes(self, codes: Tensor) -> Tensor:
        return self.model.prepare_embeddings_for_image_generation(codes)

    def states(self, embeds: Tensor, mask: Tensor) -> Tensor:
        """Return the language model's states [b s h] after the final norm."""
        output = self.model.model.language_model(
            inputs_embeds=embeds, attention_mask=mask, position_ids=position_ids(mask), use_cache=False
        )
        return output.last_hidden_state
