"""Records of the releases that this package loads. Only what their authors' repositories say is recorded, with its source."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias

Family: TypeAlias = Literal["bagel", "janus", "harmon", "omnibridge", "qwen-vl"]
QWEN_TOKENS: Mapping[str, int] = {
    "<|endoftext|>": 151643,
    "<|im_start|>": 151644,
    "<|im_end|>": 151645,
    "<|vision_start|>": 151652,
    "<|vision_end|>": 151653,
    "<|image_pad|>": 151655,
}
"""Special tokens of Qwen2's and Qwen2.5's tokenizers (xiao-xt/OmniBridge at 54a5878, `omnibridge/modeling_qwen2_vl.py`;
`<|im_start|>` from transformers' config of Qwen3-Omni, whose text tokenizer is the same)."""
_BAGEL = "ByteDance-Seed/Bagel at 056b5fd (app.py, inference.ipynb, data/data_utils.py)"
_JANUS = "deepseek-ai/Janus at 1daa72f (generation_inference.py, janus/models); sizes of arXiv 2501.17811"
_HARMON = "wusize/Harmon at 4eb6087 (configs/models, scripts/text2image.py)"
_OMNIBRIDGE = "xiao-xt/OmniBridge at 54a5878 (omnibridge/modeling_qwen2_vl.py, image_generation.py)"
_JANUS_TOKENS = (
    "<｜begin▁of▁sentence｜>", "<｜end▁of▁sentence｜>", "<｜▁pad▁｜>", "<|User|>", "<|Assistant|>", "<image_placeholder>",
    "<begin_of_image>", "<end_of_image>",
)  # fmt: skip
_JANUS_PICTURES: Mapping[str, Any] = {
    "image_size": 384,
    "min_size": 14,
    "image_mean": [0.5, 0.5, 0.5],
    "image_std": [0.5, 0.5, 0.5],
    "do_normalize": True,
}
_QWEN2_VL_7B: Mapping[str, Any] = {
    "hidden_size": 3584,
    "num_hidden_layers": 28,
    "num_attention_heads": 28,
    "num_key_value_heads": 4,
    "intermediate_size": 18944,
    "rope_theta": 1000000.0,
    "rope_scaling.mrope_section": [16, 24, 24],
}
_QWEN_PICTURES: Mapping[str, Any] = {"patch_size": 14, "merge_size": 2, "temporal_patch_size": 2}


@dataclass(frozen=True)
class ReleaseRecord:
    """One release, as its authors' code defines it; what is not recorded is unknown."""

    name: str
    repository: str
    """Name on the Hugging Face hub."""
    family: Family
    width: int
    """Hidden size of the language model, by which releases of a family are told apart."""
    source: str
    outline: str = ""
    """Kind of the config (`config.NetworkConfig`) that builds the model, for the names and shapes of its tensors."""
    licence: str = ""
    """Identifier of the hub's model cards; empty if unknown."""
    licence_name: str = ""
    """Name of a licence without identifier."""
    configs: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """Values in the folder's JSON files by file; dots lead into nested values."""
    tokens: Mapping[str, int | None] = field(default_factory=dict)
    """Special tokens and their ids; None for an id that is not recorded."""
    dtype: str = ""
    """Data type of the published weights, such as bfloat16; empty if unknown."""
    drawing: Mapping[str, Any] = field(default_factory=dict)
    """The authors' defaults of drawings, under the names of the model's options."""
    replies: Mapping[str, Any] = field(default_factory=dict)
    """The authors' defaults of replies, likewise."""


RECORDS = (
    ReleaseRecord(
        name="BAGEL-7B-MoT",
        repository="ByteDance-Seed/BAGEL-7B-MoT",
        family="bagel",
        width=3584,
        source=_BAGEL,
        outline="bagel-7b-mot",
        licence="apache-2.0",
        configs={
            "llm_config.json": {
                "hidden_size": 3584,
                "num_hidden_layers": 28,
                "num_attention_heads": 28,
                "num_key_value_heads": 4,
                "intermediate_size": 18944,
                "rope_theta": 1000000.0,
            },
            "vit_config.json": {
                "hidden_size": 1152,
                "intermediate_size": 4304,
                "num_hidden_layers": 27,
                "num_attention_heads": 16,
                "image_size": 980,
                "patch_size": 14,
            },
        },
        tokens={
            name: QWEN_TOKENS[name] for name in ("<|im_start|>", "<|im_end|>", "<|vision_start|>", "<|vision_end|>")
        },
        dtype="bfloat16",
        drawing={"steps": 50, "guidance": 4.0, "renorm": "global", "interval": (0.4, 1.0), "shift": 3.0},
    ),
    *(
        ReleaseRecord(
            name=name,
            repository=f"deepseek-ai/{name}",
            family="janus",
            width=width,
            source=_JANUS,
            outline=name.lower(),
            licence="other",
            licence_name="deepseek-model-license",
            configs={
                "preprocessor_config.json": _JANUS_PICTURES,
                "processor_config.json": {"sft_format": "deepseek", "num_image_tokens": 576},
            },
            tokens=dict.fromkeys(_JANUS_TOKENS),
            dtype="bfloat16",
            drawing={"steps": 576, "guidance": 5.0, "temperature": 1.0},
            replies={"max_tokens": 512, "temperature": 0.0},
        )
        for name, width in (("Janus-Pro-7B", 4096), ("Janus-Pro-1B", 2048))
    ),
    *(
        ReleaseRecord(
            name=name,
            repository=f"wusize/{name}",
            family="harmon",
            width=width,
            source=_HARMON,
            outline=outline,
            licence="other",
            licence_name="ntu-s-lab-license-1.0",
            tokens={name: QWEN_TOKENS[name] for name in ("<|endoftext|>", "<|im_start|>", "<|im_end|>")},
            drawing={"steps": 64, "guidance": 3.0, "num_denoising_steps": 100, "temperature": 1.0},
            replies={"max_tokens": 1024},
        )
        for name, width, outline in (("Harmon-1_5B", 1536, "harmon-1.5b"), ("Harmon-0_5B", 896, "harmon-0.5b"))
    ),
    ReleaseRecord(
        name="OmniBridge-8B",
        repository="xxt-ssr/Omnibridge",
        family="omnibridge",
        width=3584,
        source=_OMNIBRIDGE,
        outline="omnibridge-8b",
        configs={"config.json": _QWEN2_VL_7B, "preprocessor_config.json": _QWEN_PICTURES},
        tokens={**QWEN_TOKENS, "<img>": None, "</img>": None},
        drawing={"steps": 100, "guidance": 6.0},
        replies={"max_tokens": 1024},
    ),
    ReleaseRecord(
        name="Qwen2-VL-7B",
        repository="Qwen/Qwen2-VL-7B-Instruct",
        family="qwen-vl",
        width=3584,
        source=_OMNIBRIDGE + ", which is built on it",
        outline="qwen2-vl-7b",
        configs={"config.json": _QWEN2_VL_7B, "preprocessor_config.json": _QWEN_PICTURES},
        tokens=QWEN_TOKENS,
    ),
)


def find_record(family: Family, width: int) -> ReleaseRecord | None:
    """Return the record of a family's release whose language model has a hidden size."""
    return next((record for record in RECORDS if (record.family, record.width) == (family, width)), None)


def record_named(name: str) -> ReleaseRecord | None:
    """Return the record of a release by its name, or by that of a folder named after it."""
    wanted = name.lower().replace("-instruct", "")
    return next((record for record in RECORDS if record.name.lower() == wanted), None)
