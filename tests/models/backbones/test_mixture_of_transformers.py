from __future__ import annotations

import pytest
import torch
from torch import Tensor
from transformers import Qwen2Config, Qwen3Config, Qwen3Model

from latentbridge.models.backbones.bagel.mixture_of_transformers import MixtureOfTransformers, Stream, seen_before

SIZES = {
    "hidden_size": 24,
    "num_hidden_layers": 3,
    "num_attention_heads": 6,
    "num_key_value_heads": 2,
    "intermediate_size": 29,
    "vocab_size": 61,
    "rope_parameters": {"rope_type": "default", "rope_theta": 100.0},
}
WORDS, DRAWN = 5, 7
ATOL = 2e-5  # float32 rounding of states of order one through three layers


def values(seed: int, *shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@pytest.fixture(scope="module")
def library() -> Qwen3Model:
    """A dense Qwen3, which is Qwen2 with QK-norm; all weights random, the output bias that Qwen2 lacks zero."""
    model = Qwen3Model(Qwen3Config(**SIZES, head_dim=4, attention_bias=True)).eval()
    with torch.no_grad():
        for seed, (name, parameter) in enumerate(model.named_parameters()):
            spread = parameter[0].numel() ** -0.5 if parameter.ndim > 1 else 0.3
            parameter.copy_(values(seed, *parameter.shape) * spread + ("norm" in name))
            if name.endswith("o_proj.bias"):
                parameter.zero_()
    return model


@pytest.fixture
def ours(library: Qwen3Model) -> MixtureOfTransformers:
    """A mixture whose experts are both the library's model."""
    mixture = MixtureOfTransformers(Qwen2Config(**SIZES))
    weights = {
        name.replace("self_attn.", ""): tensor
        for name, tensor in library.state_dict().items()
        if name.startswith(("layers.", "norm.")) and not name.endswith("o_proj.bias")
    }
    for expert in (mixture.und, mixture.gen):
        expert.load_state_dict(weights)
    return mixture


@torch.no_grad()
def test_the_understanding_expert_is_the_librarys_causal_model(library: Qwen3Model, ours: MixtureOfTransformers):
    embeds, positions = values(100, 2, WORDS, 24), torch.arange(WORDS).expand(2, -1)
    visible = seen_before(positions, torch.ones(2, WORDS, dtype=torch.bool))
    expected = library(inputs_embeds=embeds).last_hidden_state
    (states,), _ = ours([Stream(embeds, positions)], visible)
    torch.testing.assert_close(states, expected, atol=ATOL, rtol=0)
    ours.und.layers[1].q_norm.weight[2] += 0.5
    (states,), _ = ours([Stream(embeds, positions)], visible)
    assert (states - expected).abs().max() > 100 * ATOL


@torch.no_grad()
def test_two_equal_experts_are_one_dense_model(library: Qwen3Model, ours: MixtureOfTransformers):
    positions = torch.tensor([[*range(WORDS), *[WORDS] * (2 + DRAWN)]]).expand(2, -1)
    embeds, real = values(101, *positions.shape, 24), torch.ones(2, positions.shape[1], dtype=torch.bool)
    mask = {"full_attention": seen_before(positions, real)[:, None]}
    expected = library(inputs_embeds=embeds, position_ids=positions, attention_mask=mask).last_hidden_state

    def drawn() -> tuple[Tensor, Tensor]:
        words, marks, latents = (
            Stream(*pair)
            for pair in zip(
                embeds.split([WORDS, 2, DRAWN], dim=1), positions.split([WORDS, 2, DRAWN], dim=1), strict=True
            )
        )
        _, past = ours([words], seen_before(words.positions, real[:, :WORDS]))
        states, _ = ours([marks, latents], real[:, None].expand(-1, 2 + DRAWN, -1), past)
        return states[0], states[1]

    marks, latents = drawn()
    torch.testing.assert_close(torch.cat([marks, latents], dim=1), expected[:, WORDS:], atol=ATOL, rtol=0)
    ours.gen.layers[0].k_proj.weight[3] += 0.5
    assert (drawn()[0] - marks).abs().max() > 100 * ATOL, "marks attend to what the other expert makes of the picture"


@torch.no_grad()
def test_each_expert_takes_its_own_tokens(ours: MixtureOfTransformers):
    streams = [
        Stream(values(seed, 1, length, 24), torch.zeros(1, length, dtype=torch.long))
        for seed, length in ((102, 2), (103, DRAWN))
    ]
    visible = torch.ones(1, 2 + DRAWN, 2 + DRAWN, dtype=torch.bool)
    before, _ = ours(streams, visible)
    ours.gen.layers[2].mlp.up_proj.weight.mul_(2)  # the last: nothing attends to what it makes
    after, _ = ours(streams, visible)
    assert torch.equal(after[0], before[0]) and not torch.allclose(after[1], before[1], atol=1e-2)


def test_words_see_what_precedes_them_and_pictures_see_themselves():
    positions = torch.tensor([[0, 0, 0, 1, 2], [0, 0, 0, 0, 1]])
    real = torch.tensor([[False, False, True, True, True], [True] * 5])
    assert seen_before(positions, real).int().tolist() == [
        [[1, 1, 0, 0, 0], [1, 1, 0, 0, 0], [0, 0, 1, 0, 0], [0, 0, 1, 1, 0], [0, 0, 1, 1, 1]],
        [[1, 1, 1, 1, 0]] * 4 + [[1, 1, 1, 1, 1]],
    ]


@pytest.mark.parametrize("tied", [True, False])
def test_words_are_read_and_said_by_one_table_where_the_config_ties_them(tied: bool):
    mixture = MixtureOfTransformers(Qwen2Config(**SIZES, tie_word_embeddings=tied))
    assert (mixture.lm_head.weight is mixture.embed_tokens.weight) == tied
