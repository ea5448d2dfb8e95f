"""The image decoder: diffusers' HunyuanDiT with the condition in its mT5 slot and nothing in its CLIP slot."""

from __future__ import annotations

import torch
from diffusers import HunyuanDiT2DModel
from diffusers.models.embeddings import get_2d_rotary_pos_embed
from torch import Tensor, nn

from latentbridge.config import ModelConfig


class Decoder(nn.Module):
    """HunyuanDiT2DModel, unmodified, behind one call: (noisy image latents, timesteps, condition) -> prediction.

    Differs from the released pipeline on purpose: the CLIP slot is masked, so the condition is the only path from words
    to picture, and all condition positions are attended, so no caption length leaks through a mask (spec 2.2 step 7).
    """

    def __init__(self, transformer: HunyuanDiT2DModel, grid: int):
        super().__init__()
        self.transformer = transformer
        sizes = dict(transformer.config)
        self.clip_slot = (sizes["text_len"], sizes["cross_attention_dim"])
        size = grid // sizes["patch_size"]
        cosine, sine = get_2d_rotary_pos_embed(
            sizes["attention_head_dim"], ((0, 0), (size, size)), (size, size), output_type="pt"
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
        return cls(transformer, sizes.grid)

    def forward(self, noisy: Tensor, timesteps: Tensor, condition: Tensor) -> Tensor:
        """The prediction [b c h w] for `noisy` [b c h w] at integer `timesteps` [b] under `condition` [b n d]."""
        b, n, _ = condition.shape
        length, width = self.clip_slot
        prediction = self.transformer(
            noisy,
            timesteps.to(torch.float32),
            encoder_hidden_states=condition.new_zeros(b, length, width),
            text_embedding_mask=torch.zeros(b, length, dtype=torch.long, device=noisy.device),
            encoder_hidden_states_t5=condition,
            text_embedding_mask_t5=torch.ones(b, n, dtype=torch.long, device=noisy.device),
            image_rotary_emb=(self.rope_cosine, self.rope_sine),
            return_dict=False,
        )[0]
        return prediction[:, : noisy.shape[1]]
