"""Chat formats: how each model writes the turns of a conversation as token ids."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from transformers import PreTrainedTokenizerBase, Qwen2Tokenizer

from latentbridge.models.left_padding import IGNORE_INDEX
from latentbridge.models.tokenization import encode, token_id
from latentbridge.types import Conversation


class ChatFormat(Protocol):
    """The token ids of one model around the texts of a conversation; its image is given as placeholder ids."""

    def begin(self, image: Sequence[int]) -> list[int]:
        """Return the ids before the first turn."""
        ...

    def request(self, text: str, image: Sequence[int], is_first: bool) -> list[int]:
        """Return the ids of a user turn up to the start of the reply; only the first turn gets an image."""
        ...

    def reply(self, text: str) -> list[int]:
        """Return the ids of a reply and of its end."""
        ...


@dataclass(frozen=True)
class ChatTokens:
    """The token ids of a conversation."""

    ids: list[int]
    replies: list[range]
    """Positions of the replies to train on."""

    @property
    def labels(self) -> list[int]:
        """The ids at the positions of replies, `IGNORE_INDEX` elsewhere."""
        labels = [IGNORE_INDEX] * len(self.ids)
        for reply in self.replies:
            labels[reply.start : reply.stop] = self.ids[reply.start : reply.stop]
        return labels


def tokenize_chat(
    chat: ChatFormat, conversation: Conversation, image: Sequence[int] = (), open_ended: bool = False
) -> ChatTokens:
    """Return a conversation as token ids; `image` stands for its picture, and `open_ended` omits the last reply."""
    ids, replies = chat.begin(image), list[range]()
    for index, (user, assistant) in enumerate(conversation.turns):
        ids += chat.request(user, image if index == 0 else (), index == 0)
        if open_ended and index == len(conversation.turns) - 1:
            break
        start = len(ids)
        ids += chat.reply(assistant)
        if conversation.counts:
            replies.append(range(start, len(ids)))
    return ChatTokens(ids, replies)


@dataclass(frozen=True)
class ChatML:
    """ChatML, as Qwen2-VL and Harmon write it."""

    tokenizer: Qwen2Tokenizer
    system_prompt: str = ""
    image_suffix: str = ""
    """Text between image and question."""
    markers_in_replies: bool = False
    """Names of special tokens in replies are encoded as those tokens: `<img>` and `</img>` of OmniBridge."""

    def begin(self, image: Sequence[int]) -> list[int]:
        if not self.system_prompt:
            return []
        return encode(self.tokenizer, f"<|im_start|>system\n{self.system_prompt}<|im_end|>\n", special=True)

    def request(self, text: str, image: Sequence[int], is_first: bool) -> list[int]:
        suffix = encode(self.tokenizer, self.image_suffix) if image else []
        return self.user_turn([*image, *suffix, *encode(self.tokenizer, text)], is_first)

    def user_turn(self, content: Sequence[int], is_first: bool = True) -> list[int]:
        """Return the ids of a user turn with the ids of its content, up to the start of the reply."""
        start = "<|im_start|>user\n" if is_first else "\n<|im_start|>user\n"
        end = "<|im_end|>\n<|im_start|>assistant\n"
        return [
            *encode(self.tokenizer, start, special=True),
            *content,
            *encode(self.tokenizer, end, special=True),
        ]

    def reply(self, text: str) -> list[int]:
        ids = encode(self.tokenizer, text, special=self.markers_in_replies)
        return [*ids, token_id(self.tokenizer, "<|im_end|>")]


@dataclass(frozen=True)
class JanusChat:
    """Janus-Pro's own format (`janus/utils/conversation.py` of deepseek-ai/Janus at 1daa72f), which strips every message."""

    tokenizer: PreTrainedTokenizerBase
    system_prompt: str = ""

    def begin(self, image: Sequence[int]) -> list[int]:
        system = encode(self.tokenizer, f"{self.system_prompt}\n\n") if self.system_prompt else []
        return [_id(self.tokenizer.bos_token_id), *system]

    def request(self, text: str, image: Sequence[int], is_first: bool) -> list[int]:
        ids = encode(self.tokenizer, "<|User|>", special=True)
        if image:
            rest = f"\n{text}".rstrip()
            ids += [*encode(self.tokenizer, ": "), *image, *encode(self.tokenizer, f"{rest}\n\n")]
        else:
            ids += encode(self.tokenizer, f": {text.strip()}\n\n")
        return [*ids, *encode(self.tokenizer, "<|Assistant|>", special=True), *encode(self.tokenizer, ":")]

    def reply(self, text: str) -> list[int]:
        return [*encode(self.tokenizer, f" {text.strip()}"), _id(self.tokenizer.eos_token_id)]


@dataclass(frozen=True)
class BagelChat:
    """BAGEL's format: the image first, then texts between markers that do not tell user and model apart."""

    tokenizer: PreTrainedTokenizerBase
    start: int
    end: int
    """Ids of the markers."""

    def begin(self, image: Sequence[int]) -> list[int]:
        return list(image)

    def request(self, text: str, image: Sequence[int], is_first: bool) -> list[int]:
        return [*self.text(text), self.start]

    def reply(self, text: str) -> list[int]:
        return self.text(text)[1:]

    def text(self, text: str) -> list[int]:
        """Return the ids of one text with its markers."""
        return [self.start, *encode(self.tokenizer, text), self.end]


def _id(token: object) -> int:
    assert isinstance(token, int), "the tokenizer has no such special token"
    return token
