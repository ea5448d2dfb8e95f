"""Weights in 4 and 8 bits on the CPU."""

from __future__ import annotations

import sys
from typing import Literal

import numpy as np
import pytest

from latentbridge.errors import UserError
from latentbridge.models.checkpoint import load


def test_four_bits_and_offloading_compute_as_four_bits_alone():
    pytest.importorskip("bitsandbytes")
    picture = np.full((64, 64, 3), 255, np.uint8)
    picture[20:44, 20:44] = (255, 0, 0)
    expected = load("tiny", quantize="nf4").understand([picture, picture], "What is this?")
    for offload in ("parts", "layers"):
        model = load("tiny", quantize="nf4", offload=offload)
        assert [model.understand(picture, "What is this?") for _ in range(2)] == expected


@pytest.mark.parametrize(("scheme", "least"), [("int8", 0.999), ("nf4", 0.95)])
def test_quantised_embeddings_point_nearly_where_plain_ones_do(scheme: Literal["int8", "nf4"], least: float):
    texts = ["a red circle", "two blue stars", "an umbrella"]
    plain, quantised = (load("tiny", quantize=each).embed(texts=texts) for each in (None, scheme))
    assert least < (plain * quantised).sum(axis=1).min() < 1 - 1e-6


def test_without_the_library_quantisation_is_refused(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "bitsandbytes", None)
    with pytest.raises(UserError, match=r"install latentbridge\[quantize\]"):
        load("tiny", quantize="nf4")
