"""An OmniBridge or Qwen-VL in a release's layout: the inverse of `load_omnibridge.py`."""

from __future__ import annotations

import json
from typing import Any

from torch import Tensor

from latentbridge.config import to_dict
from latentbridge.errors import UserError
from latentbridge.models.backbones.release_files import ReleaseFiles
from latentbridge.models.omnibridge.load_omnibridge import AUTHORS_NAMES, NAMES, bridge_config
from latentbridge.models.omnibridge.modeling_omnibridge import OmniBridge
from latentbridge.models.qwen_vl.build import build_processor
from latentbridge.models.stored_tensor import in_memory

_RELEASED = ("backbone.", "projector.", "aligner.", "retrieval.")
_TIED = "backbone.model.lm_head.weight"
_TEMPLATE = (
    "{% for message in messages %}{% if loop.first and message.role != 'system' and system %}"
    "<|im_start|>system\n{{ system }}<|im_end|>\n{% endif %}<|im_start|>{{ message.role }}\n"
    "{% if message.content is string %}{{ message.content }}{% else %}{% for part in message.content %}"
    "{% if part.type == 'image' %}<|vision_start|><|image_pad|><|vision_end|>{% else %}{{ part.text }}{% endif %}"
    "{% endfor %}{% endif %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
"""ChatML as Qwen-VL writes it, where `system` is set before."""


def release_files(model: OmniBridge, authors: bool) -> ReleaseFiles:
    """Return the language model and the bridge as files, under the authors' names or those of transformers from 4.52.

    A decoder is no part of the release, which takes an unchanged HunyuanDiT; nor is an auxiliary embedding. Raise UserError
    for a bridge that the authors' class cannot be.
    """
    _check_bridge(model)
    names = AUTHORS_NAMES if authors else NAMES
    tensors: dict[str, Tensor] = {}
    left_out: set[str] = set()
    for name, tensor in model.state_dict().items():
        if not name.startswith(_RELEASED):
            left_out.add(name.partition(".")[0])
        elif name != _TIED or not model.config.backbone.tied_embeddings:
            tensors[names.to_theirs(name)] = tensor
    return ReleaseFiles({"model.safetensors": tensors}, _configs(model, authors), left_out=tuple(sorted(left_out)))


def _check_bridge(model: OmniBridge) -> None:
    """Raise UserError unless the shapes of a bridge's tensors tell all of its settings, as a loader must find them."""
    if "bridge" not in model.config.parts:
        return
    read = bridge_config({name: in_memory(tensor) for name, tensor in model.state_dict().items()})
    for part in ("aligner", "retrieval"):
        ours, found = to_dict(getattr(model.config, part)), to_dict(getattr(read, part))
        if other := [name for name, value in ours.items() if value != found[name]]:
            raise UserError(
                f"No layout of OmniBridge holds this bridge, whose {part}.{other[0]} is {ours[other[0]]} where every release has "
                f"{found[other[0]]}; export one that was trained from the release's sizes."
            )


def _configs(model: OmniBridge, authors: bool) -> dict[str, Any]:
    backbone, library = model.config.backbone, model.backbone.model.config
    release = backbone.release
    values: dict[str, Any] = json.loads(release.config) if release.config else library.to_dict()
    if not release.config and authors:
        values = _flat(values)
    if "bridge" in model.config.parts:
        values["mm_added_mlp"] = True  # without it the authors' class drops every tensor of the bridge
    configs = {"preprocessor_config.json": build_processor(backbone).to_dict(), "config.json": values}
    if release.generation:
        configs["generation_config.json"] = json.loads(release.generation)
    if not release.config:
        configs["chat_template.json"] = {"chat_template": chat_template(backbone.system_prompt)}
    return configs


def chat_template(system_prompt: str) -> str:
    """Return ChatML as Qwen-VL writes it, in Jinja."""
    return f"{{% set system = {json.dumps(system_prompt)} %}}{_TEMPLATE}"


def _flat(values: dict[str, Any]) -> dict[str, Any]:
    """Return a config with the text model's settings beside the others, as transformers before 4.52 reads it."""
    text = dict(values.pop("text_config"))
    rope = text.pop("rope_parameters")
    scaling = {"type": "mrope", "mrope_section": rope["mrope_section"]}
    return {**text, **values, "rope_theta": rope["rope_theta"], "rope_scaling": scaling}
