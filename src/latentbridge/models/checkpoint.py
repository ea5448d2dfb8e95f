"""Model folders: `config.json`, `model.safetensors` and the tokenizer; safetensors only."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import replace
from hashlib import sha256
from importlib import import_module
from importlib.resources import files
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, TypeAlias, cast, overload

import torch
from safetensors.torch import save_file
from transformers import Qwen2Tokenizer

from latentbridge.config import ModelConfig, NetworkConfig, from_dict, to_dict
from latentbridge.devices import resolve_device
from latentbridge.errors import StorageError, UserError
from latentbridge.files import atomic_write, read_json, write_json
from latentbridge.models.input_check import FILE as INPUT_CHECK
from latentbridge.models.input_check import InputCheck, read_input_check
from latentbridge.models.tensors import read_tensors
from latentbridge.models.vocabulary import load_tokenizer
from latentbridge.rng import torch_rng

if TYPE_CHECKING:
    from latentbridge.models.backbones.bagel.modeling_bagel import Bagel
    from latentbridge.models.backbones.harmon.modeling_harmon import Harmon
    from latentbridge.models.backbones.janus.modeling_janus import JanusPro
    from latentbridge.models.dual_encoder import DualEncoder
    from latentbridge.models.omnibridge.modeling_omnibridge import Model

ASSETS = Path(str(files("latentbridge"))) / "assets"
TINY = ASSETS / "tiny"

Network: TypeAlias = "Model | JanusPro | Bagel | Harmon | DualEncoder"
"""What can be built, trained, saved and loaded; each knows its `config` and its `tokenizer`."""
BUILDERS = {
    "omnibridge": "omnibridge.modeling_omnibridge:Model",
    "janus": "backbones.janus.tiny:build_janus",
    "bagel": "backbones.bagel.tiny:build_bagel",
    "harmon": "backbones.harmon.tiny:build_harmon",
    "scene": "dual_encoder:build_scene",
    "janus-pro-7b": "backbones.janus.load_janus:build_janus_pro_7b",
    "bagel-7b-mot": "backbones.bagel.load_bagel:build_bagel_7b",
    "harmon-1.5b": "backbones.harmon.load_harmon:build_harmon_1_5b",
}
"""The module of `latentbridge.models` and the callable in it by the `kind` of a config, imported when one is built; each takes
config and tokenizer, and draws weights from the global generator."""


@overload
def new_model(config: ModelConfig, seed: int, words: Path = ...) -> Model: ...
@overload
def new_model(config: NetworkConfig, seed: int, words: Path = ...) -> Network: ...
def new_model(config: NetworkConfig, seed: int, words: Path = ASSETS / "tokenizer") -> Network:
    """A network with random weights that depend on nothing but config and seed; `words` is the folder of its tokenizer."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(int(torch.randint(2**62, (), generator=torch_rng(seed, "weights"))))
        return _build(config, load_tokenizer(words))


def outline(config: NetworkConfig) -> Network:
    """The network of a config without weights, on the meta device: names and shapes alone."""
    with torch.device("meta"):
        return _build(config, load_tokenizer(ASSETS / "tokenizer"))


def _build(config: NetworkConfig, tokenizer: Qwen2Tokenizer) -> Network:
    module, _, name = BUILDERS[config.kind].partition(":")
    return getattr(import_module(f"latentbridge.models.{module}"), name)(config, tokenizer).eval()


def save_model(model: Network, folder: Path, dtype: torch.dtype | None = None) -> None:
    """Write a model folder; `dtype` rounds the weights, for shipping.

    The config goes first where one is and is written last, so a folder with one is whole, whenever the writer was killed.

    An attached released decoder stays in its own folder: name it again when the model is loaded. A record of training data
    (`models/input_check.py`) is left out, and an old one in the folder deleted: what is saved has learned something else
    since, and `latentbridge calibrate` makes another.
    """
    if model.config is None:
        raise UserError("A released model stays in the folder of its release; only what was built here is saved.")
    if (folder / "config.json").exists():
        (folder / "config.json").unlink()
    save_tokenizer(model.tokenizer, folder)
    (folder / INPUT_CHECK).unlink(missing_ok=True)
    attached: tuple[str, ...] = ()
    if getattr(model, "captions", None) is not None:
        from latentbridge.models.omnibridge.load_hunyuan_dit import PARTS as attached
    weights = {
        name: (tensor.to(_shipped(name, dtype)) if dtype and tensor.is_floating_point() else tensor).contiguous().cpu()
        for name, tensor in unique_state(model).items()
        if not name.startswith(attached)
    }
    with atomic_write(folder / "model.safetensors") as temporary:
        save_file(weights, temporary, metadata={"format": "pt"})
    write_json(folder / "config.json", to_dict(model.config))


def _shipped(name: str, dtype: torch.dtype) -> torch.dtype:
    """`dtype`, but no less than float16's ten bits of mantissa for the eye, which loses sight in bfloat16 (`models/efficientnet.py`)."""
    return torch.float16 if name.startswith("second_view.") else dtype


