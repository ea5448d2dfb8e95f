"""The image decoder: diffusers' HunyuanDiT, the aligner's condition in its mT5 slot."""

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
    """HunyuanDiT2DModel, unmodified, behind one call: (noisy image latents, timesteps, condition) -> prediction.

    Differs from the released pipeline on purpose where the condition is states alone: the CLIP slot is masked, so they
    are the only path from words to picture, and all their positions are attended, so no caption length leaks through
    a mask. `HunyuanCondition` are read as the release reads them (spec 2.2 step 7).
    """

    def __init__(self, transformer: HunyuanDiT2DModel, rope_span: int):
        """`rope_span` is the rotary position one step past the last row and column; a finer grid takes finer steps."""
        super().__init__()
        self.transformer = transformer
        sizes = dict(transformer.config)
        self.grid: int = sizes["sample_size"]
        """Side of the square of image latents."""
        self.clip_slot = (sizes["text_len"], sizes["cross_attention_dim"])
        size = self.grid // sizes["patch_size"]
        cosine, sine = get_2d_rotary_pos_embed(
            sizes["attention_head_dim"], ((0, 0), (rope_span, rope_span)), (size, size), output_type="pt"
        )
        self.register_buffer("rope_cosine", cosine, persistent=False)
        self.register_buffer("rope_sine", sine, persistent=False)

    @classmethod
    def from_config(cls, config: ModelConfig) -> Decoder:
        """A decoder built from nothing."""
        sizes = config.decoder
        transformer = HunyuanDiT2DModel(
            num_attention_heads=sizes.num_heads,
            attention_head_dim=sizes.width // sizes.num_heads,
            hidden_size=sizes.width,
            in_channels=config.autoencoder.channels,
            patch_size=1,
            sample_size=sizes.grid,
            num_layers=sizes.num_layers,
            mlp_ratio=4.0,
            activation_fn="gelu-approximate",
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
        """The prediction [b c h w] for `noisy` [b c h w] at `timesteps` [b]; a learned variance is dropped."""
        slots = condition if isinstance(condition, HunyuanCondition) else self._states_alone(condition)
        dtype = next(self.transformer.parameters()).dtype  # its own `dtype` walks through all modules, at every step
        prediction = self.transformer(
            noisy.to(dtype),
            timesteps.to(dtype),  # the dtype of the timesteps is that of the whole embedding of time
            encoder_hidden_states=slots.clip,
            text_embedding_mask=slots.clip_mask,
            encoder_hidden_states_t5=slots.states,
            text_embedding_mask_t5=slots.mask,
            image_rotary_emb=(self.rope_cosine, self.rope_sine),
            return_dict=False,
        )[0]
        return prediction[:, : noisy.shape[1]]

    def _states_alone(self, states: Tensor) -> HunyuanCondition:
        b, n, _ = states.shape
        length, width = self.clip_slot
        return HunyuanCondition(
            states,
            torch.ones(b, n, dtype=torch.long, device=states.device),
            states.new_zeros(b, length, width),
            torch.zeros(b, length, dtype=torch.long, device=states.device),
        )


class CaptionEncoder(nn.Module):
    """How the release shows HunyuanDiT a caption beside the condition (spec 2.2 step 7).

    BERT's states of the caption stand in the CLIP slot, and of the mT5 slot only as many positions are attended as the
    caption has mT5 tokens. So a released decoder also reads words by other ways than the aligner, which the tiny one
    never does; its weights were trained with both.
    """

    negative = "错误的眼睛，糟糕的人脸，毁容，糟糕的艺术，变形，多余的肢体，模糊的颜色，模糊，重复，病态，残缺，"
    """What guidance leads away from, word for word as in HunyuanDiT's release."""

    def __init__(self, encoder: BertModel, tokenizer: Any, length: int, text_tokenizer: Any, text_length: int):
        super().__init__()
        self.encoder = encoder
        self.tokenizer, self.length = tokenizer, length
        self.text_tokenizer, self.text_length = text_tokenizer, text_length

    def forward(self, states: Tensor, captions: Sequence[str]) -> HunyuanCondition:
        """The slots of a decoder that reads `states` [b n d] of any kind under `captions`."""
        ids, clip_mask = self._padded(self.tokenizer, captions, self.length)
        clip = self.encoder(input_ids=ids, attention_mask=clip_mask).last_hidden_state
        return HunyuanCondition(states.to(clip.dtype), self.text_tokens(captions)[1], clip, clip_mask)

    def text_tokens(self, texts: Sequence[str]) -> tuple[Tensor, Tensor]:
        """mT5's token ids and their mask, int64 [b text_length] each; the mask is 0 at padding."""
        return self._padded(self.text_tokenizer, texts, self.text_length)

    def _padded(self, tokenizer: Any, texts: Sequence[str], length: int) -> tuple[Tensor, Tensor]:
        rows = tokenizer(list(texts), padding="max_length", max_length=length, truncation=True, return_tensors="pt")
        return rows["input_ids"].to(device_of(self)), rows["attention_mask"].to(device_of(self))
