from __future__ import annotations

import pytest

from latentbridge.config import AlignConfig, RunConfig
from latentbridge.errors import UserError
from latentbridge.training.items import ItemOrder


def order(items: int, batch_size: int, seed: int = 0, purpose: str = "order") -> ItemOrder:
    config = RunConfig("trial", AlignConfig(items=items), steps=1, batch_size=batch_size, seed=seed)
    return ItemOrder(config, purpose)


def test_an_epoch_visits_every_item_once_and_drops_the_remainder() -> None:
    steps = [order(17, 5).indices(step) for step in range(6)]  # two epochs of three steps, two items left out of each
    for epoch in (steps[:3], steps[3:]):
        seen = [index for batch in epoch for index in batch]
        assert len(set(seen)) == 15 and set(seen) <= set(range(17))
    assert all(batch == sorted(batch) for batch in steps)
    assert steps[:3] != steps[3:]


def test_the_order_depends_on_seed_and_purpose() -> None:
    first = order(97, 11).indices(2)
    assert order(97, 11).indices(2) == first
    assert order(97, 11, seed=1).indices(2) != first and order(97, 11, purpose="other").indices(2) != first


def test_a_batch_larger_than_the_set_is_an_error() -> None:
    with pytest.raises(UserError, match=r"stage.items is 4; it takes batch_size \(5\) or more"):
        order(4, 5)
