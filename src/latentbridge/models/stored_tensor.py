"""A tensor in a file of weights, read when it is asked for, in its final data type and on its final device."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from io import RawIOBase
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor

from latentbridge.devices import CPU
from latentbridge.errors import UserError

_CHUNK_BYTES = 16 * 2**20
"""Most bytes held in the file's data type while a tensor is converted."""


@dataclass(frozen=True)
class StoredTensor:
    """A tensor whose shape and data type are known, and whose numbers lie in a file.

    `outline` is on the meta device. `load` takes the data type and the device of what it returns.
    """

    outline: Tensor
    load: Callable[[torch.dtype, torch.device], Tensor]

    @property
    def shape(self) -> torch.Size:
        return self.outline.shape

    @property
    def dtype(self) -> torch.dtype:
        return self.outline.dtype

    def read(self, dtype: torch.dtype | None = None, device: torch.device = CPU) -> Tensor:
        """Return the tensor, contiguous and alone in its storage; `dtype` is its own by default."""
        tensor = self.load(dtype or self.dtype, device)
        alone = tensor.is_contiguous() and tensor.untyped_storage().nbytes() == tensor.nbytes
        return tensor if alone else tensor.clone(memory_format=torch.contiguous_format)

    def converted(self, convert: Callable[[Tensor], Tensor]) -> StoredTensor:
        """Return a tensor that passes through `convert`, which must work on the meta device, when it is read."""
        return StoredTensor(convert(self.outline), lambda dtype, device: convert(self.load(dtype, device)))


def in_memory(tensor: Tensor) -> StoredTensor:
    """Return a tensor that has been read already."""
    return StoredTensor(tensor.to("meta"), lambda dtype, device: tensor.to(device, dtype))


def in_file(path: Path, offset: int, outline: Tensor) -> StoredTensor:
    """Return a contiguous tensor whose bytes start at `offset` of a file; reading raises UserError if they end early.

    Files are read, not mapped: mapped pages count as memory of the process until the kernel takes them back.
    """

    def load(dtype: torch.dtype, device: torch.device) -> Tensor:
        target = torch.empty(outline.shape, dtype=dtype, device=device)
        as_stored = dtype == outline.dtype and device == CPU
        pieces = target.view(-1).split(_CHUNK_BYTES // outline.element_size())
        buffer = torch.empty(0 if as_stored else len(pieces[0]), dtype=outline.dtype)
        try:
            with path.open("rb", buffering=0) as file:
                file.seek(offset)
                for piece in pieces:
                    source = piece if as_stored else buffer[: len(piece)]
                    _fill(source, cast(RawIOBase, file))
                    if not as_stored:
                        piece.copy_(source)
        except (OSError, EOFError) as error:
            raise UserError(f"Cannot read {path} ({error}); download it again.") from error
        return target

    return StoredTensor(outline, load)


def _fill(target: Tensor, file: RawIOBase) -> None:
    """Read the bytes of a contiguous tensor on the CPU; raise EOFError if the file ends before."""
    numbers: Any = target.view(torch.uint8).numpy()
    rest = memoryview(numbers)
    while rest:
        count = file.readinto(rest)
        if not count:
            raise EOFError("it is cut short")
        rest = rest[count:]
