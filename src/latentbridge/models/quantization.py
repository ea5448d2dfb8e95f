"""Weights in 8 or 4 bits, by bitsandbytes: LLM.int8 (arXiv 2208.07339) and NF4 (arXiv 2305.14314)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Literal

import torch
from torch import nn

from latentbridge.errors import UserError
from latentbridge.models.blocks import blocks

Quantization = Literal["int8", "nf4"]
BYTES_PER_WEIGHT: dict[Quantization, float] = {"int8": 1.0, "nf4": 0.5}
"""Without scales, which add 4 bytes a row (int8) or 1 byte for 64 weights (nf4)."""
_NF4_BLOCK = 64
"""Weights that share a scale."""
_FLOAT_PARTS = ("autoencoder.", "text_encoder.", "captions.")
"""Prefixes of the parts that stay as they are: small, or known to suffer."""


def quantize(model: nn.Module, scheme: Quantization) -> None:
    """Replace the linear layers of all transformer blocks, one after another, by quantised ones; biases stay as they are.

    Raise UserError if bitsandbytes is not installed. Weights are quantised when the layer moves to its device.
    """
    try:
        import bitsandbytes
    except ImportError as error:
        raise UserError(f"{scheme} needs bitsandbytes; install latentbridge[quantize].") from error
    for parent, name, layer in list(quantizable_layers(model)):
        setattr(parent, name, _quantized(bitsandbytes.nn, layer, scheme))


def quantizable_layers(model: nn.Module) -> Iterator[tuple[nn.Module, str, nn.Linear]]:
    """Yield parent, attribute and layer of the linear layers in transformer blocks."""
    for part, child in model.named_children():
        if f"{part}.".startswith(_FLOAT_PARTS):
            continue
        for block in blocks(child):
            for parent in block.modules():
                for name, layer in parent.named_children():
                    if type(layer) is nn.Linear:
                        yield parent, name, layer


def forget_weight(module: nn.Module) -> None:
    """Drop what an int8 layer of bitsandbytes keeps of its weight besides the parameter; other modules keep nothing."""
    state: Any = getattr(module, "state", None)
    if getattr(state, "CB", None) is not None:
        state.CB = state.SCB = None


def weight_bytes(layer: nn.Linear, scheme: Quantization) -> float:
    """Return the bytes of a layer's quantised weight and its scales."""
    count = layer.weight.numel()
    scales = 4 * layer.out_features if scheme == "int8" else count / _NF4_BLOCK
    return count * BYTES_PER_WEIGHT[scheme] + scales


def _quantized(library: Any, layer: nn.Linear, scheme: Quantization) -> nn.Module:
    has_bias, dtype, device = layer.bias is not None, layer.weight.dtype, layer.weight.device
    weight = layer.weight.data
    with torch.device("meta"):
        if scheme == "nf4":
            quantized = library.Linear4bit(
                layer.in_features, layer.out_features, has_bias, compute_dtype=dtype, quant_type="nf4"
            )
            parameter = library.Params4bit
            options: dict[str, Any] = {"quant_type": "nf4"}
        else:
            quantized = library.Linear8bitLt(layer.in_features, layer.out_features, has_bias, has_fp16_weights=False)
            parameter = library.Int8Params
            options = {"has_fp16_weights": False}
    quantized.weight = parameter(weight, requires_grad=False, **options)
    quantized.bias = layer.bias
    return quantized.to(device)
