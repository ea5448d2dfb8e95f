from __future__ import annotations

from latentbridge.models.options import ReplyOptions
from latentbridge.serving.engine.text_generation import Detokenizer, GenerationRequest
from latentbridge.types import Conversation

END = -1
CONVERSATION = Conversation((("", ""),))


def decode(tokens) -> str:
    """Decode tokens that are Unicode code points; 1 and 2 are halves of one character."""
    text = ""
    for token in tokens:
        if token == 2 and text.endswith("\ufffd"):
            text = text[:-1] + "é"
        elif token == 1:
            text += "\ufffd"
        elif token != END:
            text += chr(token)
    return text


def chunks(tokens: list[int], stop: tuple[str, ...] = (), max_tokens: int = 99, room: int = 99) -> list[tuple]:
    detokenizer = Detokenizer(GenerationRequest(CONVERSATION, ReplyOptions(max_tokens, stop=stop)), 5, [END], decode)
    added = [detokenizer.add(token, number < room) for number, token in enumerate(tokens, start=1)]
    assert all(chunk.prompt_tokens == 5 and chunk.reply_tokens == n for n, chunk in enumerate(added, start=1))
    return [(chunk.text, chunk.finish_reason) for chunk in added]


def tokens_of(text: str) -> list[int]:
    return [ord(letter) for letter in text]


def test_each_token_adds_text_until_the_turn_ends():
    assert chunks([*tokens_of("ab"), END]) == [("a", None), ("b", None), ("", "stop")]


def test_an_incomplete_character_is_held_back():
    assert chunks([97, 1, 2, END]) == [("a", None), ("", None), ("é", None), ("", "stop")]
    assert chunks([97, 1, END])[-1] == ("\ufffd", "stop")


def test_a_possible_stop_text_is_held_back():
    assert chunks(tokens_of("xabc"), stop=("abc",)) == [("x", None), ("", None), ("", None), ("", "stop")]
    assert chunks(tokens_of("xabd"), stop=("abc",)) == [("x", None), ("", None), ("", None), ("abd", None)]
    assert chunks(tokens_of("aab"), stop=("ab", "zz")) == [("", None), ("a", None), ("", "stop")]
    assert chunks([*tokens_of("xa"), END], stop=("abc",))[-1] == ("a", "stop")


def test_the_first_of_several_stop_texts_counts():
    added = chunks(tokens_of("see"), stop=("ee", "see"))
    assert "".join(text for text, _ in added) == "" and added[-1][1] == "stop"


def test_length_is_the_reason_at_the_token_limit_and_in_a_full_slot():
    assert chunks(tokens_of("abc"), max_tokens=3)[-1] == ("c", "length")
    assert chunks(tokens_of("abc"), room=3)[-1] == ("c", "length")
