"""Loading of Janus and Janus-Pro from the authors' folder or transformers', and the released sizes with random weights.

The authors' layout was verified against github.com/deepseek-ai/Janus at 1daa72f. In either, every tensor must be there and fit:
transformers' own `from_pretrained` fills a missing one with random values.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from transformers import JanusConfig, JanusForConditionalGeneration, PreTrainedTokenizerFast, Qwen2Tokenizer
from transformers.models.janus.image_processing_pil_janus import JanusImageProcessorPil

from latentbridge.config import ReleaseConfig
from latentbridge.errors import UserError
from latentbridge.files import read_json
from latentbridge.models.backbones.janus.authors_layout import MODEL_TYPE, convert_tensor, transformers_config
from latentbridge.models.backbones.janus.modeling_janus import IMAGE, SPECIAL_TOKENS, JanusPro
from latentbridge.models.backbones.janus.tiny import add_special_tokens, image_processor
from latentbridge.models.omnibridge.load_omnibridge import check_state_dict
from latentbridge.models.options import ReplyOptions
from latentbridge.models.stored_tensor import StoredTensor
from latentbridge.models.tensors import open_pickled, open_tensors, shard_files
from latentbridge.models.tokenization import token_id
from latentbridge.models.weights import AS_STORED, Placement, assign_weights, empty_weights

SYSTEM_PROMPT = (
    "You are a helpful language and vision assistant. You are able to understand the visual content that the user provides, "
    "and assist the user with a variety of tasks using natural language."
)
"""The authors' default for understanding (`VLChatProcessor.system_prompt`); drawings have none."""
MAX_TOKENS = 512
"""Longest reply in the authors' `inference.py`."""
_PAD = "<｜▁pad▁｜>"
"""Replaces the words of the unconditional branch of guidance; the tokenizer's config need not name it."""
_FIX = "download it again"
_HEAD, _WORDS = "lm_head.weight", "model.language_model.embed_tokens.weight"
_SIZE_PX = 384
_RELEASED_SIZES = {
    "janus-pro-7b": {
        "hidden_size": 4096,
        "num_hidden_layers": 30,
        "num_attention_heads": 32,
        "intermediate_size": 11008,
    },
    "janus-pro-1b": {
        "hidden_size": 2048,
        "num_hidden_layers": 24,
        "num_attention_heads": 16,
        "intermediate_size": 5632,
    },
}
"""Language models of Janus-Pro (arXiv 2501.17811), which share SigLIP-L/16 at 384 px and LlamaGen's VQ-16."""


def is_janus(folder: Path) -> bool:
    """Return whether a folder holds a Janus or Janus-Pro, in the authors' layout or transformers'."""
    path = folder / "config.json"
    config = read_json(path) if path.is_file() else {}
    return isinstance(config, dict) and config.get("model_type") in ("janus", MODEL_TYPE)


def load_janus(folder: Path, vision_heads: int | None = None, placement: Placement = AS_STORED) -> JanusPro:
    """Load a Janus or Janus-Pro from a folder in the authors' layout or transformers', by default in the data type of its words.

    `vision_heads` is the number of SigLIP's attention heads where the authors' code does not know the tower's name.
    Raise UserError for a folder that lacks a file, or whose tensors are not exactly those of its config.
    """
    if not is_janus(folder):
        raise UserError(f"{folder} holds no Janus-Pro (no config.json of one); give the folder of a release.")
    values: dict[str, Any] = read_json(folder / "config.json")
    stored = _open_weights(folder)
    if values["model_type"] == MODEL_TYPE:
        if "gen_vision_config" not in values:
            raise UserError(
                f"{folder} holds another model of its authors (JanusFlow?); give the folder of a Janus-Pro."
            )
        shapes = {name: tensor.shape for name, tensor in stored.items()}
        values = transformers_config(values, shapes, vision_heads)
        stored = {new: part for name, tensor in stored.items() for new, part in convert_tensor(name, tensor)}
    values["tie_word_embeddings"] = _HEAD not in stored and values.get("tie_word_embeddings", True)
    tokenizer = _load_tokenizer(folder)
    model, processor = _build_empty(values, tokenizer, folder), _load_image_processor(folder)
    if values["tie_word_embeddings"] and _WORDS in stored:
        stored[_HEAD] = stored[_WORDS]
    check_state_dict(model, stored, folder)
    side_px = model.model.vision_model.config.image_size
    if processor.size["height"] != side_px:
        raise UserError(
            f"{folder} resizes pictures to {processor.size['height']} px for an encoder of {side_px} px; {_FIX}."
        )
    assign_weights(model, stored, placement, stored[_WORDS].dtype)
    return _as_released(JanusPro(model, tokenizer, processor, SYSTEM_PROMPT))


