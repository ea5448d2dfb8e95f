"""Comparison with arrays that wusize/Harmon at 4eb6087 computed at a tiny width (`shared/fixtures/harmon`)."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterator, Mapping
from itertools import pairwise
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from transformers import Qwen2Config

from latentbridge.config import MarConfig
from latentbridge.models.backbones.harmon.denoising import LearnedVarianceDiffusion, Randomness, guided_prediction
from latentbridge.models.backbones.harmon.load_harmon import Sizes, load_harmon
from latentbridge.models.backbones.harmon.mar import known_counts, pick
from latentbridge.models.backbones.harmon.masked_generation import DrawingPlan
from latentbridge.models.backbones.harmon.modeling_harmon import Harmon
from latentbridge.models.backbones.harmon.options import HarmonDrawingOptions
from latentbridge.models.backbones.harmon.pictures import pad_and_resize
from latentbridge.models.pixels import to_pictures
from latentbridge.models.weights import Placement
from latentbridge.types import Conversation

TOLERANCE = 1e-5
DRAWING_TOLERANCE = 2e-3
"""Tolerance of denoised tokens: the fixture's head amplifies errors of 1e-7 by 1e4."""
PICTURE_TOLERANCE = 0.1
"""Share of a picture's values that those errors may round to another level."""
INPUTS = re.compile(r"picture\d+|gen\d+\.\d+px\.(order|initial_noise|step_noise)")
"""Names of the arrays that a fixture gives."""
_EXPECTED = "expected.safetensors"
_TIMESTEP = 500
_Arrays = Iterator[tuple[str, Tensor, float]]


def fixture_arrays(folder: Path) -> _Arrays:
    """Yield (name, array, relative tolerance) of each array of a fixture folder, computed here."""
    with TemporaryDirectory() as release:
        write_release(folder, Path(release))
        harmon = load_harmon(Path(release), [fixture_sizes(folder)], Placement(torch.float32))
        yield from model_arrays(harmon, folder)


@torch.no_grad()
def model_arrays(harmon: Harmon, folder: Path) -> _Arrays:
    """Yield the arrays of `fixture_arrays`, computed by a loaded model."""
    expected, meta = load_file(folder / _EXPECTED), json.loads((folder / "meta.json").read_text())
    yield from _all_arrays(harmon, expected, meta)


def _all_arrays(harmon: Harmon, expected: Mapping[str, Tensor], meta: Mapping[str, Any]) -> _Arrays:
    yield from _schedule_arrays(expected, meta)
    for name in expected:
        if match := re.fullmatch(r"und(\d+)\.(\d+)px\.tokens", name):
            picture, size_px = expected[f"picture{match[1]}"].numpy(), int(match[2])
            conversation = Conversation.with_picture(((meta["question"], ""),), picture)
            num_tokens = len(expected[name])
            yield from _with_prefix(name, _reading_arrays(harmon, conversation, size_px, num_tokens))
        if match := re.fullmatch(r"gen(\d+)\.ids", name):
            yield from _with_prefix(name, _prompt_arrays(harmon, meta["prompts"][int(match[1])]))
        if match := re.fullmatch(r"gen(\d+)\.(\d+)px\.order", name):
            yield from _with_prefix(name, _places_arrays(expected[name], meta["num_iter"]))
        if match := re.fullmatch(r"(gen(\d+)\.(\d+)px)\.cfg([\d.]+)\.tokens", name):
            options = HarmonDrawingOptions(
                steps=meta["num_iter"],
                guidance=float(match[4]),
                size=(int(match[3]),) * 2,
                denoising_steps=int(meta["num_sampling_steps"]),
            )
            plan = harmon._plan([meta["prompts"][int(match[2])]], [0], options)
            plan = plan._replace(randomness=_randomness(expected, match[1]))
            yield from _with_prefix(name, _drawing_arrays(harmon, plan))
            for step in _recorded_steps(name, expected):
                recorded = name.replace("tokens", f"step{step}.tokens")
                yield from _with_prefix(recorded, _step_arrays(harmon, plan, expected[recorded], step))


