"""Writing of a model in the layout of its authors' release or of transformers', and of its adapter for peft."""

from __future__ import annotations

from pathlib import Path
from typing import Literal, TypeAlias

from safetensors.torch import save_file

from latentbridge.errors import UserError
from latentbridge.files import atomic_write, read_json, write_json
from latentbridge.models import adapters
from latentbridge.models.backbones.bagel import export as bagel
from latentbridge.models.backbones.bagel.load_bagel import NAMES as BAGEL_NAMES
from latentbridge.models.backbones.bagel.modeling_bagel import Bagel
from latentbridge.models.backbones.harmon import export as harmon
from latentbridge.models.backbones.harmon.modeling_harmon import Harmon
from latentbridge.models.backbones.janus import export as janus
from latentbridge.models.backbones.janus.modeling_janus import JanusPro
from latentbridge.models.backbones.release_files import ReleaseFiles
from latentbridge.models.checkpoint import Network
from latentbridge.models.omnibridge import export as omnibridge
from latentbridge.models.omnibridge.modeling_omnibridge import OmniBridge
from latentbridge.models.tensors import read_tensors

Layout: TypeAlias = Literal["authors", "transformers"]
_PREFIX = "base_model.model."
_HOST = "language_model."
"""The prefix of the module that BAGEL's adapters are named after."""
_BAGEL_TARGETS = (
    r"language_model\.model\.layers\.\d+\.(self_attn\.[qkvo]_proj(_moe_gen)?|mlp(_moe_gen)?\.(gate|up|down)_proj)"
)


def release_files(model: Network, layout: Layout) -> ReleaseFiles:
    """Return a model as files of a release; raise UserError for one that no release has the form of.

    `"transformers"` is the library's layout where it has the model (Janus-Pro, Qwen-VL), the names of its versions from 4.52
    for an OmniBridge, and the hub's folder of safetensors for Harmon; BAGEL has one layout alone.
    """
    if isinstance(model, Bagel):
        if layout != "authors":
            raise UserError("BAGEL is not a model of transformers; give --layout authors.")
        return bagel.release_files(model)
    if isinstance(model, Harmon):
        return harmon.release_files(model, plain=layout == "authors")
    if isinstance(model, JanusPro):
        return janus.release_files(model, authors=layout == "authors")
    if isinstance(model, OmniBridge):
        return omnibridge.release_files(model, authors=layout == "authors")
    raise UserError("This model has no released layout; only a Janus-Pro, BAGEL, Harmon, OmniBridge or Qwen-VL has.")


def export_adapter(adapter: Path, folder: Path, kind: str, base_name: str) -> None:
    """Write a run's adapter so that `PeftModel.from_pretrained(base, folder)` takes it.

    `kind` is that of the run's model. The base is the authors' Bagel, the `llm` of their Harmon, or transformers' Qwen-VL and
    JanusForConditionalGeneration; `base_name` is its name on the hub, empty if it has none.
    """
    tensors = read_tensors(adapter / adapters.WEIGHTS, "train the adapter again or copy the whole folder")
    config = read_json(adapter / adapters.CONFIG)
    if kind.startswith("bagel"):
        names = {name: _HOST + name.removeprefix(_PREFIX) for name in tensors}
        tensors = {_PREFIX + BAGEL_NAMES.to_theirs(names[name]): tensor for name, tensor in tensors.items()}
        config["target_modules"] = _BAGEL_TARGETS
    config["base_model_name_or_path"] = base_name or None
    with atomic_write(folder / adapters.WEIGHTS) as temporary:
        save_file(tensors, temporary, metadata={"format": "pt"})
    write_json(folder / adapters.CONFIG, config)
