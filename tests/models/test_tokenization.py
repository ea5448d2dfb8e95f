"""Concurrent use of one tokenizer."""

from __future__ import annotations

from collections.abc import Sequence
from threading import Thread

from latentbridge.models.checkpoint import ASSETS
from latentbridge.models.tokenization import encode, load_tokenizer, token_id

MARK = "<|im_end|>"


def test_threads_do_not_share_the_special_token_setting():
    tokenizer = load_tokenizer(ASSETS / "tokenizer")
    encodings: dict[bool, set[Sequence[int]]] = {True: set(), False: set()}

    def read(special: bool) -> None:
        encodings[special] |= {tuple(encode(tokenizer, MARK, special=special)) for _ in range(2_000)}

    threads = [Thread(target=read, args=(special,)) for special in (True, False)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert encodings[True] == {(token_id(tokenizer, MARK),)}
    assert len(encodings[False]) == 1
    assert not encodings[True] & encodings[False]
