"""Tokenizers in Qwen2's format: training of a byte-level BPE, loading, and encoding."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from threading import Lock

from tokenizers import Regex, Tokenizer, pre_tokenizers, trainers
from tokenizers.models import BPE
from transformers import PreTrainedTokenizerBase, Qwen2Tokenizer
from transformers.models.qwen2.tokenization_qwen2 import PRETOKENIZE_REGEX

from latentbridge.errors import UserError
from latentbridge.prompts import IMG_END, IMG_START

SPECIAL_TOKENS = (
    "<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>", IMG_START, IMG_END,
)  # fmt: skip
_ENCODE_LOCK = Lock()
"""Held while a tokenizer encodes, because `split_special_tokens` sets state of the tokenizer."""


def train_tokenizer(texts: Iterable[str], vocab_size: int) -> Qwen2Tokenizer:
    """Train a Qwen2Tokenizer of at most `vocab_size` tokens, special tokens included, with Qwen2's pre-tokenization."""
    bpe = Tokenizer(BPE())
    split = pre_tokenizers.Split(Regex(PRETOKENIZE_REGEX), behavior="isolated")
    bpe.pre_tokenizer = pre_tokenizers.Sequence(
        [split, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
    )  # pyright: ignore
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size - len(SPECIAL_TOKENS),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    bpe.train_from_iterator(texts, trainer)
    model = json.loads(bpe.to_str())["model"]
    return Qwen2Tokenizer(
        vocab=bpe.get_vocab(),
        merges=[tuple(merge) for merge in model["merges"]],  # pyright: ignore[reportArgumentType]
        extra_special_tokens=list(SPECIAL_TOKENS[1:]),
        model_max_length=1024,
    )


def load_tokenizer(folder: Path) -> Qwen2Tokenizer:
    """Load the tokenizer in a model folder; raises UserError if it is missing or damaged."""
    try:
        Tokenizer.from_file(str(folder / "tokenizer.json"))
    except Exception as error:  # the Rust parser raises bare Exception
        raise UserError(
            f"Cannot read {folder / 'tokenizer.json'} ({error}); download or train the model again."
        ) from error
    try:
        return Qwen2Tokenizer.from_pretrained(folder, local_files_only=True)
    except (OSError, ValueError, TypeError, AttributeError, LookupError) as error:
        raise UserError(f"Cannot read the tokenizer's settings in {folder} ({error}); download them again.") from error


def add_image_markers(tokenizer: Qwen2Tokenizer) -> None:
    """Make `<img>` and `</img>` special tokens, if they are none; a released Qwen's embedding table has rows to spare.

    They then have the ids after its last, as in OmniBridge's release (spec 2.2).
    """
    tokenizer.add_special_tokens(
        {"additional_special_tokens": [IMG_START, IMG_END]}, replace_extra_special_tokens=False
    )


def encode(tokenizer: PreTrainedTokenizerBase, text: str, *, special: bool = False) -> list[int]:
    """Return token ids; without `special`, names of special tokens are encoded as plain text, as user input must be.

    Safe for concurrent use of one tokenizer.
    """
    with _ENCODE_LOCK:
        return tokenizer.encode(text, add_special_tokens=False, split_special_tokens=not special)


def token_id(tokenizer: Qwen2Tokenizer, token: str) -> int:
    """Return the id of a special token that must exist."""
    index = tokenizer.convert_tokens_to_ids(token)
    assert isinstance(index, int), token
    return index
