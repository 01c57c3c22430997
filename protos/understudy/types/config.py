"""Configuration text to frozen dataclasses: unknown keys are errors that name the nearest one."""

from __future__ import annotations

import dataclasses
import difflib
import re
import types
import typing
from collections.abc import Mapping
from typing import Any, TypeVar

import msgspec
import yaml

from understudy.types.errors import ConfigError, InvalidValueError

T = TypeVar("T")
_VARIABLE = re.compile(r"\$\{([A-Za-z_][A-Za-z0-9_]*)(?::-([^}]*))?\}")


def parse_config(
    text: str, cls: type[T], *, source: str, environment: Mapping[str, str] | None = None
) -> T:
    """Reads YAML into a frozen dataclass.

    Args:
        text: The YAML text; `${NAME}` and `${NAME:-default}` are replaced from `environment`.
        cls: A dataclass; nested dataclasses, tuples, enums and optionals are understood.
        source: Name of the file, for messages.
        environment: Variables for the replacement; none when omitted.

    Raises:
        ConfigError: If the text is no YAML mapping, a key is unknown or a value does not fit; the
            message names file, key and the nearest known key.
    """
    expanded = expand_variables(text, environment or {}, source=source)
    try:
        data = yaml.safe_load(expanded)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f" line {mark.line + 1}" if mark else ""
        problem = getattr(error, "problem", None) or "not readable"
        raise ConfigError(f"{source}:{line} is not valid YAML: {problem}") from error
    return build_config(data if data is not None else {}, cls, source=source)


def build_config(data: object, cls: type[T], *, source: str) -> T:
    """Turns plain data into a frozen dataclass, with the messages of `parse_config`."""
    _check_keys(data, cls, source, "")
    try:
        return msgspec.convert(data, cls, strict=True)
    except (msgspec.ValidationError, InvalidValueError) as error:
        message = str(error).replace(" - at `$.", " at key `").replace(" - at `$`", "")
        raise ConfigError(f"{source}: {message}") from error


def expand_variables(text: str, environment: Mapping[str, str], *, source: str) -> str:
    """Replaces `${NAME}` and `${NAME:-default}`.

    Raises:
        ConfigError: If a variable without default is not set.
    """

    def value(match: re.Match[str]) -> str:
        name, default = match.group(1), match.group(2)
        if name in environment:
            return environment[name]
        if default is not None:
            return default
        raise ConfigError(f"{source}: the variable ${{{name}}} is not set")

    return _VARIABLE.sub(value, text)


def nearest_key(key: str, known: typing.Iterable[str]) -> str:
    """Names the known key that is spelled most alike, as ` Did you mean ...?`, or all of them."""
    names = list(known)
    close = difflib.get_close_matches(key, names, n=1, cutoff=0.5)
    if close:
        return f" Did you mean '{close[0]}'?"
    return f" Known keys: {', '.join(sorted(names))}." if names else ""


def _check_keys(data: object, kind: object, source: str, path: str) -> None:
    """Walks data and type side by side and raises on the first key the type does not have."""
    cls = _dataclass_of(kind)
    if cls is not None:
        if not isinstance(data, Mapping):
            where = f"'{path}'" if path else "the file"
            raise ConfigError(f"{source}: {where} must be a mapping of keys to values")
        hints = typing.get_type_hints(cls)
        known = [f.name for f in dataclasses.fields(cls)]
        for key, value in data.items():
            if key not in known:
                raise ConfigError(
                    f"{source}: unknown key '{path}{key}'.{nearest_key(str(key), known)}"
                )
            _check_keys(value, hints[key], source, f"{path}{key}.")
        return
    _check_items(data, kind, source, path)


def _check_items(data: object, kind: object, source: str, path: str) -> None:
    arguments = typing.get_args(kind)
    if isinstance(data, Mapping) and len(arguments) == 2:
        for key, value in data.items():
            _check_keys(value, arguments[1], source, f"{path}{key}.")
    elif isinstance(data, list) and arguments:
        for index, value in enumerate(data):
            _check_keys(value, arguments[0], source, f"{path}{index}.")


def _dataclass_of(kind: object) -> type[Any] | None:
    """The dataclass behind a type, looking through `X | None`."""
    if typing.get_origin(kind) in (typing.Union, types.UnionType):
        options = [_dataclass_of(option) for option in typing.get_args(kind)]
        found = [option for option in options if option is not None]
        return found[0] if len(found) == 1 else None
    if isinstance(kind, type) and dataclasses.is_dataclass(kind):
        return kind
    return None
