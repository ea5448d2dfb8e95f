"""Descriptions of models."""

from __future__ import annotations

import dataclasses
import json

import pytest

from latentbridge.models.checkpoint import load
from latentbridge.models.description import describe


def test_the_shipped_model_is_described_as_it_loads():
    model, document = load("tiny"), describe("tiny")
    assert set(document["skills"]) == model.skills and document["lacking"] == []
    assert document["parameters"] == sum(parameter.numel() for parameter in model.parameters())
    assert sum(document["parameters_by_part"].values()) == document["parameters"]
    assert document["draws_px"] == model.drawing_size_px == 64 and document["context_tokens"] == model.context_length
    for verb, options in (
        ("understand", model.reply_options),
        ("generate", model.drawing_options),
        ("edit", model.edit_options),
    ):
        stored = {name: option["default"] for name, option in document["options"][verb].items()}
        assert stored == dataclasses.asdict(options)
    assert document["options"]["generate"]["steps"]["doc"].startswith("Sampling steps")
    assert "edit" in document["options"] and "embed" not in document["options"]
    json.dumps(document)


@pytest.mark.parametrize(
    ("name", "steps", "system"),
    [("bagel-7b-mot", 50, ""), ("janus-pro-1b", 576, "You are a helpful language and vision assistant.")],
)
def test_releases_are_described_by_their_own_defaults(name: str, steps: int, system: str):
    document = describe(name)
    assert document["options"]["generate"]["steps"]["default"] == steps
    assert document["system_prompt"].startswith(system)
    assert document["dtype"] == "bfloat16"
    assert all(option["doc"] or name in ("renorm",) for name, option in document["options"]["generate"].items())


def test_what_a_model_lacks_is_named():
    assert describe("harmon")["lacking"] == ["edit"]
    assert describe("qwen2-vl-7b")["lacking"] == ["generate", "edit", "embed"]