def save_tokenizer(tokenizer: Qwen2Tokenizer, folder: Path) -> None:
    """Write the tokenizer's files, each whole or not at all."""
    with TemporaryDirectory() as staging:
        try:
            tokenizer.save_pretrained(staging)
        except Exception as error:  # what its library raises where a disk is full has no type of its own
            raise StorageError(f"Cannot write {staging} ({error}); free some space there.") from error
        for file in Path(staging).iterdir():
            with atomic_write(folder / file.name) as temporary:
                shutil.copyfile(file, temporary)


def load(
    source: str | Path,
    decoder: str | Path | None = None,
    adapter: str | Path | None = None,
    device: str = "cpu",
    draws: bool = True,
) -> Model:
    """Return the model called `source`: "tiny" (ships with the package), a run or model folder, or a released checkpoint's folder.

    `decoder` is the folder of a released HunyuanDiT for a model that has none of its own; left out, it is `decoder/`
    inside a released checkpoint's folder where there is one. `adapter` is the folder of a LoRA adapter to put beside the
    weights (`models/adapters.py` takes it out again, and merges). `device` is where it computes: "cpu", "cuda", or "auto" for
    the accelerator where there is one. `draws=False` leaves out decoder, text encoder and autoencoder, for a model that is
    only to understand and embed: it loads in half the time.
    """
    from latentbridge.models.omnibridge.load_omnibridge import is_released, load_released
    from latentbridge.models.omnibridge.modeling_omnibridge import Model

    place = resolve_device(device)
    folder = shipped(source)
    released = is_released(folder)
    model = load_released(folder) if released else load_model(folder, draws)
    if not isinstance(model, Model):
        raise UserError(
            f"{source} holds a {model.config and model.config.kind}, and this takes an OmniBridge; eval, loopback, consistency and compare take any."
        )
    if decoder is None and released and draws and (folder / "decoder").is_dir():
        decoder = folder / "decoder"
    if decoder is not None:
        from latentbridge.models.omnibridge.load_hunyuan_dit import attach_decoder

        attach_decoder(model, Path(decoder))
    if adapter is not None:
        from latentbridge.models.adapters import attach_adapter

        attach_adapter(model, Path(adapter))
        model.input_check = InputCheck()
    return model.to(place)


def shipped(source: str | Path) -> Path:
    """The folder of a shipped model called by its name; any other source is a folder already."""
    return TINY if str(source) == "tiny" else Path(source)


def load_model(folder: Path, draws: bool = True) -> Network:
    """Return the network saved in a folder (or in a run folder's `model/`), an OmniBridge without its decoder unless it `draws`.

    Raises UserError where anything is missing or does not fit.
    """
    folder = model_folder(folder)
    if not (folder / "config.json").exists():
        raise UserError(f"{folder} holds no model (no config.json); give a model folder, a run folder or 'tiny'.")
    config = from_dict(NetworkConfig, read_json(folder / "config.json"))
    parts = [""]
    if isinstance(config, ModelConfig) and not draws:
        config = replace(config, parts=tuple(part for part in config.parts if part != "decoder"))
        parts = ["backbone.", "projector.", "aligner.", "retrieval.", "second_view."]
    with torch.random.fork_rng(devices=[]):
        model = _build(config, load_tokenizer(folder))
    load_parts(model, folder, parts)
    if isinstance(config, ModelConfig):
        cast("Model", model).input_check = read_input_check(folder)
    return model


def load_parts(model: torch.nn.Module, folder: Path, parts: Sequence[str]) -> None:
    """Copy the tensors whose names start with one of `parts` from a model folder; every tensor of those parts must be there and fit."""
    folder = model_folder(folder)
    path = folder / "model.safetensors"
    stored = read_tensors(path, "train or download the model again")
    wanted = {name: tensor for name, tensor in unique_state(model).items() if name.startswith(tuple(parts))}
    stored = {name: tensor for name, tensor in stored.items() if name.startswith(tuple(parts))}
    if not wanted:
        raise UserError(f"No tensor of the model belongs to {', '.join(parts)}; name parts such as 'backbone.'.")
    odd = sorted(wanted.keys() ^ stored.keys()) or [name for name in wanted if wanted[name].shape != stored[name].shape]
    if odd:
        raise UserError(
            f"{path} does not fit this model: {len(odd)} tensors are missing, unexpected or of another shape (first: {odd[0]})."
        )
    with torch.no_grad():
        for name, tensor in wanted.items():
            tensor.copy_(stored[name])


def model_folder(folder: Path) -> Path:
    """The `model/` of a run folder; any other folder is one already."""
    return folder / "model" if (folder / "model" / "config.json").exists() else folder


def unique_state(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    """The state dict with each tied tensor once, under its first name."""
    seen: set[int] = set()
    state: dict[str, torch.Tensor] = {}
    for name, tensor in model.state_dict().items():
        if tensor.data_ptr() in seen and tensor.numel():
            continue
        seen.add(tensor.data_ptr())
        state[name] = tensor
    return state


def fingerprint(model: torch.nn.Module) -> str:
    """A hash of a model's weights, which tells whether what was made with it (`Index.maker`) and the model belong together."""
    digest = sha256()
    for tensor in model.state_dict().values():
        digest.update(tensor.cpu().contiguous().view(-1).numpy().data)
    return digest.hexdigest()[:16]
