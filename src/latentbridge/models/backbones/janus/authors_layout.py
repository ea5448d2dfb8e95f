"""The layout of deepseek-ai's own checkpoints of Janus and Janus-Pro: their config and tensor names in transformers' terms.

Verified against github.com/deepseek-ai/Janus at 1daa72f (`janus/models`). That code builds SigLIP from a table of named
towers and the VQ model from constants, so their sizes are in no config; they are taken from the tensors' shapes.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterator, Mapping
from typing import Any

import torch

from latentbridge.errors import UserError
from latentbridge.models.backbones.names import NameTable, Rule
from latentbridge.models.stored_tensor import StoredTensor

MODEL_TYPE = "multi_modality"
TOWERS = {
    "siglip_large_patch16_384": {"layers": 24, "heads": 16},
    "siglip_so400m_patch14_384": {"layers": 27, "heads": 16},
    "siglip_so400m_patch14_224": {"layers": 27, "heads": 16},
}
"""Layers and heads of a vision tower by its name, which shapes do not tell (`janus/models/siglip_vit.py`)."""
UNUSED = ("vision_model.vision_tower.attn_pool.", "gen_vision_model.quantize.codebook_used")
"""Tensors that no path of the authors' code reads: SigLIP's pooling head (`ignore_head`) and a record of training."""
_TOWER, _VISION = "vision_model.vision_tower.", "model.vision_model."
_BLOCK, _LAYER = rf"{_TOWER}blocks.{{\d+}}.", rf"{_VISION}encoder.layers.{{\d+}}."
_VQ, _OUR_VQ = "gen_vision_model.", "model.vqmodel."
_MOST_LAYERS = 8
"""Linear layers of a projector that are told apart; releases have two."""


def _projector(theirs: str, ours: str) -> list[Rule]:
    """Return the rules of an MLP, in which linear layers alternate with activations."""
    hidden = [(f"{theirs}layers.{2 * i}.", f"{ours}hidden_layers.{i - 1}.") for i in range(1, _MOST_LAYERS)]
    return [(f"{theirs}layers.0.", f"{ours}fc1."), *hidden]


NAMES = NameTable(
    (
        ("language_model.model.", "model.language_model."),
        ("language_model.lm_head.", "lm_head."),
        (f"{_TOWER}patch_embed.proj.", f"{_VISION}embeddings.patch_embedding."),
        (f"{_TOWER}pos_embed$", f"{_VISION}embeddings.position_embedding.weight$"),
        (f"{_TOWER}norm.", f"{_VISION}post_layernorm."),
        (_BLOCK + r"norm{\d}.", _LAYER + r"layer_norm{\d}."),
        (f"{_BLOCK}attn.proj.", f"{_LAYER}self_attn.projection_layer."),
        (f"{_BLOCK}attn.qkv.", f"{_LAYER}self_attn.qkv."),
        (f"{_BLOCK}mlp.", f"{_LAYER}mlp."),
        *_projector("gen_aligner.", "model.generation_aligner."),
        *_projector("aligner.", "model.aligner."),
        ("gen_embed.", "model.generation_embeddings."),
        ("gen_head.output_mlp_projector.", "model.generation_head.proj_out."),
        ("gen_head.vision_head.", "model.generation_head.vision_head."),
        (rf"{_VQ}encoder.conv_blocks.{{\d+}}.res.", rf"{_OUR_VQ}encoder.down.{{\d+}}.block."),
        (f"{_VQ}encoder.conv_blocks.", f"{_OUR_VQ}encoder.down."),
        (rf"{_VQ}decoder.conv_blocks.{{\d+}}.res.", rf"{_OUR_VQ}decoder.up.{{\d+}}.block."),
        (f"{_VQ}decoder.conv_blocks.", f"{_OUR_VQ}decoder.up."),
        (f"{_VQ}{{encoder|decoder}}.mid.0.", f"{_OUR_VQ}{{encoder|decoder}}.mid.block_1."),
        (f"{_VQ}{{encoder|decoder}}.mid.1.", f"{_OUR_VQ}{{encoder|decoder}}.mid.attn_1."),
        (f"{_VQ}{{encoder|decoder}}.mid.2.", f"{_OUR_VQ}{{encoder|decoder}}.mid.block_2."),
        (_VQ, _OUR_VQ),
    )
)
"""The authors' names and transformers'; a name that none fits is kept, and then refused as unexpected."""


def convert_tensor(name: str, tensor: StoredTensor) -> Iterator[tuple[str, StoredTensor]]:
    """Yield a stored tensor under its names in transformers' state dict: three for a fused `qkv`, none for an unused one."""
    if name.startswith(UNUSED):
        return
    name = NAMES.to_ours(name)
    if ".self_attn.qkv." in name:
        for index, part in enumerate("qkv"):
            chunk = tensor.converted(lambda values, index=index: values.chunk(3)[index])
            yield name.replace(".qkv.", f".{part}_proj."), chunk
    elif name.endswith(".position_embedding.weight"):
        yield name, tensor.converted(lambda values: values.flatten(0, -2))
    else:
        yield name, tensor


