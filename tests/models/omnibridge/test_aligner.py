from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from transformers import MT5Config, MT5EncoderModel, T5Config, T5EncoderModel
from transformers.models.t5.modeling_t5 import T5Attention

from latentbridge.config import AlignerConfig, RetrievalConfig
from latentbridge.errors import UserError
from latentbridge.models.omnibridge.aligner import BiTransformer, init_from_t5
from latentbridge.models.omnibridge.retrieval_head import RetrievalHead
from latentbridge.training.objectives.annealing import mix_bernoulli

GOLDEN = Path(__file__).parents[2] / "golden" / "omnibridge"
FIXTURE = load_file(GOLDEN / "golden.safetensors")
TINY = AlignerConfig(
    d_model=32, d_ff=48, d_kv=16, num_heads=3, num_layers=6, num_queries=40, cross_layers=(0, 2, 4, 8, 12, 16, 20)
)
RELEASED = AlignerConfig(
    d_model=2048, d_ff=5120, d_kv=64, num_heads=32, num_layers=24, num_queries=256, cross_layers=TINY.cross_layers
)
FLOAT32_ATOL = 2e-5  # float32 rounding over six blocks; observed 0 on the build that made the fixture
BFLOAT16_ATOL = 0.15  # outputs reach 3.7, whose bfloat16 spacing is 0.016, and T5LayerNorm takes statistics in float32


def given(name: str) -> Tensor:
    return FIXTURE[f"bilm.in.{name}"]


def expected(name: str) -> Tensor:
    return FIXTURE[f"bilm.out.{name}"]


def build_golden_aligner(dtype: torch.dtype = torch.float32) -> BiTransformer:
    aligner = BiTransformer(TINY)
    aligner.load_state_dict({key[7:]: value for key, value in FIXTURE.items() if key.startswith("bilm.w.")})
    return aligner.to(dtype).eval()


def run_case(aligner: BiTransformer, case: str) -> Tensor:
    """Runs one fixture case as the authors' module was run."""
    dtype = aligner.query_tokens.dtype
    text, hidden, hidden_mask = given("text_embeds").to(dtype), given("enc").to(dtype), given("enc_mask")
    queries, inputs_mask = aligner.query_tokens, None
    seeded = torch.Generator().manual_seed(123)
    if case in ("text_mode", "bf16_text_mode"):
        x = text
    elif case == "text_mode_row0_fully_masked":
        x, hidden_mask = text, hidden_mask * torch.tensor([[0.0], [1.0]])
    elif case in ("query_mode", "query_mode_encmask_none", "bf16_query_mode"):
        x = mix_bernoulli(torch.zeros(text.shape), queries, 1.0, seeded)  # float32, as the released script passes it
        hidden_mask = None if case.endswith("encmask_none") else hidden_mask
    elif case == "mix15_seed123":
        x = mix_bernoulli(text, queries, 0.15, seeded)
    elif case == "mix15_edit_row1":
        x = torch.cat(
            [mix_bernoulli(text, queries, 0.15, seeded)[:1], text[1:]]
        )  # a row with a source image keeps its text
    else:
        x = given("retrieval_queries")
        inputs_mask = given("retrieval_query_mask") if case == "retrieval_padded_queries" else None
    with torch.no_grad():
        return aligner(x, hidden, hidden_mask, inputs_mask)


def distance(a: Tensor, b: Tensor) -> float:
    return (a.float() - b).abs().max().item()


FLOAT32_CASES = [
    "text_mode",
    "query_mode",
    "query_mode_encmask_none",
    "mix15_seed123",
    "mix15_edit_row1",
    "retrieval",
    "retrieval_padded_queries",
    "text_mode_row0_fully_masked",
]
WEIGHTS = [
    "block.0.layer.0.SelfAttention.relative_attention_bias.weight",
    "block.0.layer.1.EncDecAttention.q.weight",
    "block.1.layer.1.DenseReluDense.wi_1.weight",
    "block.3.layer.0.layer_norm.weight",
    "block.4.layer.2.DenseReluDense.wo.weight",
    "final_layer_norm.weight",
]


