"""A released HunyuanDiT, in diffusers' folder layout, as the decoder of any model with a bridge."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import diffusers
import torch
import transformers
from diffusers import AutoencoderKL, HunyuanDiT2DModel
from diffusers.utils import logging as diffusers_logging
from safetensors import SafetensorError
from transformers import BertModel, BertTokenizer, T5Config, T5EncoderModel, T5Tokenizer

from latentbridge.errors import UserError
from latentbridge.models.autoencoder import KLAutoencoder, kl_network
from latentbridge.models.diffusion import Scheduler
from latentbridge.models.omnibridge.decoder import CaptionEncoder, Decoder
from latentbridge.models.omnibridge.modeling_omnibridge import OmniBridge

PARTS = ("text_encoder.", "decoder.", "autoencoder.", "captions.")
"""What `attach_decoder` sets; its weights stay in their own folder and are not saved with the model."""
_PRETRAINING_PX = 512
"""Picture size whose rotary positions HunyuanDiT takes one a patch; others divide the same span (spec 2.2 step 7)."""
_HUNYUAN_V1_2: dict[str, Any] = {
    "num_attention_heads": 16,
    "attention_head_dim": 88,
    "hidden_size": 1408,
    "in_channels": 4,
    "patch_size": 2,
    "sample_size": 128,
    "num_layers": 40,
    "mlp_ratio": 4.3637,
    "activation_fn": "gelu-approximate",
    "cross_attention_dim": 1024,
    "cross_attention_dim_t5": 2048,
    "pooled_projection_dim": 1024,
    "text_len": 77,
    "text_len_t5": 256,
    "learn_sigma": True,
    "use_style_cond_and_image_meta_size": False,
}
_MT5_XL: dict[str, Any] = {
    "vocab_size": 250112,
    "d_model": 2048,
    "d_kv": 64,
    "d_ff": 5120,
    "num_layers": 24,
    "num_heads": 32,
    "feed_forward_proj": "gated-gelu",
}
_SDXL_WIDTHS = (128, 256, 512, 512)
_UNREAD = ("pooler.",)
"""Tensors a folder may hold and nothing here reads: BERT's pooler."""


