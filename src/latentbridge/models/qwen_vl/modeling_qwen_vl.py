"""The multimodal backbone: transformers' Qwen2-VL, unmodified, behind conversations and hidden states."""

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
from latentbridge.models.left_padding import IGNORE_INDEX
from latentbridge.models.qwen_vl.batch import TokenBatch
from latentbridge.models.qwen_vl.packing import pack
from latentbridge.models.qwen_vl.patches import patchify
from latentbridge.models.tokenization import token_id
from latentbridge.ranks import global_mean
from latentbridge.types import Conversation, Picture

Positions = Literal["mrope", "reference_1d"]


class QwenVL(nn.Module):
    """Qwen2VLForConditionalGeneration with its tokenizer and image processor.

    Position ids are M-RoPE's; `positions="reference_1d"` gives the sequential ids that OmniBridge's released model
    falls back to once its heads are attached (spec 2.1 step 3).
    """

    def __init__(
        self,
        model: Qwen2VLForConditionalGeneration,
        tokenizer: Qwen2Tokenizer,
        image_processor: Qwen2VLImageProcessorPil,
        system_prompt: str,
        positions: Positions = "mrope",
    ):
        super().__init__()
        self.model = model
        self.tokenizer = tokenizer
        self.image_processor = image_processor
        self.system_prompt = system_prompt
        self.positions: Positions = positions
        self.end_of_turn = token_id(tokenizer, "<|im_end|>")
        self.padding = token_id(tokenizer, "<|endoftext|>")

    @classmethod
    def from_config(cls, config: BackboneConfig, tokenizer: Qwen2Tokenizer) -> QwenVL:
        """A backbone built from nothing at the configured size."""
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
                "max_position_embeddings": 32768,
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
                "mlp_ratio": 4,
                "patch_size": config.patch_size_px,
                "spatial_merge_size": config.merge_size,
                "temporal_patch_size": 2,
            },
            image_token_id=token_id(tokenizer, "<|image_pad|>"),
            video_token_id=token_id(tokenizer, "<|video_pad|>"),
            vision_start_token_id=token_id(tokenizer, "<|vision_start|>"),
            vision_end_token_id=token_id(tokenizer, "<|vision_end|>"),
            tie_word_embeddings=config.tied_embeddings,
        )
        smallest, largest = (config.image_size_px**2,) * 2 if config.image_size_px else config.pixel_range
        processor = Qwen2VLImageProcessorPil(
            patch_size=config.patch_size_px,
            merge_size=config.merge_size,
            size={"shortest_edge": smallest, "longest_edge": largest},
        )
        model = Qwen2VLForConditionalGeneration._from_config(qwen, attn_implementation="sdpa")
        return cls(model, tokenizer, processor, config.system_prompt)

    @property
    def width(self) -> int:
        """Size of a hidden state."""
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
        """Conversations as a padded batch; `open_ended` leaves out each last reply, so that the model continues there.

        `drawn`, float levels [b 3 h w] from 0 to 255, is one picture for each conversation, and passes gradients on. The
        batch lies where the model does, unless a `device` is given: what is made in another process is made on the CPU.
        """
        pictures = [c.picture for c in conversations if c.picture is not None]
        pixel_values, grid = self._process(pictures) if pictures else (None, None)
        if drawn is not None:
            assert not pictures, "a conversation has one picture"
            pixel_values, grid = patchify(drawn, self.image_processor)
        token_counts = iter(
            (grid.prod(dim=1) // self.image_processor.merge_size**2).tolist() if grid is not None else []
        )
        chat = ChatML(self.tokenizer, self.system_prompt, markers_in_replies=True)
        rows = [
            tokenize_chat(
                chat,
                c,
                self._image_ids(next(token_counts)) if drawn is not None or c.picture is not None else (),
                open_ended,
            )
            for c in conversations
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
        """The batch with several conversations in a row, for `language_loss`, which comes to the same."""
        return pack(batch, self._position_ids(batch), self.padding)

    def hidden(self, batch: TokenBatch, seen: Tensor | None = None) -> Tensor:
        """Last-layer states after the final norm: [b s d]. `seen` is `image_embeddings` of the batch, where already known."""
        inputs = self.inputs(batch)
        if seen is not None:
            words = self.model.get_input_embeddings()(batch.input_ids)
            embeds = words.masked_scatter(batch.image_mask[..., None], seen.to(words.dtype))
            inputs = {name: inputs[name] for name in ("attention_mask", "position_ids")} | {"inputs_embeds": embeds}
        return self.model.model(**inputs, use_cache=False).last_hidden_state

    def image_embeddings(self, batch: TokenBatch) -> Tensor:
        """What the vision tower hands to the language model for pictures of one size: [pictures tokens d]."""
        return torch.stack(self.image_embedding_list(batch))

    def image_embedding_list(self, batch: TokenBatch) -> list[Tensor]:
        """The same picture by picture, of any sizes: [tokens d] each."""
        found = self.model.model.get_image_features(batch.pixel_values, batch.image_grid_thw)  # pyright: ignore
        return list(cast(Sequence[Tensor], found.pooler_output))  # pyright: ignore

    def language_loss(self, batch: TokenBatch, seen: Tensor | None = None) -> Tensor:
        """Mean next-token cross-entropy over the labelled positions of all ranks, each reply counting by the root of its length.

        A plain mean over tokens lets descriptions drown answers of one word (square averaging, arXiv 2412.05271).
        """
        hidden = self.hidden(batch, seen)[:, :-1]
        targets = batch.labels[:, 1:]
        chosen = targets != IGNORE_INDEX
        weights = batch.weights[:, 1:][chosen]
        logits = self.model.lm_head(hidden[chosen])
        losses = nn.functional.cross_entropy(logits.float(), targets[chosen], reduction="none")
        return global_mean((losses * weights).sum(), weights.sum())

    def decode(self, tokens: Tensor) -> list[str]:
        """The texts of replies [r t], up to the end of the turn."""
        return [self._decode(row) for row in tokens.tolist()]

    def _decode(self, row: list[int]) -> str:
        end = row.index(self.end_of_turn) if self.end_of_turn in row else len(row)
        return str(self.tokenizer.decode([token for token in row[:end] if token != self.padding]))

    def inputs(self, batch: TokenBatch) -> dict:
        """The batch as the arguments of transformers' model."""
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
        if self.positions == "reference_1d" or batch.image_grid_thw is None:
            sequential = (batch.attention_mask.cumsum(dim=1) - 1).clamp_min(0)
            return sequential.expand(3, -1, -1)
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
