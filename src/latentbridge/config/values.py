"""Configs as plain values and back, and `key=value` settings from a command line; any frozen dataclass will do."""

from __future__ import annotations

import dataclasses
import json
import math
import types
import typing
from typing import Any, Literal, TypeVar, overload

from latentbridge.errors import UserError, unknown_name

ConfigT = TypeVar("ConfigT")


def to_dict(config: Any) -> dict[str, Any]:
    """The config as plain JSON values."""
    return json.loads(json.dumps(dataclasses.asdict(config)))


@overload
def from_dict(kind: type[ConfigT], values: dict[str, Any]) -> ConfigT: ...
@overload
def from_dict(kind: types.UnionType, values: dict[str, Any]) -> Any: ...
def from_dict(kind: Any, values: dict[str, Any]) -> Any:
    """The inverse of `to_dict`; unknown keys are refused with the nearest known one.

    Of a union of configs the values' own `kind` tells which is meant, and the first where they give none.
    """
    if isinstance(kind, types.UnionType):
        kind = _variant(kind, values)
    hints = typing.get_type_hints(kind)
    fields = {f.name: f for f in dataclasses.fields(kind)}
    if not isinstance(values, dict):
        raise UserError(f"{values!r} cannot be read as {kind.__name__}, which is a group of keys: {', '.join(fields)}.")
    for name in values:
        if name not in fields:
            raise unknown_name(f"key in {kind.__name__}", name, fields)
    for name, field in fields.items():
        if name not in values and field.default is dataclasses.MISSING:
            raise UserError(f"{kind.__name__} needs a value for {name!r}; add the key.")
    return kind(**{name: _convert(hints[name], value, name) for name, value in values.items()})


def with_overrides(config: ConfigT, overrides: list[str]) -> ConfigT:
    """A copy with `key.subkey=value` strings applied; raises UserError for unknown keys and values of the wrong type."""
    for override in overrides:
        path, found, text = override.partition("=")
        if not found:
            raise UserError(f"An override has the form key=value, not {override!r}.")
        config = _replaced(config, path.split("."), text)
    return config


def _replaced(config: Any, path: list[str], text: str) -> Any:
    name, *rest = path
    fields = {f.name for f in dataclasses.fields(config)}
    if name not in fields:
        raise unknown_name("key", name, fields)
    if rest and not dataclasses.is_dataclass(getattr(config, name)):
        raise UserError(f"{name!r} is a single setting, so nothing follows it after a dot; write {name}=value.")
    if rest:
        return dataclasses.replace(config, **{name: _replaced(getattr(config, name), rest, text)})
    hint = typing.get_type_hints(type(config))[name]
    if dataclasses.is_dataclass(getattr(config, name)):
        inside = next((f.name for f in dataclasses.fields(getattr(config, name)) if f.name != "kind"), "kind")
        raise UserError(f"{name!r} is a group of keys; set one of them, for example {name}.{inside}=...")
    try:
        value = (
            text
            if hint is str or typing.get_origin(hint) is Literal
            else json.loads(text.lower() if hint is bool else text)
        )
    except json.JSONDecodeError:
        raise UserError(f"{text!r} is not a value for {name!r}, which takes {_words(hint)}.") from None
    return dataclasses.replace(config, **{name: _convert(hint, value, name)})


def _convert(hint: Any, value: Any, name: str) -> Any:
    if all(map(_is_group, typing.get_args(hint) if isinstance(hint, types.UnionType) else [hint])):
        return from_dict(hint, value)
    if typing.get_origin(hint) is tuple:
        kinds = typing.get_args(hint)
        if not isinstance(value, (list, tuple)) or (kinds[-1] is not Ellipsis and len(value) != len(kinds)):
            raise UserError(f"{value!r} is not a value for {name!r}, which takes {_words(hint)}.")
        each = kinds[:1] * len(value) if kinds[-1] is Ellipsis else kinds
        return tuple(_convert(one, item, name) for one, item in zip(each, value, strict=True))
    if typing.get_origin(hint) is Literal:
        if value not in typing.get_args(hint):
            raise unknown_name(f"value for {name}", str(value), typing.get_args(hint))
        return value
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if isinstance(value, float) and not math.isfinite(value):
        raise UserError(f"{value!r} is not a value for {name!r}, which takes a finite number.")
    if isinstance(hint, (type, types.UnionType)) and (
        not isinstance(value, hint) or (hint is int and isinstance(value, bool))
    ):
        raise UserError(f"{value!r} is not a value for {name!r}, which takes {_words(hint)}.")
    return value


def _is_group(hint: Any) -> bool:
    """Whether a type is a config of its own."""
    return dataclasses.is_dataclass(hint) and isinstance(hint, type)


def _variant(union: types.UnionType, values: Any) -> Any:
    variants = typing.get_args(union)
    kinds = {kind: each for each in variants for kind in typing.get_args(typing.get_type_hints(each)["kind"])}
    kind = str(values.get("kind", variants[0].kind)) if isinstance(values, dict) else variants[0].kind
    if kind not in kinds:
        raise unknown_name("kind of model", kind, kinds)
    return kinds[kind]


def _words(hint: Any) -> str:
    names = {int: "a whole number", float: "a number", bool: "true or false", str: "text"}
    return names.get(hint, "a list such as [0, 1]" if typing.get_origin(hint) is tuple else str(hint))
