"""The image decoder: diffusers' HunyuanDiT, conditioned on the aligner's output instead of mT5's states."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from diffusers import HunyuanDiT2DModel
from diffusers.models.embeddings import get_2d_rotary_pos_embed
from torch import Tensor, nn
from transformers import BertModel

from latentbridge.config import ModelConfig
from latentbridge.devices import device_of
from latentbridge.models.condition import Condition, HunyuanCondition


class Decoder(nn.Module):
    """HunyuanDiT2DModel, unmodified: (noisy image latents, timesteps, condition) -> prediction.

    Deviation from the released pipeline: hidden states alone are the whole condition. CLIP's states are masked, so text
    reaches the picture through the condition only, and all positions are attended, so the mask does not reveal the
    caption's length. A `HunyuanCondition` is passed on as in the release (spec 2.2 step 7).
    """

    def __init__(self, transformer: HunyuanDiT2DModel, rope_span: int):
        """`rope_span` is the rotary position one past the last row and column; a finer grid takes smaller steps."""
        super().__init__()
        self.transformer = transformer
        sizes = dict(transformer.config)
        self.grid: int = sizes["sample_size"]
        """Side of the square of image latents."""
        self.clip_shape = (sizes["text_len"], sizes["cross_attention_dim"])
        """Length and width of CLIP's states."""
        size = self.grid // sizes["patch_size"]
        cosine, sine = get_2d_rotary_pos_embed(
            sizes["attention_head_dim"], ((0, 0), (rope_span, rope_span)), (size, size), output_type="pt"
        )
        self.register_buffer("rope_cosine", cosine, persistent=False)
        self.register_buffer("rope_sine", sine, persistent=False)

    @classmethod
    def from_config(cls, config: ModelConfig) -> Decoder:
        """Build a decoder with random weights."""
        sizes = config.decoder
        transformer = HunyuanDiT2DModel(
            num_attention_heads=sizes.num_heads,
            attention_head_dim=sizes.width // sizes.num_heads,
            hidden_size=sizes.width,
            in_channels=config.autoencoder.channels,
            patch_size=1,
            sample_size=sizes.grid,
            num_layers=sizes.num_layers,
            cross_attention_dim=config.aligner.d_model,
            cross_attention_dim_t5=config.aligner.d_model,
            pooled_projection_dim=config.aligner.d_model,
            text_len=1,
            text_len_t5=config.text_length,
            learn_sigma=False,
            use_style_cond_and_image_meta_size=False,
        )
        return cls(transformer, rope_span=sizes.grid)

    def forward(self, noisy: Tensor, timesteps: Tensor, condition: Condition) -> Tensor:
        """Return the prediction [b c h w] for `noisy` [b c h w] at `timesteps` [b], without a learned variance."""
        if not isinstance(condition, HunyuanCondition):
            condition = self._without_clip(condition)
        dtype = next(self.transformer.parameters()).dtype  # `transformer.dtype` iterates over all modules
        prediction = self.transformer(
            noisy.to(dtype),
            timesteps.to(dtype),  # the time embedding is computed in the dtype of the timesteps
            **condition._asdict(),
            image_rotary_emb=(self.rope_cosine, self.rope_sine),
            return_dict=False,
        )[0]
        return prediction[:, : noisy.shape[1]]

    def _without_clip(self, states: Tensor) -> HunyuanCondition:
        b, n, _ = states.shape
        length, width = self.clip_shape
        return HunyuanCondition(
            states.new_zeros(b, length, width),
            torch.zeros(b, length, dtype=torch.long, device=states.device),
            states,
            torch.ones(b, n, dtype=torch.long, device=states.device),
        )


class CaptionEncoder(nn.Module):
    """The caption inputs of a released HunyuanDiT (spec 2.2 step 7).

    BERT's states of the caption are the CLIP input, and only as many positions of the T5 input are attended as the caption
    has mT5 tokens. A released decoder was trained with both, so text also reaches it by other paths than the aligner.
    """

    negative = "错误的眼睛，糟糕的人脸，毁容，糟糕的艺术，变形，多余的肢体，模糊的颜色，模糊，重复，病态，残缺，"
    """The negative prompt of HunyuanDiT's release, verbatim."""

    def __init__(self, encoder: BertModel, tokenizer: Any, length: int, text_tokenizer: Any, text_length: int):
        super().__init__()
        self.encoder = encoder
        self.tokenizer, self.length = tokenizer, length
        self.text_tokenizer, self.text_length = text_tokenizer, text_length

    def forward(self, states: Tensor, captions: Sequence[str]) -> HunyuanCondition:
        """Return the condition of `states` [b n d], which replace mT5's, and `captions`."""
        ids, mask = self._tokenize(self.tokenizer, captions, self.length)
        clip_states = self.encoder(input_ids=ids, attention_mask=mask).last_hidden_state
        return HunyuanCondition(clip_states, mask, states.to(clip_states.dtype), self.text_tokens(captions)[1])

    def text_tokens(self, texts: Sequence[str]) -> tuple[Tensor, Tensor]:
        """Return mT5's token ids and attention mask, int64 [b text_length] each."""
        return self._tokenize(self.text_tokenizer, texts, self.text_length)

    def _tokenize(self, tokenizer: Any, texts: Sequence[str], length: int) -> tuple[Tensor, Tensor]:
        batch = tokenizer(list(texts), padding="max_length", max_length=length, truncation=True, return_tensors="pt")
        return batch["input_ids"].to(device_of(self)), batch["attention_mask"].to(device_of(self))
