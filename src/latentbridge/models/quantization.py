"""Weights in 8 or 4 bits, by bitsandbytes: LLM.int8 (arXiv 2208.07339) and NF4 (arXiv 2305.14314)."""

from __future__ import annotations

import ctypes
import logging
import sys
from collections.abc import Iterator
from importlib import import_module
from typing import Any, Literal

import torch
from torch import nn

from latentbridge.errors import UserError
from latentbridge.models.blocks import blocks

Quantization = Literal["int8", "nf4"]
BYTES_PER_WEIGHT: dict[Quantization, float] = {"int8": 1.0, "nf4": 0.5}
"""Without scales, which add 4 bytes a row (int8) or 1 byte for 64 weights (nf4)."""
_FLOAT_PARTS = ("autoencoder.", "text_encoder.", "captions.", "aligner.")
"""Prefixes of the parts that stay as they are: small, or known to suffer (nf4 moves the tiny model's text embeddings by 0.6 of
their length where its aligner is quantised, and by 0.25 where it is not)."""
_NF4_BLOCK, _CPU_TILE = 64, 32
"""Inputs that share a scale, and outputs that bitsandbytes' kernel for CPUs with AVX512-BF16 takes at a time."""


def quantized_layers(scheme: Quantization) -> Any:
    """Return bitsandbytes' module of layers; raise UserError if it is not installed.

    It warns of kernels that it does without, and in each layer of inputs that it casts.
    """
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
    try:
        return import_module("bitsandbytes").nn
    except ImportError as error:
        raise UserError(f"{scheme} needs bitsandbytes; install latentbridge[quantize].") from error


def quantize(model: nn.Module, scheme: Quantization) -> None:
    """Replace the linear layers of all transformer blocks, one after another, by quantised ones; biases stay as they are."""
    for parent, name, layer in list(quantizable_layers(model)):
        setattr(parent, name, quantized(layer, scheme))


def quantizable_layers(model: nn.Module) -> Iterator[tuple[nn.Module, str, nn.Linear]]:
    """Yield parent, attribute and layer of the linear layers in transformer blocks, without those of adapters."""
    for part, child in model.named_children():
        if f"{part}.".startswith(_FLOAT_PARTS):
            continue
        for block in blocks(child):
            for path, parent in block.named_modules():
                if "lora_" in path:
                    continue
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


def quantized(layer: nn.Linear, scheme: Quantization) -> nn.Module:
    """Return a layer with quantised weights, on the same device; `layer` itself loses its own, so that nothing holds both."""
    library = quantized_layers(scheme)
    has_bias, dtype, device = layer.bias is not None, layer.weight.dtype, layer.weight.device
    with torch.device("meta"):
        if scheme == "nf4":
            result = library.Linear4bit(
                layer.in_features, layer.out_features, has_bias, compute_dtype=dtype, quant_type="nf4"
            )
            # the kernel repacks weights of sizes that it does not take, and fails
            result.support_avx512bf16_for_cpu &= not (layer.in_features % _NF4_BLOCK or layer.out_features % _CPU_TILE)
            parameter = library.Params4bit
            options: dict[str, Any] = {"quant_type": "nf4"}
        else:
            result = library.Linear8bitLt(layer.in_features, layer.out_features, has_bias, has_fp16_weights=False)
            parameter = library.Int8Params
            options = {"has_fp16_weights": False}
    result.weight = parameter(layer.weight.data, requires_grad=False, **options)
    result.bias = layer.bias
    layer._parameters.clear()
    result = result.to(device).train(layer.training)
    _return_freed_memory()
    return result


def _return_freed_memory() -> None:
    """Give the memory of freed tensors back to the system, which glibc keeps and, for aligned tensors, hardly uses again."""
    if trim := getattr(ctypes.CDLL(None), "malloc_trim", None) if sys.platform == "linux" else None:
        trim(0)
