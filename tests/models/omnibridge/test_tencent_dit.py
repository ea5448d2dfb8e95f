"""A HunyuanDiT in its authors' layout is the decoder that diffusers' layout holds."""

from __future__ import annotations

import copy
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from latentbridge.errors import UserError
from latentbridge.models.omnibridge.load_hunyuan_dit import attach_decoder
from latentbridge.models.omnibridge.modeling_omnibridge import OmniBridge


def tencent_tensors(folder: Path) -> dict[str, torch.Tensor]:
    """The transformer of the folder under the names of its authors' code."""
    blocks = {
        "attn1.norm_q": "attn1.q_norm", "attn1.norm_k": "attn1.k_norm", "attn2.norm_q": "attn2.q_norm",
        "attn2.norm_k": "attn2.k_norm", "attn1.to_out.0": "attn1.out_proj", "attn2.to_out.0": "attn2.out_proj",
        "attn2.to_q": "attn2.q_proj", "norm1.norm": "norm1", "norm1.linear": "default_modulation.1", "norm2": "norm3",
        "norm3": "norm2", "ff.net.0.proj": "mlp.fc1", "ff.net.2": "mlp.fc2",
    }  # fmt: skip
    others = {
        "pos_embed": "x_embedder", "time_extra_emb.pooler": "pooler", "text_embedder.linear_1": "mlp_t5.0",
        "text_embedder.linear_2": "mlp_t5.2", "time_extra_emb.extra_embedder.linear_1": "extra_embedder.0",
        "time_extra_emb.extra_embedder.linear_2": "extra_embedder.2", "proj_out": "final_layer.linear",
        "time_extra_emb.timestep_embedder.linear_1": "t_embedder.mlp.0",
        "time_extra_emb.timestep_embedder.linear_2": "t_embedder.mlp.2",
    }  # fmt: skip
    stored = load_file(folder / "transformer" / "diffusion_pytorch_model.safetensors")
    result: dict[str, torch.Tensor] = {}
    for block in (0, 1):
        for leaf in ("weight", "bias"):
            for fused, names in (("attn1.Wqkv", ("attn1.to_q", "attn1.to_k", "attn1.to_v")), ("attn2.kv_proj", ("attn2.to_k", "attn2.to_v"))):  # fmt: skip
                pieces = [stored.pop(f"blocks.{block}.{name}.{leaf}") for name in names]
                result[f"blocks.{block}.{fused}.{leaf}"] = torch.cat(pieces)
    for leaf in ("weight", "bias"):
        scale, shift = stored.pop(f"norm_out.linear.{leaf}").chunk(2)
        result[f"final_layer.adaLN_modulation.1.{leaf}"] = torch.cat([shift, scale])
    for name, tensor in stored.items():
        module, _, leaf = name.rpartition(".")
        if name.startswith("blocks."):
            _, block, inside = module.split(".", 2)
            module = f"blocks.{block}.{blocks.get(inside, inside)}"
        else:
            module = next((new + module.removeprefix(old) for old, new in others.items() if module.startswith(old)), module)  # fmt: skip
        result[f"{module}.{leaf}" if module else leaf] = tensor
    return result


@pytest.fixture
def tencent(folder: Path, tmp_path: Path) -> Path:
    """The same decoder in its authors' layout: pickled tensors, mT5 and BERT among parts that are not used."""
    root = tmp_path / "HunyuanDiT" / "t2i"
    (root / "model").mkdir(parents=True)
    torch.save(tencent_tensors(folder), root / "model" / "pytorch_model_ema.pt")
    shutil.copytree(folder / "tokenizer", root / "tokenizer")
    shutil.copytree(folder / "vae", root / "sdxl-vae-fp16-fix")
    for source, target, extra in (("text_encoder", "clip_text_encoder", "cls.x"), ("text_encoder_2", "mt5", "lm_head.weight")):  # fmt: skip
        shutil.copytree(folder / source, root / target)
        weights = load_file(root / target / "model.safetensors")
        torch.save({**weights, extra: torch.zeros(2)}, root / target / "pytorch_model.bin")
        (root / target / "model.safetensors").unlink()
    shutil.copytree(folder / "tokenizer_2", root / "mt5", dirs_exist_ok=True)
    return root.parent


def test_the_authors_layout_is_the_same_decoder(bridge: OmniBridge, model: OmniBridge, tencent: Path):
    drawing = copy.deepcopy(bridge)
    attach_decoder(drawing, tencent, torch.float32)
    state, expected = drawing.state_dict(), model.state_dict()
    assert state.keys() == expected.keys()
    assert all(torch.equal(state[name], expected[name]) for name in expected)
    ours, theirs = (dict(each.decoder.transformer.config) for each in (drawing, model))
    for name in (
        "num_attention_heads",
        "num_layers",
        "text_len",
        "text_len_t5",
        "learn_sigma",
        "pooled_projection_dim",
    ):
        assert ours[name] == theirs[name], name
    assert drawing.decoder.grid == 128, "1024 px"
    assert dict(drawing.scheduler.config)["prediction_type"] == "v_prediction"


@pytest.mark.parametrize(
    ("damage", "message"),
    [("missing", "does not fit: 1 tensors"), ("code", "Cannot read"), ("style", "before version 1.2"), ("none", "holds none of")],
)  # fmt: skip
def test_damaged_weights_of_the_authors_layout_are_refused(
    bridge, folder: Path, tencent: Path, damage: str, message: str
):
    path, tensors = tencent / "t2i" / "model" / "pytorch_model_ema.pt", tencent_tensors(folder)
    if damage == "missing":
        del tensors["blocks.1.mlp.fc2.bias"]
    elif damage == "style":
        tensors["style_embedder.weight"] = torch.zeros(1, 32)
    stored: dict[str, object] = {**tensors, "run": Path} if damage == "code" else {"ema": tensors}
    torch.save(stored, path)
    if damage == "none":
        path.unlink()
    with pytest.raises(UserError, match=message):
        attach_decoder(copy.deepcopy(bridge), tencent)
