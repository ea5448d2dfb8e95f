"""HunyuanDiT in its authors' layout: `t2i/` with `model/pytorch_model_ema.pt`, and the mapping of its tensors to diffusers'.

Names, splits and order of halves were verified against diffusers' scripts/convert_hunyuandit_to_diffusers.py at 58eb52c,
folders and sampler against the copy of Tencent's code in xiao-xt/OmniBridge at 54a5878.
"""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from diffusers import HunyuanDiT2DModel
from torch import Tensor

from latentbridge.errors import UserError
from latentbridge.models.tensors import describe_mismatch, mismatched_tensors

CAPTIONS, CAPTION_TOKENIZER, MT5, AUTOENCODER = "clip_text_encoder", "tokenizer", "mt5", "sdxl-vae-fp16-fix"
"""Folders of the parts beside `model/`."""
SCHEDULER: dict[str, Any] = {
    "_class_name": "DDPMScheduler",
    "beta_start": 0.00085,
    "beta_end": 0.02,
    "beta_schedule": "scaled_linear",
    "prediction_type": "v_prediction",
    "steps_offset": 1,
    "clip_sample": False,
}
"""The sampler "ddpm", which is set in code."""
_WEIGHTS = ("pytorch_model_ema.pt", "pytorch_model_module.pt")
_SAMPLE_SIZE = 128
"""Side of the image latents of 1024 px, which no tensor tells."""
_MODULES = {
    "x_embedder.proj": "pos_embed.proj",
    "t_embedder.mlp.0": "time_extra_emb.timestep_embedder.linear_1",
    "t_embedder.mlp.2": "time_extra_emb.timestep_embedder.linear_2",
    "extra_embedder.0": "time_extra_emb.extra_embedder.linear_1",
    "extra_embedder.2": "time_extra_emb.extra_embedder.linear_2",
    "mlp_t5.0": "text_embedder.linear_1",
    "mlp_t5.2": "text_embedder.linear_2",
    "final_layer.linear": "proj_out",
    "final_layer.adaLN_modulation.1": "norm_out.linear",
    "style_embedder": "time_extra_emb.style_embedder",
    **{f"pooler.{name}": f"time_extra_emb.pooler.{name}" for name in ("q_proj", "k_proj", "v_proj", "c_proj")},
    "pooler": "time_extra_emb.pooler",
}
"""Names of modules outside of the blocks."""
_IN_BLOCKS = {
    "attn1.q_norm": ("attn1.norm_q",),
    "attn1.k_norm": ("attn1.norm_k",),
    "attn2.q_norm": ("attn2.norm_q",),
    "attn2.k_norm": ("attn2.norm_k",),
    "attn1.Wqkv": ("attn1.to_q", "attn1.to_k", "attn1.to_v"),
    "attn2.q_proj": ("attn2.to_q",),
    "attn2.kv_proj": ("attn2.to_k", "attn2.to_v"),
    "attn1.out_proj": ("attn1.to_out.0",),
    "attn2.out_proj": ("attn2.to_out.0",),
    "norm1": ("norm1.norm",),
    "norm2": ("norm3",),
    "norm3": ("norm2",),
    "default_modulation.1": ("norm1.linear",),
    "mlp.fc1": ("ff.net.0.proj",),
    "mlp.fc2": ("ff.net.2",),
}
"""Names of modules in a block; a tensor is split evenly among several."""


def tencent_root(folder: Path) -> Path | None:
    """Return the folder of the parts, which may be `folder` itself, its `t2i` or `ckpts/t2i`; None without one."""
    roots = (folder, folder / "t2i", folder / "ckpts" / "t2i")
    return next((root for root in roots if (root / MT5).is_dir() and (root / "model").is_dir()), None)


