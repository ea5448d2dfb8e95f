"""One tokenizer in several hands."""

from __future__ import annotations

from collections.abc import Sequence
from threading import Thread

from latentbridge.models.checkpoint import ASSETS
from latentbridge.models.tokenization import encode, load_tokenizer, token_id

MARK = "<|im_end|>"


def test_threads_do_not_read_each_others_way_with_special_tokens():
    tokenizer = load_tokenizer(ASSETS / "tokenizer")
    found: dict[bool, set[Sequence[int]]] = {True: set(), False: set()}

    def read(special: bool) -> None:
        found[special] |= {tuple(encode(tokenizer, MARK, special=special)) for _ in range(2_000)}

    threads = [Thread(target=read, args=(special,)) for special in (True, False)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found[True] == {(token_id(tokenizer, MARK),)}
    assert len(found[False]) == 1
    assert not found[True] & found[False]
