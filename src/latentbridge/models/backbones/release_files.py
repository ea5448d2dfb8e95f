"""Files of a release that a model is written to: weights under the authors' names, configs and the tokenizer."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from latentbridge.errors import UserError
from latentbridge.files import atomic_write, write_json
from latentbridge.models.checkpoint import save_tokenizer
from latentbridge.models.tensors import REDOWNLOAD, open_pickled, open_tensors
from latentbridge.models.tokenization import load_tokenizer

_COPIED = ("*.json", "*.txt", "*.model", "*.jinja", "*.py", "LICENSE*")
"""Files of a base release beside its weights."""
_INDEX = "*.index.json"
_CHECKPOINT_KEY = {".ckpt": "model"}
"""The key under which a file of torch.save with that suffix holds its state dict."""


@dataclass(frozen=True)
class ReleaseFiles:
    """A model in a release's layout."""

    weights: Mapping[str, Mapping[str, Tensor]]
    """Tensors by file and by the authors' name; the suffix is .safetensors, or else .pth or .ckpt of torch.save."""
    configs: Mapping[str, Any]
    """Values of JSON files by file."""
    unused: tuple[str, ...] = ()
    """Starts of the names of tensors in the authors' checkpoints that no code reads."""
    left_out: tuple[str, ...] = ()
    """Parts of the model that the layout has no place for."""


def write_release(
    files: ReleaseFiles, tokenizer: PreTrainedTokenizerBase, folder: Path, base: Path | None = None
) -> None:
    """Write a release's folder, with the configs last.

    From the folder of the release it was trained from, `base`, come the other files beside the weights, the tokenizer's
    unless training added to it, and the tensors that no code reads.
    """
    spare = dict(_unused_tensors(base, files.unused)) if base and files.unused else {}
    for number, (name, tensors) in enumerate(files.weights.items()):
        _write_tensors(folder / name, {**tensors, **(spare if number == 0 else {})})
    save_tokenizer(tokenizer, folder)
    if base:
        _copy_from(base, folder, tokenizer, files)
    for name, values in files.configs.items():
        write_json(folder / name, values)


def _write_tensors(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Write a file of weights; tensors that share memory are written once each in safetensors."""
    values = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    with atomic_write(path) as temporary:
        if path.suffix == ".safetensors":
            seen: set[int] = set()
            for name, tensor in values.items():
                if tensor.numel() and tensor.untyped_storage().data_ptr() in seen:
                    values[name] = tensor.clone()
                seen.add(tensor.untyped_storage().data_ptr())
            save_file(values, temporary, metadata={"format": "pt"})
        else:
            key = _CHECKPOINT_KEY.get(path.suffix)
            torch.save({key: values} if key else values, temporary)


def _copy_from(base: Path, folder: Path, tokenizer: PreTrainedTokenizerBase, files: ReleaseFiles) -> None:
    """Copy a base release's files beside its weights, but what this export has or makes invalid."""
    indices = {path.name for path in base.glob(_INDEX)}
    written = {path.name for path in folder.iterdir()}
    for pattern in _COPIED:
        for path in base.glob(pattern):
            known = path.name in indices or path.name in files.configs
            if not known and path.name not in written:
                shutil.copyfile(path, folder / path.name)
    if _same_words(base, tokenizer):
        for path in base.glob("tokenizer*.json"):
            shutil.copyfile(path, folder / path.name)


def _same_words(base: Path, tokenizer: PreTrainedTokenizerBase) -> bool:
    try:
        return load_tokenizer(base).get_vocab() == tokenizer.get_vocab()
    except UserError:
        return False


def _unused_tensors(base: Path, prefixes: tuple[str, ...]) -> Iterator[tuple[str, Tensor]]:
    """Yield the tensors of a base release whose names start with one of `prefixes`."""
    for pattern, open_file in (("*.safetensors", open_tensors), ("*.pth", open_pickled), ("*.bin", open_pickled)):
        for path in sorted(base.glob(pattern)):
            stored = open_file(path, REDOWNLOAD)
            yield from ((name, tensor.read()) for name, tensor in stored.items() if name.startswith(prefixes))