def transformers_config(
    config: Mapping[str, Any], shapes: Mapping[str, torch.Size], vision_heads: int | None = None
) -> dict[str, Any]:
    """Return the values of a JanusConfig, without token ids, for the authors' config and the shapes of the stored tensors.

    `vision_heads` is the number of heads of a vision tower that the authors' code does not name. Raise UserError for what
    transformers' modules cannot compute.
    """
    words = {
        key: value
        for key, value in config.get("language_config", {}).items()
        if key != "torch_dtype" and not key.startswith("_")  # how to compute, which the user chooses
    }
    for part in ("aligner_config", "gen_aligner_config"):
        if (kind := _params(config, part).get("projector_type", "mlp_gelu")) != "mlp_gelu":
            raise UserError(f"The {part} names the projector {kind!r}; only 'mlp_gelu', that of Janus-Pro, is known.")
    hidden = _shape(shapes, "language_model.model.embed_tokens.weight", 2)[1]
    words.setdefault("model_type", "llama")
    words.setdefault("tie_word_embeddings", False)
    return {
        "text_config": words,
        "vision_config": _vision_config(config, shapes, hidden, vision_heads),
        "vq_config": _vq_config(config, shapes, hidden),
        "tie_word_embeddings": words["tie_word_embeddings"],
    }


def _vision_config(
    config: Mapping[str, Any], shapes: Mapping[str, torch.Size], hidden: int, heads: int | None
) -> dict[str, Any]:
    params = _params(config, "vision_config")
    tower = "vision_model.vision_tower."
    width, _, patch, _ = _shape(shapes, f"{tower}patch_embed.proj.weight", 4)
    mlp_width = _shape(shapes, f"{tower}blocks.0.mlp.fc1.weight", 2)[0]
    image_px = params.get("image_size", patch * round(_shape(shapes, f"{tower}pos_embed", 3)[1] ** 0.5))
    known = TOWERS.get(params.get("model_name", ""))
    layers = _layers(params, known["layers"]) if known else _count(shapes, rf"{re.escape(tower)}blocks\.(\d+)\.")
    return {
        "hidden_size": width,
        "num_hidden_layers": layers,
        "num_attention_heads": heads or (known["heads"] if known else _unknown_heads(params, config)),
        "image_size": image_px,
        "patch_size": patch,
        "num_image_tokens": (image_px // patch) ** 2,
        "mlp_ratio": (mlp_width + 0.5) / width,  # transformers truncates the product, which then cannot fall short
        "projection_dim": hidden,
        "depth": _params(config, "aligner_config").get("depth", 1),
    }


def _vq_config(config: Mapping[str, Any], shapes: Mapping[str, torch.Size], hidden: int) -> dict[str, Any]:
    vq = "gen_vision_model."
    levels = _count(shapes, rf"{re.escape(vq)}encoder\.conv_blocks\.(\d+)\.")
    base = _shape(shapes, f"{vq}encoder.conv_in.weight", 4)[0]
    widths = [_shape(shapes, f"{vq}encoder.conv_blocks.{level}.res.0.conv2.weight", 4)[0] for level in range(levels)]
    entries, embed_dim = _shape(shapes, f"{vq}quantize.embedding.weight", 2)
    return {
        "embed_dim": embed_dim,
        "num_embeddings": entries,
        "latent_channels": _shape(shapes, f"{vq}encoder.conv_out.weight", 4)[0],
        "base_channels": base,
        "channel_multiplier": [width // base for width in widths],
        "num_res_blocks": _count(shapes, rf"{re.escape(vq)}encoder\.conv_blocks\.0\.res\.(\d+)\."),
        "projection_dim": hidden,
        "image_token_embed_dim": hidden,
        "num_hidden_layers": _params(config, "gen_aligner_config").get("depth", 1),
    }


def _layers(params: Mapping[str, Any], layers: int) -> int:
    """Return the number of a named tower's layers up to `select_layer`, which counts from the end if it is negative."""
    selected = params.get("select_layer", -1)
    return min(layers, layers + selected + 1 if selected <= 0 else selected)


def _unknown_heads(params: Mapping[str, Any], config: Mapping[str, Any]) -> int:
    """Return the heads of a vision tower whose name the authors' code does not know: its own, or the language model's."""
    if heads := params.get("heads"):
        return heads
    heads = config.get("language_config", {}).get("num_attention_heads", 32)
    warnings.warn(
        f"the config names the vision tower {params.get('model_name')!r}, which no release has, and not its number of heads; "
        f"it gets the language model's {heads}; name another as 'heads' in vision_config.params of config.json.",
        stacklevel=2,
    )
    return heads


def _params(config: Mapping[str, Any], part: str) -> Mapping[str, Any]:
    return config.get(part, {}).get("params", {})


def _shape(shapes: Mapping[str, torch.Size], name: str, dimensions: int) -> torch.Size:
    if len(shapes.get(name, ())) != dimensions:
        raise UserError(f"The checkpoint has no tensor {name} of {dimensions} dimensions; download it again.")
    return shapes[name]


def _count(shapes: Mapping[str, torch.Size], pattern: str) -> int:
    """Return one more than the largest number that the first group of `pattern` has at the start of a name."""
    return max((int(match[1]) + 1 for name in shapes if (match := re.match(pattern, name))), default=0)
