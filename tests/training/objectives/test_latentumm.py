from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from tests.models.packed_pooling import pool_packed
from tests.models.shared_latent import SharedLatentModel
from torch import Tensor, nn
from torch.nn import functional as F

from latentbridge.config import LatentUMMWeights
from latentbridge.errors import UserError
from latentbridge.models.latent_heads import LatentHeads
from latentbridge.recipes import RELEASED_WEIGHTS
from latentbridge.rng import torch_rng
from latentbridge.training.objectives.collapse import CollapseGuard, CollapseMeasures, measure_collapse
from latentbridge.training.objectives.latentumm import (
    LatentPairs,
    LatentUMMLoss,
    Objective,
    centre,
    contrastive_loss,
    cosine_distance,
    latentumm_loss,
    mutual_distance,
    preference_loss,
    rollout_noise,
)

GOLDEN = Path(__file__).parents[2] / "golden" / "latentumm"
FIXTURE = np.load(GOLDEN / "fixture.npz")
META = json.loads((GOLDEN / "fixture.json").read_text())["cases"]
SIZES = META["stage1/text"]["cfg"]
RTOL, GRAD_RTOL = 2e-5, 2e-4  # what the fixture asks for, relative to a tensor's largest entry
FLOOR = 1e-7  # gradients that are 0 but for rounding
WEIGHT_FLOOR = 2e-6  # of 5e-5 and more that five steps move a weight; AdamW magnifies gradients that are but rounding
LOGGED = {
    "total": ("loss_total",),
    "modal": ("loss_modal", "latentumm_modal"),
    "task": ("loss_task", "latentumm_task"),
    "preference": ("loss_pref", "latentumm_pref"),
    "anchor": ("loss_gemini_target", "latentumm_target"),
    "best": ("score_best",),
    "worst": ("score_worst",),
}
"""Our names of what the release logs."""


# --- reference: the released numbers ---


def arrays(prefix: str) -> dict[str, Tensor]:
    return {key.removeprefix(prefix): torch.from_numpy(FIXTURE[key]) for key in FIXTURE.files if key.startswith(prefix)}


def differing(found: dict[str, Tensor], expected: dict[str, Tensor], rtol: float, floor: float = FLOOR) -> set[str]:
    """Return names missing on either side, and those whose largest error exceeds `rtol` of the largest expected entry."""
    wrong = set(found.keys() ^ expected.keys())
    for name in found.keys() & expected.keys():
        if not (found[name] - expected[name]).abs().max() <= rtol * expected[name].abs().max() + floor:
            wrong.add(name)
    return wrong


def wrong_losses(loss: LatentUMMLoss, released: dict[str, float]) -> set[str]:
    found = loss.parts() | {"total": loss.total.item()}
    expected = {ours: released[name] for ours, names in LOGGED.items() for name in names if name in released}
    assert len(expected) >= 3
    return {
        name for name, value in expected.items() if not math.isclose(found[name], value, rel_tol=RTOL, abs_tol=FLOOR)
    }


def grads(module: nn.Module) -> dict[str, Tensor]:
    return {name: p.grad for name, p in module.named_parameters() if p.grad is not None}


def load_shared(case: str) -> tuple[SharedLatentModel, str]:
    """Return the model of a stage-1 or stage-2 case, and the prefix of its keys."""
    prefix = "backbone." if "stage2" in case else ""
    cfg = META[case].get("cfg", SIZES)
    model = SharedLatentModel(
        *(cfg[f"{name}_dim"] for name in ("text", "image", "latent", "output", "hidden")),
        num_layers=cfg["transformer_layers"],
        num_heads=cfg["transformer_heads"],
        dropout=cfg["dropout"],
    )
    model.load_state_dict(arrays(f"{case}/weights/{prefix}"))
    return model, prefix


def shared_loss(
    model: SharedLatentModel,
    text: Tensor,
    image: Tensor,
    noise: Tensor,
    weights: LatentUMMWeights,
    source: str = "text",
    objective: Objective = "reference",
) -> LatentUMMLoss:
    """Return the loss of the released trainers of stage 1 and of its rollouts."""
    z_text, z_image = model.aligner.encode("text", text), model.aligner.encode("image", image)
    z = z_text if source == "text" else model.aligner.encode_pair(text, image)
    anchors = ((model.generator(z), image),) if weights.anchor else ()
    pairs = LatentPairs(z_text, z_image, z, torch.arange(len(z)), anchors)
    return latentumm_loss(pairs, model.roundtrip, noise, weights, objective=objective)


