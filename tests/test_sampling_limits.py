from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import latentbridge
from latentbridge.config import TinyBagelConfig, to_dict
from latentbridge.errors import UserError
from latentbridge.files import write_json
from latentbridge.models.checkpoint import new_model
from latentbridge.models.unified import UnifiedModel, expand_seeds
from latentbridge.recipes import recipe


@pytest.mark.parametrize(
    "arguments",
    [
        {"seed": -1},
        {"seed": 1.5},
        {"seed": "7"},
        {"seed": 2**63},
        {"steps": 0},
        {"steps": 1001},
        {"steps": 1.5},
        {"guidance": float("nan")},
        {"guidance": -5.0},
    ],
    ids=str,
)
def test_values_out_of_range_are_refused_by_the_library(small_model: UnifiedModel, arguments: dict):
    with pytest.raises(UserError, match=f"{next(iter(arguments))} .* is out of range"):
        small_model.generate("a star", **arguments)


@pytest.mark.parametrize("text", [5, None, ["a star", 5]], ids=str)
def test_texts_are_strings(small_model: UnifiedModel, text):
    with pytest.raises(UserError, match="a string or a list of strings"):
        small_model.generate(text)


def test_seeds_count_up_and_may_be_numpy_numbers():
    assert expand_seeds(np.int64(3), 2) == [3, 4] and expand_seeds(np.array([5, 2]), 2) == [5, 2]
    assert expand_seeds((7,), 1) == [7]


def test_an_unfinished_run_is_not_a_model(tmp_path: Path):
    write_json(tmp_path / "config.json", to_dict(recipe("sft")))
    with pytest.raises(UserError, match="has not finished, so it holds no model; continue it with --resume"):
        latentbridge.load(tmp_path)


def test_an_unknown_compat_is_refused():
    with pytest.raises(UserError, match="Unknown compat 'x'"):
        latentbridge.load("tiny", compat="x")  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize("width", [7, 0, -8])
def test_sizes_that_do_not_fit_together_are_one_sentence(width: int):
    with pytest.raises(UserError, match="sizes of this bagel model do not fit together"):
        new_model(TinyBagelConfig(width=width), seed=0)
