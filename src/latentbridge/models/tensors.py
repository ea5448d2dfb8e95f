"""Reading of weight files, whole or sharded, and comparison of their tensors with a model's.

A damaged or incomplete file is refused before any of its tensors is used. Pickles are read by `weights_only=True` alone.
"""

from __future__ import annotations

import json
import re
import sys
import warnings
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from pickle import UnpicklingError
from typing import Any, TypeAlias
from zipfile import ZIP_STORED, BadZipFile, ZipFile

import torch
from torch import Tensor

from latentbridge.errors import UserError
from latentbridge.files import read_json
from latentbridge.models.stored_tensor import StoredTensor, in_file, in_memory

REDOWNLOAD = "download it again"
_LFS_POINTER = b"version https://git-lfs"
_ZIP, _PICKLE = b"PK", b"\x80"
"""First bytes of what torch.save writes since version 1.6, and of what it wrote before."""
_NUMBERED = re.compile(r"(.+)-(\d+)-of-(\d+)(\.\w+)")
"""The file name of a shard, as transformers numbers them."""
_DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}
"""Data types by their names in a safetensors header."""
_MOST_NUMBERS = 2**50
"""Bound of a tensor's sizes and of the bytes of a file."""
_WRAPPERS = ("model", "state_dict")
"""Keys under which training scripts put the state dict of a checkpoint."""

Tensors: TypeAlias = Mapping[str, Tensor] | Mapping[str, StoredTensor]
"""Tensors by name, read or not."""


def read_tensors(path: Path, fix: str) -> dict[str, Tensor]:
    """Read a whole safetensors file; raises UserError, which advises the `fix`, if it is missing or damaged."""
    return {name: tensor.read() for name, tensor in open_tensors(path, fix).items()}


def open_tensors(path: Path, fix: str) -> dict[str, StoredTensor]:
    """Return the tensors of a safetensors file; raises UserError, which advises the `fix`, if it is missing or damaged."""
    stored: dict[str, StoredTensor] = {}
    entries, start = _read_header(path, fix)
    for name, entry in entries.items():
        if not _is_entry(entry):
            raise UserError(f"Cannot read {path}, whose header does not describe {name}; {fix}.")
        dtype = _DTYPES.get(entry["dtype"])
        if dtype is None:
            raise UserError(
                f"{path} holds {name} as {entry['dtype']}, a data type that is not known; use another version."
            )
        outline = torch.empty(entry["shape"], dtype=dtype, device="meta")
        begin, end = entry["data_offsets"]
        if end - begin != outline.nbytes:
            raise UserError(f"Cannot read {path}, where {name} has another size than its shape; {fix}.")
        stored[name] = in_file(path, start + begin, outline)
    return stored


def _is_entry(entry: Any) -> bool:
    """Return whether a header's entry has a data type, a shape and the two ends of its bytes."""
    if not isinstance(entry, dict) or not isinstance(entry.get("dtype"), str):
        return False
    shape, ends = entry.get("shape"), entry.get("data_offsets")
    if not isinstance(shape, list) or not isinstance(ends, list) or len(ends) != 2:
        return False
    return all(type(number) is int and 0 <= number < _MOST_NUMBERS for number in (*shape, *ends))


def open_pickled(path: Path, fix: str = REDOWNLOAD) -> dict[str, StoredTensor]:
    """Return the state dict in a file of torch.save; raise UserError if it holds anything but tensors.

    Files of torch before 1.6 are read into memory at once.
    """
    start = _first_bytes(path, fix)
    if not start.startswith((_ZIP, _PICKLE)):
        raise UserError(f"Cannot read {path}, which is no file of torch.save or is damaged; {fix}.")
    archived = start.startswith(_ZIP)
    try:
        with (
            _outlines() if archived else nullcontext(),
            warnings.catch_warnings(action="ignore"),
        ):  # about protocols of pickles that are then refused
            stored: Any = torch.load(path, map_location="cpu", weights_only=True)
        if archived:
            _check_archive(path)
    except UnpicklingError as error:
        raise UserError(
            f"{path} holds more than tensors, so it could run code when opened and is refused; "
            "use the safetensors version of the checkpoint."
        ) from error
    except (OSError, RuntimeError, EOFError, LookupError, ValueError, TypeError, AttributeError, BadZipFile) as error:
        raise UserError(f"Cannot read {path}, which is damaged or cut short; {fix}.") from error
    for wrapper in _WRAPPERS:
        if isinstance(stored, dict) and isinstance(stored.get(wrapper), dict):
            stored = stored[wrapper]
    if not isinstance(stored, dict) or not all(isinstance(tensor, Tensor) for tensor in stored.values()):
        raise UserError(f"{path} holds no state dict, which names tensors; give the checkpoint's file of weights.")
    return {
        name: _in_archive(path, tensor) if archived else in_memory(tensor.detach()) for name, tensor in stored.items()
    }


def _outlines() -> AbstractContextManager[object]:
    """Make torch.load return fake tensors, which have shapes, and the places of their storages in the file."""
    from torch._subclasses.fake_tensor import FakeTensorMode  # imports much that inference does without

    return FakeTensorMode()