@pytest.mark.parametrize("case", [case for case in META if case.startswith(("stage1/", "stage2/"))])
def test_embedding_stages_equal_the_authors_losses_and_gradients(case: str) -> None:
    meta, given = META[case], arrays(f"{case}/inputs/")
    expected = arrays(f"{case}/grads/")
    eps = given.pop("eps", torch.zeros(0, *given["text"].shape[:1], meta.get("cfg", SIZES)["latent_dim"]))
    weights = RELEASED_WEIGHTS[case.split("/")[0]]
    weights = replace(weights, anchor=meta["args"].get("lambda_gemini_target", 0.0))

    def run(moved: float) -> tuple[set[str], set[str]]:
        model, prefix = load_shared(case)
        with torch.no_grad():
            model.aligner.single_to_latent.weight[0, 0] += moved
        noise = meta.get("sigma", 0.0) * eps
        loss = shared_loss(model, **given, noise=noise, weights=weights, source=meta["args"]["task_latent_source"])
        loss.total.backward()
        found = {prefix + name: grad for name, grad in grads(model).items()}
        return wrong_losses(loss, meta["losses"]), differing(found, expected, GRAD_RTOL)

    assert run(moved=0.0) == (set(), set())
    wrong, wrong_grads = run(moved=0.01)
    assert wrong >= {"total", "modal"} and wrong_grads


@pytest.mark.parametrize("case", [case for case in META if case.startswith("stage2/")])
def test_rollouts_equal_the_authors_scores_and_preference_gradient(case: str) -> None:
    model, _ = load_shared(case)
    expected, eps = arrays(f"{case}/outputs/"), arrays(f"{case}/inputs/")["eps"]

    def run(objective: Objective, sigma: float) -> set[str]:
        z = expected["z"].clone().requires_grad_()
        pairs = LatentPairs(z, z, z, torch.arange(5))
        loss = latentumm_loss(pairs, model.roundtrip, sigma * eps, objective=objective)
        (gradient,) = torch.autograd.grad(loss.preference, z)
        found = {
            "rollout_scores": loss.scores,
            "best_score": loss.scores.amax(0),
            "worst_score": loss.scores.amin(0),
            "dpref_dz": gradient,
        }
        return differing(found, {name: expected[name] for name in found}, GRAD_RTOL)

    sigma = META[case]["sigma"]
    assert not run("reference", sigma)
    assert run("anchored", sigma) == {"dpref_dz"}  # the worst rollout's share of the gradient is missing
    assert "rollout_scores" in run("reference", sigma + 0.05)


def step_through(case: str, steps: int, lr_scale: float = 1.0) -> tuple[list[set[str]], set[str]]:
    """Return the names of wrong losses per step and of wrong final weights after a few AdamW steps of the released training."""
    meta, given = META[case], arrays(f"{case}/inputs/")
    eps = given.pop("eps", torch.zeros(steps, 0, *given["text"].shape))
    model, prefix = load_shared(case)
    optimizer = torch.optim.AdamW(model.parameters(), lr=lr_scale * meta["lr"], weight_decay=meta["weight_decay"])
    wrong = []
    for released, noise in zip(meta["steps"][:steps], eps, strict=True):
        loss = shared_loss(model, **given, noise=0.05 * noise, weights=RELEASED_WEIGHTS[case.split("/")[1]])
        loss.total.backward()
        norm = nn.utils.clip_grad_norm_(model.parameters(), meta["clip"]).item()
        optimizer.step()
        optimizer.zero_grad()
        wrong.append(wrong_losses(loss, released))
        if not math.isclose(norm, released["grad_norm"], rel_tol=GRAD_RTOL):
            wrong[-1].add("grad_norm")
    found = {prefix + name: p.detach() for name, p in model.named_parameters()}
    return wrong, differing(moved(found), moved(arrays(f"{case}/final/")), RTOL, WEIGHT_FLOOR)


