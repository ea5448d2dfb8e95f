"""A fixture of the numbers of Janus-Pro's authors, recomputed by the methods that users run (`doctor --fixture`)."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from latentbridge.files import read_json
from latentbridge.models.backbones.janus.load_janus import load_janus
from latentbridge.models.backbones.janus.modeling_janus import GuidedLogits, JanusPro
from latentbridge.models.pixels import truncated_pictures
from latentbridge.models.tensors import REDOWNLOAD, read_tensors
from latentbridge.types import Conversation, Picture

_TOLERANCE = 1e-5
INPUTS = re.compile(r"picture\d+")
"""Names of the arrays that a fixture gives."""


@torch.no_grad()
def fixture_arrays(folder: Path) -> Iterator[tuple[str, Tensor, float]]:
    """Yield (name, array, tolerance) for every output in `expected.safetensors` of a folder with a release's files."""
    meta: dict[str, Any] = read_json(folder / "meta.json")
    expected = read_tensors(folder / "expected.safetensors", REDOWNLOAD)
    model = load_janus(folder, vision_heads=meta.get("vision", {}).get("heads")).float()
    for name, picture in expected.items():
        if name.startswith("picture"):
            yield from _understanding(model, name.removeprefix("picture"), picture.numpy(), meta, expected)
    for index, prompt in enumerate(meta["prompts"]):
        yield from _drawing(model, f"gen{index}", prompt, expected)


def _understanding(
    model: JanusPro, index: str, picture: Picture, meta: dict[str, Any], expected: dict[str, Tensor]
) -> Iterator[tuple[str, Tensor, float]]:
    pixels = model.pixel_values([picture])
    vision = model.model.model.vision_model(pixels).last_hidden_state
    arrays = {
        f"und{index}.pixel_values": pixels,
        f"und{index}.vision": vision,
        f"und{index}.aligned": model.encode_image(pixels),
        f"vq{index}.codes": (codes := model.encode_codes(pixels))[0],
        f"vq{index}.decoded": model.decode_pixels(codes),
    }
    for suffix, system in (("", None), ("_nosystem", "")):
        conversation = Conversation(((meta["question"], ""),), ((picture,),), system=system)
        tokens, embeds = model.embed_conversations([conversation])
        states = model.states(embeds, tokens.mask)
        count = len(expected.get(f"und{index}.tokens{suffix}", ()))
        (reply,) = model.reply([conversation], max_tokens=count or 1)
        arrays |= {
            f"und{index}.ids{suffix}": tokens.ids[0],
            f"und{index}.states{suffix}": states,
            f"und{index}.first_logits{suffix}": model.model.lm_head(states[0, -1]),
            f"und{index}.tokens{suffix}": torch.tensor(reply.token_ids),
        }
    yield from ((name, array, _TOLERANCE) for name, array in arrays.items())


def _drawing(
    model: JanusPro, name: str, prompt: str, expected: dict[str, Tensor]
) -> Iterator[tuple[str, Tensor, float]]:
    """Yield the arrays of a drawing by the most likely code at every position, under the model's own guidance.

    The picture is that of the authors' pixels: of equal pixels but for the order of sums, a few fall to the level below.
    """
    steps: list[Tensor] = []

    def most_likely(index: int, logits: GuidedLogits) -> Tensor:
        steps.append(torch.cat(logits))
        return logits.guided.argmax(-1)

    codes = model.decode_codes([prompt], model.drawing_options.guidance, most_likely)
    pixels = model.decode_pixels(codes)
    arrays = {
        f"{name}.ids": model.prompt_branches([prompt]).ids,
        f"{name}.logits": torch.stack(steps),
        f"{name}.greedy_codes": codes[0],
        f"{name}.decoded": pixels,
        f"{name}.picture": torch.from_numpy(truncated_pictures(expected.get(f"{name}.decoded", pixels))[0]),
    }
    yield from ((name, array, _TOLERANCE) for name, array in arrays.items())
