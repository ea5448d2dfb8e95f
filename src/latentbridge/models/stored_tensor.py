"""A tensor in a file of weights, read when it is asked for, in its final data type and on its final device."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from io import RawIOBase
from mmap import mmap
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor

from latentbridge.devices import CPU
from latentbridge.errors import UserError

_CHUNK_BYTES = 4 * 2**20
"""Most bytes held in the file's data type while a tensor is converted."""


@dataclass(frozen=True)
class StoredTensor:
    """A tensor whose shape and data type are known, and whose numbers lie in a file.

    `outline` is on the meta device. `fill` copies the numbers into a contiguous tensor of any data type and device.
    """

    outline: Tensor
    fill: Callable[[Tensor], object]

    @property
    def shape(self) -> torch.Size:
        return self.outline.shape

    @property
    def dtype(self) -> torch.dtype:
        return self.outline.dtype

    def read(self, dtype: torch.dtype | None = None, device: torch.device = CPU) -> Tensor:
        """Return the tensor; `dtype` is its own by default. On the meta device nothing is read."""
        target = torch.empty(self.shape, dtype=dtype or self.dtype, device=device)
        if not target.is_meta:
            self.fill(target)
        return target

    def converted(self, convert: Callable[[Tensor], Tensor]) -> StoredTensor:
        """Return a tensor that passes through `convert`, which must work on the meta device, when it is read."""

        def fill(target: Tensor) -> None:
            source = _scratch(self.shape, target.dtype)
            self.fill(source)
            target.copy_(convert(source))

        return StoredTensor(convert(self.outline), fill)


def in_memory(tensor: Tensor) -> StoredTensor:
    """Return a tensor that has been read already."""
    return StoredTensor(tensor.to("meta"), lambda target: target.copy_(tensor))


def in_file(path: Path, offset: int, outline: Tensor) -> StoredTensor:
    """Return a contiguous tensor whose bytes start at `offset` of a file; reading raises UserError if they end early.

    Files are read, not mapped: mapped pages count as memory of the process until the kernel takes them back.
    """

    def fill(target: Tensor) -> None:
        pieces = target.view(-1).split(_CHUNK_BYTES // outline.element_size())
        buffer = (
            None if (target.dtype, target.device) == (outline.dtype, CPU) else _scratch(pieces[0].shape, outline.dtype)
        )
        try:
            with path.open("rb", buffering=0) as file:
                file.seek(offset)
                for piece in pieces:
                    source = piece if buffer is None else buffer[: len(piece)]
                    _fill(source, cast(RawIOBase, file))
                    piece.copy_(source)
        except (OSError, EOFError) as error:
            raise UserError(f"Cannot read {path} ({error}); download it again.") from error

    return StoredTensor(outline, fill)


def _scratch(shape: torch.Size, dtype: torch.dtype) -> Tensor:
    """Return memory for a moment, which is given back at once; freed by malloc, it could stay as holes between the weights."""
    size = shape.numel()
    if not size:
        return torch.empty(shape, dtype=dtype)
    return torch.frombuffer(mmap(-1, size * dtype.itemsize), dtype=dtype).view(shape)


def _fill(target: Tensor, file: RawIOBase) -> None:
    """Read the bytes of a contiguous tensor on the CPU; raise EOFError if the file ends before."""
    numbers: Any = target.view(torch.uint8).numpy()
    rest = memoryview(numbers)
    while rest:
        count = file.readinto(rest)
        if not count:
            raise EOFError("it is cut short")
        rest = rest[count:]