def fixture_sizes(folder: Path) -> Sizes:
    """Return the sizes that a fixture's `meta.json` states."""
    meta = json.loads((folder / "meta.json").read_text())
    names = (
        "hidden_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads", "intermediate_size",
        "vocab_size", "rms_norm_eps", "tie_word_embeddings",
    )  # fmt: skip
    rope = {"rope_type": "default", "rope_theta": meta["rope_theta"]}
    return Sizes(
        Qwen2Config(**{name: meta[name] for name in names}, rope_parameters=rope),
        MarConfig(**meta["mar"], learned_variances=True),
        meta["vae_channels"],
        min(meta["image_sizes"]),
    )


def write_release(folder: Path, release: Path) -> None:
    """Write the fixture's weights to `release` in GitHub's layout."""
    weights = next(path for path in sorted(folder.glob("*.safetensors")) if path.name != _EXPECTED)
    torch.save(load_file(weights), release / "harmon_tiny.pth")
    torch.save({"model": _autoencoder_weights(folder)}, release / "kl16.ckpt")
    for path in folder.glob("tokenizer*"):
        shutil.copy(path, release)


def _autoencoder_weights(folder: Path) -> dict[str, Tensor]:
    """Return the random autoencoder that the fixture's `make_kl16.py` defines."""
    spec = json.loads((folder / "kl16_shapes.json").read_text())
    weights = {}
    for index, (name, shape) in enumerate(sorted(spec["shapes"].items())):
        values = np.random.default_rng([spec["seed"], index]).standard_normal(tuple(shape), dtype=np.float32)
        if len(shape) == 1:
            values = float(".norm" in name and name.endswith("weight")) + 0.1 * values
        else:
            values = values / np.sqrt(np.prod(shape[1:]), dtype=np.float32)
        weights[name] = torch.from_numpy(values.astype(np.float32))
    return weights


def _schedule_arrays(expected: Mapping[str, Tensor], meta: Mapping[str, Any]) -> _Arrays:
    process = LearnedVarianceDiffusion(int(meta["num_sampling_steps"]))
    yield "diffusion.timesteps", torch.tensor(process.timesteps), 0.0
    yield "diffusion.betas", process.betas, TOLERANCE
    for name in expected:
        if match := re.fullmatch(r"diffusion\.timesteps_(\d+)", name):
            yield name, torch.tensor(LearnedVarianceDiffusion(int(match[1])).timesteps), 0.0
        if match := re.fullmatch(r"counts_(\d+)_(\d+)", name):
            yield name, torch.tensor(known_counts(int(match[1]), int(match[2]))).diff(), 0.0


def _reading_arrays(harmon: Harmon, conversation: Conversation, size_px: int, num_tokens: int) -> _Arrays:
    """Yield what reading one picture at a size and answering a question about it computes."""
    pictures = conversation.all_pictures
    yield "resized", torch.tensor(pad_and_resize(pictures[0], size_px)), 0.0
    tokens = harmon._encode_pictures(pictures, size_px)
    side = size_px // harmon.autoencoder.patch_px
    yield "latents", tokens.unflatten(1, (side, side)), TOLERANCE
    yield "encoded", harmon._encode_all(tokens), TOLERANCE
    features = harmon._encode_image(tokens)
    yield "for_words", features, TOLERANCE
    rows = harmon._pad([harmon.prompts.conversation(conversation, side**2, open_ended=True).ids])
    yield "ids", rows.ids.masked_fill(rows.ids == harmon.prompts.placeholder, -1), 0.0
    states = harmon._hidden(harmon._embed_tokens(rows, features), rows.mask)
    yield "states", states, TOLERANCE
    yield "first_logits", harmon.language_model.lm_head(states[0, -1]), TOLERANCE
    (reply,) = harmon.reply([conversation], max_tokens=num_tokens, picture_size_px=size_px)
    yield "tokens", torch.tensor(reply.token_ids), 0.0


