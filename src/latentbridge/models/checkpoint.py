"""Model folders: `config.json`, `model.safetensors` and the tokenizer; safetensors only."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from hashlib import sha256
from importlib import import_module
from importlib.resources import files
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Literal, TypeAlias, get_args, overload

import torch
from safetensors.torch import save_file
from transformers import PreTrainedTokenizerBase, Qwen2Tokenizer

from latentbridge.config import ModelConfig, NetworkConfig, from_dict, to_dict
from latentbridge.devices import CPU, resolve_device
from latentbridge.errors import StorageError, UserError, unknown_name
from latentbridge.files import atomic_write, read_json, write_json
from latentbridge.light_imports import holds_saved_model
from latentbridge.models.backbones.recognise import describe_folder
from latentbridge.models.input_check import FILE as INPUT_CHECK
from latentbridge.models.input_check import InputCheck, read_input_check
from latentbridge.models.offload import Offload, place
from latentbridge.models.quantization import Quantization, quantized_layers
from latentbridge.models.quantization import quantize as apply_quantization
from latentbridge.models.stored_tensor import StoredTensor
from latentbridge.models.tensors import open_tensors
from latentbridge.models.tokenization import load_tokenizer
from latentbridge.models.weights import (
    AS_STORED,
    Placement,
    assign_weights,
    cast_weights,
    empty_weights,
    stored_tensors,
)
from latentbridge.rng import torch_rng

if TYPE_CHECKING:
    from latentbridge.models.omnibridge.modeling_omnibridge import OmniBridge
    from latentbridge.models.trainable import TrainableModel
    from latentbridge.models.unified import UnifiedModel

ASSETS = Path(str(files("latentbridge"))) / "assets"
TINY = ASSETS / "tiny"
COMPAT = ("corrected", "reference")
_CPU_ALLOCATOR = "DefaultCPUAllocator"
"""Name in torch's error of too little host memory."""
DTYPES = ("auto", "float32", "bfloat16", "float16")

Network: TypeAlias = "UnifiedModel"
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
    "harmon-0.5b": "backbones.harmon.load_harmon:build_released_harmon",
    "harmon-1.5b": "backbones.harmon.load_harmon:build_released_harmon",
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


def outline(config: NetworkConfig, words: Path = ASSETS / "tokenizer") -> Network:
    """Build the network of a config on the meta device, without weights; `words` is the folder of its tokenizer."""
    with torch.device("meta"):
        return _build(config, load_tokenizer(words))


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
) -> UnifiedModel:
    """Return the model called `source`: "tiny" (ships with the package), a run or model folder, or a release folder.

    Releases are those of Qwen-VL, OmniBridge, Janus-Pro, BAGEL, Harmon and dual encoders such as CLIP. `decoder` is the folder
    of a released HunyuanDiT for an OmniBridge without a decoder of its own; by default it is `decoder/` inside the release folder, if there is one.
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
    if quantize is not None:
        quantized_layers(quantize)  # refuses before anything is read
    torch_device = resolve_device(device)
    placement = Placement(
        dtype=None if dtype == "auto" else getattr(torch, str(dtype).removeprefix("torch.")),
        device=torch_device if offload is None else CPU,
        quantize=quantize if adapter is None else None,  # an adapter knows its base by weights that are not quantised
    )
    with _explain_lack_of_memory(source, torch_device):
        model = _load_with_decoder(shipped(source), decoder, draws, compat, placement)
        if adapter is not None:
            from latentbridge.models.adapters import attach_adapter

            attach_adapter(model, Path(adapter))
            model.input_check = InputCheck()
        # what a loader or an adapter has left as it is in its file
        if placement.dtype is not None:
            cast_weights(model, placement.dtype)
        if quantize is not None:
            apply_quantization(model, quantize)
        place(model, torch_device, offload)
    return model


def _load_with_decoder(
    folder: Path,
    decoder: str | Path | None,
    draws: bool,
    compat: Literal["corrected", "reference"],
    placement: Placement,
) -> UnifiedModel:
    """Return the model in a folder of ours or of a release, with the decoder in another folder, or in that of the release."""
    model: Network | None = None
    if not holds_saved_model(folder):
        from latentbridge.models.backbones.loading import load_release

        model = load_release(folder, placement)
        if model is not None and decoder is None and draws and (folder / "decoder").is_dir():
            decoder = folder / "decoder"
    model = load_model(folder, draws, placement) if model is None else model
    if compat != "corrected":
        from latentbridge.models.omnibridge.load_omnibridge import set_compat

        set_compat(as_omnibridge(model, f"compute with compat={compat!r}"), compat)
    if decoder is not None:
        from latentbridge.models.omnibridge.load_hunyuan_dit import attach_decoder

        attach_decoder(as_omnibridge(model, "take a decoder"), Path(decoder), placement.dtype or torch.float16)
    return model


@contextmanager
def _explain_lack_of_memory(source: str | Path, device: torch.device) -> Iterator[None]:
    """Raise UserError where torch finds too little memory."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if not isinstance(error, (MemoryError, torch.OutOfMemoryError)) and _CPU_ALLOCATOR not in str(error):
            raise
        raise UserError(
            f"{device} has too little memory for {source}; `latentbridge plan {source}` tells what fits where, such as "
            "--dtype bfloat16, --quantize nf4 or --offload layers."
        ) from error


