from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from tests.models.shared_latent import SharedLatentModel
from torch import Tensor
from torch.nn import functional as F

GOLDEN = Path(__file__).parents[1] / "golden" / "latentumm"
FIXTURE = np.load(GOLDEN / "fixture.npz")
META = json.loads((GOLDEN / "fixture.json").read_text())["cases"]
CASES = [case for case in META if case.startswith("stage1/")]
ATOL = 2e-5  # float32 rounding; observed below 1e-6


def arrays(prefix: str) -> dict[str, Tensor]:
    return {key.removeprefix(prefix): torch.from_numpy(FIXTURE[key]) for key in FIXTURE.files if key.startswith(prefix)}


def build(case: str) -> SharedLatentModel:
    cfg = META[case]["cfg"]
    model = SharedLatentModel(
        *(cfg[f"{name}_dim"] for name in ("text", "image", "latent", "output", "hidden")),
        num_layers=cfg["transformer_layers"],
        num_heads=cfg["transformer_heads"],
        dropout=cfg["dropout"],
    )
    model.load_state_dict(arrays(f"{case}/weights/"))
    return model


def outputs(model: SharedLatentModel, text: Tensor, image: Tensor) -> dict[str, Tensor]:
    z_text, z_image = model.aligner.encode("text", text), model.aligner.encode("image", image)
    fused = model.aligner.encode_pair(text, image)
    return {
        "z_text": z_text,
        "z_image": z_image,
        "z_student": fused,
        "z_teacher": (z_text + z_image) / 2,  # computed by the release and used nowhere
        "text_image_cosine": F.cosine_similarity(z_text, z_image),
        "generated_from_text": model.generator(z_text),
        "generated_from_fused": model.generator(fused),
        "z_hat_text": model.roundtrip(z_text),
        "z_hat_fused": model.roundtrip(fused),
    }


@torch.no_grad()
@pytest.mark.parametrize("case", CASES)
def test_outputs_equal_the_authors_module(case: str) -> None:
    model, given, expected = build(case), arrays(f"{case}/inputs/"), arrays(f"{case}/outputs/")

    def differing() -> set[str]:
        found = outputs(model, **given)
        return {name for name, value in expected.items() if (found[name] - value).abs().max() > ATOL}

    assert not differing()
    model.aligner.modality_embed[0, 0] += 0.01  # only captions pass here
    assert differing() == expected.keys() - {"z_image"}


def test_as_large_as_released() -> None:
    with torch.device("meta"):
        model = SharedLatentModel()
    assert sum(p.numel() for p in model.parameters()) / 1e6 == pytest.approx(52.48, abs=0.01)  # measured by the spec


@torch.no_grad()
def test_only_outputs_of_the_image_width_are_encoded_as_images() -> None:
    torch.manual_seed(0)
    for output_width, encoded_as_image in ((7, True), (11, False)):
        model = SharedLatentModel(5, 7, 13, output_width, hidden_width=4, num_heads=2).eval()
        generated = torch.randn(3, output_width)
        before = model.reencode(generated)
        model.aligner.image_proj.weight.zero_()
        assert (model.reencode(generated) != before).any().item() is encoded_as_image