def _prompt_arrays(harmon: Harmon, prompt: str) -> _Arrays:
    """Yield the ids of a prompt and of the unconditional one, padded on the right as by the authors."""
    rows = [torch.tensor(ids) for ids in harmon.prompts.drawings([prompt, None])]
    yield "ids", pad_sequence(rows, batch_first=True, padding_value=harmon.prompts.end), 0.0
    masks = [torch.ones_like(row, dtype=torch.bool) for row in rows]
    yield "attention_mask", pad_sequence(masks, batch_first=True), 0.0


def _randomness(expected: Mapping[str, Tensor], prefix: str) -> Randomness:
    order = expected[f"{prefix}.order"].flip(0)  # its first entries stay masked longest
    return Randomness(order[None], expected[f"{prefix}.initial_noise"][None], expected[f"{prefix}.step_noise"][None])


def _places_arrays(order: Tensor, steps: int) -> _Arrays:
    for step, (start, stop) in enumerate(pairwise(known_counts(len(order), steps))):
        yield f"places{step}", order.flip(0)[start:stop].sort().values, 0.0


def _drawing_arrays(harmon: Harmon, plan: DrawingPlan) -> _Arrays:
    """Yield the tokens before each step, those of the whole drawing, and its picture."""
    tokens, steps = torch.zeros_like(plan.randomness.noise), harmon._drawing_steps(plan)
    for step, (start, stop) in enumerate(pairwise(known_counts(tokens.shape[1], plan.options.steps))):
        yield f"step{step}.tokens", tokens, DRAWING_TOLERANCE
        tokens = next(steps).tokens if stop > start else tokens
    yield "tokens", tokens, DRAWING_TOLERANCE
    picture = to_pictures(harmon._decode_tokens(tokens, plan.grid))[0]
    yield "picture", torch.tensor(picture), PICTURE_TOLERANCE


def _step_arrays(harmon: Harmon, plan: DrawingPlan, tokens: Tensor, step: int) -> _Arrays:
    """Yield the intermediate states of one step, given the recorded tokens before it, and what it draws."""
    order, grid = plan.randomness.order, plan.grid
    start, stop = known_counts(tokens.shape[1], plan.options.steps)[step : step + 2]
    known, places = order[:, :start].sort(1).values, order[:, start:stop].sort(1).values
    yield "known", known[0], 0.0
    contexts = [plan.prompts] if plan.bare is None else [plan.prompts, plan.bare]
    encoded = [harmon._encode_known(context, tokens, known, grid) for context in contexts]
    yield "encoded", torch.cat(encoded), TOLERANCE
    decoded = [harmon.decoder(each, known, grid) for each in encoded]
    yield "decoded", torch.cat(decoded), TOLERANCE
    states = [pick(each, places)[0] for each in decoded]
    uncond = states[1] if len(states) > 1 else None
    noise = pick(plan.randomness.noise, places)[0]
    output = guided_prediction(harmon.head, noise, _TIMESTEP, states[0], uncond, plan.options.guidance)
    yield "net_out_t500", output, TOLERANCE
    yield "drawn", pick(harmon._step(plan, tokens, known, places).tokens, places)[0], DRAWING_TOLERANCE


def _recorded_steps(name: str, expected: Mapping[str, Tensor]) -> list[int]:
    """Return the steps of a drawing of which intermediate states are recorded."""
    pattern = re.escape(name.removesuffix("tokens")) + r"step(\d+)\.known"
    return [int(match[1]) for each in expected if (match := re.fullmatch(pattern, each))]


def _with_prefix(name: str, arrays: _Arrays) -> _Arrays:
    prefix = name[: name.rindex(".") + 1]
    return ((f"{prefix}{part}", array, tolerance) for part, array, tolerance in arrays)
