"""Sizes of models built from nothing; released weights bring their own."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class BackboneConfig:
    """Sizes of a Qwen2-VL built from nothing; released weights bring their own config."""

    hidden_size: int = 192
    num_layers: int = 4
    num_heads: int = 6
    num_kv_heads: int = 2
    intermediate_size: int = 512
    vision_width: int = 192
    vision_layers: int = 4
    vision_heads: int = 6
    patch_size_px: int = 8
    merge_size: int = 2
    image_size_px: int = 64
    """Side of the square every picture is fitted to; 0 keeps sizes and lets the processor choose within `pixel_range`."""
    pixel_range: tuple[int, int] = (256 * 28 * 28, 1024 * 28 * 28)
    """Smallest and largest picture area in pixels where `image_size_px` is 0 (spec 2)."""
    vocab_size: int = 0
    """Rows of the embedding table; 0 takes as many as the tokenizer has tokens."""
    rope_theta: float = 10000.0
    tied_embeddings: bool = True
    system_prompt: str = ""
    """The ChatML system line; the tiny model has none, released Qwen2-VL uses "You are a helpful assistant."."""


@dataclass(frozen=True)
class AlignerConfig:
    """The BiTransformer (spec 1.3). `d_model` equals the text encoder's width."""

    d_model: int = 128
    d_ff: int = 256
    d_kv: int = 32
    num_heads: int = 4
    num_layers: int = 4
    num_queries: int = 32
    cross_layers: tuple[int, ...] = (0, 1, 2, 3)
    num_buckets: int = 32
    max_distance: int = 128
    bidirectional: bool = True
    """False makes self-attention causal: the ablation of the paper's section IV-H.2."""
    cross_bias: bool = False
    """Whether cross-attention has a relative position bias, so that query i can find word i of a description. The paper
    and the release have none; without it a tiny aligner must guess from the states which word comes where."""
    dropout: float = 0.0
    """Kept for released configs; the training loop leaves modules in evaluation mode, so it never acts."""
    norm_eps: float = 1e-6


@dataclass(frozen=True)
class RetrievalConfig:
    """The retrieval head (spec 1.4, 2.4)."""

    num_image_queries: int = 16
    num_text_queries: int = 16
    embedding_size: int = 128
    num_heads: int = 4


@dataclass(frozen=True)
class AuxiliaryEmbeddingConfig:
    """What pretrained networks add to embeddings (`models/omnibridge/auxiliary_embedding.py`)."""

    words: int = 0
    """Words that the map is fitted to, 8 bits a number, or 5 where there are `more_words`; 0 builds no second view."""
    more_words: int = 0
    """Further words of the lexicon, in product codes."""
    own_words: int = 0
    """Words of the model's other worlds that are written down as known; with 0 no word is ever reported as unknown."""
    width: int = 192
    eye_px: int = 128
    """Side to which the eye scales pictures, a multiple of 32."""
    share: float = 0.9
    """Weight of the second view's cosine in that of the whole embedding, from 0 to 1. Text-to-picture R@1 of the
    shipped model on validation drawings: .65 at 0.5, .68 at 0.7, .73 at 0.85 and 0.95."""


@dataclass(frozen=True)
class DecoderConfig:
    """The diffusion decoder: a HunyuanDiT over `grid` x `grid` image latents."""

    width: int = 192
    num_layers: int = 6
    """Even: HunyuanDiT2DModel pairs its layers with skip connections."""
    num_heads: int = 3
    grid: int = 8
    num_train_timesteps: int = 1000


@dataclass(frozen=True)
class AutoencoderConfig:
    """The linear patch autoencoder: `patch_px` squared RGB pixels become `channels` numbers."""

    patch_px: int = 8
    channels: int = 64


@dataclass(frozen=True)
class ModelConfig:
    """One unified model of ours (OmniBridge)."""

    kind: Literal["omnibridge"] = "omnibridge"
    parts: tuple[str, ...] = ("backbone", "bridge", "decoder")
    """What the model has: "bridge" is projector, aligner and retrieval head, "decoder" is text encoder, decoder and autoencoder."""
    backbone: BackboneConfig = BackboneConfig()
    aligner: AlignerConfig = AlignerConfig()
    retrieval: RetrievalConfig = RetrievalConfig()
    decoder: DecoderConfig = DecoderConfig()
    autoencoder: AutoencoderConfig = AutoencoderConfig()
    second_view: AuxiliaryEmbeddingConfig = AuxiliaryEmbeddingConfig()
    text_length: int = 32
    """Positions of the decoder's text slot; texts are padded to it, and padding is encoded like any token."""


