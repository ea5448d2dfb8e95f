"""Editing with an OmniBridge: inside a mask (ours), or drawn anew as the release does."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np
import torch
from torch import Tensor

from latentbridge import prompts
from latentbridge.images import fit_square
from latentbridge.models import diffusion
from latentbridge.models.condition import Condition
from latentbridge.models.stepwise import last_of
from latentbridge.types import Conversation, EditResult, Picture

if TYPE_CHECKING:
    from latentbridge.models.omnibridge.modeling_omnibridge import OmniBridge

Conditioning = Literal["query", "text"]
"""Source of the decoder's condition: the bridge's queries, or the text encoder."""
_MASK_PROBES = 4
_DESCRIPTION_TOKENS = 128


@dataclass(frozen=True)
class EditPlan:
    """The descriptions, masks and conditions of b edits before the first denoising step."""

    pictures: list[Picture]
    """Source pictures at the decoder's size."""
    before: list[str]
    after: list[str]
    mask: np.ndarray
    """bool [b h w]; True where new content is allowed."""
    condition: Condition
    keep: tuple[Tensor, Tensor]
    """Image latents of the sources [b c h w], and the mask [b 1 h w] that is 1 at latents to draw anew."""


def edit_in_mask(
    model: OmniBridge,
    pictures: Sequence[Picture],
    instructions: Sequence[str],
    seeds: Sequence[int],
    steps: int | None,
    guidance: float | None,
    conditioning: Conditioning,
) -> list[EditResult]:
    """Edit pictures where their descriptions before and after the edit lead to different pixels.

    1. The language model describes the picture and, from picture and instruction, writes the description to draw.
    2. The decoder predicts the picture under each description; the pixels that differ are the mask (DiffEdit,
       arXiv 2210.11427). As in the release, edits are conditioned on the description's text unless told otherwise.
    3. Image latents under the mask are denoised; all others keep the source's own at every step. Outside the mask the
       result has the source's pixels.
    """
    after = _describe_after(model, pictures, instructions)
    captions = [Conversation(((prompts.CAPTION_REQUEST, ""),), picture) for picture in pictures]
    before = model.reply(captions, max_tokens=_DESCRIPTION_TOKENS)
    plan = plan_edit(model, pictures, before, after, seeds, conditioning)
    return finish_edit(model, plan, model.denoise(plan.condition, seeds, steps, guidance, keep=plan.keep))


def edit_in_mask_by_steps(
    model: OmniBridge,
    pictures: Sequence[Picture],
    before: Sequence[str],
    after: Sequence[str],
    seeds: Sequence[int],
    steps: int,
    guidance: float,
) -> Generator[None, None, list[EditResult]]:
    """Edit pictures as `edit_in_mask` does, given their descriptions before and after the edit; yield after each step."""
    plan = plan_edit(model, pictures, before, after, seeds)
    latents = yield from last_of(model.denoise_steps(plan.condition, seeds, steps, guidance, plan.keep))
    return finish_edit(model, plan, latents)


def edit_like_release(
    model: OmniBridge,
    pictures: Sequence[Picture],
    instructions: Sequence[str],
    seeds: Sequence[int],
    steps: int | None,
    guidance: float | None,
) -> list[EditResult]:
    """Draw pictures anew from the description after the edit, as the release does (spec 2.3).

    The aligner lets the description's tokens read the picture's states. Those cannot see the instruction, and no source
    latents reach the decoder, so identity and layout are lost by design. The mask is the whole picture, and the source is
    not described.
    """
    model.require("embed")  # the bridge
    after = _describe_after(model, pictures, instructions)
    hidden, mask = model.image_hidden(pictures)
    words = model.text_encoder.shared(model.text_ids(after))
    states = model.aligner(words.to(hidden.dtype), model.projector(hidden), mask)
    drawn = model.decode_pictures(model.denoise(model.decoder_condition(states, after), seeds, steps, guidance))
    everywhere = np.ones(drawn[0].shape[:2], bool)
    return [EditResult(picture, "", text, everywhere) for picture, text in zip(drawn, after, strict=True)]


def _describe_after(model: OmniBridge, pictures: Sequence[Picture], instructions: Sequence[str]) -> list[str]:
    requests = [
        Conversation(((prompts.edit_request(instruction), ""),), picture)
        for instruction, picture in zip(instructions, pictures, strict=True)
    ]
    return [prompts.unwrap_description(reply) for reply in model.reply(requests, max_tokens=_DESCRIPTION_TOKENS)]


@torch.no_grad()
def plan_edit(
    model: OmniBridge,
    pictures: Sequence[Picture],
    before: Sequence[str],
    after: Sequence[str],
    seeds: Sequence[int],
    conditioning: Conditioning = "text",
) -> EditPlan:
    """Find the mask and the condition of edits from one description of each picture to another."""
    source_condition, condition = (model.describe_condition(texts, conditioning) for texts in (before, after))
    patch_px = model.autoencoder.patch_px
    pictures = [fit_square(picture, model.decoder.grid * patch_px) for picture in pictures]
    source = model.encode_pictures(pictures)
    probes = torch.stack([torch.stack([model.noise(seed + 1 + k) for seed in seeds]) for k in range(_MASK_PROBES)])
    old, new = (
        model.autoencoder.decode(diffusion.predict_x0(model.decoder, model.scheduler, source, each, probes))
        for each in (source_condition, condition)
    )
    mask = diffusion.edit_mask(old, new)
    latent_mask = torch.nn.functional.max_pool2d(mask[:, None].float(), patch_px)
    return EditPlan(pictures, list(before), list(after), mask.cpu().numpy(), condition, (source, latent_mask))


def finish_edit(model: OmniBridge, plan: EditPlan, image_latents: Tensor) -> list[EditResult]:
    """Return the results of a plan from its denoised image latents [b c h w]."""
    drawn = model.decode_pictures(image_latents)
    return [
        EditResult(np.where(mask[..., None], drawn[i], plan.pictures[i]), plan.before[i], plan.after[i], mask)
        for i, mask in enumerate(plan.mask)
    ]