@pytest.mark.parametrize("case", FLOAT32_CASES)
def test_float32_equals_the_authors_module(case: str) -> None:
    assert distance(run_case(build_golden_aligner(), case), expected(case)) <= FLOAT32_ATOL


@pytest.mark.parametrize("case", FLOAT32_CASES)
@pytest.mark.parametrize("weight", WEIGHTS)
def test_float32_parity_fails_when_one_weight_moves(case: str, weight: str) -> None:
    aligner = build_golden_aligner()
    # Entry [0, 0] of the bias table is the bucket of distance 0, which every position uses.
    aligner.get_parameter(weight).data.view(-1)[0] += 0.1
    assert distance(run_case(aligner, case), expected(case)) > FLOAT32_ATOL


@pytest.mark.parametrize("case", ["bf16_text_mode", "bf16_query_mode"])
def test_bfloat16_stays_near_the_authors_module(case: str) -> None:
    aligner = build_golden_aligner(torch.bfloat16)
    latents = run_case(aligner, case)
    assert latents.dtype == torch.bfloat16
    assert distance(latents, expected(case)) <= BFLOAT16_ATOL
    aligner.final_layer_norm.weight.data[0] += 0.5
    assert distance(run_case(aligner, case), expected(case)) > BFLOAT16_ATOL


@pytest.mark.parametrize("moved", [0.0, 0.1])
def test_every_block_equals_its_trace(moved: float) -> None:
    """A weight moved in block 2 leaves blocks 0 and 1 as they were and shows from block 2 on."""
    aligner = build_golden_aligner()
    aligner.get_parameter("block.2.layer.0.SelfAttention.v.weight").data[0, 0] += moved
    outputs: list[Any] = []
    for block in aligner.block:
        block.register_forward_hook(lambda _module, _inputs, output: outputs.append(output))
    run_case(aligner, "text_mode")
    matches = [distance(x, FIXTURE[f"bilm.trace.block{i}"]) <= FLOAT32_ATOL for i, x in enumerate(outputs)]
    assert matches == [not moved or i < 2 for i in range(6)]


def test_relative_positions_fall_into_the_authors_buckets() -> None:
    relative, buckets = torch.arange(-300, 301), expected("bucket_of_rel_-300..300")
    assert torch.equal(T5Attention._relative_position_bucket(relative).float(), buckets)
    assert not torch.equal(T5Attention._relative_position_bucket(-relative).float(), buckets)


def test_position_bias_equals_the_authors_one() -> None:
    aligner, bias = build_golden_aligner(), expected("position_bias_1x3x40x40")
    assert distance(aligner._self_bias(40, None), bias) <= FLOAT32_ATOL
    aligner.get_parameter(WEIGHTS[0]).data[0, 0] += 0.1
    assert distance(aligner._self_bias(40, None), bias) > FLOAT32_ATOL


def build_t5(family: str, **changes: object) -> T5EncoderModel | MT5EncoderModel:
    sizes = {"vocab_size": 11, "d_model": 32, "d_ff": 48, "d_kv": 16, "num_heads": 3, "num_layers": 6}
    settings = {**sizes, "feed_forward_proj": "gated-gelu_pytorch_tanh", "attn_implementation": "eager", **changes}
    if family == "mt5":
        return MT5EncoderModel(MT5Config(**settings)).eval()
    return T5EncoderModel(T5Config(**settings)).eval()


@torch.no_grad()
@pytest.mark.parametrize("family", ["t5", "mt5"])
def test_an_aligner_started_from_t5_is_that_encoder(family: str) -> None:
    torch.manual_seed(0)
    t5, aligner = build_t5(family), BiTransformer(TINY).eval()
    init_from_t5(aligner, t5)
    x, hidden = torch.randn(2, 13, 32), torch.randn(2, 7, 32)
    mask = torch.tensor([[1] * 13, [1] * 8 + [0] * 5])
    encoded = t5(inputs_embeds=x, attention_mask=mask).last_hidden_state
    assert torch.equal(aligner(x, hidden, inputs_mask=mask), encoded)
    for weight in ("block.2.layer.2.DenseReluDense.wo.weight", "block.4.layer.1.EncDecAttention.o.weight"):
        moved = BiTransformer(TINY).eval()
        moved.load_state_dict(aligner.state_dict())
        moved.get_parameter(weight).data[0, 0] += 0.1
        assert distance(moved(x, hidden, inputs_mask=mask), encoded) > FLOAT32_ATOL


