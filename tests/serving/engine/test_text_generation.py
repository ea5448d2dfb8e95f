from __future__ import annotations

from latentbridge.serving.engine.text_generation import Detokenizer, GenerationRequest
from latentbridge.types import Conversation

END = -1
TALK = Conversation((("", ""),))


def decoded(tokens) -> str:
    """A token is a Unicode code point here; 1 and 2 are halves of one character."""
    text = ""
    for token in tokens:
        if token == 2 and text.endswith("\ufffd"):
            text = text[:-1] + "é"
        elif token == 1:
            text += "\ufffd"
        elif token != END:
            text += chr(token)
    return text


def written(tokens: list[int], stop: tuple[str, ...] = (), max_tokens: int = 99, room: int = 99) -> list[tuple]:
    writing = Detokenizer(GenerationRequest(TALK, max_tokens, stop=stop), 5, END, decoded)
    pieces = [writing.add(token, number < room) for number, token in enumerate(tokens, start=1)]
    assert all(piece.prompt_tokens == 5 and piece.reply_tokens == n for n, piece in enumerate(pieces, start=1))
    return [(piece.text, piece.finish_reason) for piece in pieces]


def of(text: str) -> list[int]:
    return [ord(letter) for letter in text]


def test_text_comes_token_by_token_until_the_turn_ends():
    assert written([*of("ab"), END]) == [("a", None), ("b", None), ("", "stop")]


def test_half_a_character_waits_for_the_other_half():
    assert written([97, 1, 2, END]) == [("a", None), ("", None), ("é", None), ("", "stop")]
    assert written([97, 1, END])[-1] == ("\ufffd", "stop")


def test_what_may_become_a_stop_text_waits_and_is_never_given_out():
    assert written(of("xabc"), stop=("abc",)) == [("x", None), ("", None), ("", None), ("", "stop")]
    assert written(of("xabd"), stop=("abc",)) == [("x", None), ("", None), ("", None), ("abd", None)]
    assert written(of("aab"), stop=("ab", "zz")) == [("", None), ("a", None), ("", "stop")]
    assert written([*of("xa"), END], stop=("abc",))[-1] == ("a", "stop")


def test_the_first_of_several_stop_texts_counts():
    pieces = written(of("see"), stop=("ee", "see"))
    assert "".join(text for text, _ in pieces) == "" and pieces[-1][1] == "stop"


def test_tokens_run_out_or_the_slot_is_full():
    assert written(of("abc"), max_tokens=3)[-1] == ("c", "length")
    assert written(of("abc"), room=3)[-1] == ("c", "length")
