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
from typing import TYPE_CHECKING, Literal, TypeAlias, TypeGuard, get_args, overload

import torch
from safetensors.torch import save_file
from transformers import PreTrainedTokenizerBase, Qwen2Tokenizer

from latentbridge.config import ModelConfig, NetworkConfig, from_dict, to_dict
from latentbridge.devices import resolve_device
from latentbridge.errors import StorageError, UserError, unknown_name
from latentbridge.files import atomic_write, read_json, write_json
from latentbridge.light_imports import holds_saved_model
from latentbridge.models.backbones.recognise import describe_folder
from latentbridge.models.input_check import FILE as INPUT_CHECK
from latentbridge.models.input_check import InputCheck, read_input_check
from latentbridge.models.offload import Offload, place
from latentbridge.models.quantization import Quantization
from latentbridge.models.quantization import quantize as apply_quantization
from latentbridge.models.tensors import read_tensors
from latentbridge.models.tokenization import load_tokenizer
from latentbridge.rng import torch_rng

if TYPE_CHECKING:
    from latentbridge.models.dual_encoder import DualEncoder
    from latentbridge.models.omnibridge.modeling_omnibridge import OmniBridge
    from latentbridge.models.trainable import TrainableModel

ASSETS = Path(str(files("latentbridge"))) / "assets"
TINY = ASSETS / "tiny"
COMPAT = ("corrected", "reference")
DTYPES = ("auto", "float32", "bfloat16", "float16")

Network: TypeAlias = "TrainableModel | DualEncoder"
"""Everything that can be built, trained, saved and loaded; each has a `config` and a `tokenizer`."""
BUILDERS = {
    "omnibridge": "omnibridge.modeling_omnibridge:OmniBridge",
    "janus": "backbones.janus.tiny:build_janus",
    "bagel": "backbones.bagel.tiny:build_bagel",
    "harmon": "backbones.harmon.tiny:build_harmon",
    "scene": "dual_encoder:build_scene",
    "janus-pro-1b": "backbones.janus.load_janus:build_janus_pro",
    "janus-pro-7b": "backbones.janus.load_janus:build_janus_pro",
    "bagel-7b-mot": "backbones.bagel.load_bagel:build_bagel_7b",
    "harmon-1.5b": "backbones.harmon.load_harmon:build_harmon_1_5b",
}
"""Module of `latentbridge.models` and builder in it by the `kind` of a config, imported on use; a builder takes config and
tokenizer and initialises weights with the global generator."""


@overload
def new_model(config: ModelConfig, seed: int, words: Path = ...) -> OmniBridge: ...
@overload
def new_model(config: NetworkConfig, seed: int, words: Path = ...) -> Network: ...
def new_model(config: NetworkConfig, seed: int, words: Path = ASSETS / "tokenizer") -> Network:
    """Build a network with random weights that depend on config and seed alone; `words` is the folder of its tokenizer."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(int(torch.randint(2**62, (), generator=torch_rng(seed, "weights"))))
        return _build(config, load_tokenizer(words))


def outline(config: NetworkConfig) -> Network:
    """Build the network of a config on the meta device, without weights."""
    with torch.device("meta"):
        return _build(config, load_tokenizer(ASSETS / "tokenizer"))


def _build(config: NetworkConfig, tokenizer: Qwen2Tokenizer) -> Network:
    """Build the network of a config; raise UserError if its sizes do not fit together."""
    module, _, name = BUILDERS[config.kind].partition(":")
    build = getattr(import_module(f"latentbridge.models.{module}"), name)
    try:
        return build(config, tokenizer).eval()
    except (
        ValueError,
        ArithmeticError,
        RuntimeError,
    ) as error:  # what torch and transformers raise for impossible sizes
        if isinstance(error, UserError):
            raise
        raise UserError(
            f"The sizes of this {config.kind} model do not fit together ({error}); change model.*."
        ) from error


def save_model(model: Network, folder: Path, dtype: torch.dtype | None = None) -> None:
    """Write a model folder; `dtype` rounds the weights, for shipping.

    The config is deleted first and written last, so a folder with a config is complete even if the writer was killed.

    An attached released decoder is not saved: name its folder again on loading. The record of training data
    (`models/input_check.py`) is not saved either, and an old one is deleted, since the weights have changed;
    `latentbridge calibrate` makes a new one.
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
        name: (tensor.to(_saved_dtype(name, dtype)) if dtype and tensor.is_floating_point() else tensor)
        .contiguous()
        .cpu()
        for name, tensor in unique_state(model).items()
        if not name.startswith(attached)
    }
    with atomic_write(folder / "model.safetensors") as temporary:
        save_file(weights, temporary, metadata={"format": "pt"})
    write_json(folder / "config.json", to_dict(model.config))


