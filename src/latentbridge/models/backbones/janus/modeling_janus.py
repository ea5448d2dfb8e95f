"""Janus-Pro (arXiv 2501.17811) as a unified backbone: transformers' model, drawing code by code, reading through SigLIP."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import AutoTokenizer, JanusForConditionalGeneration
from transformers.models.janus.image_processing_pil_janus import JanusImageProcessorPil

from latentbridge.config import ReleaseConfig, TinyJanusConfig
from latentbridge.devices import device_of
from latentbridge.errors import UserError
from latentbridge.files import read_json
from latentbridge.models.backbones.contract import masked_mean, repeat_seeds
from latentbridge.models.backbones.janus.codes import codebook, decode_entries, nearest_codes, square_latents
from latentbridge.models.pixels import shown_levels, to_pictures
from latentbridge.models.token_rows import IGNORED_LABEL, Rows, last_tokens, padded, position_ids, reply_loss
from latentbridge.models.vocabulary import encode
from latentbridge.rng import torch_rng
from latentbridge.types import Conversation, Picture

USER, ASSISTANT = "<|User|>", "<|Assistant|>"
IMAGE, IMAGE_START, IMAGE_END = "<image_placeholder>", "<begin_of_image>", "<end_of_image>"
SPECIAL_TOKENS = (USER, ASSISTANT, IMAGE, IMAGE_START, IMAGE_END)


def is_janus(folder: Path) -> bool:
    """Whether a folder's config, in transformers' layout, says so."""
    path = folder / "config.json"
    found = read_json(path) if path.is_file() else {}
    return isinstance(found, dict) and found.get("model_type") == "janus"


class JanusPro(nn.Module):
    """JanusForConditionalGeneration, unmodified, under the contract of `UnifiedBackbone`.

    The latent of generation is the language model's states at the positions whose codes they choose, [n * h] for n codes:
    the generation head alone turns them into a picture (spec LatentUMM section 6). A drawing is read as the states at its
    n image tokens, patch by patch over the same squares. In a round trip codes are chosen by the Gumbel trick with the
    row's seed, without guidance, for the latent holds one branch of it; the gradient is that of the soft choice
    (straight-through). The VQ model stays as it is, as in the release.
    """

    def __init__(
        self,
        model: JanusForConditionalGeneration,
        tokenizer: Any,
        image_processor: JanusImageProcessorPil,
        guidance: float = 5.0,
        max_tokens: int = 160,
        config: TinyJanusConfig | ReleaseConfig | None = None,
    ):
        """`guidance` is that of drawing, `max_tokens` the longest answer; `config` is what the model was built from, where it
        was built here."""
        super().__init__()
        self.model = model
        self.tokenizer = tokenizer
        self.image_processor = image_processor
        self.guidance = guidance
        self.max_tokens = max_tokens
        self.config = config
        sizes: Any = model.config
        self.image_size_px: int = sizes.vision_config.image_size
        self.num_codes: int = sizes.vision_config.num_image_tokens
        self.codebook_size: int = sizes.vq_config.num_embeddings
        self.width: int = sizes.text_config.hidden_size
        self._user, self._assistant = (encode(tokenizer, role, special=True) for role in (USER, ASSISTANT))
        self._image, self._start, self._end = (
            tokenizer.convert_tokens_to_ids(token) for token in (IMAGE, IMAGE_START, IMAGE_END)
        )

    @classmethod
    def load(cls, folder: Path) -> JanusPro:
        """The released model, or one saved alike, from its folder in transformers' layout; safetensors only."""
        if not (folder / "config.json").exists():
            raise UserError(
                f"{folder} holds no Janus-Pro (no config.json); give the folder of one in transformers' layout."
            )
        model = JanusForConditionalGeneration.from_pretrained(folder, use_safetensors=True, local_files_only=True)
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
        return cls(model.eval(), tokenizer, JanusImageProcessorPil.from_pretrained(folder, local_files_only=True))

    # --- the contract ---

    def und_latent(self, items: Sequence[Picture] | Sequence[str]) -> Tensor:
        if not isinstance(items[0], str):
            return self._read(self.pixel_values(cast(Sequence[Picture], items))).mean(1).float()
        texts = [self._encode(f": {text}") for text in cast(Sequence[str], items)]
        rows = self._padded([[self._first, *self._user, *text] for text in texts])
        words = last_tokens(rows, [len(text) for text in texts])
        return masked_mean(self._states(self._embed(rows.ids), rows.mask), words)

    def gen_latent(self, prompts: Sequence[str], seeds: Sequence[int] = (0,)) -> Tensor:
        codes = self._draw(prompts, repeat_seeds(seeds, len(prompts)))
        return self._choosing_states(prompts, codes).flatten(1).float()

    def draw(self, latents: Tensor, seeds: Sequence[int] = (0,)) -> Tensor:
        """Levels [m 3 h w] from 0 to 255."""
        states = latents.unflatten(-1, (self.num_codes, self.width)).to(self.model.dtype)
        logits = self.model.model.generation_head(states).float()
        chances = self._gumbel(repeat_seeds(seeds, len(latents)))
        soft = (logits + chances).softmax(-1)
        hard = F.one_hot(soft.argmax(-1), soft.shape[-1]).to(soft.dtype)
        return shown_levels(self._decode(hard + soft - soft.detach()))

    def roundtrip(self, latents: Tensor, seeds: Sequence[int] = (0,)) -> Tensor:
        return self._read(self._normalised(self.draw(latents, seeds))).flatten(1).float()

    @torch.no_grad()
    def generate(self, prompts: Sequence[str], seeds: Sequence[int] = (0,)) -> list[Picture]:
        codes = self._draw(prompts, repeat_seeds(seeds, len(prompts)))
        return to_pictures(self.model.model.vqmodel.decode(codes))  # pyright: ignore[reportArgumentType]

    @torch.no_grad()
    def understand(self, pictures: Sequence[Picture], questions: Sequence[str]) -> list[str]:
        talks = [Conversation(((q, ""),), p) for p, q in zip(pictures, questions, strict=True)]
        rows = self._padded([self._talk(talk, open_ended=True)[0] for talk in talks])
        replies = self.model.generate(
            rows.ids,
            attention_mask=rows.mask,  # pyright: ignore[reportArgumentType]
            pixel_values=self.pixel_values(pictures),
            max_new_tokens=self.max_tokens,
            do_sample=False,
            pad_token_id=self._pad,
            eos_token_id=self._last,
        )
        return self.tokenizer.batch_decode(replies[:, rows.ids.shape[1] :], skip_special_tokens=True)

    def understanding_loss(self, conversations: Sequence[Conversation], drawn: Tensor | None = None) -> Tensor:
        """Mean next-token cross-entropy over the tokens of replies."""
        talks = [self._talk(talk, drawn=drawn is not None) for talk in conversations]
        rows = self._padded([ids for ids, _ in talks])
        pictures = [c.picture for c in conversations if c.picture is not None]
        embeds = self._embed(rows.ids)
        if drawn is not None or pictures:
            pixel_values = self.pixel_values(pictures) if drawn is None else self._normalised(drawn)
            embeds = self._embed_seen(rows.ids, self._see(pixel_values))
        return reply_loss(self.model.lm_head, self._states(embeds, rows.mask), [labels for _, labels in talks])

    def generation_loss(self, prompts: Sequence[str], pictures: Sequence[Picture], rng: torch.Generator) -> Tensor:
        """Mean cross-entropy over the codes of the pictures; nothing in it is drawn by chance."""
        codes = self._codes(self.pixel_values(pictures))
        return self._codes_loss(self._choosing_states(prompts, codes), codes)

    def reconstruction_loss(self, pictures: Sequence[Picture], rng: torch.Generator) -> Tensor:
        """The picture is read as a user's, without a word, and the answer is its codes; the eye is held still."""
        pixel_values = self.pixel_values(pictures)
        codes = self._codes(pixel_values)
        with torch.no_grad():
            seen = self._see(pixel_values)
        talks = [Conversation((("", ""),), picture) for picture in pictures]
        rows = self._padded([[*self._talk(talk, open_ended=True)[0], self._start] for talk in talks])
        return self._codes_loss(self._states_choosing(self._embed_seen(rows.ids, seen), rows.mask, codes), codes)

    def trainable(self, name: str) -> bool:
        return not name.startswith("model.model.vqmodel.")

    # --- drawing ---

    @torch.no_grad()
    def _draw(self, prompts: Sequence[str], seeds: Sequence[int]) -> Tensor:
        """Codes, int64 [b n], sampled one after another under guidance.

        As transformers' own loop, but with each item's chances from its own seed.
        """
        rows = self._requests(prompts)
        ids, mask = rows
        if self.guidance != 1:
            kept = (ids == self._first) | (ids == self._start)
            ids, mask = torch.cat([ids, ids.where(kept, self._pad)]), mask.repeat(2, 1)
        chances = self._gumbel(seeds)
        embeds, positions, cache, codes = self._embed(ids), position_ids(mask), None, []
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
            if self.guidance != 1:
                given, bare = logits.chunk(2)
                logits = bare + self.guidance * (given - bare)
            codes.append((logits + chances[:, index]).argmax(-1))
            embeds = self._embed_codes(codes[-1][:, None]).repeat(len(ids) // len(prompts), 1, 1)
            positions = mask.sum(1, keepdim=True)
            mask = torch.cat([mask, torch.ones_like(mask[:, :1])], dim=1)
        return torch.stack(codes, dim=1)

    def _choosing_states(self, prompts: Sequence[str], codes: Tensor) -> Tensor:
        """The states [b n h] that choose each of `codes` [b n] after the ones before it."""
        rows = self._requests(prompts)
        return self._states_choosing(self._embed(rows.ids), rows.mask, codes)

    def _states_choosing(self, embeds: Tensor, mask: Tensor, codes: Tensor) -> Tensor:
        """`_choosing_states` after any embeddings [b s h] up to where the first code is chosen."""
        embeds = torch.cat([embeds, self._embed_codes(codes[:, :-1])], dim=1)
        mask = torch.cat([mask, torch.ones_like(codes[:, :-1])], dim=1)
        return self._states(embeds, mask)[:, -self.num_codes :]

    def _codes_loss(self, states: Tensor, codes: Tensor) -> Tensor:
        """Mean cross-entropy of codes [b n] under the states [b n h] that choose them."""
        logits = self.model.model.generation_head(states)
        return F.cross_entropy(logits.flatten(0, 1).float(), codes.flatten())

    def _gumbel(self, seeds: Sequence[int]) -> Tensor:
        """[b n codes]: added to logits, it makes the greatest a sample."""
        size = self.num_codes, self.codebook_size
        drawn = [torch.rand(size, generator=torch_rng(seed, "image codes")) for seed in seeds]
        uniform = torch.stack(drawn).to(device_of(self))
        return -(-uniform.clamp_min(torch.finfo(uniform.dtype).tiny).log()).log()

    def _decode(self, weights: Tensor) -> Tensor:
        """Pixels of a weighting [b n codes] of the codebook at every position; of one code each, what the VQ model decodes."""
        vq = self.model.model.vqmodel
        book = codebook(vq)
        return decode_entries(vq, weights.to(book.dtype) @ book)

    @torch.no_grad()
    def _codes(self, pixel_values: Tensor) -> Tensor:
        """The nearest code at every position, int64 [b n]; the same in training under bfloat16, which cannot tell neighbours apart."""
        vq = self.model.model.vqmodel
        with torch.autocast(pixel_values.device.type, enabled=False):
            return nearest_codes(square_latents(vq, pixel_values), codebook(vq))

    # --- reading ---

    def pixel_values(self, pictures: Sequence[Picture]) -> Tensor:
        """What SigLIP and the VQ model read, [b 3 h w]."""
        found = self.image_processor(images=list(pictures), return_tensors="pt", input_data_format="channels_last")
        return found["pixel_values"].to(device_of(self), self.model.dtype)

    def _normalised(self, levels: Tensor) -> Tensor:
        """`_pixel_values` of pictures of the model's size as float levels from 0 to 255, with gradients."""
        processor = self.image_processor
        mean, spread = (levels.new_tensor(v)[:, None, None] for v in (processor.image_mean, processor.image_std))
        return ((levels / 255 - mean) / spread).to(self.model.dtype)

    def _see(self, pixel_values: Tensor) -> Tensor:
        """What SigLIP hands to the language model, [b n h]."""
        return cast(Tensor, self.model.model.get_image_features(pixel_values).pooler_output)  # pyright: ignore

    def _read(self, pixel_values: Tensor) -> Tensor:
        """The language model's states at the image tokens of pictures alone, [b n h]."""
        seen = self._see(pixel_values)
        before = self._embed(self._padded([[self._first, *self._user, *self._encode(": "), self._start]]).ids)
        embeds = torch.cat([before.expand(len(seen), -1, -1), seen], dim=1)
        everywhere = torch.ones(embeds.shape[:2], dtype=torch.long, device=seen.device)
        return self._states(embeds, everywhere)[:, -self.num_codes :]

    # --- words ---

    @property
    def adapter_host(self) -> nn.Module:
        """The library's module that holds the language model, where LoRA adapters go."""
        return self.model

    @property
    def _first(self) -> int:
        return self.tokenizer.bos_token_id

    @property
    def _last(self) -> int:
        return self.tokenizer.eos_token_id

    @property
    def _pad(self) -> int:
        return self.tokenizer.pad_token_id

    def _encode(self, text: str) -> list[int]:
        """As `vocabulary.encode`, by the tokenizer of this model."""
        return encode(self.tokenizer, text)

    def _requests(self, prompts: Sequence[str]) -> Rows:
        """Prompts up to where the first code is chosen."""
        talks = [self._talk(Conversation(((prompt, ""),)), open_ended=True)[0] for prompt in prompts]
        return self._padded([[*ids, self._start] for ids in talks])

    def _talk(
        self, conversation: Conversation, open_ended: bool = False, drawn: bool = False
    ) -> tuple[list[int], list[int]]:
        """Token ids of a conversation in the release's words, and its labels; `open_ended` leaves out the last reply, and
        where `drawn`, a drawing stands for the picture."""
        ids, labels = [self._first], [IGNORED_LABEL]
        image = [self._start, *[self._image] * self.num_codes, self._end]
        pictured = drawn or conversation.picture is not None
        for index, (user, assistant) in enumerate(conversation.turns):
            words = (
                [*self._encode(": "), *image, *self._encode(f"\n{user}\n\n")]
                if pictured and index == 0
                else self._encode(f": {user}\n\n")
            )
            asked = [*self._user, *words, *self._assistant, *self._encode(":")]
            last = index == len(conversation.turns) - 1
            reply = [] if open_ended and last else [*self._encode(f" {assistant}"), self._last]
            ids += asked + reply
            labels += [IGNORED_LABEL] * len(asked) + (reply if conversation.counts else [IGNORED_LABEL] * len(reply))
        return ids, labels

    def _padded(self, rows: Sequence[list[int]]) -> Rows:
        return padded(rows, self._pad, device_of(self))

    def _embed(self, ids: Tensor) -> Tensor:
        return self.model.get_input_embeddings()(ids)

    def _embed_seen(self, ids: Tensor, seen: Tensor) -> Tensor:
        """Embeddings [b s h] of rows whose pictures, in their order, were seen as `seen` [pictures n h]."""
        embeds = self._embed(ids)
        return embeds.masked_scatter((ids == self._image)[..., None], seen.to(embeds.dtype))

    def _embed_codes(self, codes: Tensor) -> Tensor:
        return self.model.prepare_embeddings_for_image_generation(codes)

    def _states(self, embeds: Tensor, mask: Tensor) -> Tensor:
        """The language model's states [b s h] after the final norm."""
        output = self.model.model.language_model(
            inputs_embeds=embeds, attention_mask=mask, position_ids=position_ids(mask), use_cache=False
        )
        return output.last_hidden_state
