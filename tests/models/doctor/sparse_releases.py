"""Folders of releases at their full size whose weights are holes in sparse files: only headers and settings are real."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from math import prod
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Tokenizer
from tokenizers.models import BPE

from latentbridge.files import write_json
from latentbridge.models.doctor.records import QWEN_TOKENS, ReleaseRecord

_BYTES = {"BF16": 2, "F16": 2, "F32": 4, "I8": 1}
GOLDEN = Path(__file__).parents[2] / "golden"


def write_sparse(path: Path, shapes: Mapping[str, Sequence[int]], dtype: str) -> None:
    header: dict[str, Any] = {}
    end = 0
    for name, shape in shapes.items():
        begin, end = end, end + prod(shape) * _BYTES[dtype]
        header[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [begin, end]}
    text = json.dumps(header).encode()
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        file.truncate(8 + len(text) + end)


def write_tokenizer(folder: Path, tokens: Sequence[str], words: int = 0, first: int = 0) -> None:
    """Write a tokenizer of `first` plain words, the special `tokens` after them, and words up to a count."""
    vocab = {f"w{index}": index for index in range(first)}
    tokenizer = Tokenizer(BPE(vocab=vocab, merges=[]))
    tokenizer.add_special_tokens([AddedToken(token, special=True) for token in tokens])
    if words:
        tokenizer.add_tokens([f"more{index}" for index in range(words)])
    tokenizer.save(str(folder / "tokenizer.json"))
    write_json(folder / "tokenizer_config.json", {"tokenizer_class": "Qwen2Tokenizer"})


def qwen_tokens(*more: str) -> list[str]:
    """Qwen2's special tokens in the order of their ids, from 151643 on, and `more` after the last, 151656."""
    named = {index: name for name, index in QWEN_TOKENS.items()}
    return [named.get(index, f"<|other{index}|>") for index in range(151643, 151657)] + list(more)


def write_configs(folder: Path, record: ReleaseRecord) -> None:
    for name, recorded in record.configs.items():
        values: dict[str, Any] = {}
        for key, value in recorded.items():
            *parents, leaf = key.split(".")
            inner = values
            for parent in parents:
                inner = inner.setdefault(parent, {})
            inner[leaf] = value
        write_json(folder / name, values)