def _saved_dtype(name: str, dtype: torch.dtype) -> torch.dtype:
    """Return `dtype`, but float16 for the auxiliary embedding, which needs ten bits of mantissa (`models/efficientnet.py`)."""
    return torch.float16 if name.startswith("second_view.") else dtype


def save_tokenizer(tokenizer: PreTrainedTokenizerBase, folder: Path) -> None:
    """Write the tokenizer's files, each atomically."""
    with TemporaryDirectory() as staging:
        try:
            tokenizer.save_pretrained(staging)
        except Exception as error:  # the library raises no type of its own on a full disk
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
    compat: Literal["corrected", "reference"] = "corrected",
    dtype: str | torch.dtype = "auto",
    quantize: Quantization | None = None,
    offload: Offload | None = None,
) -> TrainableModel:
    """Return the model called `source`: "tiny" (ships with the package), a run or model folder, or a release folder.

    Releases are those of Qwen2-VL, OmniBridge, Janus-Pro, BAGEL and Harmon. `decoder` is the folder of a released HunyuanDiT for
    an OmniBridge without a decoder of its own; by default it is `decoder/` inside the release folder, if there is one.
    `adapter` is the folder of a LoRA adapter to attach (`models/adapters.py` detaches and merges). `device` is "cpu", "cuda", or
    "auto" for an accelerator if there is one. `draws=False` leaves out decoder, text encoder and autoencoder of an OmniBridge
    that only understands and embeds: it loads in half the time. `compat="reference"` makes an OmniBridge compute positions, pooling
    and drawing states as its released code does (docs/recipes.md). `dtype` is that of the weights, by default the release's own;
    `quantize` puts the linear layers of transformer blocks in 8 or 4 bits (`models/quantization.py`), and `offload` keeps
    blocks in host memory until the device needs them (`models/offload.py`).
    """
    for name, value, known in (
        ("compat", compat, COMPAT),
        ("quantize", quantize, (None, *get_args(Quantization))),
        ("offload", offload, (None, *get_args(Offload))),
        ("dtype", str(dtype).removeprefix("torch."), DTYPES),
    ):
        if value not in known:
            raise unknown_name(name, str(value), [each for each in known if each is not None])
    weights_dtype = None if dtype == "auto" else getattr(torch, str(dtype).removeprefix("torch."))
    torch_device = resolve_device(device)
    folder = shipped(source)
    model: Network | None = None
    if not holds_saved_model(folder):
        from latentbridge.models.backbones.loading import load_release

        model = load_release(folder)
        if model is not None and decoder is None and draws and (folder / "decoder").is_dir():
            decoder = folder / "decoder"
    model = load_model(folder, draws) if model is None else model
    if not _is_trainable(model):
        raise UserError(f"{source} holds a dual encoder, which only embeds; give the folder of another model.")
    if compat != "corrected":
        from latentbridge.models.omnibridge.load_omnibridge import set_compat

        set_compat(as_omnibridge(model, f"compute with compat={compat!r}"), compat)
    if decoder is not None:
        from latentbridge.models.omnibridge.load_hunyuan_dit import attach_decoder

        attach_decoder(as_omnibridge(model, "take a decoder"), Path(decoder))
    if adapter is not None:
        from latentbridge.models.adapters import attach_adapter

        attach_adapter(model, Path(adapter))
        model.input_check = InputCheck()
    if weights_dtype is not None:
        cast_weights(model, weights_dtype)
    if quantize is not None:
        apply_quantization(model, quantize)
    place(model, torch_device, offload)
    return model


def cast_weights(model: torch.nn.Module, dtype: torch.dtype) -> None:
    """Give the parameters a data type, but those of an autoencoder, which needs float32; buffers keep theirs."""
    for name, parameter in model.named_parameters():
        if parameter.is_floating_point() and not name.startswith("autoencoder."):
            parameter.data = parameter.data.to(dtype)


