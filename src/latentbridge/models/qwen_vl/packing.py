"""Several conversations in one row, none seeing another, so that a batch is short of padding and not of tokens."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from latentbridge.models.left_padding import IGNORE_INDEX
from latentbridge.models.qwen_vl.batch import TokenBatch


def pack(batch: TokenBatch, position_ids: Tensor, padding: int) -> TokenBatch:
    """The same conversations in as few rows of the longest one's length as first fit, longest first, finds.

    `position_ids`, int64 [3 b s], go with their tokens. transformers keeps neighbours apart by the place in the own
    conversation, which `TokenBatch.position_ids` has before them and which starts anew with each (`create_causal_mask`).
    """
    lengths = batch.attention_mask.sum(dim=1).tolist()
    rows = first_fit(lengths, max(lengths))
    order = [talk for row in rows for talk in row]
    row = torch.tensor([number for number, talks in enumerate(rows) for talk in talks for _ in range(lengths[talk])])
    column = torch.cat([torch.arange(sum(lengths[talk] for talk in talks)) for talks in rows])
    talk = torch.tensor([talk for talk in order for _ in range(lengths[talk])])
    place = torch.cat([torch.arange(lengths[talk]) for talk in order])

    def moved(values: Tensor, fill: float = 0) -> Tensor:
        """Values of tokens, [b s], where the tokens are now."""
        out = values.new_full((len(rows), max(lengths)), fill)
        out[row, column] = values[talk, place]
        return out

    places = torch.arange(batch.input_ids.shape[1]).expand_as(batch.input_ids)
    return replace(
        batch,
        input_ids=moved(batch.input_ids, padding),
        attention_mask=moved(batch.attention_mask),
        image_mask=moved(batch.image_mask),
        labels=moved(batch.labels, IGNORE_INDEX),
        weights=moved(batch.weights),
        position_ids=torch.stack([moved(values) for values in (places, *position_ids)]),
        **_pictures(batch, order),
    )


def first_fit(lengths: list[int], room: int) -> list[list[int]]:
    """Indices of lengths by the row they fit into, the longest first; no row holds more than `room`."""
    rows: list[list[int]] = []
    free: list[int] = []
    for index in sorted(range(len(lengths)), key=lambda index: -lengths[index]):
        number = next((number for number, left in enumerate(free) if left >= lengths[index]), len(rows))
        if number == len(rows):
            rows.append([])
            free.append(room)
        rows[number].append(index)
        free[number] -= lengths[index]
    return rows


def _pictures(batch: TokenBatch, order: list[int]) -> dict[str, Tensor]:
    """The pictures of the conversations in their new order."""
    if batch.pixel_values is None or batch.image_grid_thw is None:
        return {}
    shown = batch.image_mask.any(dim=1)
    mine = (shown.cumsum(dim=0) - 1).tolist()
    kept = [mine[talk] for talk in order if shown[talk]]
    patches = batch.pixel_values.split(batch.image_grid_thw.prod(dim=1).tolist())
    return {
        "pixel_values": torch.cat([patches[picture] for picture in kept]),
        "image_grid_thw": batch.image_grid_thw[kept],
    }
