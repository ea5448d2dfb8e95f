"""LoRA adapters of a network's language model: add, load, save, disable, merge and remove them.

Only the projections of the language model's layers are adapted, in BAGEL those of both experts; peft's "all-linear"
would include vision towers (spec libraries 4). An adapter's folder holds `adapter_config.json` and
`adapter_model.safetensors`. Tensors are named after the library's own module, so `PeftModel.from_pretrained` loads them
into any Qwen2-VL, Janus-Pro or (for Harmon) Qwen2.
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
from latentbridge.models.tensors import describe_mismatch, mismatched_tensors, read_tensors

if TYPE_CHECKING:
    from peft import LoraConfig

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
_TARGETS = (
    r"(model\.language_model|model|und|gen)\.layers\.\d+\.(self_attn\.|mlp\.)?"
    r"(q_proj|k_proj|v_proj|o_proj|gate_proj|up_proj|down_proj)"
)
"""Module names below the host: of Qwen2-VL and Janus-Pro, of Harmon's Qwen2, and of BAGEL's two experts."""
_PREFIX, _NAME = "base_model.model.", "default"
"""The prefix of peft's names in a file, and the adapter's name within peft's names in memory."""
_BASE_DIGEST, _DIGEST_SIZE = "trained_beside", 256
"""The metadata key of `_base_digest`, and the numbers of each weight that are hashed."""


def is_adapter(name: str) -> bool:
    """Return whether a parameter of that name belongs to an adapter."""
    return ".lora_" in name


def add_adapter(network: nn.Module, rank: int) -> None:
    """Add an adapter of `rank` with scale 2, initialised to no change; draws from the global generator."""
    from peft import LoraConfig, inject_adapter_in_model

    inject_adapter_in_model(LoraConfig(r=rank, lora_alpha=2 * rank, target_modules=_TARGETS), _host(network))


def attach_adapter(network: nn.Module, folder: Path) -> None:
    """Load the adapter in `folder` without changing the base weights; `detach_adapter` undoes it.

    Raises UserError and leaves the network unchanged if a tensor does not fit or the adapter was trained on other base
    weights. peft itself would only warn and continue with an adapter that does nothing.
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
    parameters = _adapter_parameters(host)
    mismatched = mismatched_tensors(parameters, stored)
    with safe_open(folder / WEIGHTS, "pt") as file:
        base_digest = (file.metadata() or {}).get(_BASE_DIGEST)
    if mismatched or base_digest not in (None, _base_digest(host)):
        detach_adapter(network)
        reason = (
            f"does not fit this model: {describe_mismatch(mismatched)}"
            if mismatched
            else "was trained on other weights than this model has"
        )
        raise UserError(f"{folder} {reason}; give the model that it was trained on.")
    with torch.no_grad():
        for name, tensor in parameters.items():
            tensor.copy_(stored[name])


def detach_adapter(network: nn.Module) -> None:
    """Remove the adapter; the base weights were never changed."""
    host: Any = _host(network)
    for name, layer in _layers(host):
        parent, _, child = name.rpartition(".")
        setattr(host.get_submodule(parent), child, layer.get_base_layer())
    if hasattr(host, "peft_config"):
        del host.peft_config


def merge_adapter(network: nn.Module) -> None:
    """Add the adapter to the base weights and remove it; a network without an adapter is left unchanged."""
    for _, layer in _layers(_host(network)):
        layer.merge()
    detach_adapter(network)


@contextmanager
def without_adapter(network: nn.Module) -> Iterator[None]:
    """Disable the adapter, if there is one, within the context."""
    layers = [layer for _, layer in _layers(network)]
    for layer in layers:
        layer.enable_adapters(False)
    try:
        yield
    finally:
        for layer in layers:
            layer.enable_adapters(True)


def save_adapter(network: nn.Module, folder: Path) -> None:
    """Write the adapter's folder; the config is written last, so a folder that has one is complete."""
    host = _host(network)
    with atomic_write(folder / WEIGHTS) as temporary:
        tensors = {name: tensor.detach().contiguous() for name, tensor in _adapter_parameters(host).items()}
        save_file(tensors, temporary, metadata={"format": "pt", _BASE_DIGEST: _base_digest(host)})
    configs: Any = host.peft_config
    with TemporaryDirectory() as staging, atomic_write(folder / CONFIG) as temporary:
        configs[_NAME].save_pretrained(staging)
        copyfile(Path(staging) / CONFIG, temporary)


def _host(network: nn.Module) -> nn.Module:
    """Return the library's module that holds the language model; tensor names are relative to it."""
    host = getattr(network, "adapter_host", None)
    if host is None:
        raise UserError("Adapters go into a language model, and this network has none; choose lora_rank=0.")
    return host


def _layers(host: nn.Module) -> Iterator[tuple[str, Any]]:
    """Return (name, module) of the layers that have an adapter."""
    from peft.tuners.lora import LoraLayer

    return ((name, module) for name, module in list(host.named_modules()) if isinstance(module, LoraLayer))


def _base_digest(host: nn.Module) -> str:
    """Return a hash of the adapted layers' base weights that does not depend on the precision they were loaded in."""
    digest = sha256()
    for _, layer in _layers(host):
        values = layer.get_base_layer().weight.detach().flatten()[:_DIGEST_SIZE].to("cpu", torch.bfloat16)
        digest.update(values.view(torch.int16).numpy().data)
    return digest.hexdigest()[:16]


def _adapter_parameters(host: nn.Module) -> dict[str, Tensor]:
    """Return the adapter's parameters under the names of peft's files."""
    named = host.named_parameters()
    return {_PREFIX + name.replace(f".{_NAME}.", "."): tensor for name, tensor in named if is_adapter(name)}


def _read_config(folder: Path) -> LoraConfig:
    if not (folder / CONFIG).is_file():
        raise UserError(f"{folder} holds no adapter (no {CONFIG}); give the folder adapter/ of a run with lora_rank.")
    kind = read_json(folder / CONFIG).get("peft_type")
    if kind != "LORA":
        raise UserError(f"{folder} holds an adapter of the kind {kind}; only LORA is read here.")
    from peft import LoraConfig

    return cast(LoraConfig, LoraConfig.from_pretrained(str(folder)))