def as_omnibridge(model: torch.nn.Module, verb: str) -> OmniBridge:
    """Return the model if it is an OmniBridge; raise UserError otherwise, saying that no other model can do what `verb` says."""
    from latentbridge.models.omnibridge.modeling_omnibridge import OmniBridge

    if not isinstance(model, OmniBridge):
        kind = getattr(model, "kind", "dual encoder")
        raise UserError(f"This {kind} model cannot {verb}; load an OmniBridge, such as 'tiny'.")
    return model


def as_trainable(model: torch.nn.Module) -> TrainableModel:
    """Return the model if it understands and generates; raise UserError for any other."""
    if not _is_trainable(model):
        raise UserError("This model cannot understand and generate; load another, such as 'tiny'.")
    return model


def _is_trainable(model: torch.nn.Module) -> TypeGuard[TrainableModel]:
    from latentbridge.models.trainable import TrainableModel

    return isinstance(model, TrainableModel)


def shipped(source: str | Path) -> Path:
    """Return the folder of a model: the shipped one for "tiny", otherwise the source itself."""
    return TINY if str(source) == "tiny" else Path(source)


def load_model(folder: Path, draws: bool = True) -> Network:
    """Load the network saved in a folder or in a run folder's `model/`; without `draws`, an OmniBridge gets no decoder.

    Raise UserError if anything is missing or does not fit.
    """
    folder = model_folder(folder)
    stored = read_json(folder / "config.json") if (folder / "config.json").exists() else None
    if stored is None or (isinstance(stored, dict) and "model_type" in stored):  # a config of transformers
        raise UserError(f"{folder} {describe_folder(folder)}.")
    if isinstance(stored, dict) and {"stage", "steps"} <= stored.keys():
        raise UserError(f"{folder} is a run that has not finished, so it holds no model; continue it with --resume.")
    config = from_dict(NetworkConfig, stored)
    parts = [""]
    if isinstance(config, ModelConfig) and not draws:
        config = replace(config, parts=tuple(part for part in config.parts if part != "decoder"))
        parts = ["backbone.", "projector.", "aligner.", "retrieval.", "second_view."]
    with torch.random.fork_rng(devices=[]):
        model = _build(config, load_tokenizer(folder))
    load_parts(model, folder, parts)
    if _is_trainable(model):
        model.input_check = read_input_check(folder)
    return model


def load_parts(model: torch.nn.Module, folder: Path, parts: Sequence[str]) -> None:
    """Copy the tensors whose names start with one of `parts` from a model folder; raise UserError unless all exist and fit."""
    folder = model_folder(folder)
    path = folder / "model.safetensors"
    stored = read_tensors(path, "train or download the model again")
    expected = {name: tensor for name, tensor in unique_state(model).items() if name.startswith(tuple(parts))}
    stored = {name: tensor for name, tensor in stored.items() if name.startswith(tuple(parts))}
    if not expected:
        raise UserError(f"No tensor of the model belongs to {', '.join(parts)}; name parts such as 'backbone.'.")
    odd = sorted(expected.keys() ^ stored.keys()) or [
        name for name in expected if expected[name].shape != stored[name].shape
    ]
    if odd:
        raise UserError(
            f"{path} does not fit this model: {len(odd)} tensors are missing, unexpected or of another shape (first: {odd[0]})."
        )
    with torch.no_grad():
        for name, tensor in expected.items():
            tensor.copy_(stored[name])


def model_folder(folder: Path) -> Path:
    """Return the `model/` of a run folder; any other folder is returned as it is."""
    return folder / "model" if (folder / "model" / "config.json").exists() else folder


def unique_state(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    """Return the state dict with each tied tensor once, under its first name."""
    seen: set[int] = set()
    state: dict[str, torch.Tensor] = {}
    for name, tensor in model.state_dict().items():
        if tensor.data_ptr() in seen and tensor.numel():
            continue
        seen.add(tensor.data_ptr())
        state[name] = tensor
    return state


def fingerprint(model: torch.nn.Module) -> str:
    """Return a hash of a model's weights, stored with indexes that the model made (`Index.model_fingerprint`)."""
    digest = sha256()
    for tensor in model.state_dict().values():
        # bytes, since NumPy has no bfloat16
        digest.update(tensor.cpu().contiguous().view(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()[:16]
