"""The config of a released Qwen-VL, read from its folder: sizes, image processor, chat template and sampling defaults."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from transformers import AutoImageProcessor, Qwen2Tokenizer

from latentbridge.config import BackboneConfig, QwenRelease
from latentbridge.errors import UserError
from latentbridge.files import read_json
from latentbridge.models.chat import ChatML, tokenize_chat
from latentbridge.models.qwen_vl.build import ARCHITECTURES, parse_config
from latentbridge.models.tokenization import encode
from latentbridge.types import Conversation

_DEFAULT_SYSTEM_PROMPT = "You are a helpful assistant."
"""The system prompt of Qwen2-VL's and Qwen2.5-VL's chat templates, for a folder without a template."""
_OPENED = re.compile(
    r"(?:<\|im_start\|>system\n(?P<system>.*?)<\|im_end\|>\n)?"
    r"<\|im_start\|>user\nQ<\|im_end\|>\n<\|im_start\|>assistant\n(?P<prefix>.*)",
    re.DOTALL,
)
"""A rendered question "Q", with the system prompt and the text that opens a reply."""
_PROBE = Conversation((("Q", "A"), ("R", "")), ((), ()), system="S")


def is_qwen_vl(folder: Path) -> bool:
    """Return whether a folder holds a Qwen-VL checkpoint in transformers' layout."""
    path = folder / "config.json"
    config = read_json(path) if path.is_file() else None
    return isinstance(config, dict) and config.get("model_type") in ARCHITECTURES


def read_backbone_config(folder: Path, tokenizer: Qwen2Tokenizer) -> BackboneConfig:
    """Return the config of a release; raise UserError if its settings cannot be read or its chat template is not ChatML."""
    values = read_json(folder / "config.json")
    try:
        library = parse_config(values)
        text, vision = library.get_text_config(), library.vision_config
        sizes: dict[str, Any] = {
            "hidden_size": text.hidden_size,
            "num_layers": text.num_hidden_layers,
            "num_heads": text.num_attention_heads,
            "num_kv_heads": text.num_key_value_heads,
            "intermediate_size": text.intermediate_size,
            "vocab_size": text.vocab_size,
            "rope_theta": float(text.rope_parameters["rope_theta"]),
            "tied_embeddings": bool(library.tie_word_embeddings),
            "vision_width": vision.embed_dim if hasattr(vision, "embed_dim") else vision.hidden_size,
            "vision_layers": vision.depth,
            "vision_heads": vision.num_heads,
            "patch_size_px": vision.patch_size,
            "merge_size": vision.spatial_merge_size,
        }
    except Exception as error:  # the library validates configs with errors of several types
        reason = str(error).strip().partition("\n")[0]
        raise UserError(f"Cannot read {folder / 'config.json'} ({reason}); download it again.") from error
    system_prompt, reply_prefix = read_chat_template(folder, tokenizer)
    generation = folder / "generation_config.json"
    release = QwenRelease(
        config=json.dumps(values),
        processor=_read_processor(folder),
        generation=json.dumps(read_json(generation)) if generation.is_file() else "",
        reply_prefix=reply_prefix,
    )
    return BackboneConfig(**sizes, image_size_px=0, system_prompt=system_prompt, release=release)


def _read_processor(folder: Path) -> str:
    """Return the settings of the image processor as JSON; empty if the folder has none."""
    if not any((folder / name).is_file() for name in ("preprocessor_config.json", "processor_config.json")):
        return ""
    try:
        processor = AutoImageProcessor.from_pretrained(folder, local_files_only=True, backend="pil")
    except (OSError, ValueError) as error:
        raise UserError(f"Cannot read the image processor of {folder} ({error}); download it again.") from error
    return json.dumps(processor.to_dict())


def read_chat_template(folder: Path, tokenizer: Qwen2Tokenizer) -> tuple[str, str]:
    """Return the system prompt of the folder's chat template, and the text with which it opens a reply.

    Our `ChatML` writes conversations, so that training knows where replies are; it must write what the template writes.
    """
    legacy = folder / "chat_template.json"
    template: Any = tokenizer.chat_template or (read_json(legacy)["chat_template"] if legacy.is_file() else None)
    if template is None:
        return _DEFAULT_SYSTEM_PROMPT, ""

    def render(messages: list[dict[str, Any]]) -> str:
        text = tokenizer.apply_chat_template(
            messages, chat_template=template, tokenize=False, add_generation_prompt=True
        )
        return str(text)

    opened = _OPENED.fullmatch(render([{"role": "user", "content": "Q"}]))
    image = {"type": "image"}
    messages = [
        {"role": "system", "content": [{"type": "text", "text": "S"}]},
        {"role": "user", "content": [image, image, {"type": "text", "text": "Q"}]},
        {"role": "assistant", "content": [{"type": "text", "text": "A"}]},
        {"role": "user", "content": [image, {"type": "text", "text": "R"}]},
    ]
    prefix = opened["prefix"] if opened else ""
    placeholder = encode(tokenizer, "<|vision_start|><|image_pad|><|vision_end|>", special=True)
    ours = tokenize_chat(ChatML(tokenizer), _PROBE, [[placeholder, placeholder], [placeholder]], open_ended=True).ids
    if not opened or encode(tokenizer, render(messages), special=True) != [
        *ours,
        *encode(tokenizer, prefix, special=True),
    ]:
        raise UserError(
            f"The chat template in {folder} is not ChatML as Qwen-VL writes it; use the release's template."
        )
    return opened["system"] or "", prefix
