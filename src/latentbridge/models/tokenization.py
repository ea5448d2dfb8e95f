"""The tiny model's tokenizer: a byte-level BPE in Qwen2's own format, learned from the texts of the worlds."""

from __future__ import annotations

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


_ENCODING = Lock()
"""Held while a tokenizer encodes: whether names of special tokens count is state of the tokenizer, which calls set."""


def train_tokenizer(texts: Iterable[str], vocab_size: int) -> Qwen2Tokenizer:
    """A Qwen2Tokenizer of at most `vocab_size` tokens, special tokens included, with Qwen2's own pre-tokenisation."""
    learner = Tokenizer(BPE())
    split = pre_tokenizers.Split(Regex(PRETOKENIZE_REGEX), behavior="isolated")
    learner.pre_tokenizer = pre_tokenizers.Sequence(
        [split, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
    )  # pyright: ignore
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size - len(SPECIAL_TOKENS),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    learner.train_from_iterator(texts, trainer)
    vocab = learner.get_vocab()
    merges = [tuple(merge) for merge in _merges(learner)]
    return Qwen2Tokenizer(
        vocab=vocab,
        merges=merges,  # pyright: ignore[reportArgumentType]
        extra_special_tokens=list(SPECIAL_TOKENS[1:]),
        model_max_length=1024,
    )


def load_tokenizer(folder: Path) -> Qwen2Tokenizer:
    """The tokenizer saved in a model folder; raises UserError where it is missing or damaged."""
    try:
        Tokenizer.from_file(str(folder / "tokenizer.json"))
    except Exception as error:  # the Rust reader raises nothing narrower
        raise UserError(
            f"Cannot read {folder / 'tokenizer.json'} ({error}); download or train the model again."
        ) from error
    return Qwen2Tokenizer.from_pretrained(folder, local_files_only=True)


def encode(tokenizer: PreTrainedTokenizerBase, text: str, *, special: bool = False) -> list[int]:
    """Token ids; unless `special`, the names of special tokens are text like any other, as what users type must be.

    Threads may share the tokenizer.
    """
    with _ENCODING:
        return tokenizer.encode(text, add_special_tokens=False, split_special_tokens=not special)


def _merges(learner: Tokenizer) -> list[list[str]]:
    import json

    return json.loads(learner.to_str())["model"]["merges"]


def token_id(tokenizer: Qwen2Tokenizer, token: str) -> int:
    """The id of a special token that must exist."""
    found = tokenizer.convert_tokens_to_ids(token)
    assert isinstance(found, int), token
    return found
