"""Every knob of a model and of a run, as frozen dataclasses; the standard library only."""

from __future__ import annotations

import dataclasses
import json
import math
import types
import typing
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

from latentbridge.errors import UserError, unknown_name

ConfigT = TypeVar("ConfigT")


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
class SecondViewConfig:
    """What pretrained networks add to embeddings (`models/second_view.py`)."""

    words: int = 0
    """Size of the lexicon; 0 builds no second view."""
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
    """One unified model."""

    parts: tuple[str, ...] = ("backbone", "bridge", "decoder")
    """What the model has: "bridge" is projector, aligner and retrieval head, "decoder" is text encoder, decoder and autoencoder."""
    backbone: BackboneConfig = BackboneConfig()
    aligner: AlignerConfig = AlignerConfig()
    retrieval: RetrievalConfig = RetrievalConfig()
    decoder: DecoderConfig = DecoderConfig()
    autoencoder: AutoencoderConfig = AutoencoderConfig()
    second_view: SecondViewConfig = SecondViewConfig()
    text_length: int = 32
    """Positions of the decoder's text slot; texts are padded to it, and padding is encoded like any token."""


@dataclass(frozen=True)
class TinyJanusConfig:
    """Sizes of a Janus-Pro built from nothing; released weights bring their own config."""

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

    width: int = 192
    """Of the language model."""
    num_layers: int = 4
    num_heads: int = 6
    mar: MarConfig = MarConfig()
    patch_size_px: int = 8
    """Side of the square that one image latent stands for; a power of two."""
    vae_channels: int = 32
    """A multiple of 4, for the norms."""


@dataclass(frozen=True)
class TinyBagelConfig:
    """Sizes of a BAGEL built from nothing; released weights bring their own config."""

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
    vae_channels: int = 32
    """A multiple of 32, for the norms."""


@dataclass(frozen=True)
class OptimConfig:
    """Muon for the hidden matrices, AdamW for the rest; linear warm-up, then constant, then linear decay to zero."""

    lr: float = 1e-3
    """Peak learning rate of AdamW."""
    muon_lr: float = 5e-3
    weight_decay: float = 0.01
    warmup_steps: int = 100
    decay_fraction: float = 0.4
    """Share of the run, at its end, over which the learning rate falls to zero."""
    clip_norm: float = 1.0
    ema_decay: float = 0.998


@dataclass(frozen=True)
class TaskMix:
    """Shares of the kinds of conversation about `shapes`; they need not sum to one."""

    look: float = 0.45
    """A picture with questions, and half of the time a description, in any order."""
    reason: float = 0.15
    """A question answered by a worked chain."""
    draw: float = 0.20
    edit: float = 0.20
    relation: float = 0.0
    """Share of questions turned into ones about a relation, on top of a sixth; the hardest kind to learn."""


@dataclass(frozen=True)
class LatentUMMWeights:
    """What each term of LatentUMM counts in the total (`training/latentumm.py`)."""

    modal: float = 1.0
    task: float = 1.0
    """lambda_1."""
    preference: float = 0.1
    """lambda_2, as in the released embedding-space rollouts; the paper's value is not known."""
    anchor: float = 1.0
    """The release calls this term target."""
    contrast: float = 1.0
    """Unused by the reference objective."""


@dataclass(frozen=True)
class PostTrainConfig:
    """What post-training adds to the native losses; a method reads the fields its docstring names."""

    understanding: float = 1.0
    """Weight of the native loss over conversations."""
    generation: float = 1.0
    """Weight of the native loss over drawings."""
    reconstruction: float = 1.0
    """Weight of RecA's term."""
    self_play: float = 1.0
    """Weight of UniGame's term."""
    perturbation: float = 0.02
    """The adversary's reach, as a share of the latent's norm; the release's bound."""
    objective: Literal["anchored", "reference"] = "anchored"
    """LatentUMM as ours or as released."""
    weights: LatentUMMWeights = LatentUMMWeights()
    teacher: str = "none"
    """Whose embeddings anchor LatentUMM's latents: "none", or a name that `load_teacher` knows."""
    rollouts: int = 4
    """K; an even number where anchored."""
    roundtrip_steps: int = 4
    """Of denoising in a round trip, where a backbone denoises."""
    sigma: float = 0.05
    """Size of the rollouts' noise, in units of the latent's RMS where anchored; the released one."""
    guard_warmup_steps: int = 100
    """Steps before which a collapse is not held against the run."""


@dataclass(frozen=True)
class StageConfig:
    """What a stage is fed and how its terms weigh; a stage reads the fields its docstring names."""

    kind: Literal[
        "pretrain_decoder",
        "pretrain_backbone",
        "sft",
        "align",
        "posttrain_sft",
        "reca",
        "unigame",
        "unicot",
        "latentumm",
    ]
    drawings: float = 0.0
    """Share of samples from the drawings world; 0 needs no downloaded data."""
    tasks: TaskMix = TaskMix()
    lora_rank: int = 0
    """0 trains all backbone weights; otherwise peft adapters of this rank."""
    beta_schedule: Literal["none", "step", "linear", "cosine", "ladder"] = "linear"
    diffusion_weight: float = 0.0
    distillation_weight: float = 1.0
    retrieval_weight: float = 0.0
    items: int = 16384
    """How many items alignment or post-training goes through; what frozen networks say of them is cached on disk."""
    manifest: str = ""
    """A user's own data (JSONL), mixed in at half of the samples where given."""
    posttrain: PostTrainConfig = PostTrainConfig()


