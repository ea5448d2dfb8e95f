"""Bytes of a model's weights by part and by where they wait, from its outline on the meta device."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from latentbridge.models.memory.trace import META
from latentbridge.models.offload import Offload, block_parts, waiting_parameters
from latentbridge.models.quantization import Quantization, quantizable_layers, weight_bytes
from latentbridge.models.weights import cast_weights

_LABELS = (
    (r"autoencoder\.|\.vqmodel\.", "autoencoder"),
    (r"\.visual\.|\.vision_model\.|^eye\.", "vision encoder"),
    (r"^language_model\.gen\.", "generation expert"),
    (r"language_model|lm_head", "language model"),
    (r"\btext_model\.|^text_encoder\.|^captions\.", "text encoders"),
    (r"^decoder\.", "decoder"),
    (r"^encoder\.", "encoder"),
    (r"^head\.", "denoising head"),
)
"""Parts of a model by the first pattern in the names of their parameters."""
_OTHERS = "connectors and heads"


@dataclass(frozen=True)
class Precision:
    """The numbers that weights are kept in."""

    dtype: torch.dtype
    scheme: Quantization | None = None

    @property
    def flags(self) -> str:
        """The command line's flags."""
        name = str(self.dtype).removeprefix("torch.")
        return f"--dtype {name}" + (f" --quantize {self.scheme}" if self.scheme else "")


PRECISIONS = {
    "float32": Precision(torch.float32),
    "bfloat16": Precision(torch.bfloat16),
    "int8": Precision(torch.bfloat16, "int8"),
    "nf4": Precision(torch.bfloat16, "nf4"),
}


class BlockId(NamedTuple):
    """A transformer block: the number of its part, and of the block in it."""

    part: int
    block: int


@dataclass(frozen=True)
class WeightBytes:
    """Bytes of a model's parameters and buffers."""

    resident: dict[str, float]
    """Bytes that never wait in host memory, by part."""
    blocks: dict[BlockId, float]
    """Bytes of each block that wait in host memory if it is offloaded."""
    labels: dict[BlockId, str]
    """The part of each block."""

    @property
    def total(self) -> float:
        return sum(self.resident.values()) + sum(self.blocks.values())

    def waiting(self, offload: Offload | None) -> float:
        """Return the bytes that wait in host memory."""
        return sum(self.blocks.values()) if offload else 0.0

    def on_device(self, offload: Offload | None, block: BlockId | None) -> dict[str, float]:
        """Return the bytes on the device by what they belong to, while a block runs; None is before any has run."""
        found: Counter[str] = Counter(self.resident)  # pyright: ignore[reportArgumentType]
        for other, size in self.blocks.items():
            if offload is None or other == block or (offload == "parts" and block and other.part == block.part):
                found[self.labels[other]] += size  # pyright: ignore[reportArgumentType]
        return dict(found)


def set_precision(network: nn.Module, precision: Precision) -> None:
    """Give an outline the data types of a precision, and stand-ins for quantised layers."""
    cast_weights(network, precision.dtype)
    if precision.scheme:
        for parent, name, layer in list(quantizable_layers(network)):
            setattr(parent, name, QuantizedOutline(layer, precision.scheme))


def weigh(network: nn.Module) -> WeightBytes:
    """Return the bytes of an outline's weights, each tied one once."""
    sizes = {id(layer.weight): layer.num_bytes for layer in network.modules() if isinstance(layer, QuantizedOutline)}
    names = {block: name for name, block in network.named_modules()}
    blocks: dict[BlockId, float] = {}
    labels: dict[BlockId, str] = {}
    counted: set[int] = set()
    for part, members in enumerate(block_parts(network)):
        for index, block in enumerate(members):
            waiting = {id(p): p for p in waiting_parameters(block) if id(p) not in counted}
            blocks[BlockId(part, index)] = sum(_size(tensor, sizes) for tensor in waiting.values())
            labels[BlockId(part, index)] = part_of(f"{names[block]}.")
            counted |= waiting.keys()
    resident: Counter[str] = Counter()
    for name, tensor in (*network.named_parameters(), *network.named_buffers()):
        if id(tensor) not in counted:
            counted.add(id(tensor))
            resident[part_of(name)] += _size(tensor, sizes)  # pyright: ignore[reportArgumentType]
    return WeightBytes(dict(resident), blocks, labels)


def _size(tensor: Tensor, sizes: dict[int, float]) -> float:
    return sizes.get(id(tensor), float(tensor.numel() * tensor.element_size()))


def part_of(name: str) -> str:
    """Return what a parameter belongs to, by its name."""
    return next((label for pattern, label in _LABELS if re.search(pattern, name)), _OTHERS)


class QuantizedOutline(nn.Module):
    """A linear layer on the meta device with the temporary tensors that bitsandbytes' kernels have."""

    def __init__(self, layer: nn.Linear, scheme: Quantization):
        super().__init__()
        self.scheme = scheme
        self.num_bytes = weight_bytes(layer, scheme)
        values = torch.empty(layer.weight.shape, dtype=torch.int8, device=META)
        self.weight = nn.Parameter(values, requires_grad=False)
        self.bias = layer.bias

    def forward(self, inputs: Tensor) -> Tensor:
        if self.scheme == "nf4":
            return F.linear(inputs, self.weight.to(inputs.dtype), self.bias)
        rows = inputs.flatten(0, -2)
        products = torch._int_mm(rows.to(torch.float16).to(torch.int8), self.weight.mT)
        outputs = products.to(inputs.dtype).unflatten(0, inputs.shape[:-1])
        return outputs if self.bias is None else outputs + self.bias