def _open_weights(folder: Path) -> dict[str, StoredTensor]:
    """Return all stored tensors: of `model*.safetensors` if there are any, else of `pytorch_model*.bin`."""
    files, open_file = shard_files(folder, "model*.safetensors"), open_tensors
    if not files:
        files, open_file = shard_files(folder, "pytorch_model*.bin"), open_pickled
    if not files:
        raise UserError(f"{folder} holds no weights (model*.safetensors or pytorch_model*.bin); {_FIX}.")
    return {name: tensor for path in files for name, tensor in open_file(path, _FIX).items()}


def _load_tokenizer(folder: Path) -> PreTrainedTokenizerFast:
    """Load `tokenizer.json` as it is, whatever class its config names; raise UserError without the model's special tokens."""
    try:
        tokenizer = PreTrainedTokenizerFast.from_pretrained(folder, local_files_only=True)
    except Exception as error:  # the Rust parser raises bare Exception
        raise UserError(f"Cannot read the tokenizer in {folder} ({_first_line(error)}); {_FIX}.") from error
    words = tokenizer.get_vocab()
    if _PAD in words:
        tokenizer.pad_token = _PAD
    ends = {"bos_token": tokenizer.bos_token, "eos_token": tokenizer.eos_token, "pad_token": tokenizer.pad_token}
    lacking = [token for token in SPECIAL_TOKENS if token not in words]
    lacking += [name for name, token in ends.items() if token not in words]
    if lacking:
        raise UserError(f"The tokenizer in {folder} lacks {', '.join(lacking)}; take that of the Janus-Pro release.")
    return tokenizer


def _load_image_processor(folder: Path) -> JanusImageProcessorPil:
    path = folder / "preprocessor_config.json"
    if path.is_file():
        values: Any = read_json(path)
    else:  # where transformers saves a whole processor
        path = folder / "processor_config.json"
        values = read_json(path).get("image_processor") if path.is_file() else None
    if not isinstance(values, dict):
        raise UserError(f"{folder} lacks preprocessor_config.json, which says how pictures are read; {_FIX}.")
    known = ("size", "min_size", "do_normalize", "image_mean", "image_std", "rescale_factor")
    settings: dict[str, Any] = {key: values[key] for key in known if key in values}
    if "image_size" in values:
        settings["size"] = {"height": values["image_size"], "width": values["image_size"]}
    return JanusImageProcessorPil(**settings)


def _build_empty(
    values: dict[str, Any], tokenizer: PreTrainedTokenizerFast, folder: Path
) -> JanusForConditionalGeneration:
    """Return the model of a config on the meta device."""
    try:
        config = JanusConfig(**{**values, "image_token_id": tokenizer.convert_tokens_to_ids(IMAGE)})
        with empty_weights():
            return JanusForConditionalGeneration(config)
    except Exception as error:  # the library's checks of a config raise types of their own
        raise UserError(f"config.json in {folder} describes no Janus-Pro ({_first_line(error)}); {_FIX}.") from error


def _first_line(error: Exception) -> str:
    return str(error).partition("\n")[0].rstrip(" :.")


def build_janus_pro(config: ReleaseConfig, tokenizer: Qwen2Tokenizer) -> JanusPro:
    """Build Janus-Pro-1B or -7B with random weights, and add its special tokens to the tokenizer if they are missing."""
    if tokenizer.bos_token is None:
        add_special_tokens(tokenizer)
    words = _RELEASED_SIZES[config.kind]
    width = words["hidden_size"]
    sizes = JanusConfig(
        text_config={
            "model_type": "llama",
            "vocab_size": 102400,
            "max_position_embeddings": 16384,
            "tie_word_embeddings": False,
            **words,
        },
        vision_config={"projection_dim": width},
        vq_config={"projection_dim": width, "image_token_embed_dim": width},
        image_token_id=token_id(tokenizer, IMAGE),
        tie_word_embeddings=False,
    )
    model = JanusForConditionalGeneration(sizes)
    return _as_released(JanusPro(model, tokenizer, image_processor(_SIZE_PX), SYSTEM_PROMPT, config))


def _as_released(model: JanusPro) -> JanusPro:
    """Return the model with the authors' defaults of replies; those of drawings are every Janus-Pro's."""
    model.reply_options = ReplyOptions(max_tokens=MAX_TOKENS)
    return model.eval()
