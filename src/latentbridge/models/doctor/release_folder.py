"""A release's folder: its kind, the names, shapes and data types of its tensors, its settings and its special tokens."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import torch
from tokenizers import Tokenizer
from torch import Size

from latentbridge.errors import UserError
from latentbridge.light_imports import holds_saved_model
from latentbridge.models.backbones.bagel.load_bagel import is_bagel
from latentbridge.models.backbones.harmon.load_harmon import AUTOENCODER_FILE, is_harmon
from latentbridge.models.backbones.janus.authors_layout import MODEL_TYPE
from latentbridge.models.backbones.janus.load_janus import is_janus
from latentbridge.models.backbones.recognise import describe_folder
from latentbridge.models.doctor.records import Family, ReleaseRecord, find_record
from latentbridge.models.exporting import Layout
from latentbridge.models.qwen_vl.release import is_qwen_vl
from latentbridge.models.tensors import REDOWNLOAD, open_pickled, open_tensors, shard_files

_WORDS = "embed_tokens.weight"
_BRIDGE = "bilm."
_OLD_VISION = "visual."


class Outline(NamedTuple):
    """A stored tensor without its numbers."""

    shape: Size
    dtype: str
    """The data type's name, such as bfloat16."""


class Token(NamedTuple):
    """A token of a tokenizer."""

    id: int
    is_special: bool
    """Never split when a text is encoded."""


@dataclass(frozen=True)
class ReleaseFolder:
    """The folder of a released model, of which nothing is loaded."""

    path: Path
    family: Family
    outlines: Mapping[str, Outline]
    """Tensors by the name in their file; those of Harmon's autoencoder begin with `vae.`."""
    files: tuple[Path, ...]
    problem: str = ""
    """The reason why weights could not be read."""

    @cached_property
    def record(self) -> ReleaseRecord | None:
        """The record of the release whose language model is as wide as this one."""
        return find_record(self.family, self.words.shape[1]) if self.words else None

    @cached_property
    def words(self) -> Outline | None:
        """The table of word embeddings."""
        tables = (outline for name, outline in self.outlines.items() if name.endswith(_WORDS))
        return next(tables, None)

    @cached_property
    def layout(self) -> Layout:
        """The layout in which the folder's tensors are named."""
        if self.family == "janus":
            return "authors" if self.config("config.json").get("model_type") == MODEL_TYPE else "transformers"
        if self.family in ("omnibridge", "qwen-vl"):
            return "authors" if any(name.startswith(_OLD_VISION) for name in self.outlines) else "transformers"
        return "authors" if self.family == "bagel" or self.files[0].suffix == ".pth" else "transformers"

    def config(self, name: str) -> dict[str, Any]:
        """Return the values of a JSON file; none if it is missing or damaged."""
        try:
            values = json.loads((self.path / name).read_text())
        except (OSError, ValueError):
            return {}
        return values if isinstance(values, dict) else {}

    @cached_property
    def tokens(self) -> dict[str, Token] | None:
        """The tokenizer's tokens; None without a readable tokenizer."""
        try:
            tokenizer = Tokenizer.from_file(str(self.path / "tokenizer.json"))
        except Exception:  # the Rust parser raises bare Exception
            return None
        added = {token.content for token in tokenizer.get_added_tokens_decoder().values()}
        return {name: Token(index, name in added) for name, index in tokenizer.get_vocab().items()}


def open_release_folder(path: Path) -> ReleaseFolder:
    """Read what a release's folder says of its tensors; raise UserError for a folder of no release."""
    if holds_saved_model(path):
        raise UserError(f"{path} holds a model that was saved here, not a release; `latentbridge eval` checks it.")
    family = _family(path) if path.is_dir() else None
    if family is None:
        raise UserError(f"{path} {describe_folder(path)}.")
    files: list[Path] = []
    outlines: dict[str, Outline] = {}
    try:
        for file, prefix in _WEIGHTS[family](path):
            files.append(file)
            outlines |= {prefix + name: outline for name, outline in _read_outlines(file).items()}
    except UserError as error:
        return ReleaseFolder(path, family, {}, tuple(files), problem=str(error))
    if any(name.startswith(_BRIDGE) for name in outlines):
        family = "omnibridge"
    return ReleaseFolder(path, family, outlines, tuple(files))


def _family(path: Path) -> Family | None:
    if is_bagel(path):
        return "bagel"
    if is_janus(path):
        return "janus"
    if is_qwen_vl(path):
        return "omnibridge" if "mm_added_mlp" in (path / "config.json").read_text() else "qwen-vl"
    return "harmon" if is_harmon(path) else None


def _bagel_files(path: Path) -> Iterator[tuple[Path, str]]:
    yield from ((path / name, "") for name in ("ema.safetensors", "ae.safetensors"))


def _janus_files(path: Path) -> Iterator[tuple[Path, str]]:
    files = shard_files(path, "model*.safetensors") or shard_files(path, "pytorch_model*.bin")
    if not files:
        raise UserError(f"{path} holds no weights (model*.safetensors or pytorch_model*.bin); {REDOWNLOAD}.")
    yield from ((file, "") for file in files)


def _harmon_files(path: Path) -> Iterator[tuple[Path, str]]:
    plain = sorted(path.glob("harmon*.pth"))
    if plain:
        yield plain[0], ""
        yield path / AUTOENCODER_FILE, "vae."
    else:
        yield from _safetensors_files(path)


def _safetensors_files(path: Path) -> Iterator[tuple[Path, str]]:
    files = shard_files(path, "*.safetensors")
    if not files:
        raise UserError(f"{path} holds no .safetensors files; download the safetensors version of the checkpoint.")
    yield from ((file, "") for file in files)


_WEIGHTS: Mapping[Family, Callable[[Path], Iterator[tuple[Path, str]]]] = {
    "bagel": _bagel_files,
    "janus": _janus_files,
    "harmon": _harmon_files,
    "omnibridge": _safetensors_files,
    "qwen-vl": _safetensors_files,
}
"""Weight files of a folder, each with the prefix of its tensors' names."""


def _read_outlines(file: Path) -> dict[str, Outline]:
    opened = open_tensors(file, REDOWNLOAD) if file.suffix == ".safetensors" else open_pickled(file)
    return {name: Outline(tensor.shape, _dtype_name(tensor.dtype)) for name, tensor in opened.items()}


def _dtype_name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