AutoencoderKind = Literal["linear", "kl"]
"""What turns pictures into image latents: principal components, fitted before training (`PatchAutoencoder`), or a network as
released (`KLAutoencoder`), which is random until something trains it."""


@dataclass(frozen=True)
class TinyJanusConfig:
    """Sizes of a Janus-Pro built from nothing; released weights bring their own config."""

    kind: Literal["janus"] = "janus"
    width: int = 192
    """Of language model and eye, which are equally deep."""
    num_layers: int = 4
    num_heads: int = 6
    image_size_px: int = 64
    patch_size_px: int = 8
    """Side of the square that one code draws and one image token shows; a power of two."""
    codebook_size: int = 512
    vq_channels: int = 32
    """A multiple of 32, for the norms."""


@dataclass(frozen=True)
class MarConfig:
    """Sizes of a masked autoregressive model over `grid` x `grid` image latents (MAR, arXiv 2406.11838)."""

    width: int = 192
    num_layers: int = 4
    """Of the encoder, and again of the decoder."""
    num_heads: int = 6
    grid: int = 8
    channels: int = 16
    num_buffers: int = 16
    """Tokens that stand for no place; where the whole picture is masked, the encoder has no others."""
    head_width: int = 256
    """Of the small network that denoises one image latent at a time."""
    head_layers: int = 3


@dataclass(frozen=True)
class TinyHarmonConfig:
    """Sizes of a Harmon built from nothing; released weights bring their own sizes."""

    kind: Literal["harmon"] = "harmon"
    width: int = 192
    """Of the language model."""
    num_layers: int = 4
    num_heads: int = 6
    mar: MarConfig = MarConfig()
    patch_size_px: int = 8
    """Side of the square that one image latent stands for; a power of two."""
    autoencoder: AutoencoderKind = "linear"
    vae_channels: int = 32
    """Of a "kl" network; a multiple of 4, for the norms."""


@dataclass(frozen=True)
class TinyBagelConfig:
    """Sizes of a BAGEL built from nothing; released weights bring their own config."""

    kind: Literal["bagel"] = "bagel"
    width: int = 192
    """Of both experts and of the eye, which are equally deep."""
    num_layers: int = 4
    num_heads: int = 6
    num_kv_heads: int = 2
    image_size_px: int = 64
    """Side of a drawing, and of the largest picture read, rounded down to the eye's patches."""
    patch_size_px: int = 8
    """Side of the square that one latent token draws; a power of two, 4 or more."""
    eye_patch_px: int = 8
    """Side of the square that one of the eye's tokens shows; no more than `patch_size_px`."""
    autoencoder: AutoencoderKind = "linear"
    vae_channels: int = 32
    """Of a "kl" network; a multiple of 32, for the norms."""


@dataclass(frozen=True)
class SceneConfig:
    """Sizes of the teacher `scene`, a SigLIP built from nothing; released weights bring their own config."""

    kind: Literal["scene"] = "scene"
    picture_width: int = 512
    """Also of the embeddings."""
    picture_layers: int = 3
    picture_heads: int = 8
    image_size_px: int = 64
    patch_size_px: int = 16
    text_width: int = 256
    text_layers: int = 3
    text_heads: int = 4
    text_length: int = 32
    """Tokens that are read, padding included; canonical descriptions have 26 at most, a tenth of free ones more."""


@dataclass(frozen=True)
class ReleaseConfig:
    """A unified backbone exactly as large as its release, whose own module under `models/backbones/` knows the sizes."""

    kind: Literal["janus-pro-7b", "bagel-7b-mot", "harmon-1.5b"]


NetworkConfig = ModelConfig | TinyJanusConfig | TinyBagelConfig | TinyHarmonConfig | SceneConfig | ReleaseConfig
"""What a run can train and a model folder hold; a stored one tells by its `kind`, and is a `ModelConfig` where it has none."""
