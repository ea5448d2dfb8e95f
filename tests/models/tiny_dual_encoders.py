"""Tiny dual encoders with random weights, saved as released ones are."""

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
    PreTrainedTokenizerFast,
    Siglip2Config,
    Siglip2Model,
    Siglip2Tokenizer,
    SiglipConfig,
    SiglipModel,
)
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil
from transformers.models.siglip.image_processing_pil_siglip import SiglipImageProcessorPil
from transformers.models.siglip2.image_processing_pil_siglip2 import Siglip2ImageProcessorPil

KINDS = ("clip", "siglip", "siglip2")
WORDS = ("<pad>", "<unk>", "<eos>", "red", "blue", "circle", "star", "left", "of", "a")
CONTEXT, SIDE, PATCH = 7, 14, 7


def save_dual_encoder(kind: str, path: Path) -> Path:
    """Save a model of `kind`; CLIP projects 24 numbers to 13, SigLIP 2 reads at most 6 patches of any aspect ratio."""
    tower = {"hidden_size": 24, "intermediate_size": 29, "num_hidden_layers": 2, "num_attention_heads": 3}
    ids = {"pad_token_id": 0, "bos_token_id": 2, "eos_token_id": 2}
    text = {**tower, "vocab_size": 20, "max_position_embeddings": CONTEXT, **ids}
    vision = {**tower, "image_size": SIDE, "patch_size": PATCH}
    size = {"height": SIDE, "width": SIDE}
    with torch.random.fork_rng():
        torch.manual_seed(1)
        if kind == "clip":
            CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=13)).save_pretrained(path)
            CLIPImageProcessorPil(size={"shortest_edge": SIDE}, crop_size=size).save_pretrained(path)
        elif kind == "siglip":
            SiglipModel(SiglipConfig(text_config=text, vision_config=vision)).save_pretrained(path)
            SiglipImageProcessorPil(size=size).save_pretrained(path)
        else:
            patches = {**tower, "num_patches": 9, "patch_size": PATCH}
            Siglip2Model(Siglip2Config(text_config=text, vision_config=patches)).save_pretrained(path)
            Siglip2ImageProcessorPil(patch_size=PATCH, max_num_patches=6).save_pretrained(path)
    if kind == "siglip2":
        letters = ("<pad>", "<eos>", "<bos>", "<unk>", "<mask>", "▁", *"abcdefilorstu")
        vocabulary = {letter: i for i, letter in enumerate(letters)}
        Siglip2Tokenizer(vocabulary, [], padding_side="right").save_pretrained(path)
        return path
    words = Tokenizer(WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token="<unk>"))
    words.pre_tokenizer = Whitespace()  # pyright: ignore[reportAttributeAccessIssue]
    words.post_processor = TemplateProcessing(single="$A <eos>", special_tokens=[("<eos>", 2)])  # pyright: ignore[reportAttributeAccessIssue]
    names = {"pad_token": "<pad>", "unk_token": "<unk>", "eos_token": "<eos>"}
    PreTrainedTokenizerFast(tokenizer_object=words, **names).save_pretrained(path)
    return path
