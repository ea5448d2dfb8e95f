"""The multimodal backbone: transformers' Qwen2-VL and its successors, unmodified, with an interface of conversations and hidden states."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor, nn
from transformers import Qwen2Tokenizer
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

from latentbridge.config import BackboneConfig, QwenRelease
from latentbridge.devices import device_of, to_device
from latentbridge.models.chat import ChatML, tokenize_chat
from latentbridge.models.left_padding import IGNORE_INDEX, position_ids
from latentbridge.models.qwen_vl.batch import TokenBatch
from latentbridge.models.qwen_vl.build import build_model, build_processor
from latentbridge.models.qwen_vl.generation import read_generation
from latentbridge.models.qwen_vl.packing import pack
from latentbridge.models.qwen_vl.patches import patchify
from latentbridge.models.tokenization import encode, token_id
from latentbridge.ranks import global_mean
from latentbridge.types import Conversation, Picture

if TYPE_CHECKING:
    from latentbridge.models.qwen_vl.build import QwenModel

Compat = Literal["corrected", "reference"]
"""Behaviour as corrected here or as in OmniBridge's release; `docs/architecture.md` lists the differences."""


class QwenVL(nn.Module):
    """transformers' Qwen2-VL, Qwen2.5-VL or Qwen3-VL with its tokenizer and image processor.

    Position ids are M-RoPE's. `compat="reference"` gives the sequential ids that the released OmniBridge falls back to
    (spec 2.1 step 3).
    """

    def __init__(
        self,
        model: QwenModel,
        tokenizer: Qwen2Tokenizer,
        image_processor: Qwen2VLImageProcessorPil,
        system_prompt: str,
        release: QwenRelease | None = None,
    ):
        super().__init__()
        self.model = model
        self.tokenizer = tokenizer
        self.image_processor = image_processor
        self.system_prompt = system_prompt
        self.compat: Compat = "corrected"
        self.end_of_turn = token_id(tokenizer, "<|im_end|>")
        self.padding = token_id(tokenizer, "<|endoftext|>")
        release = release or QwenRelease()
        self.reply_options, self.end_ids = read_generation(release.generation, self.end_of_turn)
        self._reply_prefix = encode(tokenizer, release.reply_prefix, special=True)

    @classmethod
    def from_config(cls, config: BackboneConfig, tokenizer: Qwen2Tokenizer) -> QwenVL:
        """Build a backbone of the configured size with random weights."""
        model, processor = build_model(config, tokenizer), build_processor(config)
        return cls(model, tokenizer, processor, config.system_prompt, config.release)

    @property
    def width(self) -> int:
        """The width of a hidden state."""
        return self.model.lm_head.in_features

    def tokenize(
        self,
        conversations: Sequence[Conversation],
        *,
        open_ended: bool = False,
        pad: Literal["left", "right"] = "right",
        drawn: Tensor | None = None,
        device: torch.device | None = None,
    ) -> TokenBatch:
        """Return conversations as a padded batch; `open_ended` omits each last reply, for the model to generate.

        `drawn`, float levels [b 3 h w] from 0 to 255, is one picture per conversation, through which gradients pass. The
        batch is on the model's device unless `device` is given; worker processes build batches on the CPU.
        """
        pictures = [picture for c in conversations for picture in c.all_pictures]
        pixel_values, grid = self._process(pictures) if pictures else (None, None)
        if drawn is not None:
            assert not pictures, "a conversation has one picture"
            pixel_values, grid = patchify(drawn, self.image_processor)
        token_counts = iter(
            (grid.prod(dim=1) // self.image_processor.merge_size**2).tolist() if grid is not None else []
        )
        pictures_by_turn = [[1] if drawn is not None else [len(turn) for turn in c.pictures] for c in conversations]
        chat = ChatML(self.tokenizer, self.system_prompt, markers_in_replies=True)
        rows = [
            tokenize_chat(
                chat,
                c,
                [[self._image_ids(next(token_counts)) for _ in range(count)] for count in counts],
                open_ended,
            )
            for c, counts in zip(conversations, pictures_by_turn, strict=True)
        ]
        if open_ended:
            for row in rows:
                row.ids.extend(self._reply_prefix)
        length = max(len(row.ids) for row in rows)
        input_ids = torch.full((len(rows), length), self.padding)
        labels = torch.full((len(rows), length), IGNORE_INDEX)
        weights = torch.zeros(len(rows), length)
        attention_mask = torch.zeros(len(rows), length, dtype=torch.long)
        for row, (ids, replies) in enumerate((row.ids, row.replies) for row in rows):
            start = 0 if pad == "right" else length - len(ids)
            input_ids[row, start : start + len(ids)] = torch.tensor(ids)
            attention_mask[row, start : start + len(ids)] = 1
            for reply in replies:
                place = slice(start + reply.start, start + reply.stop)
                labels[row, place] = input_ids[row, place]
                weights[row, place] = len(reply) ** -0.5
        image_mask = input_ids == self.model.config.image_token_id
        batch = TokenBatch(input_ids, attention_mask, image_mask, labels, weights, pixel_values, grid)
        return to_device(batch, device or device_of(self))

    def last_text_mask(self, batch: TokenBatch, texts: Sequence[str]) -> Tensor:
        """Return bool [b s], True at the last user text of each open-ended conversation."""
        empty = tokenize_chat(ChatML(self.tokenizer), Conversation((("", ""),)), open_ended=True).ids
        opening = encode(self.tokenizer, "<|im_start|>user\n", special=True)
        after = len(empty) - len(opening) + len(self._reply_prefix)
        counts = torch.tensor([[len(encode(self.tokenizer, text))] for text in texts], device=batch.input_ids.device)
        real = batch.attention_mask
        from_end = real.flip(1).cumsum(dim=1).flip(1)  # 1 at the last token
        return real.bool() & (from_end > after) & (from_end <= after + counts)

    def pack(self, batch: TokenBatch) -> TokenBatch:
        """Pack several conversations into each row; the `language_loss` stays the same."""
        return pack(batch, self._position_ids(batch), self.padding)

    def hidden(self, batch: TokenBatch, image_embeddings: Tensor | None = None, compat: Compat | None = None) -> Tensor:
        """Return last-layer states after the final norm, [b s d].

        `image_embeddings` of the batch may be precomputed; `compat` is the backbone's own unless given.
        """
        inputs = self.inputs(batch, compat)
        if image_embeddings is None:
            return self.model.model(**inputs, use_cache=False).last_hidden_state
        embeds = self.model.get_input_embeddings()(batch.input_ids)
        first, *deeper = image_embeddings.to(embeds.dtype).flatten(0, -2).split(self.width, dim=-1)
        embeds = embeds.masked_scatter(batch.image_mask[..., None], first)
        inputs = {name: inputs[name] for name in ("attention_mask", "position_ids")} | {"inputs_embeds": embeds}
        if deeper:
            inputs |= {"visual_pos_masks": batch.image_mask, "deepstack_visual_embeds": deeper}
        return self.model.model.language_model(**inputs, use_cache=False).last_hidden_state

    def image_embeddings(self, batch: TokenBatch) -> Tensor:
        """Return the vision tower's output for pictures of one size, [pictures tokens d]."""
        return torch.stack(self.image_embedding_list(batch))

    def image_embedding_list(self, batch: TokenBatch) -> list[Tensor]:
        """Return the vision tower's output for each picture, [tokens d].

        Qwen3-VL adds the states of some of its vision layers to the first layers of its language model (DeepStack,
        arXiv 2406.04334); they follow in the same rows, [tokens (1 + layers) d].
        """
        features: Any = self.model.model.get_image_features(batch.pixel_values, batch.image_grid_thw)  # pyright: ignore
        layers = [features.pooler_output, *getattr(features, "deepstack_features", [])]
        return [torch.cat(picture, dim=-1) for picture in zip(*layers, strict=True)]

    def language_loss(self, batch: TokenBatch, image_embeddings: Tensor | None = None) -> Tensor:
        """Return the mean next-token cross-entropy over all ranks; a reply's weight is the square root of its length.

        With a plain mean over tokens, descriptions outweigh answers of one word (square averaging, arXiv 2412.05271).
        """
        hidden = self.hidden(batch, image_embeddings)[:, :-1]
        targets = batch.labels[:, 1:]
        labelled = targets != IGNORE_INDEX
        weights = batch.weights[:, 1:][labelled]
        logits = self.model.lm_head(hidden[labelled])
        losses = nn.functional.cross_entropy(logits.float(), targets[labelled], reduction="none")
        return global_mean((losses * weights).sum(), weights.sum())

    def decode(self, tokens: Tensor) -> list[str]:
        """Return the texts of replies [r t], up to the end of the turn."""
        return [self._decode(row) for row in tokens.tolist()]

    def _decode(self, row: list[int]) -> str:
        end = next((index for index, token in enumerate(row) if token in self.end_ids), len(row))
        return str(self.tokenizer.decode([token for token in row[:end] if token != self.padding]))

    def inputs(self, batch: TokenBatch, compat: Compat | None = None) -> dict:
        """Return the keyword arguments of transformers' model for a batch."""
        inputs = {
            "input_ids": batch.input_ids,
            "attention_mask": batch.attention_mask if batch.position_ids is None else None,
            "position_ids": self._position_ids(batch, compat) if batch.position_ids is None else batch.position_ids,
            "mm_token_type_ids": batch.image_mask.int(),
        }
        if batch.pixel_values is not None:
            inputs |= {"pixel_values": batch.pixel_values, "image_grid_thw": batch.image_grid_thw}
        return inputs

    def _position_ids(self, batch: TokenBatch, compat: Compat | None = None) -> Tensor:
        if (compat or self.compat) == "reference" or batch.image_grid_thw is None:
            return position_ids(batch.attention_mask).expand(3, -1, -1)
        return self.model.model.get_rope_index(
            batch.input_ids,  # pyright: ignore[reportArgumentType]
            mm_token_type_ids=batch.image_mask.int(),  # pyright: ignore[reportArgumentType]
            image_grid_thw=batch.image_grid_thw,  # pyright: ignore[reportArgumentType]
            attention_mask=batch.attention_mask,
        )[0]

    def _process(self, pictures: Sequence[Picture]) -> tuple[Tensor, Tensor]:
        processed = self.image_processor(images=list(pictures), return_tensors="pt", input_data_format="channels_last")
        return processed["pixel_values"], processed["image_grid_thw"]

    def _image_ids(self, num_tokens: int) -> list[int]:
        config = self.model.config
        return [config.vision_start_token_id, *[config.image_token_id] * num_tokens, config.vision_end_token_id]
