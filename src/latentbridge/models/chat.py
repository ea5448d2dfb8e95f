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
    """The token ids of one model around the texts of a conversation; its images are given as placeholder ids."""

    def begin(self, system: str | None) -> list[int]:
        """Return the ids before the first turn; a system message of None is the model's own."""
        ...

    def request(self, text: str, images: Sequence[Sequence[int]], is_first: bool) -> list[int]:
        """Return the ids of a user turn up to the start of the reply, with its images before the text."""
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
    chat: ChatFormat,
    conversation: Conversation,
    images: Sequence[Sequence[Sequence[int]]] = (),
    open_ended: bool = False,
) -> ChatTokens:
    """Return a conversation as token ids; `images` stand for the pictures of each turn, `open_ended` omits the last reply."""
    ids, replies = chat.begin(conversation.system), list[range]()
    for index, (user, assistant) in enumerate(conversation.turns):
        ids += chat.request(user, images[index] if index < len(images) else (), index == 0)
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

    def begin(self, system: str | None) -> list[int]:
        if system is None:
            if not self.system_prompt:
                return []
            return encode(self.tokenizer, f"<|im_start|>system\n{self.system_prompt}<|im_end|>\n", special=True)
        return self._system(system) if system else []

    def _system(self, text: str) -> list[int]:
        """Return the ids of a caller's system message, in which names of special tokens are plain text."""
        return [
            *encode(self.tokenizer, "<|im_start|>system\n", special=True),
            *encode(self.tokenizer, text),
            *encode(self.tokenizer, "<|im_end|>\n", special=True),
        ]

    def request(self, text: str, images: Sequence[Sequence[int]], is_first: bool) -> list[int]:
        suffix = encode(self.tokenizer, self.image_suffix)
        content = [token for image in images for token in (*image, *suffix)]
        return self.user_turn([*content, *encode(self.tokenizer, text)], is_first)

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

    def begin(self, system: str | None) -> list[int]:
        text = self.system_prompt if system is None else system
        return [_id(self.tokenizer.bos_token_id), *(encode(self.tokenizer, f"{text}\n\n") if text else [])]

    def request(self, text: str, images: Sequence[Sequence[int]], is_first: bool) -> list[int]:
        ids = encode(self.tokenizer, "<|User|>", special=True)
        if images:
            between = encode(self.tokenizer, "\n")
            ids += [*encode(self.tokenizer, ": "), *images[0]]
            ids += [token for image in images[1:] for token in (*between, *image)]
            question = f"\n{text}".rstrip()
            ids += encode(self.tokenizer, f"{question}\n\n")
        else:
            ids += encode(self.tokenizer, f": {text.strip()}\n\n")
        return [*ids, *encode(self.tokenizer, "<|Assistant|>", special=True), *encode(self.tokenizer, ":")]

    def reply(self, text: str) -> list[int]:
        return [*encode(self.tokenizer, f" {text.strip()}"), _id(self.tokenizer.eos_token_id)]


@dataclass(frozen=True)
class BagelChat:
    """BAGEL's format: pictures and texts in order, texts between markers that do not tell system, user and model apart."""

    tokenizer: PreTrainedTokenizerBase
    start: int
    end: int
    """Ids of the markers."""

    def begin(self, system: str | None) -> list[int]:
        return self.text(system) if system else []

    def request(self, text: str, images: Sequence[Sequence[int]], is_first: bool) -> list[int]:
        return [*(token for image in images for token in image), *self.text(text), self.start]

    def reply(self, text: str) -> list[int]:
        return self.text(text)[1:]

    def text(self, text: str) -> list[int]:
        """Return the ids of one text with its markers."""
        return [self.start, *encode(self.tokenizer, text), self.end]


def _id(token: object) -> int:
    assert isinstance(token, int), "the tokenizer has no such special token"
    return token