@pytest.mark.parametrize("changes", [{"num_layers": 5}, {"d_ff": 47}, {"feed_forward_proj": "relu"}])
def test_a_t5_of_another_shape_is_refused(changes: dict[str, object]) -> None:
    with pytest.raises(UserError, match="same sizes"):
        init_from_t5(BiTransformer(TINY), build_t5("t5", **changes))


@torch.no_grad()
@pytest.mark.parametrize("bidirectional", [True, False])
def test_only_the_causal_ablation_hides_the_future(bidirectional: bool) -> None:
    config = AlignerConfig(17, 19, 5, 3, 2, 7, (1,), bidirectional=bidirectional)
    torch.manual_seed(0)
    aligner = BiTransformer(config).eval()
    x, hidden = torch.randn(1, 7, 17), torch.randn(1, 5, 17)
    later = x.clone()
    later[:, 4:] += 1
    change = (aligner(x, hidden) - aligner(later, hidden)).abs().amax(-1)[0]
    assert (change[:4].max().item() > 1e-3) == bidirectional
    assert change[4:].min() > 1e-3


@torch.no_grad()
def test_with_a_cross_bias_a_query_can_read_the_state_at_its_own_place() -> None:
    config = AlignerConfig(17, 19, 5, 3, 1, 7, (0,))
    torch.manual_seed(0)
    plain, biased = BiTransformer(config), BiTransformer(replace(config, cross_bias=True))
    nn.init.normal_(plain.get_parameter("block.0.layer.1.EncDecAttention.o.weight"))
    missing = biased.load_state_dict(plain.state_dict(), strict=False).missing_keys
    assert missing == ["cross_relative_attention_bias.weight"]
    hidden, mask = torch.randn(2, 11, 17), torch.ones(2, 11)
    mask[1, 6:] = 0
    queries = plain.query_tokens.expand(2, -1, -1)
    torch.testing.assert_close(biased(queries, hidden, mask), plain(queries, hidden, mask))

    bias = biased.cross_relative_attention_bias.weight
    bias.fill_(-1e4)
    bias[16 + 1] = 0  # T5's bucket of "one later": half of the 32 buckets look back
    moved = hidden.clone()
    moved[:, 3] += 1
    change = (biased(queries, hidden) - biased(queries, moved)).abs().amax((0, 2))
    assert change.nonzero().tolist() == [[2]]

    nn.init.normal_(bias)
    padded, seen = torch.cat([torch.randn(2, 5, 17), hidden], dim=1), torch.cat([torch.zeros(2, 5), mask], dim=1)
    torch.testing.assert_close(biased(queries, padded, seen), biased(queries, hidden, mask))


def test_cross_attention_wakes_up_through_its_output_projection() -> None:
    torch.manual_seed(0)
    aligner = BiTransformer(AlignerConfig(17, 19, 5, 3, 2, 7, (1,)))
    aligner(aligner.query_tokens, torch.randn(1, 5, 17)).square().sum().backward()
    cross = aligner.get_parameter("block.1.layer.1.EncDecAttention.o.weight")
    assert cross.abs().max() == 0 and cross.grad is not None and cross.grad.abs().max() > 0


def test_keys_and_shapes_are_those_of_the_release() -> None:
    released = json.loads((GOLDEN / "full_state_dict_shapes.json").read_text())
    pattern = re.compile(r"bilm\.|image_|text_|logit_scale|fusion_|downsampling_")
    with torch.device("meta"):
        bridge = nn.ModuleDict(
            {"bilm": BiTransformer(RELEASED), "downsampling_linear_layer": nn.Linear(3584, 2048, bias=False)}
        )
        head = RetrievalHead(RetrievalConfig(128, 96, embedding_size=1024, num_heads=16), d_model=2048)
    ours = {key: list(value.shape) for module in (bridge, head) for key, value in module.state_dict().items()}
    assert ours == {key: shape for key, shape in released.items() if pattern.match(key)}
