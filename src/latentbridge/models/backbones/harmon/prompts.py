"""Token ids of Harmon's prompts and conversations, worded as by wusize/Harmon at 4eb6087 (`scripts`, `configs/models`)."""

from __future__ import annotations

from collections.abc import Sequence

from transformers import Qwen2Tokenizer

from latentbridge.models.chat import ChatML, ChatTokens, tokenize_chat
from latentbridge.models.tokenization import encode, token_id
from latentbridge.types import Conversation

_PREFIX, _UNCONDITIONAL = "Generate an image:", "Generate an image."


class HarmonPrompts:
    """Prompts of one tokenizer, in which a placeholder stands for each token and each buffer of an image.

    There is no system message of the model's own.
    """

    def __init__(self, tokenizer: Qwen2Tokenizer, num_buffers: int):
        self.tokenizer, self.num_buffers = tokenizer, num_buffers
        self.chat = ChatML(tokenizer, image_suffix="\n")
        self.placeholder, self.end, self.padding = (
            token_id(tokenizer, name) for name in ("<|image_pad|>", "<|im_end|>", "<|endoftext|>")
        )

    def image(self, num_tokens: int) -> list[int]:
        """Return the ids in the place of an image."""
        return [self.placeholder] * (num_tokens + self.num_buffers)

    def drawings(self, descriptions: Sequence[str | None]) -> list[list[int]]:
        """Return prompts up to where the drawn image begins; None is the unconditional prompt."""
        texts = [_UNCONDITIONAL if text is None else f"{_PREFIX} {text}" for text in descriptions]
        return [self.chat.user_turn(encode(self.tokenizer, text)) for text in texts]

    def reconstruction(self, num_tokens: int) -> list[int]:
        """Return a prompt that holds an image in place of the description."""
        return self.chat.user_turn([*encode(self.tokenizer, _PREFIX), *self.image(num_tokens)])

    def conversation(
        self, conversation: Conversation, num_tokens: int, open_ended: bool = False, has_drawing: bool = False
    ) -> ChatTokens:
        """Return a conversation's tokens; `open_ended` omits the last reply, and a drawing may stand for the pictures."""
        image = self.image(num_tokens)
        images = [[image]] if has_drawing else [[image] * len(turn) for turn in conversation.pictures]
        return tokenize_chat(self.chat, conversation, images, open_ended)