def as_omnibridge(model: UnifiedModel, verb: str) -> OmniBridge:
    """Return the model if it is an OmniBridge; raise UserError otherwise, saying that no other model can do what `verb` says."""
    from latentbridge.models.omnibridge.modeling_omnibridge import OmniBridge

    if not isinstance(model, OmniBridge):
        raise UserError(f"This {model.kind} model cannot {verb}; load an OmniBridge, such as 'tiny'.")
    return model


def as_trainable(model: UnifiedModel) -> TrainableModel:
    """Return the model if it has losses and latents; raise UserError for one that only embeds."""
    from latentbridge.models.trainable import TrainableModel

    if not isinstance(model, TrainableModel):
        raise UserError(
            f"This {model.kind} model only embeds; load one that understands and generates, such as 'tiny'."
        )
    return model


def shipped(source: str | Path) -> Path:
    """Return the folder of a model: the shipped one for "tiny", otherwise the source itself."""
    return TINY if str(source) == "tiny" else Path(source)


def load_model(folder: Path, draws: bool = True, placement: Placement = AS_STORED) -> Network:
    """Load the network saved in a folder or in a run folder's `model/`; without `draws`, an OmniBridge gets no decoder.

    Weights are in float32 by default. Raise UserError if anything is missing or does not fit.
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
    with empty_weights():
        model = _build(config, load_tokenizer(folder))
    assign_weights(model, _open_parts(model, folder, parts), placement)
    model.input_check = read_input_check(folder)
    return model


def load_parts(model: torch.nn.Module, folder: Path, parts: Sequence[str]) -> None:
    """Copy the tensors whose names start with one of `parts` from a model folder; raise UserError unless all exist and fit."""
    stored = _open_parts(model, model_folder(folder), parts)
    with torch.no_grad():
        for name, tensor in unique_state(model).items():
            if name in stored:
                tensor.copy_(stored[name].read(tensor.dtype))


def _open_parts(model: torch.nn.Module, folder: Path, parts: Sequence[str]) -> dict[str, StoredTensor]:
    """Return the stored tensors whose names start with one of `parts`; raise UserError unless they are just the model's."""
    path = folder / "model.safetensors"
    stored = open_tensors(path, "train or download the model again")
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
    return stored


def model_folder(folder: Path) -> Path:
    """Return the `model/` of a run folder; any other folder is returned as it is."""
    return folder / "model" if (folder / "model" / "config.json").exists() else folder


def unique_state(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    """Return the state dict with each tied tensor once, under its first name."""
    seen: set[int] = set()
    state: dict[str, torch.Tensor] = {}
    for name, tensor in model.state_dict(keep_vars=True).items():
        key = id(tensor) if tensor.is_meta else tensor.data_ptr()
        if key in seen and tensor.numel():
            continue
        seen.add(key)
        state[name] = tensor.detach()
    return state


def fingerprint(model: torch.nn.Module) -> str:
    """Return a hash of a model's weights, stored with indexes that the model made (`Index.model_fingerprint`).

    Quantised weights count by their kind alone, since bitsandbytes repacks them when they are first used.
    """
    digest = sha256()
    for tensor in stored_tensors(model):
        if type(tensor) in (torch.Tensor, torch.nn.Parameter):
            digest.update(tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().data)
        else:
            digest.update(type(tensor).__name__.encode())
    return digest.hexdigest()[:16]
