"""Loading of a released HunyuanDiT, in diffusers' folder layout or its authors', as the decoder of any model with a bridge."""

from __future__ import annotations

import json
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import diffusers
import torch
import transformers
from diffusers import AutoencoderKL, HunyuanDiT2DModel
from diffusers.utils import logging as diffusers_logging
from safetensors import SafetensorError
from transformers import BertConfig, BertModel, BertTokenizer, T5Config, T5EncoderModel, T5Tokenizer

from latentbridge.errors import UserError
from latentbridge.models.autoencoder import KLAutoencoder, kl_network
from latentbridge.models.diffusion import Scheduler, make_scheduler
from latentbridge.models.library_logging import quiet
from latentbridge.models.omnibridge.decoder import CaptionEncoder, Decoder
from latentbridge.models.omnibridge.modeling_omnibridge import OmniBridge
from latentbridge.models.omnibridge.tencent_dit import (
    AUTOENCODER,
    CAPTION_TOKENIZER,
    CAPTIONS,
    MT5,
    SCHEDULER,
    build_tencent,
    read_tencent,
    tencent_config,
    tencent_root,
)
from latentbridge.models.tensors import describe_mismatch

PARTS = ("text_encoder.", "decoder.", "autoencoder.", "captions.")
"""State-dict prefixes of the parts that `attach_decoder` sets; their weights are not saved with the model."""
_PRETRAINING_PX = 512
"""Picture size at which a patch is one rotary position; other sizes interpolate the same range (spec 2.2 step 7)."""
_HUNYUAN_V1_2: dict[str, Any] = {
    "hidden_size": 1408,
    "in_channels": 4,
    "patch_size": 2,
    "sample_size": 128,
    "num_layers": 40,
    "mlp_ratio": 4.3637,
    "use_style_cond_and_image_meta_size": False,
}
"""Sizes that differ from diffusers' defaults."""
_MT5_XL: dict[str, Any] = {
    "vocab_size": 250112,
    "d_model": 2048,
    "d_ff": 5120,
    "num_layers": 24,
    "num_heads": 32,
    "feed_forward_proj": "gated-gelu",
}
"""Sizes that differ from transformers' defaults."""
_BERT: dict[str, Any] = {
    "vocab_size": 47020,
    "hidden_size": 1024,
    "num_hidden_layers": 24,
    "num_attention_heads": 16,
    "intermediate_size": 4096,
}
_SDXL_WIDTHS = (128, 256, 512, 512)
_UNUSED = ("pooler.",)
"""Key prefixes in released files that are ignored: BERT's pooler."""
_PICKLED_UNUSED = (*_UNUSED, "cls.", "embeddings.position_ids", "decoder.", "lm_head.")
"""The same in the authors' layout, whose files hold whole models: BERT's heads and mT5's decoder."""


