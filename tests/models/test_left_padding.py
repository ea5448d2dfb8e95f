from __future__ import annotations

import math

import pytest
import torch

from latentbridge.models.left_padding import IGNORE_INDEX, last_tokens_mask, next_token_loss, pad_left, position_ids


def test_padding_stands_on_the_left_and_takes_no_position():
    rows = pad_left([[7, 8, 9], [5]], padding=2)
    assert rows.ids.tolist() == [[7, 8, 9], [2, 2, 5]]
    assert rows.mask.tolist() == [[1, 1, 1], [0, 0, 1]]
    assert position_ids(rows.mask).tolist() == [[0, 1, 2], [0, 0, 0]]


def test_the_last_tokens_of_each_row_are_found_by_their_number():
    rows = pad_left([[7, 8, 9], [5], [1, 2]], padding=0)
    assert last_tokens_mask(rows, [1, 1, 2]).tolist() == [
        [False, False, True],
        [False, False, True],
        [False, True, True],
    ]


def test_the_reply_loss_is_a_mean_over_labelled_tokens_each_foretold_by_the_one_before():
    # the head says: 3 to 1 for word 0 where a state is 1, even chances where it is 0
    states = torch.tensor([[1.0, 0.0, 1.0, 9.0], [9.0, 9.0, 0.0, 9.0]])[..., None]
    head = torch.nn.Linear(1, 2, bias=False)
    with torch.no_grad():
        head.weight.copy_(torch.tensor([[math.log(3)], [0.0]]))
    labels = [[IGNORE_INDEX, 0, IGNORE_INDEX, 1], [IGNORE_INDEX, 1]]  # the second row stands behind padding
    expected = (-math.log(3 / 4) - math.log(1 / 4) + math.log(2)) / 3
    loss = next_token_loss(head, states, labels)
    assert loss.item() == pytest.approx(expected, abs=1e-6)
