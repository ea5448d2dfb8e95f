"""Imports of transformers and diffusers without the modules that inference never runs.

Importing Qwen2-VL's classes takes 3.1 times as long as importing torch, and HunyuanDiT's 3.9 times: they bring compilation,
distributed training, SciPy and peft with them (transformers 5.23, diffusers 0.42). Without those it is 2.0 and 2.4 times
(`benchmarks/first_minutes.py`). Only commands and server workers, which do nothing but inference, import this way.
Training and Python users get the real modules.
"""

from __future__ import annotations

import gc
import json
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib import import_module
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import FunctionType, ModuleType
from typing import Any

PLACEHOLDERS = (
    "accelerate",
    "peft",
    "scipy",
    "sklearn",
    "torch._dynamo",
    "torch.distributed._composable",
    "torch.distributed.checkpoint",
    "torch.distributed.fsdp",
    "torch.distributed.tensor",
    "transformers.generation.continuous_batching",
)
"""Packages that inference never runs."""
_MODEL_CLASSES = (
    "latentbridge.models.omnibridge.modeling_omnibridge",
    "latentbridge.models.omnibridge.decoder",
    "diffusers.schedulers.scheduling_ddim",
)
"""Modules of an OmniBridge; the first is enough for one that does not generate."""
_LIBRARIES = ("transformers", "diffusers", "latentbridge.models")


def import_model(source: str, draws: bool = True) -> None:
    """Import the classes of a saved OmniBridge for inference alone.

    Nothing is imported for other models and for releases, whose classes and loaders need all modules.
    """
    if holds_saved_model(Path(source), "omnibridge"):
        import_for_inference(*(_MODEL_CLASSES if draws else _MODEL_CLASSES[:1]))


def holds_saved_model(folder: Path, kind: str = "") -> bool:
    """Return whether a source is "tiny" or a folder that `save_model` wrote (of that `kind`, if one is given).

    The saved config of an OmniBridge may have no `kind`.
    """
    if str(folder) == "tiny":
        return True
    for path in (folder / "config.json", folder / "model" / "config.json"):
        if path.is_file():
            try:
                config = json.loads(path.read_text())
            except (ValueError, OSError):
                return False
            config = (
                config.get("model", config) if isinstance(config, dict) else None
            )  # a run's config holds its model's
            is_own = isinstance(config, dict) and bool(config.keys() & {"kind", "backbone", "parts"})
            return is_own and kind in ("", config.get("kind", "omnibridge"))
    return False


def import_for_inference(*modules: str) -> None:
    """Import `modules` with placeholders for `PLACEHOLDERS`; importing one of those afterwards gives the real one.

    A placeholder has every attribute, which can be called, subclassed and used as a decorator while modules are imported; no
    object is an instance of it, and arithmetic on it fails. If a library needs one of the packages to be real, everything is
    imported in the usual way instead. Transformers skips its checks of tensors in this process, the first of which would
    import SymPy (a quarter of the time that importing torch takes).
    """
    os.environ.setdefault("TRANSFORMERS_DISABLE_TORCH_CHECK", "1")
    collects = gc.isenabled()
    gc.disable()  # garbage collection takes a tenth of the time and frees nothing
    try:
        with _placeholders([name for name in PLACEHOLDERS if name not in sys.modules]):
            for module in modules:
                import_module(module)
    except Exception:  # libraries raise errors of any type here
        for name in [name for name in sys.modules if name.startswith(_LIBRARIES)]:
            del sys.modules[name]
        for module in modules:
            import_module(module)
    finally:
        if collects:
            gc.enable()


@contextmanager
def _placeholders(names: Sequence[str]) -> Iterator[None]:
    """Import placeholders for packages inside the block; remove them from `sys.modules` at its end."""
    finder = _Finder(names)
    sys.meta_path.insert(0, finder)
    try:
        yield
    finally:
        sys.meta_path.remove(finder)
        for name, module in list(sys.modules.items()):
            if isinstance(module, _Module):
                del sys.modules[name]
                parent, _, child = name.rpartition(".")
                if vars(sys.modules.get(parent, object)).get(child) is module:
                    delattr(sys.modules[parent], child)


class _Finder(MetaPathFinder, Loader):
    """The import hook that answers for packages by name."""

    def __init__(self, names: Sequence[str]) -> None:
        self.names = set(names)

    def find_spec(self, fullname: str, path: Any = None, target: Any = None) -> ModuleSpec | None:
        parts = fullname.split(".")
        if any(".".join(parts[:count]) in self.names for count in range(1, len(parts) + 1)):
            return ModuleSpec(fullname, self, is_package=True)
        return None

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        return _Module(spec.name)

    def exec_module(self, module: ModuleType) -> None:
        pass


class _Module(ModuleType):
    """A module whose attributes are placeholders."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return _Placeholder()


class _Placeholder:
    """A class, function or object of a module that was not imported."""

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Return the class or function that this decorates, or else itself."""
        return args[0] if args and (isinstance(args[0], FunctionType | type)) else self

    def __getattr__(self, name: str) -> _Placeholder:
        if name.startswith("__"):
            raise AttributeError(name)
        return self

    def __getitem__(self, key: Any) -> _Placeholder:
        return self

    def __or__(self, other: Any) -> _Placeholder:
        return self

    __ror__ = __or__

    def __instancecheck__(self, instance: Any) -> bool:
        return False

    def __subclasscheck__(self, subclass: Any) -> bool:
        return False

    def __mro_entries__(self, bases: tuple[Any, ...]) -> tuple[type, ...]:
        return ()
