"""Reading of weight files, whole or sharded, and comparison of their tensors with a model's.

A damaged or incomplete file is refused before any of its tensors is used. Pickles are read by `weights_only=True` alone.
"""

from __future__ import annotations

import json
import re
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from latentbridge.errors import UserError
from latentbridge.files import read_json

REDOWNLOAD = "download it again"
_LFS_POINTER = b"version https://git-lfs"
_ZIP, _PICKLE = b"PK", b"\x80"
"""First bytes of what torch.save writes since version 1.6, and of what it wrote before."""
_NUMBERED = re.compile(r"(.+)-(\d+)-of-(\d+)(\.\w+)")
"""The file name of a shard, as transformers numbers them."""
_WRAPPERS = ("model", "state_dict")
"""Keys under which training scripts put the state dict of a checkpoint."""


def read_tensors(path: Path, fix: str) -> dict[str, Tensor]:
    """Load a safetensors file; raises UserError, which advises the `fix`, if it is missing or damaged."""
    read_header(path, fix)
    try:
        return load_file(path)
    except (OSError, SafetensorError) as error:
        raise UserError(f"Cannot read {path} ({error}); {fix}.") from error


def read_pickled(path: Path, fix: str = REDOWNLOAD) -> dict[str, Tensor]:
    """Load the state dict in a file of torch.save, memory-mapped; raise UserError if it holds anything but tensors."""
    start = _first_bytes(path, fix)
    if not start.startswith((_ZIP, _PICKLE)):
        raise UserError(f"Cannot read {path}, which is no file of torch.save or is damaged; {fix}.")
    try:
        with warnings.catch_warnings(action="ignore"):  # about protocols of pickles that are then refused
            stored: Any = torch.load(path, map_location="cpu", weights_only=True, mmap=start.startswith(_ZIP))
    except UnpicklingError as error:
        raise UserError(
            f"{path} holds more than tensors, so it could run code when opened and is refused; "
            "use the safetensors version of the checkpoint."
        ) from error
    except (OSError, RuntimeError, EOFError, LookupError, ValueError, TypeError, AttributeError) as error:
        raise UserError(f"Cannot read {path}, which is damaged or cut short; {fix}.") from error
    for wrapper in _WRAPPERS:
        if isinstance(stored, dict) and isinstance(stored.get(wrapper), dict):
            stored = stored[wrapper]
    if not isinstance(stored, dict) or not all(isinstance(tensor, Tensor) for tensor in stored.values()):
        raise UserError(f"{path} holds no state dict, which names tensors; give the checkpoint's file of weights.")
    return stored


def read_header(path: Path, fix: str) -> dict[str, Any]:
    """Return the entry of each tensor in a safetensors file; raise UserError if the file is missing, cut short or no such file."""
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
    return entries


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


def mismatched_tensors(expected: Mapping[str, Tensor], stored: Mapping[str, Tensor]) -> list[str]:
    """Return the names that only one side has, or that have different shapes, sorted."""
    shapes = ({(name, tensor.shape) for name, tensor in tensors.items()} for tensors in (expected, stored))
    return sorted({name for name, _ in set.symmetric_difference(*shapes)})


def describe_mismatch(names: Sequence[str]) -> str:
    """Return the part of an error message that counts mismatched tensors and names the first."""
    return f"{len(names)} tensors are missing, unexpected or of another shape (first: {names[0]})"
