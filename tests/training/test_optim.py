from __future__ import annotations

import pytest
import torch
from torch import nn

from latentbridge.config import OptimConfig
from latentbridge.models.omnibridge.modeling_omnibridge import OmniBridge
from latentbridge.training.optim import (
    ExponentialMovingAverage,
    Float32Muon,
    _orthogonalize,
    lr_factor,
    make_optimizers,
)


def test_lr_factor_warms_up_and_decays():
    config = OptimConfig(warmup_steps=4, decay_fraction=0.5)
    shares = [lr_factor(step, 10, config) for step in range(10)]
    assert shares == pytest.approx([0.25, 0.5, 0.75, 1, 1, 1, 0.8, 0.6, 0.4, 0.2])


def test_lr_factor_without_warmup_and_decay_is_constant():
    config = OptimConfig(warmup_steps=0, decay_fraction=0.0)
    assert [lr_factor(step, 3, config) for step in range(3)] == [1, 1, 1]


@pytest.mark.parametrize("shape", [(7, 11), (11, 7), (13, 5), (5, 31)])  # the last two by their Gram matrix
def test_float32_muon_equals_torchs_muon_up_to_bfloat16(shape: tuple[int, int]):
    """The updates are equal in exact arithmetic; torch's is rounded to bfloat16, whose 8 bits are 4e-3 of the largest entry."""
    start, gradients = torch.randn(shape), [torch.randn(shape) for _ in range(3)]
    results = []
    for kind in (torch.optim.Muon, Float32Muon):
        parameter = nn.Parameter(start.clone())
        optimizer = kind([parameter], lr=0.1, weight_decay=0.3, adjust_lr_fn="match_rms_adamw")
        for gradient in gradients:
            parameter.grad = gradient.clone()
            optimizer.step()
        results.append((parameter.detach() - start, optimizer.state_dict()["state"][0]))
    (theirs, their_state), (ours, our_state) = results
    assert our_state.keys() == their_state.keys()
    torch.testing.assert_close(our_state["momentum_buffer"], their_state["momentum_buffer"])
    assert (ours - theirs).abs().max() < 0.05 * theirs.abs().max()
    assert not torch.equal(ours, theirs)


@pytest.mark.parametrize("shape", [(7, 11), (11, 7), (13, 5), (5, 31)])
def test_orthogonalizing_follows_the_polynomial_of_the_singular_values(shape: tuple[int, int]):
    """Expected: s -> a s + b s^3 + c s^5 five times on the singular values of the normalized matrix, in float64."""
    a, b, c = 3.4445, -4.7750, 2.0315
    matrix = torch.randn(shape, dtype=torch.float64)
    left, values, right = torch.linalg.svd(matrix / matrix.norm(), full_matrices=False)
    for _ in range(5):
        values = a * values + b * values**3 + c * values**5
    expected = left @ torch.diag(values) @ right
    torch.testing.assert_close(_orthogonalize(matrix, (a, b, c), 5, 1e-7), expected, rtol=1e-9, atol=1e-9)
    single = _orthogonalize(matrix.float(), (a, b, c), 5, 1e-7)
    torch.testing.assert_close(single.double(), expected, rtol=1e-4, atol=1e-4)


def test_muon_multiplies_in_float32_where_bfloat16_is_slow(small_model: OmniBridge):
    named = dict(small_model.named_parameters())
    for fast, kind in ((True, torch.optim.Muon), (False, Float32Muon)):
        assert type(make_optimizers(named, OptimConfig(muon_lr=0.2), muon_bf16=fast)[0]) is kind


def owner(optimizers: list[torch.optim.Optimizer], parameter: nn.Parameter) -> str:
    names = [type(o).__name__ for o in optimizers for g in o.param_groups for p in g["params"] if p is parameter]
    assert len(names) == 1
    return names[0]


def test_muon_takes_hidden_matrices_only(small_model: OmniBridge):
    named = dict(small_model.named_parameters())
    optimizers = make_optimizers(named, OptimConfig(lr=0.1, muon_lr=0.2))
    rates = {type(o).__name__: [g["peak_lr"] for g in o.param_groups] for o in optimizers}
    assert rates == {"Muon": [0.2, pytest.approx(0.05)], "AdamW": [0.1, pytest.approx(0.015), pytest.approx(3.0)]}
    layer = "backbone.model.model.language_model.layers.0."
    for name in (layer + "mlp.up_proj.weight", "projector.weight", "aligner.block.0.layer.0.SelfAttention.v.weight"):
        assert owner(optimizers, named[name]) == "Muon"
    for name in (
        "backbone.model.model.language_model.embed_tokens.weight",
        "text_encoder.shared.weight",
        "aligner.query_tokens",
        "aligner.block.0.layer.0.SelfAttention.relative_attention_bias.weight",
        "decoder.transformer.proj_out.weight",
        layer + "input_layernorm.weight",
        "retrieval.logit_scale",
    ):
        assert owner(optimizers, named[name]) == "AdamW"
    for parameter in named.values():
        owner(optimizers, parameter)


def test_t5_queries_and_keys_have_a_lower_rate_and_the_position_bias_a_higher_one(small_model: OmniBridge):
    optimizers = make_optimizers(dict(small_model.named_parameters()), OptimConfig(lr=0.1, muon_lr=0.2))
    attention = small_model.text_encoder.encoder.block[0].layer[0].SelfAttention
    expected = {attention.q.weight: 0.015, attention.k.weight: 0.015, attention.relative_attention_bias.weight: 3.0}
    for parameter, rate in expected.items():
        groups = [g for o in optimizers for g in o.param_groups if any(p is parameter for p in g["params"])]
        assert [group["peak_lr"] for group in groups] == [pytest.approx(rate)]


def test_queries_and_keys_of_the_language_model_have_a_quarter_of_the_rate(small_model: OmniBridge):
    optimizers = make_optimizers(dict(small_model.named_parameters()), OptimConfig(lr=0.1, muon_lr=0.2))
    attention = small_model.backbone.model.model.language_model.layers[0].self_attn
    expected = {attention.q_proj.weight: 0.05, attention.k_proj.weight: 0.05, attention.v_proj.weight: 0.2}
    for parameter, rate in expected.items():
        groups = [g for o in optimizers for g in o.param_groups if any(p is parameter for p in g["params"])]
        assert [group["peak_lr"] for group in groups] == [pytest.approx(rate)]


def test_without_a_rate_muon_is_left_out():
    named = {"a": nn.Parameter(torch.ones(2, 2)), "b": nn.Parameter(torch.ones(2))}
    (adamw,) = make_optimizers(named, OptimConfig(muon_lr=0.0))
    assert type(adamw).__name__ == "AdamW" and len(adamw.param_groups[0]["params"]) == 2


def test_the_ema_decay_warms_up():
    parameter = nn.Parameter(torch.tensor([0.0]))
    average = ExponentialMovingAverage({"p": parameter}, decay=0.2)
    parameter.data.fill_(10.0)
    average.update({"p": parameter}, step=0)  # decay 1 / 10
    assert average.weights["p"].item() == pytest.approx(9.0)
    parameter.data.fill_(0.0)
    average.update({"p": parameter}, step=8)  # 9 / 18, capped at 0.2
    assert average.weights["p"].item() == pytest.approx(1.8)
    assert parameter.item() == 0.0