@dataclass(frozen=True)
class RunConfig:
    """A complete run: what is trained, on what, for how long, from where."""

    name: str
    stage: StageConfig
    steps: int
    batch_size: int
    model: ModelConfig = ModelConfig()
    optim: OptimConfig = OptimConfig()
    init: tuple[tuple[str, str], ...] = ()
    """(part of the model, folder it starts from) pairs. A relative folder is a sibling of this run's own, "tiny" the shipped
    model; the part "" is the whole model."""
    seed: int = 0
    bf16: bool = True
    """Mixed precision by autocast; on CPUs with AMX it halves the time of a step."""
    log_every: int = 20
    checkpoint_every: int = 200
    threads: int = 0
    """CPU threads; 0 takes all. Results are bitwise reproducible at one count only."""

    def inherits(self, part: str) -> bool:
        """Whether the run starts `part`, such as "decoder.", from another folder."""
        return any(part.startswith(given) for given, _ in self.init)

    def __post_init__(self) -> None:
        least = {"steps": 1, "batch_size": 1, "log_every": 1, "checkpoint_every": 1, "seed": 0, "threads": 0}
        for name, bound in least.items():
            if getattr(self, name) < bound:
                raise UserError(f"{name} is {getattr(self, name)}; it takes {bound} or more.")


def to_dict(config: Any) -> dict[str, Any]:
    """The config as plain JSON values."""
    return json.loads(json.dumps(dataclasses.asdict(config)))


def from_dict(kind: type[ConfigT], values: dict[str, Any]) -> ConfigT:
    """The inverse of `to_dict`; unknown keys are refused with the nearest known one."""
    hints = typing.get_type_hints(kind)
    fields = {f.name: f for f in dataclasses.fields(kind)}  # pyright: ignore[reportArgumentType]
    if not isinstance(values, dict):
        raise UserError(f"{values!r} cannot be read as {kind.__name__}, which is a group of keys: {', '.join(fields)}.")
    for name in values:
        if name not in fields:
            raise unknown_name(f"key in {kind.__name__}", name, fields)
    for name, field in fields.items():
        if name not in values and field.default is dataclasses.MISSING:
            raise UserError(f"{kind.__name__} needs a value for {name!r}; add the key.")
    return kind(**{name: _convert(hints[name], value, name) for name, value in values.items()})


def with_overrides(config: ConfigT, overrides: list[str]) -> ConfigT:
    """A copy with `key.subkey=value` strings applied; raises UserError for unknown keys and values of the wrong type."""
    for override in overrides:
        path, found, text = override.partition("=")
        if not found:
            raise UserError(f"An override has the form key=value, not {override!r}.")
        config = _replaced(config, path.split("."), text)
    return config


def _replaced(config: Any, path: list[str], text: str) -> Any:
    name, *rest = path
    fields = {f.name for f in dataclasses.fields(config)}
    if name not in fields:
        raise unknown_name("key", name, fields)
    if rest and not dataclasses.is_dataclass(getattr(config, name)):
        raise UserError(f"{name!r} is a single setting, so nothing follows it after a dot; write {name}=value.")
    if rest:
        return dataclasses.replace(config, **{name: _replaced(getattr(config, name), rest, text)})
    hint = typing.get_type_hints(type(config))[name]
    if dataclasses.is_dataclass(hint):
        raise UserError(
            f"{name!r} is a group of keys; set one of them, for example {name}.{dataclasses.fields(hint)[0].name}=..."
        )
    try:
        value = (
            text
            if hint is str or typing.get_origin(hint) is Literal
            else json.loads(text.lower() if hint is bool else text)
        )
    except json.JSONDecodeError:
        raise UserError(f"{text!r} is not a value for {name!r}, which takes {_words(hint)}.") from None
    return dataclasses.replace(config, **{name: _convert(hint, value, name)})


def _convert(hint: Any, value: Any, name: str) -> Any:
    if dataclasses.is_dataclass(hint) and isinstance(hint, type):
        return from_dict(hint, value)
    if typing.get_origin(hint) is tuple:
        kinds = typing.get_args(hint)
        if not isinstance(value, (list, tuple)) or (kinds[-1] is not Ellipsis and len(value) != len(kinds)):
            raise UserError(f"{value!r} is not a value for {name!r}, which takes {_words(hint)}.")
        return tuple(_convert(kinds[0], item, name) for item in value)
    if typing.get_origin(hint) is Literal:
        if value not in typing.get_args(hint):
            raise unknown_name(f"value for {name}", str(value), typing.get_args(hint))
        return value
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if isinstance(value, float) and not math.isfinite(value):
        raise UserError(f"{value!r} is not a value for {name!r}, which takes a finite number.")
    if isinstance(hint, (type, types.UnionType)) and (
        not isinstance(value, hint) or (hint is int and isinstance(value, bool))
    ):
        raise UserError(f"{value!r} is not a value for {name!r}, which takes {_words(hint)}.")
    return value


def _words(hint: Any) -> str:
    names = {int: "a whole number", float: "a number", bool: "true or false", str: "text"}
    return names.get(hint, "a list such as [0, 1]" if typing.get_origin(hint) is tuple else str(hint))
