"""Packing of several conversations into one row, separated by their position ids, to reduce padding."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from latentbridge.models.left_padding import IGNORE_INDEX
from latentbridge.models.qwen_vl.batch import TokenBatch


def pack(batch: TokenBatch, position_ids: Tensor, padding: int) -> TokenBatch:
    """Return the conversations in as few rows as first-fit decreasing finds, of the longest conversation's length.

    `position_ids`, int64 [3 b s], move with their tokens. transformers keeps conversations of a row apart by their index
    within the conversation, the first of `TokenBatch.position_ids`, which restarts with each (`create_causal_mask`).
    """
    lengths = batch.attention_mask.sum(dim=1).tolist()
    rows = first_fit(lengths, max(lengths))
    order = [item for row in rows for item in row]
    target_row = torch.tensor([index for index, row in enumerate(rows) for item in row for _ in range(lengths[item])])
    target_column = torch.cat([torch.arange(sum(lengths[item] for item in row)) for row in rows])
    source_row = torch.tensor([item for item in order for _ in range(lengths[item])])
    source_column = torch.cat([torch.arange(lengths[item]) for item in order])

    def move(values: Tensor, fill: float = 0) -> Tensor:
        packed = values.new_full((len(rows), max(lengths)), fill)
        packed[target_row, target_column] = values[source_row, source_column]
        return packed

    columns = torch.arange(batch.input_ids.shape[1]).expand_as(batch.input_ids)
    return replace(
        batch,
        input_ids=move(batch.input_ids, padding),
        attention_mask=move(batch.attention_mask),
        image_mask=move(batch.image_mask),
        labels=move(batch.labels, IGNORE_INDEX),
        weights=move(batch.weights),
        position_ids=torch.stack([move(values) for values in (columns, *position_ids)]),
        **_reorder_pictures(batch, order),
    )


def first_fit(lengths: list[int], capacity: int) -> list[list[int]]:
    """Return the indices of `lengths` in each bin of `capacity`, by first-fit decreasing."""
    bins: list[list[int]] = []
    free: list[int] = []
    for index in sorted(range(len(lengths)), key=lambda index: -lengths[index]):
        target = next((target for target, space in enumerate(free) if space >= lengths[index]), len(bins))
        if target == len(bins):
            bins.append([])
            free.append(capacity)
        bins[target].append(index)
        free[target] -= lengths[index]
    return bins


def _reorder_pictures(batch: TokenBatch, order: list[int]) -> dict[str, Tensor]:
    if batch.pixel_values is None or batch.image_grid_thw is None:
        return {}
    has_picture = batch.image_mask.any(dim=1)
    picture_of = (has_picture.cumsum(dim=0) - 1).tolist()
    pictures = [picture_of[item] for item in order if has_picture[item]]
    patches = batch.pixel_values.split(batch.image_grid_thw.prod(dim=1).tolist())
    return {
        "pixel_values": torch.cat([patches[picture] for picture in pictures]),
        "image_grid_thw": batch.image_grid_thw[pictures],
    }