def _check_archive(path: Path) -> None:
    """Raise ValueError unless the numbers lie in a file of torch.save as they are, in this machine's order of bytes."""
    with ZipFile(path) as archive:
        order = [archive.read(name).decode() for name in archive.namelist() if name.endswith("/byteorder")]
        if any(entry.compress_type != ZIP_STORED for entry in archive.infolist()) or order not in ([], [sys.byteorder]):
            raise ValueError("compressed, or of another order of bytes")


def _in_archive(path: Path, tensor: Tensor) -> StoredTensor:
    """Return the tensor that a fake one stands for."""
    storage: Any = tensor.untyped_storage()
    offset = storage._checkpoint_offset + tensor.storage_offset() * tensor.element_size()
    shape, stride = tensor.shape, tensor.stride()
    if tensor.is_contiguous():
        return in_file(path, offset, torch.empty(shape, dtype=tensor.dtype, device="meta"))
    length = 1 + sum((size - 1) * step for size, step in zip(shape, stride, strict=True))
    span = torch.empty(length, dtype=tensor.dtype, device="meta")
    return in_file(path, offset, span).converted(lambda numbers: numbers.as_strided(shape, stride))


def _read_header(path: Path, fix: str) -> tuple[dict[str, Any], int]:
    """Return the entry of each tensor in a safetensors file, and where their bytes start.

    Raise UserError if the file is missing, cut short or no such file.
    """
    start = _first_bytes(path, fix)
    length, size = int.from_bytes(start[:8], "little"), path.stat().st_size
    try:
        with path.open("rb") as file:
            file.seek(8)
            header = json.loads(file.read(length if length <= size else 0))
        entries = {name: entry for name, entry in header.items() if name != "__metadata__"}
        expected = 8 + length + max((entry["data_offsets"][1] for entry in entries.values()), default=0)
    except (ValueError, TypeError, LookupError, AttributeError) as error:
        raise UserError(f"Cannot read {path}, which is no safetensors file or is cut short; {fix}.") from error
    if size < expected:
        raise UserError(f"Cannot read {path}, which is cut short, with {size:,} of {expected:,} bytes; {fix}.")
    return entries, 8 + length


def shard_files(folder: Path, pattern: str) -> list[Path]:
    """Return the files of a folder that match `pattern`, or those that their index names, sorted; none if there is neither.

    Raise UserError if one is absent that the index, or the numbers in the names of the others, say there is.
    """
    names = {name for index in folder.glob(f"{pattern}.index.json") for name in _indexed(index)}
    names = names or _with_siblings(path.name for path in folder.glob(pattern))
    absent = sorted(name for name in names if not (folder / name).is_file())
    if absent:
        raise UserError(
            f"{folder} holds {len(names) - len(absent)} of the {len(names)} files of its weights ({absent[0]} is missing); "
            "download the missing ones."
        )
    return [folder / name for name in sorted(names)]


def _indexed(index: Path) -> set[str]:
    """Return the file names in an index of shards, all of which lie beside it."""
    stored: Any = read_json(index)
    weight_map = stored.get("weight_map") if isinstance(stored, dict) else None
    names = set(weight_map.values()) if isinstance(weight_map, dict) else set()
    if not names or not all(isinstance(name, str) and Path(name).name == name for name in names):
        raise UserError(f"{index} names no files of weights beside it; {REDOWNLOAD}.")
    return names


def _with_siblings(names: Any) -> set[str]:
    """Return file names, and for each that says "shard i of n" the names of all n."""
    whole: set[str] = set()
    for name in names:
        match = _NUMBERED.fullmatch(name)
        if match is None:
            whole.add(name)
            continue
        stem, number, count, suffix = match.groups()
        whole |= {f"{stem}-{shard:0{len(number)}}-of-{count}{suffix}" for shard in range(1, int(count) + 1)}
    return whole


def _first_bytes(path: Path, fix: str) -> bytes:
    """Return the start of a file of weights; raise UserError if it is missing or a Git LFS pointer."""
    try:
        with path.open("rb") as file:
            start = file.read(len(_LFS_POINTER))
    except OSError as error:
        raise UserError(f"Cannot read {path} ({error.strerror}); {fix}.") from error
    if start == _LFS_POINTER:
        raise UserError(
            f"Cannot read {path}, which is a Git LFS pointer in place of the file; run `git lfs pull` there, or {REDOWNLOAD}."
        )
    return start


def mismatched_tensors(expected: Tensors, stored: Tensors) -> list[str]:
    """Return the names that only one side has, or that have different shapes, sorted."""
    shapes = ({(name, tensor.shape) for name, tensor in tensors.items()} for tensors in (expected, stored))
    return sorted({name for name, _ in set.symmetric_difference(*shapes)})


def describe_mismatch(names: Sequence[str]) -> str:
    """Return the part of an error message that counts mismatched tensors and names the first."""
    return f"{len(names)} tensors are missing, unexpected or of another shape (first: {names[0]})"
