"""Conversion of config dataclasses from and to JSON values, and `key=value` overrides of them."""

from __future__ import annotations

import dataclasses
import json
import math
import types
import typing
from typing import Any, Literal, TypeVar, overload

from latentbridge.config.renamed import new_key
from latentbridge.errors import UserError, unknown_name

ConfigT = TypeVar("ConfigT")


def to_dict(config: Any) -> dict[str, Any]:
    """Return the config as JSON values."""
    return json.loads(json.dumps(dataclasses.asdict(config)))


@overload
def from_dict(kind: type[ConfigT], values: dict[str, Any], name: str = "model") -> ConfigT: ...
@overload
def from_dict(kind: types.UnionType, values: dict[str, Any], name: str = "model") -> Any: ...
def from_dict(kind: Any, values: dict[str, Any], name: str = "model") -> Any:
    """Return the config that `to_dict` made the values from; raise UserError for an unknown key, with the nearest known one.

    Of a union of configs the values' own `kind` selects one, by default the first; `name` is the field that holds it.
    """
    if isinstance(kind, types.UnionType):
        kind = _variant(kind, values, name)
    hints = typing.get_type_hints(kind)
    fields = {f.name: f for f in dataclasses.fields(kind)}
    if not isinstance(values, dict):
        raise UserError(f"{values!r} cannot be read as {kind.__name__}, which is a group of keys: {', '.join(fields)}.")
    if hasattr(kind, "upgrade"):
        values = kind.upgrade(values)
    for key in values:
        if key not in fields:
            raise unknown_name(f"key in {kind.__name__}", key, fields)
    for key, field in fields.items():
        if key not in values and field.default is dataclasses.MISSING:
            raise UserError(f"{kind.__name__} needs a value for {key!r}; add the key.")
    return kind(**{key: _convert(hints[key], value, key) for key, value in values.items()})


def with_overrides(config: ConfigT, overrides: list[str]) -> ConfigT:
    """Return a copy with `key.subkey=value` strings applied; raise UserError for an unknown key or a value of the wrong type."""
    for override in overrides:
        key, equals, text = override.partition("=")
        if not equals:
            raise UserError(f"An override has the form key=value, not {override!r}.")
        config = _replaced(config, key.split("."), text, key)
    return config


def _replaced(config: Any, path: list[str], text: str, key: str) -> Any:
    name, *rest = path
    fields = {f.name for f in dataclasses.fields(config)}
    if name not in fields:
        if renamed := new_key(key):
            raise UserError(f"{key!r} is now called {renamed}.")
        if hasattr(config, "kind"):
            raise UserError(f"Unknown key {name!r}; {config.kind} has {', '.join(sorted(fields - {'kind'}))}.")
        raise unknown_name("key", name, fields)
    if rest and not dataclasses.is_dataclass(getattr(config, name)):
        raise UserError(f"{name!r} is a single setting, so nothing follows it after a dot; write {name}=value.")
    if rest:
        return dataclasses.replace(config, **{name: _replaced(getattr(config, name), rest, text, key)})
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
    if isinstance(hint, types.UnionType) and types.NoneType in typing.get_args(hint):
        (hint,) = (kind for kind in typing.get_args(hint) if kind is not types.NoneType)
        return None if value is None else _convert(hint, value, name)
    if all(map(_is_group, typing.get_args(hint) if isinstance(hint, types.UnionType) else [hint])):
        return from_dict(hint, value, name)
    if typing.get_origin(hint) is tuple:
        kinds = typing.get_args(hint)
        if not isinstance(value, (list, tuple)) or (kinds[-1] is not Ellipsis and len(value) != len(kinds)):
            raise UserError(f"{value!r} is not a value for {name!r}, which takes {_words(hint)}.")
        kinds = kinds[:1] * len(value) if kinds[-1] is Ellipsis else kinds
        return tuple(_convert(kind, item, name) for kind, item in zip(kinds, value, strict=True))
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
    return dataclasses.is_dataclass(hint) and isinstance(hint, type)


def _variant(union: types.UnionType, values: Any, name: str) -> Any:
    variants = typing.get_args(union)
    kinds = {kind: one for one in variants for kind in typing.get_args(typing.get_type_hints(one)["kind"])}
    kind = str(values.get("kind", variants[0].kind)) if isinstance(values, dict) else variants[0].kind
    if kind not in kinds:
        raise unknown_name(f"kind of {name}", kind, kinds)
    return kinds[kind]


def _words(hint: Any) -> str:
    names = {int: "a whole number", float: "a number", bool: "true or false", str: "text"}
    return names.get(hint, "a list such as [0, 1]" if typing.get_origin(hint) is tuple else str(hint))
