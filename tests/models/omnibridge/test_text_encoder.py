"""The text encoder's initial position bias favours neighbouring tokens."""

from __future__ import annotations

from latentbridge.config import ModelConfig
from latentbridge.models.checkpoint import new_model


def test_the_initial_position_bias_is_local(small_config: ModelConfig):
    attention = new_model(small_config, 0).text_encoder.encoder.block[0].layer[0].SelfAttention
    bias = attention.compute_bias(7, 7)[0]
    here, before, after = bias[:, 3, 3], bias[:, 3, 1], bias[:, 3, 5]
    assert (here == 0).all() and (before < 0).all() and (after < 0).all()
    assert before[0] == after[0] == -1.0  # both sides alike, half a point a word
    if len(bias) > 3:
        assert (before[2], after[2]) == (-1.0, -5.0) and (before[3], after[3]) == (-5.0, -1.0)
