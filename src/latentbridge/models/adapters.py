"""LoRA adapters of a network's language model: added, told from other weights, kept as in peft, merged, switched off, taken out.

They sit beside the projections of the language model's layers and nowhere else; peft's "all-linear" would take vision
towers too (spec libraries 4). In BAGEL that is both experts. An adapter's folder holds `adapter_config.json` and
`adapter_model.safetensors`; tensors are named after the library's own module, so that `PeftModel.from_pretrained`
reads them over anyone's Qwen2-VL, Janus-Pro or (for Harmon) Qwen2.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from hashlib import sha256
from pathlib import Path
from shutil import copyfile
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, cast

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from latentbridge.errors import UserError
from latentbridge.files import atomic_write, read_json
from latentbridge.models.tensors import read_tensors

if TYPE_CHECKING:
    from peft import LoraConfig

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
_TARGETS = (
    r"(model\.language_model|model|und|gen)\.layers\.\d+\.(self_attn\.|mlp\.)?"
    r"(q_proj|k_proj|v_proj|o_proj|gate_proj|up_proj|down_proj)"
)
"""Within the host: of a Qwen2-VL or Janus-Pro, of Harmon's Qwen2, of BAGEL's two experts."""
_PREFIX, _NAME = "base_model.model.", "default"
"""What peft puts before each name in a file, and into it in memory."""
_BESIDE, _MARKED = "trained_beside", 256
"""The entry of the file's metadata that holds `_mark`, and how many numbers of each weight go into that."""


def is_adapter(name: str) -> bool:
    """Whether a parameter of that name belongs to an adapter."""
    return ".lora_" in name


def add_adapter(network: nn.Module, rank: int) -> None:
    """A new adapter of `rank`, which changes nothing yet; its scale is 2, whatever the rank. Draws from the global generator."""
    from peft import LoraConfig, inject_adapter_in_model

    inject_adapter_in_model(LoraConfig(r=rank, lora_alpha=2 * rank, target_modules=_TARGETS), _host(network))


def attach_adapter(network: nn.Module, folder: Path) -> None:
    """Puts the adapter in `folder` beside the weights; `detach_adapter` brings these back bit for bit.

    Every tensor must be known, present and of its shape, and the weights those that it was trained beside: peft itself only
    warns, and goes on with an adapter that does nothing. Raises UserError, and leaves the network as it was, otherwise.
    """
    from peft import inject_adapter_in_model

    host = _host(network)
    if any(_layers(host)):
        raise UserError("The model has an adapter already; merge it or detach it first.")
    config = _read_config(folder)
    stored = read_tensors(folder / WEIGHTS, "train the adapter again or copy the whole folder")
    try:
        inject_adapter_in_model(config, host)
    except ValueError as error:
        raise UserError(f"{folder} does not fit this model: it has none of the layers that it adapts.") from error
    expected = _tensors(host)
    odd = sorted(name for name in expected.keys() | stored.keys() if _shape(expected, name) != _shape(stored, name))
    if odd:
        detach_adapter(network)
        raise UserError(
            f"{folder} does not fit this model: {len(odd)} tensors are missing, unexpected or of another shape "
            f"(first: {odd[0]}); give the model that it was trained on."
        )
    with safe_open(folder / WEIGHTS, "pt") as file:
        beside = (file.metadata() or {}).get(_BESIDE)
    if beside not in (None, _mark(host)):
        detach_adapter(network)
        raise UserError(
            f"{folder} was trained beside other weights than this model has; give the model that it was trained on."
        )
    with torch.no_grad():
        for name, tensor in expected.items():
            tensor.copy_(stored[name])


def detach_adapter(network: nn.Module) -> None:
    """Takes the adapter out; what it was put beside was never changed."""
    _take_out(network, merge=False)


def merge_adapter(network: nn.Module) -> None:
    """Adds the adapter to the weights, which do alone what both did, up to rounding; a network without one stays as it is."""
    _take_out(network, merge=True)


@contextmanager
def without_adapter(network: nn.Module) -> Iterator[None]:
    """The network as it is without its adapter, if it has one, which stays where it is."""
    layers = [layer for _, layer in _layers(network)]
    for layer in layers:
        layer.enable_adapters(False)
    try:
        yield
    finally:
        for layer in layers:
            layer.enable_adapters(True)


def save_adapter(network: nn.Module, folder: Path) -> None:
    """Write the adapter's folder; the config is written last, so a folder with one is whole."""
    host = _host(network)
    with atomic_write(folder / WEIGHTS) as temporary:
        tensors = {name: tensor.detach().contiguous() for name, tensor in _tensors(host).items()}
        save_file(tensors, temporary, metadata={"format": "pt", _BESIDE: _mark(host)})
    configs: Any = host.peft_config
    with TemporaryDirectory() as staging, atomic_write(folder / CONFIG) as temporary:
        configs[_NAME].save_pretrained(staging)
        copyfile(Path(staging) / CONFIG, temporary)


def _host(network: nn.Module) -> nn.Module:
    """Return the library's module that holds the language model, after which an adapter's tensors are named."""
    host = getattr(network, "adapter_host", None)
    if host is None:
        raise UserError("Adapters go into a language model, and this network has none; choose lora_rank=0.")
    return host


def _layers(host: nn.Module) -> Iterator[tuple[str, Any]]:
    """Yield (name, module) of the layers that have an adapter."""
    from peft.tuners.lora import LoraLayer

    return ((name, module) for name, module in list(host.named_modules()) if isinstance(module, LoraLayer))


def _mark(host: nn.Module) -> str:
    """What tells the weights beside an adapter from others, whatever precision they were loaded in."""
    digest = sha256()
    for _, layer in _layers(host):
        some = layer.get_base_layer().weight.detach().flatten()[:_MARKED].to("cpu", torch.bfloat16)
        digest.update(some.view(torch.int16).numpy().data)
    return digest.hexdigest()[:16]


def _take_out(network: nn.Module, merge: bool) -> None:
    host: Any = _host(network)
    for name, layer in _layers(host):
        if merge:
            layer.merge()
        parent, _, child = name.rpartition(".")
        setattr(host.get_submodule(parent), child, layer.get_base_layer())
    if hasattr(host, "peft_config"):
        del host.peft_config


def _tensors(host: nn.Module) -> dict[str, Tensor]:
    """The adapter's tensors under the names of peft's files."""
    named = host.named_parameters()
    return {_PREFIX + name.replace(f".{_NAME}.", "."): tensor for name, tensor in named if is_adapter(name)}


def _shape(tensors: dict[str, Tensor], name: str) -> torch.Size | None:
    return tensors[name].shape if name in tensors else None


def _read_config(folder: Path) -> LoraConfig:
    if not (folder / CONFIG).is_file():
        raise UserError(f"{folder} holds no adapter (no {CONFIG}); give the folder adapter/ of a run with lora_rank.")
    kind = read_json(folder / CONFIG).get("peft_type")
    if kind != "LORA":
        raise UserError(f"{folder} holds an adapter of the kind {kind}; only LORA is read here.")
    from peft import LoraConfig

    return cast(LoraConfig, LoraConfig.from_pretrained(str(folder)))