def attach_meta_decoder(model: OmniBridge) -> None:
    """Sets the networks of HunyuanDiT v1.2 without weights, on the meta device: names and shapes alone (spec 2.2 step 7).

    BERT and tokenizers are left out; training reads neither.
    """
    with torch.device("meta"):
        model.text_encoder = T5EncoderModel(T5Config(**_MT5_XL))
        model.decoder = Decoder(HunyuanDiT2DModel(**_HUNYUAN_V1_2), rope_span=_PRETRAINING_PX // 8 // 2)
        model.add_module(
            "autoencoder", KLAutoencoder(kl_network(_SDXL_WIDTHS, 4, layers_per_block=2, scaling_factor=0.13025))
        )


def is_decoder(folder: Path) -> bool:
    """Whether a folder holds a decoder in diffusers' layout."""
    return (folder / "transformer" / "config.json").is_file()


def attach_decoder(model: OmniBridge, folder: Path, dtype: torch.dtype = torch.float16) -> None:
    """Let `model` draw with the HunyuanDiT v1.2 in `folder`: its bridge's output goes in the mT5 slot (spec 2.2 step 7).

    Weights are `dtype`, the autoencoder's float32, as in the release; bfloat16 would round timesteps to steps of four.
    Whatever scheduler the folder names is used; the release samples 100 steps with guidance 6.
    """
    if "decoder" in model.config.parts:
        raise UserError(
            "The model has a decoder already; a released one goes with a model of backbone and bridge only."
        )
    if "bridge" not in model.config.parts:
        raise UserError("The model has no bridge that a decoder could read; give a decoder to an OmniBridge model.")
    config = _read_json(folder / "transformer" / "config.json")
    slot = [config.get("text_len_t5"), config.get("cross_attention_dim_t5")]
    given = [model.config.text_length, model.config.aligner.d_model]
    if slot != given:
        raise UserError(
            f"{folder} reads a condition of {slot}, but the bridge gives {given}; use the decoder it was trained for."
        )
    if config.get("use_style_cond_and_image_meta_size", True):
        raise UserError(
            f"{folder} is a HunyuanDiT before version 1.2, which also reads style and size; use version 1.2."
        )
    scheduler = _scheduler(folder / "scheduler" / "scheduler_config.json")
    tokenizers = [
        _tokenizer(kind, folder / name) for kind, name in ((BertTokenizer, "tokenizer"), (T5Tokenizer, "tokenizer_2"))
    ]
    transformer = _network(HunyuanDiT2DModel, folder / "transformer", torch_dtype=dtype)
    autoencoder = KLAutoencoder(_network(AutoencoderKL, folder / "vae", torch_dtype=torch.float32))
    text_encoder = _network(T5EncoderModel, folder / "text_encoder_2", dtype=dtype)
    captions = _network(BertModel, folder / "text_encoder", dtype=dtype, add_pooling_layer=False)
    widths = [autoencoder.channels, text_encoder.config.d_model, captions.config.hidden_size]
    read = [config["in_channels"], config["cross_attention_dim_t5"], config["cross_attention_dim"]]
    if widths != read:
        raise UserError(
            f"The parts of {folder} belong to different models (widths {widths}, but {read} are read); download it again."
        )
    model.captions = CaptionEncoder(captions, tokenizers[0], config["text_len"], tokenizers[1], config["text_len_t5"])
    model.text_encoder = text_encoder
    model.decoder = Decoder(
        transformer, rope_span=_PRETRAINING_PX // autoencoder.patch_px // config["patch_size"]
    ).eval()
    model.add_module("autoencoder", autoencoder)
    model.scheduler = scheduler


def _network(kind: Any, folder: Path, **options: Any) -> Any:
    """A library's network from its folder, built without weights first; every tensor must be known, present and of its shape."""
    if not any(folder.glob("*.safetensors")):
        raise UserError(f"{folder} holds no .safetensors files; download the safetensors version of the decoder.")
    try:
        with _quiet():
            network, report = kind.from_pretrained(
                folder,
                use_safetensors=True,
                local_files_only=True,
                ignore_mismatched_sizes=True,  # reported like the others, instead of an error that names no tensor
                output_loading_info=True,
                **options,
            )
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        reason = str(error).strip().partition("\n")[0]
        raise UserError(f"Cannot read {folder} ({reason}); download it again.") from error
    reshaped = [name for name, *_ in report["mismatched_keys"]]
    names = {*report["missing_keys"], *report["unexpected_keys"], *reshaped}
    odd = sorted(name for name in names if not name.startswith(_UNREAD))
    if odd:
        raise UserError(
            f"{folder} does not fit: {len(odd)} tensors are missing, unexpected or of another shape (first: {odd[0]})."
        )
    return network.eval()


@contextmanager
def _quiet() -> Iterator[None]:
    """Both libraries without their warnings, which the caller turns into errors."""
    libraries = (transformers.logging, diffusers_logging)
    levels = [library.get_verbosity() for library in libraries]
    for library in libraries:
        library.set_verbosity_error()
    try:
        yield
    finally:
        for library, level in zip(libraries, levels, strict=True):
            library.set_verbosity(level)


def _tokenizer(kind: Any, folder: Path) -> Any:
    """A tokenizer from its folder; the library would invent an empty vocabulary where none is there."""
    names = [name for name in kind.vocab_files_names.values() if (folder / name).is_file()]
    if not names:
        raise UserError(f"{folder} holds no vocabulary; it needs one of {', '.join(kind.vocab_files_names.values())}.")
    try:
        return kind.from_pretrained(folder, local_files_only=True)
    except Exception as error:  # the Rust reader raises nothing narrower
        hint = (
            'run `pip install "latentbridge[released]"`, whose sentencepiece reads it'
            if names == ["spiece.model"]
            else "download it again"
        )
        raise UserError(
            f"Cannot read {folder / names[0]} ({str(error).strip().partition(chr(10))[0]}); {hint}."
        ) from error


def _scheduler(path: Path) -> Scheduler:
    """The diffusers scheduler its config names."""
    values = _read_json(path)
    name = values.get("_class_name", "")
    kind = getattr(diffusers, name, None) if name.endswith("Scheduler") else None
    if kind is None:
        raise UserError(
            f"{path} names no scheduler of diffusers ({name!r}); set its _class_name, for example to DDPMScheduler."
        )
    scheduler = kind.from_config(values)
    if not hasattr(scheduler, "alphas_cumprod") or not hasattr(scheduler, "init_noise_sigma"):
        raise UserError(f"{name} does not noise the way HunyuanDiT was trained; use another, such as DDPMScheduler.")
    return scheduler


def _read_json(path: Path) -> dict[str, Any]:
    try:
        return json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise UserError(
            f"Cannot read {path} ({error}); give the folder of a HunyuanDiT in diffusers' layout."
        ) from error
