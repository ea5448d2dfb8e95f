"""Sizes of models with random weights; released weights bring their own config."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal


@dataclass(frozen=True)
class QwenRelease:
    """Settings files of a released Qwen-VL, as JSON texts; empty for a model built here."""

    config: str = ""
    """transformers' config.json, from which the network is built instead of from the sizes beside."""
    processor: str = ""
    """Settings of the image processor; without them pictures are limited to `pixel_range`."""
    generation: str = ""
    """generation_config.json: sampling defaults and the tokens that end a reply."""
    reply_prefix: str = ""
    """Text with which the chat template opens a reply, as thinking models have it."""


@dataclass(frozen=True)
class BackboneConfig:
    """A Qwen2-VL; with a `release`, also a Qwen2.5-VL or Qwen3-VL."""

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
    """Side of the square that pictures are fitted to; 0 keeps their sizes, which the processor limits to `pixel_range`."""
    pixel_range: tuple[int, int] = (256 * 28 * 28, 1024 * 28 * 28)
    """Smallest and largest picture area in pixels if `image_size_px` is 0 (spec 2)."""
    vocab_size: int = 0
    """Rows of the embedding table; 0 takes the tokenizer's number of tokens."""
    rope_theta: float = 10000.0
    tied_embeddings: bool = True
    system_prompt: str = ""
    """The ChatML system line; the tiny model has none, released Qwen2-VL uses "You are a helpful assistant."."""
    release: QwenRelease = QwenRelease()


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
    """Relative position bias in cross-attention, so that query i can find word i of a description. The paper and the
    release have none; without it a tiny aligner must infer word positions from the states."""
    norm_eps: float = 1e-6

    @classmethod
    def upgrade(cls, values: dict[str, Any]) -> dict[str, Any]:
        """Return stored values without `dropout`, which models had before 2026-12-01 and never applied."""
        return {name: value for name, value in values.items() if name != "dropout"}


@dataclass(frozen=True)
class RetrievalConfig:
    """The retrieval head (spec 1.4, 2.4)."""

    num_image_queries: int = 16
    num_text_queries: int = 16
    embedding_size: int = 128
    num_heads: int = 4


@dataclass(frozen=True)
class AuxiliaryEmbeddingConfig:
    """The auxiliary pretrained embedding (`models/omnibridge/auxiliary_embedding.py`)."""

    words: int = 0
    """Words that the map is fitted to, in 8 bits a number, or 5 with `more_words`; 0 builds no auxiliary embedding."""
    more_words: int = 0
    """Further words of the lexicon, product-quantised."""
    own_words: int = 0
    """Known words of the model's other worlds; with 0 no word is ever reported as unknown."""
    width: int = 192
    eye_px: int = 128
    """Side of the vision encoder's input pictures, a multiple of 32."""
    share: float = 0.9
    """Weight of the auxiliary cosine in that of the whole embedding, from 0 to 1. Text-to-image R@1 of the shipped model
    on validation drawings: .65 at 0.5, .68 at 0.7, .73 at 0.85 and 0.95."""


@dataclass(frozen=True)
class DecoderConfig:
    """The diffusion decoder: a HunyuanDiT over `grid` x `grid` image latents."""

    width: int = 192
    num_layers: int = 6
    """An even number: HunyuanDiT2DModel pairs its layers with skip connections."""
    num_heads: int = 3
    grid: int = 8
    num_train_timesteps: int = 1000


@dataclass(frozen=True)
class AutoencoderConfig:
    """A linear patch autoencoder: `patch_px` squared RGB pixels become `channels` numbers."""

    patch_px: int = 8
    channels: int = 64


