"""Descriptions of models: sizes, skills and default options, for people who choose one."""

from __future__ import annotations

import ast
import dataclasses
import inspect
import textwrap
from collections import Counter
from typing import Any

from latentbridge.models.memory.known import RELEASES, known_name, outlined
from latentbridge.models.memory.weights import part_of
from latentbridge.models.unified import UnifiedModel
from latentbridge.types import Skill

_SKILLS: tuple[Skill, ...] = ("understand", "generate", "edit", "embed")
_LICENCES = {
    "bagel-7b-mot": "Apache-2.0",
    "janus-pro-1b": "DeepSeek Model License",
    "janus-pro-7b": "DeepSeek Model License",
    "qwen2-vl-7b": "Apache-2.0",
    "omnibridge-8b": "none is published; its decoder is under the Tencent Hunyuan Community License",
    "tiny": "Apache-2.0",
}
"""Licences of the weights, as their publishers name them."""


def describe(source: str) -> dict[str, Any]:
    """Return the description of a named model or of a folder as a JSON document.

    A named model and a folder of ours are described from their config; of a release's folder the weights are read.
    """
    model = outlined(source)
    parameters: Counter[str] = Counter()
    for name, parameter in model.named_parameters():
        parameters[part_of(name)] += parameter.numel()
    lacking = [skill for skill in _SKILLS if skill not in model.skills]
    return {
        "model": source,
        "kind": model.kind,
        "skills": [skill for skill in _SKILLS if skill in model.skills],
        "lacking": lacking,
        "parameters": sum(parameters.values()),
        "parameters_by_part": dict(parameters.most_common()),
        "dtype": "bfloat16" if known_name(source) in RELEASES else str(model.dtype).removeprefix("torch."),
        "reads_px": model.image_size_px,
        "draws_px": model.drawing_size_px if "generate" in model.skills else None,
        "context_tokens": model.context_length,
        "embedding_size": model.embedding_size if "embed" in model.skills else None,
        "pictures_per_conversation": model.max_pictures,
        "takes_system_message": model.takes_system_message,
        "system_prompt": _system_prompt(model),
        "licence": _LICENCES.get(known_name(source) or source),
        "options": {verb: _options(getattr(model, f"{name}_options")) for verb, name in _option_names(model)},
    }


def _option_names(model: UnifiedModel) -> list[tuple[str, str]]:
    names = (("understand", "reply"), ("generate", "drawing"), ("edit", "edit"))
    return [(verb, name) for verb, name in names if verb in model.skills]


def _system_prompt(model: Any) -> str:
    """Return the system prompt of conversations that name none."""
    holders = [getattr(model, name, None) for name in ("chat", "prompts", "backbone")]
    return next((prompt for holder in holders if (prompt := getattr(holder, "system_prompt", ""))), "")


def _options(options: Any) -> dict[str, dict[str, Any]]:
    """Return each option's default value and what it means."""
    docs = _field_docs(type(options))
    return {
        field.name: {"default": getattr(options, field.name), "doc": docs.get(field.name, "")}
        for field in dataclasses.fields(options)
    }


def _field_docs(kind: type) -> dict[str, str]:
    """Return the docstrings below the fields of a dataclass and of its bases, by field."""
    docs: dict[str, str] = {}
    for each in reversed([each for each in kind.__mro__ if dataclasses.is_dataclass(each)]):
        body = ast.parse(textwrap.dedent(inspect.getsource(each))).body[0]
        assert isinstance(body, ast.ClassDef)
        for field, below in zip(body.body, [*body.body[1:], None], strict=True):
            if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name):
                text = (
                    below.value.value if isinstance(below, ast.Expr) and isinstance(below.value, ast.Constant) else None
                )
                if isinstance(text, str):
                    docs[field.target.id] = " ".join(text.split())
    return docs
