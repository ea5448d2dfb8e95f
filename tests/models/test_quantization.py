"""Weights in 8 and 4 bits and in bfloat16: every skill of every tiny model on the CPU, near what the plain model computes."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
import torch
from tests.conftest import keep_sizes
from tests.models.test_offload import MODELS, OFFLOADS, results
from tests.training.test_native import CONFIGS
from torch import nn

from latentbridge.errors import UserError
from latentbridge.models.checkpoint import TINY, fingerprint, load, new_model, save_model
from latentbridge.models.offload import place
from latentbridge.models.quantization import Quantization, quantizable_layers, quantize, quantized
from latentbridge.rng import torch_rng

SCHEMES = get_args(Quantization)
OF_LAYERS = {"int8": 0.015, "nf4": 0.12}
OF_EMBEDDINGS = {"int8": 0.05, "nf4": 0.5, "bfloat16": 0.02}
"""Largest relative errors. Those of embeddings are of random narrow models, which lose more than trained wide ones; vectors that
had nothing to do with each other would be 1.4 apart."""
KEPT = ("autoencoder.", "second_view.")
OF_SIZES = {"int8": 0.27, "nf4": 0.17}
"""Largest sizes of quantised weights with their scales, where float32 is 1."""


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The folder of each tiny model; Harmon's head is of even width, for odd ones need a compiler."""
    found = {"tiny": TINY}
    for name, config in CONFIGS.items():
        if name == "harmon":
            config = replace(config, mar=replace(config.mar, head_width=32))
        model = new_model(config, seed=0)
        keep_sizes(model, torch_rng(0, "small"))
        found[name] = tmp_path_factory.mktemp(name)
        save_model(model, found[name])
    return found


def relative_error(found: Any, expected: Any) -> float:
    found, expected = (torch.as_tensor(values, dtype=torch.float64) for values in (found, expected))
    return float((found - expected).norm() / expected.norm())


def embeddings(model: Any) -> np.ndarray:
    picture = np.full((64, 64, 3), 255, np.uint8)
    picture[20:44, 20:44] = (255, 0, 0)
    return np.stack([model.embed(images=picture), model.embed(texts="a red square")])


def weight_bytes(layer: Any) -> int:
    """Bytes of a layer's weight and of its scales."""
    state = getattr(layer.weight, "quant_state", None)
    scales = [state.absmax] if state else [layer.weight.SCB] if hasattr(layer.weight, "SCB") else []
    return layer.weight.nbytes + sum(scale.nbytes for scale in scales)


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("sizes", [(64, 64), (32, 32), (64, 48), (28, 112), (192, 512)])
def test_a_quantised_layer_computes_nearly_the_same(scheme: Quantization, training: bool, sizes: tuple[int, int]):
    torch.manual_seed(0)
    layer, inputs = nn.Linear(*sizes).train(training), torch.randn(7, sizes[0])
    with torch.no_grad():
        expected = layer(inputs)
        result = quantized(layer, scheme)
        assert 0 < relative_error(result(inputs), expected) < OF_LAYERS[scheme]
        assert 0 < relative_error(result(inputs[:1]), expected[:1]) < 2 * OF_LAYERS[scheme]
    assert result.training is training


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("name", MODELS)
def test_every_skill_works_and_embeddings_stay_near(folders: dict[str, Path], name: str, scheme: Quantization):
    plain, model = load(folders[name]), load(folders[name], quantize=scheme)
    layers = [f"{path}.{attribute}" for path, attribute in quantised_paths(plain)]
    before, after = (sum(weight_bytes(each.get_submodule(path)) for path in layers) for each in (plain, model))
    # blocks of 64 weights are mostly empty in layers as small as these
    assert layers and after < before * (OF_SIZES[scheme] if name == "tiny" else 0.5)
    assert not list(quantizable_layers(model))
    assert set(results(model)) == set(results(plain))
    error = relative_error(embeddings(model), embeddings(plain))
    assert 0 < error < OF_EMBEDDINGS[scheme]


