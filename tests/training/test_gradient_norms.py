from __future__ import annotations

import pytest
import torch
from torch import nn

from latentbridge.training.gradient_norms import gradient_norm_shares


def test_shares_are_norms_over_shared_parameters() -> None:
    shared, alone = nn.Parameter(torch.tensor([1.0, 2.0])), nn.Parameter(torch.tensor(5.0))
    terms = {
        "a": 3 * shared[0] + 100 * alone,  # the second part moves what no other term reaches
        "b": 4 * shared[1],
        "inert": 0 * shared.sum(),
        "constant": torch.tensor(7.0),
    }
    shares = gradient_norm_shares(terms, [shared, alone])
    assert shares == pytest.approx({"a": 3 / 7, "b": 4 / 7, "inert": 0.0, "constant": 0.0})
    twice = gradient_norm_shares(terms | {"b": 8 * shared[1]}, [shared, alone])
    assert twice["b"] == pytest.approx(8 / 11)  # a value that doubles with its weight


def test_the_graph_is_retained() -> None:
    shared = nn.Parameter(torch.tensor([1.0, 2.0]))
    squares = shared.square()
    terms = {"a": squares[0], "b": squares.sum()}
    gradient_norm_shares(terms, [shared])
    assert shared.grad is None
    sum(terms.values(), torch.zeros(())).backward()
    assert shared.grad is not None and shared.grad.tolist() == [4.0, 4.0]


def test_without_shared_parameters_all_shares_are_zero() -> None:
    a, b = nn.Parameter(torch.ones(3)), nn.Parameter(torch.ones(2))
    assert gradient_norm_shares({"a": a.sum(), "b": b.sum()}, [a, b]) == {"a": 0.0, "b": 0.0}
    assert gradient_norm_shares({}, [a]) == {}