def attach_meta_decoder(model: OmniBridge) -> None:
    """Attach HunyuanDiT v1.2 on the meta device, without BERT and tokenizers, which training does not use."""
    with torch.device("meta"):
        model.text_encoder = T5EncoderModel(T5Config(**_MT5_XL))
        model.decoder = Decoder(HunyuanDiT2DModel(**_HUNYUAN_V1_2), rope_span=_PRETRAINING_PX // 8 // 2)
        model.add_module(
            "autoencoder", KLAutoencoder(kl_network(_SDXL_WIDTHS, 4, layers_per_block=2, scaling_factor=0.13025))
        )


def attach_meta_captions(model: OmniBridge) -> None:
    """Attach the caption inputs of HunyuanDiT v1.2 on the meta device to its decoder there; texts take the model's own tokens."""
    sizes = dict(model.decoder.transformer.config)
    with torch.device("meta"):
        encoder = BertModel(BertConfig(**_BERT), add_pooling_layer=False)
    lengths = sizes["text_len"], sizes["text_len_t5"]
    model.captions = CaptionEncoder(encoder, model.tokenizer, lengths[0], model.tokenizer, lengths[1]).eval()
    model.scheduler = make_scheduler(1000)


class Layout(NamedTuple):
    """Locations and settings of the parts of a HunyuanDiT."""

    config: dict[str, Any]
    """diffusers' config of the transformer."""
    transformer: Callable[[torch.dtype], Any]
    """Loads the transformer."""
    autoencoder: Path
    captions: Path
    text_encoder: Path
    tokenizers: tuple[Path, Path]
    """Folders of BERT's tokenizer and of mT5's."""
    scheduler: Scheduler
    pickled: bool
    """True if parts may be in `.bin` files, of which tensors alone are unpickled."""


def is_decoder(folder: Path) -> bool:
    """Return whether a folder holds a decoder, in diffusers' layout or its authors'."""
    return (folder / "transformer" / "config.json").is_file() or tencent_root(folder) is not None


def _layout(folder: Path) -> Layout:
    root = tencent_root(folder)
    if root is not None:
        stored = read_tencent(root)
        config = tencent_config(stored, root)
        return Layout(
            config,
            lambda dtype: build_tencent(stored, config, dtype, root),
            root / AUTOENCODER,
            root / CAPTIONS,
            root / MT5,
            (root / CAPTION_TOKENIZER, root / MT5),
            _scheduler(SCHEDULER, root),
            pickled=True,
        )
    path = folder / "scheduler" / "scheduler_config.json"
    return Layout(
        _read_json(folder / "transformer" / "config.json"),
        lambda dtype: _network(HunyuanDiT2DModel, folder / "transformer", torch_dtype=dtype),
        folder / "vae",
        folder / "text_encoder",
        folder / "text_encoder_2",
        (folder / "tokenizer", folder / "tokenizer_2"),
        _scheduler(_read_json(path), path),
        pickled=False,
    )


def attach_decoder(model: OmniBridge, folder: Path, dtype: torch.dtype = torch.float16) -> None:
    """Attach the HunyuanDiT v1.2 in `folder`, conditioned on the bridge's output instead of mT5's states (spec 2.2 step 7).

    The folder has diffusers' layout or that of its authors (`tencent_dit.py`). Weights are `dtype`, the autoencoder's
    float32, as in the release; bfloat16 would round timesteps to multiples of four. The scheduler is the one in the folder,
    for the authors' layout DDPM. Raises UserError if the decoder does not fit the model.
    """
    if "decoder" in model.config.parts:
        raise UserError(
            "The model has a decoder already; a released one goes with a model of backbone and bridge only."
        )
    if "bridge" not in model.config.parts:
        raise UserError("The model has no bridge that a decoder could read; give a decoder to an OmniBridge model.")
    layout = _layout(folder)
    config = layout.config
    expected = [config.get("text_len_t5"), config.get("cross_attention_dim_t5")]
    produced = [model.config.text_length, model.config.aligner.d_model]
    if expected != produced:
        raise UserError(
            f"{folder} expects a condition of {expected}, but the bridge outputs {produced}; use the decoder that it was "
            "trained with."
        )
    if config.get("use_style_cond_and_image_meta_size", True):
        raise UserError(
            f"{folder} is a HunyuanDiT before version 1.2, which also takes style and size; use version 1.2."
        )
    tokenizers = [_tokenizer(*each) for each in zip((BertTokenizer, T5Tokenizer), layout.tokenizers, strict=True)]
    transformer = layout.transformer(dtype)
    pickled = layout.pickled
    autoencoder = KLAutoencoder(_network(AutoencoderKL, layout.autoencoder, pickled, torch_dtype=torch.float32))
    text_encoder = _network(T5EncoderModel, layout.text_encoder, pickled, dtype=dtype)
    captions = _network(BertModel, layout.captions, pickled, dtype=dtype, add_pooling_layer=False)
    widths = [autoencoder.channels, text_encoder.config.d_model, captions.config.hidden_size]
    expected = [config["in_channels"], config["cross_attention_dim_t5"], config["cross_attention_dim"]]
    if widths != expected:
        raise UserError(
            f"The parts of {folder} belong to different models (widths {widths} instead of {expected}); download it again."
        )
    model.captions = CaptionEncoder(captions, tokenizers[0], config["text_len"], tokenizers[1], config["text_len_t5"])
    model.text_encoder = text_encoder
    model.decoder = Decoder(
        transformer, rope_span=_PRETRAINING_PX // autoencoder.patch_px // config["patch_size"]
    ).eval()
    model.add_module("autoencoder", autoencoder)
    model.scheduler = layout.scheduler


def _network(kind: Any, folder: Path, pickled: bool = False, **options: Any) -> Any:
    """Load a library's network from its folder; raises UserError if any tensor does not fit.

    With `pickled` a folder may have `.bin` files instead of safetensors, from which both libraries read tensors alone.
    """
    safetensors = any(folder.glob("*.safetensors"))
    if not safetensors and not (pickled and any(folder.glob("*.bin"))):
        raise UserError(f"{folder} holds no .safetensors files; download the safetensors version of the decoder.")
    try:
        with quiet(transformers.logging, diffusers_logging):
            network, report = kind.from_pretrained(
                folder,
                use_safetensors=safetensors,
                local_files_only=True,
                ignore_mismatched_sizes=True,  # reported below; the library's error names no tensor
                output_loading_info=True,
                **options,
            )
    except (OSError, ValueError, RuntimeError, SafetensorError, pickle.UnpicklingError) as error:
        reason = str(error).strip().partition("\n")[0]
        raise UserError(f"Cannot read {folder} ({reason}); download it again.") from error
    unused = _UNUSED if safetensors else _PICKLED_UNUSED
    unexpected = {name for name in report["unexpected_keys"] if not name.startswith(unused)}
    names = {*report["missing_keys"], *unexpected, *(name for name, *_ in report["mismatched_keys"])}
    if mismatched := sorted(names):
        raise UserError(f"{folder} does not fit: {describe_mismatch(mismatched)}.")
    return network.eval()


def _tokenizer(kind: Any, folder: Path) -> Any:
    """Load a tokenizer from its folder; without a vocabulary file the library would start an empty one."""
    names = [name for name in kind.vocab_files_names.values() if (folder / name).is_file()]
    if not names:
        raise UserError(f"{folder} holds no vocabulary; it needs one of {', '.join(kind.vocab_files_names.values())}.")
    try:
        return kind.from_pretrained(folder, local_files_only=True)
    except Exception as error:  # the Rust parser raises bare Exception
        hint = (
            'run `pip install "latentbridge[released]"`, whose sentencepiece reads it'
            if names == ["spiece.model"]
            else "download it again"
        )
        raise UserError(
            f"Cannot read {folder / names[0]} ({str(error).strip().partition(chr(10))[0]}); {hint}."
        ) from error


def _scheduler(values: dict[str, Any], path: Path) -> Scheduler:
    """Build the diffusers scheduler that a config names; `path` is where it is from."""
    name = values.get("_class_name", "")
    kind = getattr(diffusers, name, None) if name.endswith("Scheduler") else None
    if kind is None:
        raise UserError(
            f"{path} names no scheduler of diffusers ({name!r}); set its _class_name, for example to DDPMScheduler."
        )
    scheduler = kind.from_config(values)
    if not hasattr(scheduler, "alphas_cumprod") or not hasattr(scheduler, "init_noise_sigma"):
        raise UserError(f"{name} does not add noise as HunyuanDiT was trained; use another, such as DDPMScheduler.")
    return scheduler


def _read_json(path: Path) -> dict[str, Any]:
    try:
        return json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise UserError(
            f"Cannot read {path} ({error}); give the folder of a HunyuanDiT in diffusers' layout."
        ) from error