@dataclass(frozen=True)
class ModelConfig:
    """An OmniBridge."""

    kind: Literal["omnibridge"] = "omnibridge"
    parts: tuple[str, ...] = ("backbone", "bridge", "decoder")
    """Parts of the model: "bridge" is projector, aligner and retrieval head; "decoder" is text encoder, decoder and autoencoder."""
    backbone: BackboneConfig = BackboneConfig()
    aligner: AlignerConfig = AlignerConfig()
    retrieval: RetrievalConfig = RetrievalConfig()
    decoder: DecoderConfig = DecoderConfig()
    autoencoder: AutoencoderConfig = AutoencoderConfig()
    second_view: AuxiliaryEmbeddingConfig = AuxiliaryEmbeddingConfig()
    text_length: int = 32
    """Tokens of the decoder's text condition; texts are padded to it, and padding is encoded like any token."""


AutoencoderKind = Literal["linear", "kl"]
"""Principal components, fitted before training (`PatchAutoencoder`), or a KL network (`KLAutoencoder`), which is random until
it is trained."""


@dataclass(frozen=True)
class TinyJanusConfig:
    """A Janus-Pro."""

    kind: Literal["janus"] = "janus"
    width: int = 192
    """Width of language model and vision encoder, which have `num_layers` each."""
    num_layers: int = 4
    num_heads: int = 6
    image_size_px: int = 64
    patch_size_px: int = 8
    """Side of the square of one VQ code and of one image token; a power of two."""
    codebook_size: int = 512
    vq_channels: int = 32
    """A multiple of 32, for the norms."""


@dataclass(frozen=True)
class MarConfig:
    """A masked autoregressive model over `grid` x `grid` image latents (MAR, arXiv 2406.11838)."""

    width: int = 192
    num_layers: int = 4
    """Layers of the encoder, and as many of the decoder."""
    num_heads: int = 6
    grid: int = 8
    """Side of the grid of learned positions, which are resized for larger pictures."""
    channels: int = 16
    num_buffers: int = 16
    """Tokens without a position; the encoder has no others if the whole picture is masked."""
    head_width: int = 256
    """Width of the MLP that denoises one image latent at a time."""
    head_layers: int = 3
    learned_variances: bool = False
    """The head also predicts the variances of stochastic sampling, as in the release."""


@dataclass(frozen=True)
class TinyHarmonConfig:
    """A Harmon."""

    kind: Literal["harmon"] = "harmon"
    width: int = 192
    """Width of the language model."""
    num_layers: int = 4
    num_heads: int = 6
    mar: MarConfig = MarConfig()
    patch_size_px: int = 8
    """Side of the square of one image latent; a power of two."""
    autoencoder: AutoencoderKind = "linear"
    vae_channels: int = 32
    """Channels of a "kl" network; a multiple of 4, for the norms."""


@dataclass(frozen=True)
class TinyBagelConfig:
    """A BAGEL."""

    kind: Literal["bagel"] = "bagel"
    width: int = 192
    """Width of both experts and the vision encoder, which have `num_layers` each."""
    num_layers: int = 4
    num_heads: int = 6
    num_kv_heads: int = 2
    image_size_px: int = 64
    """Side of a generated picture, and of the largest input picture, rounded down to the vision encoder's patches."""
    patch_size_px: int = 8
    """Side of the square of one latent token; a power of two, 4 or more."""
    eye_patch_px: int = 8
    """Side of the square of one vision token; no more than `patch_size_px`."""
    autoencoder: AutoencoderKind = "linear"
    vae_channels: int = 32
    """Channels of a "kl" network; a multiple of 32, for the norms."""


@dataclass(frozen=True)
class SceneConfig:
    """The teacher `scene`, a SigLIP."""

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
    """Tokens of a text, padding included; canonical descriptions have 26 at most, a tenth of free ones more."""


@dataclass(frozen=True)
class ReleaseConfig:
    """A unified backbone of a release's sizes, which its module under `models/backbones/` knows."""

    kind: Literal["janus-pro-1b", "janus-pro-7b", "bagel-7b-mot", "harmon-0.5b", "harmon-1.5b"]


NetworkConfig = ModelConfig | TinyJanusConfig | TinyBagelConfig | TinyHarmonConfig | SceneConfig | ReleaseConfig
"""Sizes of any network, told apart by `kind`; a stored one without it is a `ModelConfig`."""
