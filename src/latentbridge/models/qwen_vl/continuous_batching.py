"""Continuous batching: conversations generated token by token in the slots of one KV cache, joining at any step."""

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
from latentbridge.models.options import ReplyOptions
from latentbridge.models.qwen_vl.batch import TokenBatch
from latentbridge.models.qwen_vl.generation import SeenTokens
from latentbridge.models.qwen_vl.modeling_qwen_vl import QwenVL
from latentbridge.models.token_sampling import choose
from latentbridge.types import Conversation

_NO_TOKEN = -1
_BUCKET = 16
"""Prompts are right-padded to a multiple of this length, so that more of them are prefilled together."""


@dataclass(frozen=True)
class SamplingParams:
    """Options of one reply and the generator of its tokens, which a greedy one does not need."""

    options: ReplyOptions = ReplyOptions()
    generator: torch.Generator | None = None
    """On the CPU, whatever the model's device."""

    def choose(self, logits: Tensor) -> int:
        """Return a token for float logits [1 v]."""
        generators = None if self.generator is None else [self.generator]
        return int(choose(logits, self.options, generators)[0])


class ContinuousBatch:
    """A fixed number of slots of a KV cache, each with room for one conversation.

    Every step has the same shape, [slots 1] queries over [slots length] keys, with the keys of other slots masked. So a
    reply does not depend on the other replies, on the step at which it was added, or on its slot, and a slot is free as
    soon as its reply ends. The growing cache in `sampling.py` accepts no new conversations, and pads to the longest of a
    batch, which changes floating-point sums by a bit or two.
    """

    def __init__(self, backbone: QwenVL, count: int, length: int):
        """`length` is the maximum number of tokens of prompt and reply together."""
        config = backbone.model.config.get_text_config()
        head_dim = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
        shape = (count, config.num_key_value_heads, length, head_dim)
        self.backbone = backbone
        self.length = length
        zeros = torch.zeros(shape, dtype=backbone.model.dtype, device=device_of(backbone))
        self._layers = [(zeros.clone(), zeros.clone()) for _ in range(config.num_hidden_layers)]
        """Keys and values by layer."""
        self._states = zeros.new_zeros(count, backbone.width)
        """The hidden state from which each slot's next token is sampled."""
        self._cached = torch.zeros(count, dtype=torch.long, device=zeros.device)
        """Number of cached keys by slot."""
        self._positions = torch.zeros(count, dtype=torch.long, device=zeros.device)
        """Rotary position of each slot's next token."""
        self._pending = torch.full((count,), _NO_TOKEN, device=zeros.device)
        """Each slot's sampled token that is not in the cache yet."""
        self._sampling_params: list[SamplingParams | None] = [None] * count
        self._seen: dict[int, SeenTokens] = {}
        """The tokens of each slot in use."""
        self._rows = torch.arange(count, device=zeros.device)

    @property
    def free_slots(self) -> int:
        """The number of free slots."""
        return self._sampling_params.count(None)

    def tokenize(self, conversation: Conversation) -> TokenBatch:
        """Return the prompt of a conversation, padded for `add`; raises UserError if it leaves no room for a reply."""
        prompt = self.backbone.tokenize([conversation], open_ended=True)
        tokens = prompt.input_ids.shape[1]
        if tokens >= self.length:
            raise UserError(f"The conversation has {tokens} tokens; {self.length - 1} are the most, so shorten it.")
        missing = (0, min(-tokens % _BUCKET, self.length - tokens))
        return replace(
            prompt,
            input_ids=pad(prompt.input_ids, missing, value=self.backbone.padding),
            attention_mask=pad(prompt.attention_mask, missing),
            image_mask=pad(prompt.image_mask, missing),
            labels=pad(prompt.labels, missing, value=IGNORE_INDEX),
            weights=pad(prompt.weights, missing),
        )

    @torch.no_grad()
    def add(self, prompts: Sequence[TokenBatch], sampling_params: Sequence[SamplingParams]) -> list[int]:
        """Prefill prompts of one shape together and return their slots; there must be as many free ones.

        A prompt's padding is on the right, where causal attention hides it.
        """
        batch = _concatenate(prompts)
        length, tokens = batch.input_ids.shape[1], batch.attention_mask.sum(dim=1)
        inputs = self.backbone.inputs(batch)
        causal = torch.ones(length, length, dtype=torch.bool, device=tokens.device).tril()[None, None]
        output = self.backbone.model.model(**inputs | {"attention_mask": causal}, use_cache=True)
        slots = [slot for slot, params in enumerate(self._sampling_params) if params is None][: len(prompts)]
        for (keys, values), layer in zip(self._layers, output.past_key_values.layers, strict=True):
            keys[slots, :, :length], values[slots, :, :length] = layer.keys, layer.values
        self._states[slots] = output.last_hidden_state[torch.arange(len(slots)), tokens - 1]
        self._cached[slots] = tokens
        self._positions[slots] = inputs["position_ids"].amax(dim=(0, 2)) + 1
        vocabulary = self.backbone.model.lm_head.out_features
        for row, (slot, params) in enumerate(zip(slots, sampling_params, strict=True)):
            self._sampling_params[slot] = params
            ids, mask = batch.input_ids[row, None], batch.attention_mask[row, None]
            self._seen[slot] = SeenTokens(params.options, ids, mask, vocabulary)
        return slots

    def release(self, slot: int) -> None:
        """Free a slot."""
        self._sampling_params[slot] = None
        self._cached[slot] = 0
        self._pending[slot] = _NO_TOKEN

    @torch.no_grad()
    def step(self) -> dict[int, int]:
        """Return one new token for every slot in use; slots that ended their turn or are full must then be released."""
        self._forward_pending()
        logits = self.backbone.model.lm_head(self._states).float()
        tokens = {
            slot: params.choose(self._seen[slot].penalize(logits[slot, None]))
            for slot, params in enumerate(self._sampling_params)
            if params is not None
        }
        for slot, token in tokens.items():
            self._pending[slot] = token
            self._seen[slot].add(self._pending[slot, None])
        return tokens

    def _forward_pending(self) -> None:
        """Advance the slots that have a pending token; others keep their states."""
        pending = self._pending != _NO_TOKEN
        if not pending.any():
            return
        visible = torch.arange(self.length, device=pending.device) <= self._cached[:, None]
        output = self.backbone.model.model.language_model(
            input_ids=torch.where(pending, self._pending, self.backbone.padding)[:, None],
            attention_mask=visible[:, None, None],
            position_ids=self._positions[None, :, None].expand(3, -1, 1),
            past_key_values=self,
            use_cache=True,
        )
        self._states = torch.where(pending[:, None], output.last_hidden_state[:, -1], self._states)
        self._cached += pending
        self._positions += pending

    def has_room(self, slot: int) -> bool:
        """Return whether a slot has room for another token."""
        return int(self._cached[slot]) < self.length

    def update(self, keys: Tensor, values: Tensor, layer: int, *_: Any, **__: Any) -> tuple[Tensor, Tensor]:
        """Store new keys and values [slots heads 1 d] and return all of a layer, as transformers' `Cache.update` does."""
        all_keys, all_values = self._layers[layer]
        all_keys[self._rows, :, self._cached] = keys[:, :, 0]
        all_values[self._rows, :, self._cached] = values[:, :, 0]
        return all_keys, all_values


def _concatenate(prompts: Sequence[TokenBatch]) -> TokenBatch:
    def column(name: str) -> Tensor | None:
        tensors = [tensor for tensor in (getattr(prompt, name) for prompt in prompts) if tensor is not None]
        return torch.cat(tensors) if tensors else None

    return TokenBatch(**{name: column(name) for name in TokenBatch.__dataclass_fields__})  # pyright: ignore
