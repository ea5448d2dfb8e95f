"""The multimodal backbone: transformers' Qwen2-VL, unmodified, with an interface of conversations and hidden states."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, cast

import torch
from torch import Tensor, nn
from transformers import Qwen2Tokenizer, Qwen2VLConfig, Qwen2VLForConditionalGeneration
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

from latentbridge.config import BackboneConfig
from latentbridge.devices import device_of, to_device
from latentbridge.models.chat import ChatML, tokenize_chat
from latentbridge.models.left_padding import IGNORE_INDEX, position_ids
from latentbridge.models.qwen_vl.batch import TokenBatch
from latentbridge.models.qwen_vl.packing import pack
from latentbridge.models.qwen_vl.patches import patchify
from latentbridge.models.tokenization import token_id
from latentbridge.ranks import global_mean
from latentbridge.types import Conversation, Picture

Compat = Literal["corrected", "reference"]
"""Behaviour as corrected here or as in OmniBridge's release; `docs/architecture.md` lists the differences."""


class QwenVL(nn.Module):
    """Qwen2VLForConditionalGeneration with its tokenizer and image processor.

    Position ids are M-RoPE's. `compat="reference"` gives the sequential ids that the released OmniBridge falls back to
    (spec 2.1 step 3).
    """

    def __init__(
        self,
        model: Qwen2VLForConditionalGeneration,
        tokenizer: Qwen2Tokenizer,
        image_processor: Qwen2VLImageProcessorPil,
        system_prompt: str,
    ):
        super().__init__()
        self.model = model
        self.tokenizer = tokenizer
        self.image_processor = image_processor
        self.system_prompt = system_prompt
        self.compat: Compat = "corrected"
        self.end_of_turn = token_id(tokenizer, "<|im_end|>")
        self.padding = token_id(tokenizer, "<|endoftext|>")

    @classmethod
    def from_config(cls, config: BackboneConfig, tokenizer: Qwen2Tokenizer) -> QwenVL:
        """Build a backbone of the configured size with random weights."""
        head_dim = config.hidden_size // config.num_heads
        temporal = head_dim // 8
        spatial = (head_dim // 2 - temporal) // 2
        qwen = Qwen2VLConfig(
            text_config={
                "hidden_size": config.hidden_size,
                "num_hidden_layers": config.num_layers,
                "num_attention_heads": config.num_heads,
                "num_key_value_heads": config.num_kv_heads,
                "intermediate_size": config.intermediate_size,
                "vocab_size": config.vocab_size or len(tokenizer),
                "tie_word_embeddings": config.tied_embeddings,
                "rope_parameters": {
                    "rope_type": "default",
                    "rope_theta": config.rope_theta,
                    "mrope_section": [head_dim // 2 - 2 * spatial, spatial, spatial],
                },
                "bos_token_id": token_id(tokenizer, "<|endoftext|>"),
                "eos_token_id": token_id(tokenizer, "<|im_end|>"),
                "pad_token_id": token_id(tokenizer, "<|endoftext|>"),
            },
            vision_config={
                "depth": config.vision_layers,
                "embed_dim": config.vision_width,
                "num_heads": config.vision_heads,
                "hidden_size": config.hidden_size,
                "patch_size": config.patch_size_px,
                "spatial_merge_size": config.merge_size,
            },
            image_token_id=token_id(tokenizer, "<|image_pad|>"),
            video_token_id=token_id(tokenizer, "<|video_pad|>"),
            vision_start_token_id=token_id(tokenizer, "<|vision_start|>"),
            vision_end_token_id=token_id(tokenizer, "<|vision_end|>"),
            tie_word_embeddings=config.tied_embeddings,
        )
        min_area, max_area = (config.image_size_px**2,) * 2 if config.image_size_px else config.pixel_range
        processor = Qwen2VLImageProcessorPil(
            patch_size=config.patch_size_px,
            merge_size=config.merge_size,
            size={"shortest_edge": min_area, "longest_edge": max_area},
        )
        model = Qwen2VLForConditionalGeneration._from_config(qwen, attn_implementation="sdpa")
        return cls(model, tokenizer, processor, config.system_prompt)

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

    def pack(self, batch: TokenBatch) -> TokenBatch:
        """Pack several conversations into each row; the `language_loss` stays the same."""
        return pack(batch, self._position_ids(batch), self.padding)

    def hidden(self, batch: TokenBatch, image_embeddings: Tensor | None = None) -> Tensor:
        """Return last-layer states after the final norm, [b s d]; `image_embeddings` of the batch may be precomputed."""
        inputs = self.inputs(batch)
        if image_embeddings is not None:
            embeds = self.model.get_input_embeddings()(batch.input_ids)
            embeds = embeds.masked_scatter(batch.image_mask[..., None], image_embeddings.to(embeds.dtype))
            inputs = {name: inputs[name] for name in ("attention_mask", "position_ids")} | {"inputs_embeds": embeds}
        return self.model.model(**inputs, use_cache=False).last_hidden_state

    def image_embeddings(self, batch: TokenBatch) -> Tensor:
        """Return the vision tower's output for pictures of one size, [pictures tokens d]."""
        return torch.stack(self.image_embedding_list(batch))

    def image_embedding_list(self, batch: TokenBatch) -> list[Tensor]:
        """Return the vision tower's output for each picture, [tokens d]."""
        features = self.model.model.get_image_features(batch.pixel_values, batch.image_grid_thw)  # pyright: ignore
        return list(cast(Sequence[Tensor], features.pooler_output))  # pyright: ignore

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
        end = row.index(self.end_of_turn) if self.end_of_turn in row else len(row)
        return str(self.tokenizer.decode([token for token in row[:end] if token != self.padding]))

    def inputs(self, batch: TokenBatch) -> dict:
        """Return the keyword arguments of transformers' model for a batch."""
        inputs = {
            "input_ids": batch.input_ids,
            "attention_mask": batch.attention_mask if batch.position_ids is None else None,
            "position_ids": self._position_ids(batch) if batch.position_ids is None else batch.position_ids,
            "mm_token_type_ids": batch.image_mask.int(),
        }
        if batch.pixel_values is not None:
            inputs |= {"pixel_values": batch.pixel_values, "image_grid_thw": batch.image_grid_thw}
        return inputs

    def _position_ids(self, batch: TokenBatch) -> Tensor:
        if self.compat == "reference" or batch.image_grid_thw is None:
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
