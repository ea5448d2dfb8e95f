"""Every array that the authors' code of BAGEL computed at tiny width, recomputed by what users run (tests/golden/bagel)."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file

from latentbridge.models.backbones.parity import run_fixture

FIXTURE = Path(__file__).parents[2] / "golden" / "bagel"
EXPERTS = "language_model.model.layers.1."


def test_every_output_of_the_authors_code_is_recomputed():
    expected = load_file(FIXTURE / "expected.safetensors")
    report = run_fixture(FIXTURE)
    outputs = [name for name in expected if not name.startswith("picture") and not name.endswith(".noise")]
    assert report.kind == "BAGEL" and sorted(each.name for each in report.arrays) == sorted(outputs)
    assert [each for each in report.arrays if not each.is_within] == [] and report.is_within


@pytest.mark.parametrize(
    ("file", "tensor", "arrays"),
    [
        ("ema", "vit_model.vision_model.embeddings.patch_embedding.weight", {"und0.image_states", "edit1.vit_states"}),
        (
            "ema",
            "vit_model.vision_model.encoder.layers.1.mlp.fc1.bias",
            {"und1.image_states", "edit0.without_text_t1.0"},
        ),
        ("ema", "vit_pos_embed.pos_embed", {"und0.inferencer_image_states", "edit0.vit_states"}),
        ("ema", "connector.fc2.bias", {"und0.first_logits", "und1.inferencer_first_logits"}),
        ("ema", f"{EXPERTS}self_attn.q_norm.weight", {"und0.question_states", "gen1.prompt_states"}),
        ("ema", f"{EXPERTS}mlp_moe_gen.up_proj.weight", {"gen0.bare_velocity_t0.7", "edit1.vae_states"}),
        ("ema", "language_model.model.norm_moe_gen.weight", {"gen0.cfg4_channel_t1.0", "edit0.without_image_t1.0"}),
        ("ema", "language_model.lm_head.weight", {"und0.first_logits", "und1.first_logits"}),
        ("ema", "time_embedder.mlp.2.bias", {"gen1.latents_5timesteps", "edit1.latents_6timesteps"}),
        ("ema", "latent_pos_embed.pos_embed", {"gen0.latents_11timesteps", "edit0.vae_states"}),
        ("ema", "vae2llm.weight", {"gen1.velocity_t0.25", "edit1.vae_states"}),
        ("ema", "llm2vae.bias", {"gen0.cfg4_img1.5_global_t1.0", "edit1.cfg4_img2_text_channel_t1.0"}),
        ("ae", "encoder.mid.attn_1.q.bias", {"edit0.vae_latent", "edit1.vae_latent"}),
        ("ae", "decoder.conv_out.bias", {"gen0.pixels_5timesteps", "edit1.pixels_6timesteps"}),
    ],
)
def test_one_weight_that_moves_is_noticed(file: str, tensor: str, arrays: set[str], tmp_path: Path):
    folder = tmp_path / "moved"
    shutil.copytree(FIXTURE, folder)
    weights = load_file(folder / f"{file}.safetensors")
    weights[tensor].view(-1)[0] += 4
    save_file(weights, folder / f"{file}.safetensors")
    assert arrays <= {each.name for each in run_fixture(folder).arrays if not each.is_within}
