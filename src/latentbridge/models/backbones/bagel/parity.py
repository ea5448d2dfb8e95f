"""A fixture of the authors' numbers (`shared/fixtures/bagel`), recomputed by the methods that users run."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from latentbridge.files import read_json
from latentbridge.models.backbones.bagel.context import Branches, Context, Prefill
from latentbridge.models.backbones.bagel.latent_tokens import Shape
from latentbridge.models.backbones.bagel.load_bagel import load_bagel
from latentbridge.models.backbones.bagel.modeling_bagel import Bagel
from latentbridge.models.backbones.bagel.options import BagelOptions
from latentbridge.models.backbones.bagel.pictures import ResizeRule
from latentbridge.models.backbones.bagel.rectified_flow import sampling_times
from latentbridge.models.options import ReplyOptions
from latentbridge.models.pixels import to_pixels
from latentbridge.models.tensors import read_tensors
from latentbridge.models.weights import Placement
from latentbridge.types import Conversation, Picture

_TOLERANCE = 1e-5
_SIZE_RULES = ResizeRule(1024, 512, 16), ResizeRule(980, 224, 14)
"""The released transforms: the autoencoder's and SigLIP's."""
_GUIDED = re.compile(r"cfg([\d.]+)(?:_img([\d.]+))?(?:_renormmin([\d.]+))?_(global|channel|text_channel)_t([\d.]+)")
_DRAWN = re.compile(r"(latents|pixels)_(\d+)timesteps(?:_img([\d.]+))?")
INPUTS = re.compile(r"picture\d+|.+\.noise")
"""Names of the arrays that a fixture gives."""
Arrays = Mapping[str, Tensor]


def fixture_arrays(folder: Path) -> Iterator[tuple[str, Tensor, float]]:
    """Yield each output array of a fixture: its name, what this package computes, and the relative tolerance."""
    meta, expected = read_json(folder / "meta.json"), read_tensors(folder / "expected.safetensors", "copy it again")
    model = load_bagel(folder, Placement(torch.float32))
    model.rule, model.eye.rule = ResizeRule(*meta["vae_transform"]), ResizeRule(*meta["vit_transform"])
    with torch.no_grad():
        for name, ours in _arrays(model, meta, expected):
            yield name, ours, _TOLERANCE


def _arrays(model: Bagel, meta: Any, expected: Arrays) -> Iterator[tuple[str, Tensor]]:
    yield from _sizes_and_schedules(expected)
    for item in sorted({name.split(".")[0] for name in expected if "." in name}):
        kind, number = re.fullmatch(r"(\D+)(\d+)", item).groups()  # pyright: ignore[reportOptionalMemberAccess]
        wanted = {
            name.removeprefix(f"{item}."): array for name, array in expected.items() if name.startswith(f"{item}.")
        }
        if kind == "gen":
            ours = _drawing(model, meta["prompts"][int(number)], meta["shapes"][int(number)], wanted)
        else:
            picture = expected[f"picture{number}"].numpy()
            ours = (_reading if kind == "und" else _edit)(model, picture, meta, wanted)
        for name, array in ours:
            yield f"{item}.{name}", array


def _sizes_and_schedules(expected: Arrays) -> Iterator[tuple[str, Tensor]]:
    for name in expected:
        if found := re.fullmatch(r"schedule_(\d+)timesteps_shift([\d.]+)", name):
            yield name, sampling_times(int(found[1]), float(found[2]))
    if "sizes" in expected:
        rows = []
        for height, width in expected["sizes"][:, :2].tolist():
            first, second = (rule.size(height, width) for rule in _SIZE_RULES)
            rows.append((height, width, *first, *second, *_SIZE_RULES[1].size(*first)))
        yield "sizes", torch.tensor(rows)


def _reading(model: Bagel, picture: Picture, meta: Any, wanted: Arrays) -> Iterator[tuple[str, Tensor]]:
    """Yield the arrays of a picture and a question, resized as by the release's `chat` and as by its app."""
    conversation = Conversation.with_picture(((meta["question"], ""),), picture)
    patch, resized = model.eye.patch_px, model.eye.rule.resize(picture)
    squares = to_pixels([resized])[0].unflatten(2, (-1, patch)).unflatten(1, (-1, patch))
    yield "vit_tokens", squares.permute(1, 3, 2, 4, 0).flatten(2).flatten(0, 1)
    yield "vit_position_ids", model.eye.positions((resized.shape[0] // patch, resized.shape[1] // patch))
    model.resize = "chat"
    seen = model.prefill_chat([conversation])
    (words,), _ = model.write(seen, ReplyOptions(max_tokens=len(wanted["tokens"]) - 1))
    count = len(wanted["image_states"])
    yield "image_states", seen.states[0, :count]
    yield "question_states", seen.states[0, count:-1]
    yield "first_logits", model.language_model.lm_head(seen.states[0, -1])
    yield "tokens", torch.tensor([model.chat.start, *words])
    model.resize = "app"
    seen = model.prefill_chat([conversation])
    yield "inferencer_resized", torch.from_numpy(np.array(model.rule.resize(picture)))
    yield "inferencer_image_states", seen.states[0, : len(wanted["inferencer_image_states"])]
    yield "inferencer_first_logits", model.language_model.lm_head(seen.states[0, -1])


def _drawing(model: Bagel, prompt: str, size: list[int], wanted: Arrays) -> Iterator[tuple[str, Tensor]]:
    """Yield the arrays of a drawing of a height and width from given noise."""
    yield "prompt_states", model.prefill_request([prompt]).states[0]
    branches, _ = model.branches([prompt], (), model.drawing_options)
    shape = model.latent_shape((size[1], size[0]))
    names = {"velocity": branches.full, "bare_velocity": branches.without_text}
    yield from _velocities(model, wanted, names, shape)
    yield from _guided_velocities(model, wanted, branches, shape, model.drawing_options)
    yield from _drawn(model, wanted, branches, shape, model.drawing_options)


def _edit(model: Bagel, picture: Picture, meta: Any, wanted: Arrays) -> Iterator[tuple[str, Tensor]]:
    """Yield the arrays of an edit from given noise."""
    source = model.rule.resize(picture)
    yield "vae_pixels", to_pixels([source])
    yield "vae_latent", model.autoencoder.encode(to_pixels([source]))
    yield from _edit_states(model.prefill_request([meta["instruction"]], [source]), wanted)
    branches, _ = model.branches([meta["instruction"]], [source], model.edit_options)
    shape = model.latent_shape((source.shape[1], source.shape[0]))
    names = {
        "velocity": branches.full,
        "without_text": branches.without_text,
        "without_image": branches.without_image,
    }
    yield from _velocities(model, wanted, names, shape)
    yield from _guided_velocities(model, wanted, branches, shape, model.edit_options)
    yield from _drawn(model, wanted, branches, shape, model.edit_options)


def _edit_states(seen: Prefill, wanted: Arrays) -> Iterator[tuple[str, Tensor]]:
    """Yield the states of a picture as latents, with its markers, of the same as SigLIP tokens, and of the instruction."""
    states, latents = seen.states[0], seen.reference_states
    assert latents is not None
    yield "vae_states", torch.cat([states[:1], latents[0], states[1:2]])
    count = len(wanted["vit_states"])
    yield "vit_states", states[2 : 2 + count]
    yield "instruction_states", states[2 + count :]


def _velocities(
    model: Bagel, wanted: Arrays, contexts: Mapping[str, Context], shape: Shape
) -> Iterator[tuple[str, Tensor]]:
    """Yield velocities at the noise, as if it were the latents of each time."""
    noise = wanted["noise"][None]
    for name in wanted:
        if (found := re.fullmatch(r"(\w+)_t([\d.]+)", name)) and found[1] in contexts:
            yield name, model.velocity(noise, torch.tensor([float(found[2])]), contexts[found[1]], shape)[0]


def _guided_velocities(
    model: Bagel, wanted: Arrays, branches: Branches, shape: Shape, defaults: BagelOptions
) -> Iterator[tuple[str, Tensor]]:
    noise = wanted["noise"][None]
    for name in wanted:
        if found := _GUIDED.fullmatch(name):
            text, image, least, renorm, time = found.groups()
            options = replace(
                defaults,
                guidance=float(text),
                image_guidance=float(image or 1),
                renorm_min=float(least or 0),
                renorm=renorm,
            )
            times = torch.tensor([float(time)])
            full = model.velocity(noise, times, branches.full, shape)
            yield name, model.guided_velocity(full, noise, times, branches, shape, options)[0]


def _drawn(
    model: Bagel, wanted: Arrays, branches: Branches, shape: Shape, defaults: BagelOptions
) -> Iterator[tuple[str, Tensor]]:
    """Yield latents after all moves and the pixels decoded from them, at the authors' defaults but for what the name says."""
    for name in wanted:
        if found := _DRAWN.fullmatch(name):
            options = replace(defaults, steps=int(found[2]))
            if found[3]:
                options = replace(options, image_guidance=float(found[3]))
            clean, _ = model.sample(branches, wanted["noise"][None], shape, options)
            yield name, clean[0] if found[1] == "latents" else model.decode_latents(clean, shape)
