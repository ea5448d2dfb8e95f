from __future__ import annotations

import json
import math
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from safetensors.torch import load_file, save_file
from torch import Tensor

from latentbridge.models.omnibridge.retrieval_head import fuse
from latentbridge.training.objectives.losses import distillation_loss, retrieval_loss

GOLDEN = Path(__file__).parents[2] / "golden" / "omnibridge"
FIXTURE = load_file(GOLDEN / "golden_loss.safetensors")
META = json.loads((GOLDEN / "golden_loss_meta.json").read_text())
POOLS = ("image_proj", "image_proj_1", "text_proj", "text_proj_1")
ATOL = 2e-5  # float32 rounding
SCALAR_RTOL = 2e-6  # the losses and scalar gradients reach 15; the parts were printed with six decimals


def evaluate(prefix: str, moved: float = 0.0) -> dict[str, Tensor]:
    """Return this rank's losses and gradients for the fixture's pooled outputs, with one entry changed by `moved`."""
    pooled = {pool: FIXTURE[f"{prefix}.pooled.{pool}"].clone() for pool in POOLS}
    pooled["text_proj"][0, 0] += moved
    names = ("logit_scale", "alpha_image_raw", "alpha_text_raw")
    leaves = pooled | {name: torch.tensor([META[name]]) for name in names}
    for leaf in leaves.values():
        leaf.requires_grad_()
    image = fuse(leaves["image_proj"], leaves["image_proj_1"], leaves["alpha_image_raw"])
    text = fuse(leaves["text_proj"], leaves["text_proj_1"], leaves["alpha_text_raw"])
    loss = retrieval_loss(image, text, torch.tensor(META[prefix]["image_ids"]), leaves["logit_scale"].exp())
    loss.total.backward()
    grads = {f"grad.{name}": leaf.grad for name, leaf in leaves.items() if leaf.grad is not None}
    return {name: value.detach() for name, value in loss._asdict().items()} | grads


def matches_fixture(result: dict[str, Tensor], prefix: str) -> bool:
    meta = META[prefix]
    scalars = {
        "total": meta["loss"],
        "image_to_text": meta["parts"]["loss_i2t"],
        "text_to_image": meta["parts"]["loss_t2i"],
        "text_to_text": meta["parts"]["loss_t2t"],
        "grad.logit_scale": meta["g_logit_scale"],
        "grad.alpha_image_raw": meta["g_alpha_image"],
        "grad.alpha_text_raw": meta["g_alpha_text"],
    }
    near = [math.isclose(result[k].item(), v, rel_tol=SCALAR_RTOL, abs_tol=ATOL) for k, v in scalars.items()]
    errors = [(result[f"grad.{pool}"] - FIXTURE[f"{prefix}.grad.{pool}"]).abs().max().item() for pool in POOLS]
    return all(near) and max(errors) <= ATOL


def test_one_rank_equals_the_authors_loss_and_gradients() -> None:
    assert matches_fixture(evaluate("w1.r0"), "w1.r0")
    assert not matches_fixture(evaluate("w1.r0", moved=0.01), "w1.r0")


def run_rank(rank: int, folder: Path) -> None:
    """Run in each of two processes: save the results of the fixture's case, and with one entry changed on rank 1."""
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
    for name, moved in (("exact", 0.0), ("moved", 0.01 * rank)):
        save_file(evaluate(f"w2.r{rank}", moved), folder / f"{name}.{rank}.safetensors")
    dist.destroy_process_group()


def test_two_ranks_equal_the_authors_losses_and_gradients(tmp_path: Path) -> None:
    # Plain subprocesses of this file: torch.multiprocessing cannot import a test module by name in importlib mode.
    ranks = [subprocess.Popen([sys.executable, __file__, str(rank), str(tmp_path)]) for rank in range(2)]
    assert [process.wait(timeout=60) for process in ranks] == [0, 0]
    for rank in range(2):
        assert matches_fixture(load_file(tmp_path / f"exact.{rank}.safetensors"), f"w2.r{rank}")
        # The move on rank 1 must reach rank 0 through the gathered rows.
        assert not matches_fixture(load_file(tmp_path / f"moved.{rank}.safetensors"), f"w2.r{rank}")


@pytest.mark.parametrize(
    "ids, cross, text_to_text",
    [
        ([3, 5], math.log(1 + math.exp(-1)), 0.0),  # logits of a row: 1 and 0, target the first; no second caption
        # Targets one half each, so 1/2 dearer; the other caption alone is the target, itself in the denominator.
        ([3, 3], math.log(1 + math.exp(-1)) + 0.5, math.log(1 + math.exp(1))),
    ],
)
def test_retrieval_loss_of_two_orthogonal_pairs(ids: list[int], cross: float, text_to_text: float) -> None:
    loss = retrieval_loss(torch.eye(2), torch.eye(2), torch.tensor(ids), torch.ones(1))
    expected = (2 * cross + 0.05 * text_to_text, cross, cross, text_to_text)
    assert [part.item() for part in loss] == pytest.approx(expected, abs=1e-6)


def test_a_caption_without_another_is_left_out_of_text_to_text() -> None:
    text = torch.eye(3)
    loss = retrieval_loss(text, text, torch.tensor([1, 1, 2]), torch.ones(1))
    # Rows 0 and 1: logits 1, 0, 0 with one of the zeros as target.
    assert loss.text_to_text.item() == pytest.approx(math.log(2 + math.e), abs=1e-6)


def test_distillation_averages_all_positions_in_float32() -> None:
    target = torch.zeros(2, 3, 5)
    latents = torch.zeros(2, 3, 5, dtype=torch.bfloat16)
    latents[1, 2] = 3.0  # one of six positions, so 9 / 6
    loss = distillation_loss(latents, target)
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(1.5)


if __name__ == "__main__":
    run_rank(int(sys.argv[1]), Path(sys.argv[2]))