def read_tencent(root: Path) -> dict[str, Tensor]:
    """Return the tensors of the EMA weights, or of the plain ones without those, memory-mapped; nothing else is unpickled."""
    path = next((root / "model" / name for name in _WEIGHTS if (root / "model" / name).is_file()), None)
    if path is None:
        raise UserError(f"{root / 'model'} holds none of {', '.join(_WEIGHTS)}; download HunyuanDiT v1.2's weights.")
    try:
        stored = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except (OSError, RuntimeError, EOFError, pickle.UnpicklingError) as error:
        reason = str(error).strip().partition("\n")[0]
        raise UserError(f"Cannot read {path} ({reason}); download it again.") from error
    for key in ("ema", "module"):
        stored = stored[key] if isinstance(stored, dict) and isinstance(stored.get(key), dict) else stored
    if not isinstance(stored, dict) or not all(isinstance(tensor, Tensor) for tensor in stored.values()):
        raise UserError(f"{path} holds more than tensors; download HunyuanDiT v1.2's own file.")
    return stored


def tencent_config(stored: Mapping[str, Tensor], root: Path) -> dict[str, Any]:
    """Return the config of diffusers' HunyuanDiT2DModel for tensors under their authors' names."""
    try:
        width, channels, patch, _ = stored["x_embedder.proj.weight"].shape
        head_dim = len(stored["blocks.0.attn1.q_norm.weight"])
        positions, t5_width = stored["pooler.positional_embedding"].shape
        padding, clip_width = stored["text_embedding_padding"].shape
        outputs = len(stored["final_layer.linear.weight"])
        hidden = len(stored["blocks.0.mlp.fc1.weight"])
        pooled = len(stored["pooler.c_proj.weight"])
    except (KeyError, ValueError) as error:
        raise UserError(
            f"{root / 'model'} holds no HunyuanDiT ({error} is missing or odd); download it again."
        ) from error
    return {
        "num_attention_heads": width // head_dim,
        "attention_head_dim": head_dim,
        "hidden_size": width,
        "in_channels": channels,
        "patch_size": patch,
        "sample_size": _SAMPLE_SIZE,
        "num_layers": 1 + max(int(name.split(".")[1]) for name in stored if name.startswith("blocks.")),
        "mlp_ratio": (hidden + 0.5) / width,  # the library rounds the product down
        "cross_attention_dim": clip_width,
        "cross_attention_dim_t5": t5_width,
        "pooled_projection_dim": pooled,
        "text_len": padding - (positions - 1),
        "text_len_t5": positions - 1,
        "learn_sigma": outputs == 2 * channels * patch**2,
        "use_style_cond_and_image_meta_size": "style_embedder.weight" in stored,
    }


def build_tencent(stored: Mapping[str, Tensor], config: dict[str, Any], dtype: torch.dtype, root: Path) -> Any:
    """Build diffusers' network from tensors under their authors' names; raise UserError unless all fit."""
    converted = {name: tensor for each in stored for name, tensor in convert_tensor(each, stored[each]).items()}
    with torch.device("meta"):
        network: Any = HunyuanDiT2DModel.from_config(config)
    if mismatched := mismatched_tensors(network.state_dict(), converted):
        raise UserError(f"{root / 'model'} does not fit: {describe_mismatch(mismatched)}.")
    network.load_state_dict({name: tensor.to(dtype) for name, tensor in converted.items()}, assign=True)
    return network.eval()


def convert_tensor(name: str, tensor: Tensor) -> dict[str, Tensor]:
    """Return a tensor under diffusers' names."""
    module, _, leaf = name.rpartition(".")
    if name.startswith("blocks."):
        _, block, inside = module.split(".", 2)
        targets = _IN_BLOCKS.get(inside, (inside,))
        pieces = tensor.chunk(len(targets))
        return {
            f"blocks.{block}.{target}.{leaf}": piece.contiguous() for target, piece in zip(targets, pieces, strict=True)
        }
    if module == "final_layer.adaLN_modulation.1":  # shift and scale there, scale and shift here
        tensor = torch.cat(tensor.chunk(2)[::-1])
    module = _MODULES.get(module, module)
    return {f"{module}.{leaf}" if module else leaf: tensor}
