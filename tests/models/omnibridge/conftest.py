"""A HunyuanDiT folder, small but of the real classes, and models whose bridge fits it."""

from __future__ import annotations

import copy
import dataclasses
from pathlib import Path

import pytest
import torch
from diffusers import AutoencoderKL, DDPMScheduler, HunyuanDiT2DModel
from transformers import BertConfig, BertModel, BertTokenizer, T5Config, T5EncoderModel, T5Tokenizer

from latentbridge.config import ModelConfig
from latentbridge.models.checkpoint import new_model
from latentbridge.models.omnibridge.load_hunyuan_dit import attach_decoder
from latentbridge.models.omnibridge.modeling_omnibridge import OmniBridge
from latentbridge.rng import torch_rng

LETTERS = [chr(code) for code in range(ord("a"), ord("z") + 1)]


@pytest.fixture(scope="package")
def folder(tmp_path_factory) -> Path:
    """The layout of the released repository, each part saved by its own library."""
    path = tmp_path_factory.mktemp("hunyuan")
    torch.manual_seed(0)
    HunyuanDiT2DModel(
        num_attention_heads=2, attention_head_dim=16, hidden_size=32, in_channels=4, patch_size=2, sample_size=8,
        num_layers=2, cross_attention_dim=24, cross_attention_dim_t5=32, pooled_projection_dim=20, text_len=77,
        text_len_t5=256, learn_sigma=True, use_style_cond_and_image_meta_size=False,
    ).save_pretrained(path / "transformer")  # fmt: skip
    vae = AutoencoderKL(
        block_out_channels=(8, 8, 8, 8), down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4, norm_num_groups=4, latent_channels=4, scaling_factor=0.13,
    )  # fmt: skip
    with torch.no_grad():
        vae.decoder.conv_out.weight.mul_(4)  # so that pictures span their range
    vae.save_pretrained(path / "vae")
    T5EncoderModel(
        T5Config(vocab_size=140, d_model=32, d_ff=48, d_kv=8, num_heads=2, num_layers=2, feed_forward_proj="gated-gelu")
    ).save_pretrained(path / "text_encoder_2")
    BertModel(
        BertConfig(vocab_size=60, hidden_size=24, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32)
    ).save_pretrained(path / "text_encoder")
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *LETTERS, *("##" + letter for letter in LETTERS)]
    BertTokenizer(vocab={word: index for index, word in enumerate(words)}).save_pretrained(path / "tokenizer")
    pieces = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("▁", -2.0), *((letter, -3.0) for letter in LETTERS)]
    T5Tokenizer(vocab=pieces).save_pretrained(path / "tokenizer_2")
    DDPMScheduler(
        beta_start=0.00085, beta_end=0.02, beta_schedule="scaled_linear", prediction_type="v_prediction",
        steps_offset=1, clip_sample=False,
    ).save_pretrained(path / "scheduler")  # fmt: skip
    return path


@pytest.fixture(scope="package")
def bridge(small_config: ModelConfig) -> OmniBridge:
    """A model without decoder whose bridge fits the folder; its aligner reads the backbone."""
    aligner = dataclasses.replace(small_config.aligner, num_queries=256)
    parts = ("backbone", "bridge")
    model = new_model(dataclasses.replace(small_config, parts=parts, aligner=aligner, text_length=256), seed=0)
    rng = torch_rng(0, "bridge")
    with torch.no_grad():
        for parameter in (*model.projector.parameters(), *model.aligner.parameters()):
            if parameter.ndim > 1:
                parameter.copy_(torch.randn(parameter.shape, generator=rng) * parameter[0].numel() ** -0.5)
    return model


@pytest.fixture(scope="package")
def model(bridge: OmniBridge, folder: Path) -> OmniBridge:
    drawing = copy.deepcopy(bridge)
    attach_decoder(drawing, folder, torch.float32)
    return drawing
