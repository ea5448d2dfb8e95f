"""Loading of models for commands that run them and train nothing, and the flags that say how."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from functools import wraps
from typing import TYPE_CHECKING, Annotated, Any

import typer

from latentbridge.cli.arguments import Device
from latentbridge.light_imports import import_model

if TYPE_CHECKING:
    from latentbridge.models.trainable import TrainableModel
    from latentbridge.models.unified import UnifiedModel


@dataclass(frozen=True)
class Loading:
    """Loading options of a command's model: keyword arguments of `latentbridge.load`."""

    device: Device = "cpu"
    dtype: Annotated[
        str,
        typer.Option("--dtype", help='"auto" (the release\'s own), "float32", "bfloat16" or "float16".'),
    ] = "auto"
    quantize: Annotated[
        str | None,
        typer.Option(
            "--quantize", help='"int8" or "nf4": linear layers in 8 or 4 bits [needs latentbridge[quantize]].'
        ),
    ] = None
    offload: Annotated[
        str | None,
        typer.Option("--offload", help='"parts" or "layers": weights wait in host memory until the device needs them.'),
    ] = None
    compat: Annotated[
        str,
        typer.Option("--compat", help='"corrected", or "reference": an OmniBridge computes as its released code does.'),
    ] = "corrected"

    def open(self, source: str, draws: bool = True) -> UnifiedModel:
        """Load a model as `latentbridge.load` does, with as few imports as inference needs."""
        import_model(source, draws)
        from latentbridge.models.checkpoint import load

        options: dict[str, Any] = vars(self)  # `load` refuses unknown values
        return load(source, draws=draws, **options)

    def open_trainable(self, source: str) -> TrainableModel:
        """Load a model that understands and generates; raise UserError for one that only embeds, for example."""
        from latentbridge.models.checkpoint import as_trainable

        return as_trainable(self.open(source))


AS_RELEASED = Loading()
"""On the CPU, in the release's own data type."""


def with_loading_flags(command: Callable[..., None]) -> Callable[..., None]:
    """Return a command whose parameter `loading` is replaced by one flag for each field of `Loading`."""
    signature = inspect.signature(command, eval_str=True)
    flags = inspect.signature(Loading, eval_str=True).parameters

    @wraps(command)
    def run(**arguments: Any) -> None:
        command(loading=Loading(**{name: arguments.pop(name) for name in flags}), **arguments)

    parameters = [
        flag.replace(kind=inspect.Parameter.POSITIONAL_OR_KEYWORD)
        for name, parameter in signature.parameters.items()
        for flag in (flags.values() if name == "loading" else [parameter])
    ]
    run.__signature__ = signature.replace(parameters=parameters)  # pyright: ignore[reportAttributeAccessIssue]
    return run