def moved(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return the weights without queries and keys, whose gradient is 0 but for rounding, as there is only one token.

    AdamW normalizes that rounding to full steps, and it differs between CPUs.
    """
    return {name: w.chunk(3)[2] if "in_proj" in name else w for name, w in weights.items()}


@pytest.mark.parametrize("case", ["traj/stage1", "traj/stage2"])
def test_five_steps_follow_the_authors_training(case: str) -> None:
    assert step_through(case, steps=5) == ([set()] * 5, set())
    wrong, final = step_through(case, steps=5, lr_scale=1.1)
    assert not wrong[0] and wrong[4] and final


@pytest.mark.parametrize("case", [case for case in META if case.startswith("bagel/")])
def test_bagel_heads_equal_the_authors_losses_and_gradients(case: str) -> None:
    meta, given = META[case], arrays(f"{case}/inputs/")
    packed = meta["sample_lens"], meta["text_idx"], meta["vae_idx"], meta["vit_idx"]
    valid = torch.tensor(meta["valid"])
    released = meta["losses"] | {"loss_total": meta["total"]}
    expected_grads, expected_hidden = arrays(f"{case}/grads/"), arrays(f"{case}/dhidden/latentumm_")
    names = {"modal": "modal", "task": "task", "target": "anchor", "pref": "preference"}
    order = [f"latentumm_{name}" for name, _ in LatentHeads(10, 8).named_parameters()]
    expected_norms = {
        f"{name} {i}": torch.tensor(norms[key])
        for name in names
        if (norms := meta["grad_norms_per_loss"][f"latentumm_{name}"]) is not None
        for i, key in enumerate(order)
        if norms[key] is not None
    }

    def run(position: int, moved: float) -> tuple[set[str], set[str], set[str]]:
        heads = LatentHeads(hidden_width=10, embedding_width=8)
        heads.load_state_dict(arrays(f"{case}/weights/latentumm_"))
        hidden = given["hidden"].clone()
        hidden[position] += moved
        hidden.requires_grad_()
        z_text, z_image = (pooled[valid] for pooled in pool_packed(hidden, *packed))
        z = {"text": z_text, "image": z_image, "fused": (z_text + z_image) / 2}[meta["source"]]
        text, image = heads.hidden_to_embed(z_text), heads.hidden_to_embed(z_image)
        anchors = ((text, given["text_emb"][valid]), (image, given["image_emb"][valid]))
        pairs = LatentPairs(text, image, z, torch.arange(len(z)), anchors)
        noise = meta["sigma"] * given["eps"]
        loss = latentumm_loss(pairs, heads.autoencode, noise, RELEASED_WEIGHTS["bagel"], objective="reference")
        hidden_grads = {
            name: torch.autograd.grad(getattr(loss, names[name]), hidden, retain_graph=True)[0]
            for name in expected_hidden
        }
        norms = {}
        for name, term in names.items():
            if meta["grad_norms_per_loss"][f"latentumm_{name}"] is not None:
                part = torch.autograd.grad(
                    getattr(loss, term), heads.parameters(), retain_graph=True, allow_unused=True
                )
                norms |= {f"{name} {i}": g.norm() for i, g in enumerate(part) if g is not None}
        loss.total.backward()
        found = {f"latentumm_{name}": grad for name, grad in grads(heads).items()}
        return (
            wrong_losses(loss, released) | differing(norms, expected_norms, GRAD_RTOL),
            differing(found, expected_grads, GRAD_RTOL),
            differing(hidden_grads, expected_hidden, GRAD_RTOL),
        )

    assert run(position=0, moved=0.0) == (set(), set(), set())
    assert run(position=5, moved=1.0) == (set(), set(), set())  # the token that opens the first picture is not read
    wrong, wrong_grads, wrong_hidden = run(position=0, moved=0.01)
    assert wrong and wrong_grads and wrong_hidden


# --- anchored: differences from the reference ---


def unit(*shape: int, seed: int = 0) -> Tensor:
    return F.normalize(torch.randn(*shape, generator=torch_rng(seed, "unit")), dim=-1)


def same_pairs(z: Tensor, anchors: tuple[tuple[Tensor, Tensor], ...] = ()) -> LatentPairs:
    return LatentPairs(z, z, z, torch.arange(len(z)), anchors)


def test_terms_of_two_orthogonal_pairs() -> None:
    z = torch.tensor([[3.0, 0, 0], [0, 2.0, 0]])  # captions; pictures the other way round, so their cosine is 0
    pairs = LatentPairs(z, z.flip(0), z, torch.arange(2), ((z, F.normalize(z, dim=-1)),))
    noise = torch.tensor([[[0.0, 4, 0], [0, 0, 0]], [[0, 0, 0], [0, 0, 2.0]]])
    loss = latentumm_loss(pairs, torch.clone, noise)
    assert loss.scores.flatten().tolist() == pytest.approx([3 / 5, 1, 1, math.sqrt(0.5)])
    margin = [1 - 3 / 5, 1 - math.sqrt(0.5)]
    preference = sum(math.log(1 + math.exp(-m)) for m in margin) / 2
    contrast = math.log(1 + math.exp(1 / 0.07))  # the only other logit is 1 / temperature, the own one 0
    expected = [1.0, 0.0, preference, 0.0, contrast]
    assert [part.item() for part in loss[1:6]] == pytest.approx(expected, abs=1e-6)
    assert loss.total.item() == pytest.approx(1.0 + 0.1 * preference + contrast, abs=1e-6)
    assert loss.parts()["best"] == pytest.approx(1.0) and loss.parts()["worst"] == pytest.approx(0.653553)


def test_constant_latents_have_reference_loss_zero_and_anchored_loss_above() -> None:
    model, _ = load_shared("stage1/text")
    given = arrays("stage1/text/inputs/")
    nn.init.zeros_(model.aligner.single_to_latent.weight)

    def run(objective: Objective, anchor: float) -> tuple[float, float]:
        model.zero_grad()
        weights = LatentUMMWeights(preference=0.0, anchor=anchor)
        loss = shared_loss(model, **given, noise=torch.zeros(0, 5, 12), weights=weights, objective=objective)
        loss.total.backward()
        return loss.total.item(), max(grad.abs().max().item() for grad in grads(model).values())

    assert run("reference", anchor=0.0) == (0.0, 0.0)  # W1
    total, steepest = run("anchored", anchor=1.0)
    assert total > math.log(5) and steepest > 0.01  # five pairs that cannot be told apart, and the anchor beside


@pytest.mark.parametrize("objective, moves_worst", [("reference", True), ("anchored", False)])
def test_preference_gradients_by_rollout(objective: Objective, moves_worst: bool) -> None:
    scores = torch.tensor([[0.1, 0.9], [0.5, 0.3], [0.4, 0.2]], requires_grad=True)  # [k b]
    preference_loss(scores, objective).backward()
    pull = [-(1 / (1 + math.exp(m))) / 2 for m in (0.4, 0.7)]  # descent raises the best of both pairs
    spoil = -1.0 if moves_worst else 0.0  # W2: and lowers the worst by as much
    expected = [[spoil * pull[0], pull[1]], [pull[0], 0.0], [0.0, spoil * pull[1]]]
    assert scores.grad is not None
    torch.testing.assert_close(scores.grad, torch.tensor(expected))


def test_reference_preference_training_lowers_the_best_score_and_anchored_raises_it() -> None:
    def train(objective: Objective) -> tuple[float, float]:
        torch.manual_seed(0)
        trip = nn.Sequential(nn.Linear(13, 29), nn.GELU(), nn.Linear(29, 13))
        z = unit(31, 13)
        optimizer = torch.optim.Adam(trip.parameters(), 1e-2)
        for _ in range(60):  # first a good round trip
            (1 - F.cosine_similarity(z, trip(z), dim=-1).mean()).backward()
            optimizer.step()
            optimizer.zero_grad()
        best = []
        for step in range(60):  # then the preference alone
            noise = rollout_noise(z, 4, 0.5, torch_rng(0, "noise", step))
            loss = latentumm_loss(same_pairs(z), trip, noise, objective=objective)
            loss.preference.backward()
            optimizer.step()
            optimizer.zero_grad()
            best.append(loss.parts()["best"])
        return best[0], best[-1]

    before, after = train("reference")
    assert after < before - 0.1
    before, after = train("anchored")
    assert after > before


def test_anchored_noise_scales_with_the_latent_and_is_antithetic() -> None:
    z = torch.randn(5, 97, generator=torch_rng(0, "z")) * torch.tensor([0.25, 1.0, 4.0, 16.0, 0.0])[:, None]
    noise = rollout_noise(z, 6, 0.3, torch_rng(1, "noise"))
    assert noise.shape == (6, 5, 97) and noise.dtype == torch.float32
    assert torch.equal(noise[:3], -noise[3:])
    torch.testing.assert_close(rollout_noise(7 * z, 6, 0.3, torch_rng(1, "noise")), 7 * noise)
    share = noise[:3].square().mean((0, 2)).sqrt() / z.square().mean(-1).sqrt()
    assert share[:4].tolist() == pytest.approx([0.3] * 4, rel=0.15)  # 291 draws a latent: 4 % standard error
    assert not noise[:, 4].any()
    released = rollout_noise(z, 3, 0.3, torch_rng(1, "noise"), "reference")
    assert torch.equal(released, rollout_noise(7 * z, 3, 0.3, torch_rng(1, "noise"), "reference"))
    assert released.std().item() == pytest.approx(0.3, rel=0.1)
    assert rollout_noise(z.bfloat16(), 2, 0.3, torch_rng(1, "noise")).dtype == torch.float32
    with pytest.raises(UserError, match="3 rollouts.*even"):
        rollout_noise(z, 3, 0.3, torch_rng(1, "noise"))


def test_all_rollouts_are_one_batch_with_the_same_scores() -> None:
    torch.manual_seed(0)
    trip, calls = nn.Linear(7, 7), []

    def counted(x: Tensor) -> Tensor:
        calls.append((len(x), torch.is_grad_enabled()))
        return trip(x)

    z = torch.randn(5, 7)
    noise = rollout_noise(z, 4, 0.5, torch_rng(0, "noise"))
    together = latentumm_loss(same_pairs(z), counted, noise).scores
    assert calls == [(4 * 5, False), (2 * 5, True)]  # the rollouts; then z and the best of them
    alone = torch.stack([F.cosine_similarity(z, trip(z + noise[k]), dim=-1) for k in range(4)])
    torch.testing.assert_close(together, alone)
    assert (together - alone.flip(0)).abs().max() > 0.01  # another order would be seen


def test_gradient_through_the_best_rollout_equals_that_with_a_detached_worst() -> None:
    torch.manual_seed(0)
    trip, z = nn.Linear(7, 7), torch.randn(5, 7, requires_grad=True)
    noise = rollout_noise(z, 4, 0.5, torch_rng(0, "noise"))
    moved = (*trip.parameters(), z)
    loss = latentumm_loss(same_pairs(z), trip, noise)
    every = F.cosine_similarity(z, trip(z + noise), dim=-1)
    for still, equal in ((every.amin(0).detach(), True), (every.amin(0), False)):
        expected = torch.autograd.grad(-F.logsigmoid(every.amax(0) - still).mean(), moved, retain_graph=True)
        found = torch.autograd.grad(loss.preference, moved, retain_graph=True)
        for a, b in zip(found, expected, strict=True):
            assert torch.allclose(a, b, atol=1e-6) == equal


def test_round_trips_without_weight_are_skipped() -> None:
    z, calls = unit(5, 7), []

    def counted(x: Tensor) -> Tensor:
        calls.append(len(x))
        return x.clone()

    noise = torch.zeros(4, 5, 7)
    for task, preference, expected in ((1.0, 0.0, [5]), (0.0, 1.0, [20, 10]), (0.0, 0.0, [])):
        calls.clear()
        weights = LatentUMMWeights(task=task, preference=preference)
        loss = latentumm_loss(same_pairs(z), counted, noise, weights)
        assert calls == expected
        assert sum(loss.weighted.values()).item() == loss.total.item()
    assert list(loss.weighted) == ["modal", "task", "preference", "anchor", "contrast", "cycle"]


def test_the_cycle_loss_is_part_of_the_anchored_objective_only() -> None:
    z, cost = unit(3, 5), torch.tensor(0.75, requires_grad=True)
    pairs = replace(same_pairs(z), cycle=cost)
    weights = LatentUMMWeights(cycle=2.0)
    with_cycle = latentumm_loss(pairs, torch.clone, torch.zeros(0, 3, 5), weights)
    without = latentumm_loss(same_pairs(z), torch.clone, torch.zeros(0, 3, 5), weights)
    assert with_cycle.cycle.item() == 0.75 and (with_cycle.total - without.total).item() == pytest.approx(2 * 0.75)
    with_cycle.total.backward()
    assert cost.grad == 2
    released = latentumm_loss(pairs, torch.clone, torch.zeros(0, 3, 5), weights, objective="reference")
    assert released.cycle.item() == 0


def test_noise_keeps_float32_precision_with_bfloat16_latents() -> None:
    z = 16 * torch.randn(3, 101, generator=torch_rng(0, "z")).bfloat16()
    seen: list[Tensor] = []

    def spy(x: Tensor) -> Tensor:
        seen.append(x)
        return x

    latentumm_loss(same_pairs(z), spy, rollout_noise(z, 2, 0.05, torch_rng(0, "noise")))
    rollouts = seen[0].unflatten(0, (2, 3))
    assert rollouts.dtype == torch.float32
    assert (rollouts != z).all()


def test_both_sides_of_a_mutual_distance_get_half_of_the_gradient() -> None:
    a, b = (torch.randn(3, 7, generator=torch_rng(i, "sides")).requires_grad_() for i in range(2))
    plain = torch.autograd.grad(cosine_distance(a, b), (a, b))
    mutual = mutual_distance(a, b)
    assert mutual.item() == pytest.approx(cosine_distance(a, b).item())
    for gradient, full in zip(torch.autograd.grad(mutual, (a, b)), plain, strict=True):
        torch.testing.assert_close(gradient, 0.5 * full)


def test_the_task_moves_the_latent_and_the_round_trip() -> None:
    z, drawn = (unit(3, 5, seed=i).requires_grad_() for i in range(2))
    # A round trip that ignores its input, so that z has a gradient from the comparison only.
    loss = latentumm_loss(same_pairs(z), lambda x: drawn.clone(), torch.zeros(0, 3, 5))
    assert all(gradient.abs().max().item() > 0 for gradient in torch.autograd.grad(loss.task, (z, drawn)))


def test_distances_do_not_shrink_with_the_width() -> None:
    a, b = torch.eye(2, 11), torch.eye(2, 11).flip(0)  # orthogonal unit rows
    wide = [F.pad(x, (0, 3000)) for x in (a, b)]
    for pair in ((a, b), wide):
        assert cosine_distance(*pair).item() == 1.0
    released = latentumm_loss(same_pairs(a, ((a, b),)), torch.clone, torch.zeros(0, 2, 11), objective="reference")
    assert released.anchor.item() == pytest.approx(2 / 11)  # W4


def test_shrinking_the_latent_lowers_the_reference_task_loss_only() -> None:
    z, trip = unit(5, 13), nn.Linear(13, 13, bias=False)

    def task(scale: float, objective: Objective) -> float:
        return latentumm_loss(same_pairs(scale * z), trip, torch.zeros(0, 5, 13), objective=objective).task.item()

    assert task(0.1, "reference") == pytest.approx(task(1.0, "reference") / 100)  # W5
    assert task(0.1, "anchored") == pytest.approx(task(1.0, "anchored"))


def test_pairs_of_one_image_are_not_negatives() -> None:
    text, image = torch.eye(2), torch.eye(2)
    apart = contrastive_loss(text, image, torch.tensor([3, 5]), temperature=1.0)
    assert apart.item() == pytest.approx(math.log(1 + math.exp(-1)))
    assert contrastive_loss(text, image.flip(0), torch.tensor([3, 3])).item() == pytest.approx(
        contrastive_loss(text, image, torch.tensor([3, 3])).item()
    )


def test_centring_closes_a_gap_between_modalities() -> None:
    text = 0.3 * torch.randn(19, 7, generator=torch_rng(0, "text"))
    image = text + torch.tensor([2.0, 0, 0, -1, 0, 0, 0])
    assert F.cosine_similarity(text, image).mean() < 0.5
    torch.testing.assert_close(centre(text, text.mean(0)), centre(image, image.mean(0)))  # W7


def test_anchored_without_anchor_and_contrast_is_an_error() -> None:
    z = unit(3, 5)

    def run(objective: Objective, anchor: float, *anchors: tuple[Tensor, Tensor]) -> float:
        weights = LatentUMMWeights(anchor=anchor, contrast=0.0)
        pairs = same_pairs(z, anchors)
        return latentumm_loss(pairs, torch.clone, torch.zeros(0, 3, 5), weights, objective=objective).total.item()

    for lacking in ((1.0,), (0.0, (z, z))):
        with pytest.raises(UserError, match="contrast weight"):
            run("anchored", *lacking)
        assert run("reference", *lacking) == pytest.approx(0.0)
    assert run("anchored", 1.0, (z, -z)) == pytest.approx(2.0)


# --- a short training of each ---


def synthetic_pairs(count: int, seed: int, width: int = 29, factors: int = 7) -> tuple[Tensor, Tensor]:
    """Return unit embeddings of captions and images [count width] with common factors and a gap between modalities."""
    shape = torch.randn(factors + 1, width, generator=torch_rng(0, "world"))
    gap = torch.randn(2, width, generator=torch_rng(1, "world"))
    shown = torch.randn(count, factors + 1, generator=torch_rng(seed, "shown")) @ shape
    text, image = (
        F.normalize(
            shown + 2 * gap[i] + 0.3 * torch.randn(shown.shape, generator=torch_rng(seed, f"noise {i}")), dim=-1
        )
        for i in range(2)
    )
    return text, image


class TinyLatents(nn.Module):
    """Two encoders that end like the released one, and a generator, whose output is encoded as an image."""

    def __init__(self, width: int = 29, hidden: int = 61) -> None:
        super().__init__()
        self.generator = nn.Sequential(nn.Linear(width, hidden), nn.GELU(), nn.Linear(hidden, width))
        self.text, self.image = (
            nn.Sequential(
                nn.Linear(width, hidden),
                nn.GELU(),
                nn.Linear(hidden, hidden),
                nn.LayerNorm(hidden),
                nn.Linear(hidden, width),
            )
            for _ in range(2)
        )

    def roundtrip(self, z: Tensor) -> Tensor:
        return self.image(self.generator(z))


def train_tiny(objective: Objective) -> CollapseMeasures:
    """Return the metrics on held-out pairs after a short training with the objective's default weights."""
    torch.manual_seed(0)
    model = TinyLatents()
    text, image = synthetic_pairs(1024, seed=1)
    weights = RELEASED_WEIGHTS["stage2"] if objective == "reference" else LatentUMMWeights()
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3, weight_decay=0.01)
    for step in range(150):
        rows = torch.randint(len(text), (32,), generator=torch_rng(0, "rows", step))
        z_text, z_image = model.text(text[rows]), model.image(image[rows])
        pairs = LatentPairs(z_text, z_image, z_text, rows, ((model.generator(z_text), image[rows]),))
        noise = rollout_noise(z_text, 4, 0.05, torch_rng(0, "noise", step), objective)
        loss = latentumm_loss(pairs, model.roundtrip, noise, weights, objective=objective)
        loss.total.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
    text, image = synthetic_pairs(257, seed=2)
    with torch.no_grad():
        z_text = model.text(text)
        return measure_collapse(z_text, model.image(image), model.generator(z_text), image)


def test_reference_training_collapses() -> None:
    measures = train_tiny("reference")
    assert measures.separation < 0.005 and measures.spread < 0.05 and measures.recall < 0.05  # .0003, .03 and chance
    with pytest.raises(UserError, match="collapsed"):
        CollapseGuard(warmup_steps=150).check(150, measures)


def test_anchored_training_does_not_collapse() -> None:
    measures = train_tiny("anchored")
    CollapseGuard(warmup_steps=150).check(150, measures)
    assert measures.separation > 0.8 and measures.spread > 0.8 and measures.recall > 0.8  # all above .97