def quantised_paths(model: nn.Module) -> list[tuple[str, str]]:
    """The path of the parent and the attribute of each layer that is quantised."""
    paths = {id(module): path for path, module in model.named_modules()}
    return [(paths[id(parent)], name) for parent, name, _ in quantizable_layers(model)]


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("name", MODELS)
def test_layers_quantised_while_they_are_read_are_those_quantised_later(
    folders: dict[str, Path], name: str, scheme: Quantization
):
    streamed, later = load(folders[name], quantize=scheme), load(folders[name])
    quantize(later, scheme)
    assert fingerprint(streamed) == fingerprint(later) != fingerprint(load(folders[name]))
    assert np.array_equal(embeddings(streamed), embeddings(later))


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("name", MODELS)
def test_offloaded_quantised_models_compute_the_same(folders: dict[str, Path], name: str, scheme: Quantization):
    plain = load(folders[name], quantize=scheme)
    for module in plain.modules():
        if hasattr(module, "support_avx512bf16_for_cpu"):  # a kernel of some CPUs, which offloaded layers go without
            module.support_avx512bf16_for_cpu = False  # pyright: ignore[reportArgumentType]
    expected = results(plain)
    for offload in OFFLOADS:
        model = load(folders[name], quantize=scheme)
        place(model, torch.device("cpu"), offload)
        assert results(model) == expected


def test_four_bits_and_offloading_compute_as_four_bits_alone_each_time():
    picture = np.full((64, 64, 3), 255, np.uint8)
    picture[20:44, 20:44] = (255, 0, 0)
    expected = load("tiny", quantize="nf4").understand([picture, picture], "What is this?")
    for offload in OFFLOADS:
        model = load("tiny", quantize="nf4", offload=offload)
        assert [model.understand(picture, "What is this?") for _ in range(2)] == expected


@pytest.mark.parametrize(("scheme", "least"), [("int8", 0.999), ("nf4", 0.95)])
def test_quantised_embeddings_point_nearly_where_plain_ones_do(scheme: Quantization, least: float):
    texts = ["a red circle", "two blue stars", "an umbrella"]
    plain, quantised = (load("tiny", quantize=each).embed(texts=texts) for each in (None, scheme))
    assert least < (plain * quantised).sum(axis=1).min() < 1 - 1e-6


@pytest.mark.parametrize("name", MODELS)
def test_bfloat16_works_in_every_skill(folders: dict[str, Path], name: str):
    plain, model = load(folders[name]), load(folders[name], dtype="bfloat16")
    weights = {tensor.dtype for path, tensor in model.named_parameters() if not path.startswith(KEPT)}
    assert weights == {torch.bfloat16}
    assert set(results(model)) == set(results(plain))
    found = embeddings(model)
    assert np.isfinite(found).all() and 0 < relative_error(found, embeddings(plain)) < OF_EMBEDDINGS["bfloat16"]
    description = ["large red circle left, small blue star right, on white"]
    one, other, rounded = (
        each.draw_descriptions(description, [seed])[0].astype(float)
        for each, seed in ((plain, 7), (plain, 8), (model, 7))
    )
    assert np.abs(rounded - one).mean() < 0.1 * np.abs(other - one).mean()  # the same drawing, not another


def test_parts_that_need_their_digits_keep_them():
    model = load("tiny", dtype="bfloat16").state_dict()
    plain = load("tiny").state_dict()
    kept = [name for name in plain if name.startswith(KEPT)]
    assert kept and all(torch.equal(model[name], plain[name]) for name in kept)
    assert all(model[name].dtype == torch.bfloat16 for name in plain.keys() - kept if plain[name].is_floating_point())


def test_the_fingerprint_of_a_quantised_model_does_not_change_with_its_use(folders: dict[str, Path]):
    model = load("tiny", quantize="nf4")  # whose kernel repacks weights when they are first used
    before = fingerprint(model)
    assert embeddings(model).any() and fingerprint(model) == before
    assert fingerprint(load("tiny", dtype="bfloat16")) != fingerprint(load("tiny"))


@pytest.mark.parametrize("scheme", SCHEMES)
def test_the_missing_library_is_named_in_a_sentence(monkeypatch: pytest.MonkeyPatch, scheme: Quantization):
    monkeypatch.setitem(sys.modules, "bitsandbytes", None)
    with pytest.raises(UserError, match=rf"^{scheme} needs bitsandbytes; install latentbridge\[quantize\]\.$"):
        load("tiny", quantize=scheme)


def test_an_unknown_scheme_is_refused():
    with pytest.raises(UserError, match="int4"):
        load("tiny", quantize="int4")  # pyright: ignore[reportArgumentType]
