"""Replies written side by side: each conversation has a slot of its own, and may come and go at any step."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad

from latentbridge.devices import device_of
from latentbridge.errors import UserError
from latentbridge.models.left_padding import IGNORE_INDEX
from latentbridge.models.qwen_vl.batch import TokenBatch
from latentbridge.models.qwen_vl.modeling_qwen_vl import QwenVL
from latentbridge.models.qwen_vl.sampling import sample_tokens
from latentbridge.types import Conversation

_NONE = -1
_BUCKET = 16
"""Prompts are padded on the right to multiples of so many tokens, so that more of them are read together."""


@dataclass(frozen=True)
class SamplingParams:
    """How the next token of a reply is chosen: greedy at temperature 0, else sampled by a generator of its own."""

    temperature: float = 0.0
    generator: torch.Generator | None = None
    """On the CPU, wherever the model is."""

    def choose(self, logits: Tensor) -> int:
        """A token, given the float logits [v] of all."""
        if self.temperature == 0.0:
            return int(logits.argmax())
        probabilities = (logits / self.temperature).softmax(dim=-1)
        assert self.generator is not None, "sampling needs a generator"
        return int(sample_tokens(probabilities[None], [self.generator]))


class ContinuousBatch:
    """A fixed number of slots, each with room for one conversation, which a backbone continues token by token.

    Every step is a pass of the same shape, [slots 1] over [slots length] keys, whoever sits in the slots, and the keys of
    others are masked. So a reply does not depend on what it is written beside, when it joined, or which slot it has; and
    a slot is free for the next one as soon as its reply ends or nobody waits for it. A cache that grows, as in
    `sampling.py`, lets nobody join, and pads by the longest of a batch, which moves float sums by a bit or two.
    """

    def __init__(self, backbone: QwenVL, count: int, length: int):
        """`length` is how many tokens prompt and reply may have together."""
        config = backbone.model.config.get_text_config()
        shape = (count, config.num_key_value_heads, length, config.hidden_size // config.num_attention_heads)
        self.backbone = backbone
        self.length = length
        dtype, device = backbone.model.dtype, device_of(backbone)
        like = torch.zeros(shape, dtype=dtype, device=device)
        self._layers = [(like.clone(), like.clone()) for _ in range(config.num_hidden_layers)]
        self._states = like.new_zeros(count, backbone.width)
        """What the next token of each slot is chosen from."""
        self._written = torch.zeros(count, dtype=torch.long, device=device)
        """Keys a slot holds."""
        self._positions = torch.zeros(count, dtype=torch.long, device=device)
        """The rotary position of a slot's next token."""
        self._unread = torch.full((count,), _NONE, device=device)
        """The token a slot chose last, which the model has not read yet."""
        self._choosing: list[SamplingParams | None] = [None] * count
        self._rows = torch.arange(count, device=device)

    @property
    def free_slots(self) -> int:
        """Slots nobody sits in."""
        return self._choosing.count(None)

    def tokenize(self, conversation: Conversation) -> TokenBatch:
        """A conversation as `add` takes it; raises UserError where it leaves no room for a reply."""
        prompt = self.backbone.tokenize([conversation], open_ended=True)
        tokens = prompt.input_ids.shape[1]
        if tokens >= self.length:
            raise UserError(f"The conversation has {tokens} tokens; {self.length - 1} are the most, so shorten it.")
        missing = min(-tokens % _BUCKET, self.length - tokens)
        return replace(
            prompt,
            input_ids=pad(prompt.input_ids, (0, missing), value=self.backbone.padding),
            attention_mask=pad(prompt.attention_mask, (0, missing)),
            image_mask=pad(prompt.image_mask, (0, missing)),
            labels=pad(prompt.labels, (0, missing), value=IGNORE_INDEX),
            weights=pad(prompt.weights, (0, missing)),
        )

    @torch.no_grad()
    def add(self, prompts: Sequence[TokenBatch], sampling_params: Sequence[SamplingParams]) -> list[int]:
        """The slots given to prompts of one shape, which are read together; there must be as many free ones.

        A prompt's padding is on its right, where no real token sees it.
        """
        batch = _together(prompts)
        length, tokens = batch.input_ids.shape[1], batch.attention_mask.sum(dim=1)
        inputs = self.backbone.inputs(batch)
        before = torch.ones(length, length, dtype=torch.bool, device=tokens.device).tril()[None, None]
        output = self.backbone.model.model(**inputs | {"attention_mask": _everywhere(before)}, use_cache=True)
        slots = [slot for slot, taken in enumerate(self._choosing) if taken is None][: len(prompts)]
        for (keys, values), read in zip(self._layers, output.past_key_values.layers, strict=True):
            keys[slots, :, :length], values[slots, :, :length] = read.keys, read.values
        self._states[slots] = output.last_hidden_state[torch.arange(len(slots)), tokens - 1]
        self._written[slots] = tokens
        self._positions[slots] = inputs["position_ids"].amax(dim=(0, 2)) + 1
        for slot, how in zip(slots, sampling_params, strict=True):
            self._choosing[slot] = how
        return slots

    def release(self, slot: int) -> None:
        """Free a slot."""
        self._choosing[slot] = None
        self._written[slot] = 0
        self._unread[slot] = _NONE

    @torch.no_grad()
    def step(self) -> dict[int, int]:
        """One more token for every slot in use; those that ended their turn, or have no room left, must be left at once."""
        self._read_tokens()
        logits = self.backbone.model.lm_head(self._states).float()
        chosen = {slot: how.choose(logits[slot]) for slot, how in enumerate(self._choosing) if how is not None}
        for slot, token in chosen.items():
            self._unread[slot] = token
        return chosen

    def _read_tokens(self) -> None:
        """The states after the tokens chosen last; slots that just joined keep theirs."""
        moved = self._unread != _NONE
        if not moved.any():
            return
        seen = torch.arange(self.length, device=moved.device) <= self._written[:, None]
        output = self.backbone.model.model.language_model(
            input_ids=torch.where(moved, self._unread, self.backbone.padding)[:, None],
            attention_mask=_everywhere(seen[:, None, None]),
            position_ids=self._positions[None, :, None].expand(3, -1, 1),
            past_key_values=self,
            use_cache=True,
        )
        self._states = torch.where(moved[:, None], output.last_hidden_state[:, -1], self._states)
        self._written += moved
        self._positions += moved

    def has_room(self, slot: int) -> bool:
        """Whether another token fits behind those that a slot holds."""
        return int(self._written[slot]) < self.length

    def update(self, keys: Tensor, values: Tensor, layer: int, *_: Any, **__: Any) -> tuple[Tensor, Tensor]:
        """What transformers' attention asks of a cache: the new keys and values [slots heads 1 d] put where they belong, and all."""
        all_keys, all_values = self._layers[layer]
        all_keys[self._rows, :, self._written] = keys[:, :, 0]
        all_values[self._rows, :, self._written] = values[:, :, 0]
        return all_keys, all_values


def _together(prompts: Sequence[TokenBatch]) -> TokenBatch:
    def stacked(name: str) -> Tensor | None:
        parts = [part for part in (getattr(prompt, name) for prompt in prompts) if part is not None]
        return torch.cat(parts) if parts else None

    return TokenBatch(**{name: stacked(name) for name in TokenBatch.__dataclass_fields__})  # pyright: ignore


def _everywhere(mask: Tensor) -> dict[str, Tensor]:
    """One attention mask, bool [b 1 q k], for every layer, as it stands: a mask that is made may turn out as none."""
    return {"full_attention": mask}
