"""Grading models with random weights, in the folders that released ones have."""

from __future__ import annotations

from pathlib import Path

import torch
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from tokenizers.processors import TemplateProcessing
from transformers import (
    CLIPConfig,
    CLIPModel,
    Dinov2Config,
    Dinov2Model,
    Mask2FormerConfig,
    Mask2FormerForUniversalSegmentation,
    PreTrainedTokenizerFast,
    SwinConfig,
    YolosConfig,
    YolosForObjectDetection,
)
from transformers.models.bit.image_processing_pil_bit import BitImageProcessorPil
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil
from transformers.models.mask2former.image_processing_pil_mask2former import Mask2FormerImageProcessorPil
from transformers.models.yolos.image_processing_pil_yolos import YolosImageProcessorPil

LABELS = {0: "bench", 1: "remote", 2: "dog"}
_TOWER = {"hidden_size": 24, "intermediate_size": 29, "num_hidden_layers": 2, "num_attention_heads": 3}


def clip(folder: Path) -> Path:
    words = ("<pad>", "<unk>", "<eos>", "red", "blue", "green", "bench", "photo", "object")
    ids = {"pad_token_id": 0, "bos_token_id": 2, "eos_token_id": 2}
    text = {**_TOWER, "vocab_size": len(words), "max_position_embeddings": 9, **ids}
    vision = {**_TOWER, "image_size": 14, "patch_size": 7}
    with torch.random.fork_rng():
        torch.manual_seed(1)
        CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=13)).save_pretrained(folder)
    CLIPImageProcessorPil(size={"shortest_edge": 14}, crop_size={"height": 14, "width": 14}).save_pretrained(folder)
    tokens = Tokenizer(WordLevel({word: i for i, word in enumerate(words)}, unk_token="<unk>"))
    tokens.pre_tokenizer = Whitespace()  # pyright: ignore[reportAttributeAccessIssue]
    tokens.post_processor = TemplateProcessing(single="$A <eos>", special_tokens=[("<eos>", 2)])  # pyright: ignore[reportAttributeAccessIssue]
    names = {"pad_token": "<pad>", "unk_token": "<unk>", "eos_token": "<eos>"}
    PreTrainedTokenizerFast(tokenizer_object=tokens, **names).save_pretrained(folder)
    return folder


def dino(folder: Path) -> Path:
    with torch.random.fork_rng():
        torch.manual_seed(1)
        sizes = {"hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 3}
        Dinov2Model(Dinov2Config(**sizes, image_size=28, patch_size=14)).save_pretrained(folder)
    size = {"height": 28, "width": 28}
    BitImageProcessorPil(size={"shortest_edge": 28}, crop_size=size).save_pretrained(folder)
    return folder


def boxes(folder: Path) -> Path:
    """A YOLOS of three classes."""
    names = {"id2label": LABELS, "label2id": {name: id for id, name in LABELS.items()}}
    with torch.random.fork_rng():
        torch.manual_seed(1)
        config = YolosConfig(**_TOWER, **names, image_size=[32, 32], patch_size=8, num_detection_tokens=5)
        YolosForObjectDetection(config).save_pretrained(folder)
    YolosImageProcessorPil(size={"shortest_edge": 32, "longest_edge": 32}).save_pretrained(folder)
    return folder


def masks(folder: Path) -> Path:
    """A Mask2Former of three classes."""
    names = {"id2label": LABELS, "label2id": {name: id for id, name in LABELS.items()}}
    with torch.random.fork_rng():
        torch.manual_seed(1)
        stages = ["stage1", "stage2", "stage3", "stage4"]
        swin = SwinConfig(
            embed_dim=8, depths=[1, 1, 1, 1], num_heads=[1, 1, 2, 2], window_size=2, image_size=64, out_features=stages
        )
        config = Mask2FormerConfig(
            backbone_config=swin, **names, feature_size=32, mask_feature_size=32, hidden_dim=32, num_queries=5,
            num_attention_heads=2, encoder_layers=1, decoder_layers=2, dim_feedforward=16, encoder_feedforward_dim=16,
        )  # fmt: skip
        Mask2FormerForUniversalSegmentation(config).save_pretrained(folder)
    Mask2FormerImageProcessorPil(size={"height": 64, "width": 64}).save_pretrained(folder)
    return folder
