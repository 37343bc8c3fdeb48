"""Frozen dataclasses from TOML tables: keys and types are validated here, and settings described."""

import ast
import dataclasses
import inspect
import textwrap
import tomllib
import types
import typing
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from lanner.errors import ConfigError, nearest


def build(kind: type[Any], values: Mapping[str, Any], place: str = "", base: Any = None) -> Any:
    """An instance of the dataclass ``kind`` from a TOML table, checked key by key; ``place`` prefixes each message.

    Dashes in keys count as underscores. A field is a scalar, a Literal, a list or tuple, a table, or a nested
    dataclass. Keys missing from ``values`` are taken from ``base``, section by section, or else the field's default.

    Raises:
        ConfigError: a key is unknown (the error suggests the nearest), missing, or of the wrong type.
    """
    fields = {one.name: one for one in dataclasses.fields(kind)}
    hints = typing.get_type_hints(kind)
    changes: dict[str, Any] = {}
    for key, value in values.items():
        name = key.replace("-", "_")
        if name not in fields:
            near = nearest(name, fields)
            file, colon, inside = place.rpartition(": ")
            advice = f"did you mean '{inside}{near}'?" if near else f"known settings: {', '.join(fields)}"
            raise ConfigError(f"{file}{colon}unknown setting '{inside}{key}'; {advice}")
        section = getattr(base, name, None)
        if isinstance(value, Mapping) and dataclasses.is_dataclass(section):
            changes[name] = build(type(section), value, f"{place}{name}.", section)
        else:
            changes[name] = convert(hints[name], value, place + name)
    if base is not None:
        return dataclasses.replace(base, **changes)
    for name, one in fields.items():
        required = one.default is dataclasses.MISSING and one.default_factory is dataclasses.MISSING
        if required and name not in changes:
            file, colon, inside = place.rpartition(": ")
            raise ConfigError(f"{file}{colon}the setting '{inside}{name}' is missing")
    return kind(**changes)


def convert(hint: Any, value: Any, place: str) -> Any:
    """Convert ``value`` to the type ``hint``; ``place`` is the dotted key.

    Raises:
        ConfigError: wrong type; the message names the key, what was received and what was expected.
    """
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if type(value).__module__ == "numpy" and getattr(value, "shape", None) == ():
        value = value.item()  # np.int64(3) is 3
    if origin in (types.UnionType, typing.Union):
        return _one_of(arguments, value, place)
    if dataclasses.is_dataclass(hint) and isinstance(hint, type) and isinstance(value, Mapping):
        return build(hint, value, f"{place}.")
    if origin is typing.Literal and value in arguments:
        return value
    if origin is tuple and isinstance(value, list | tuple):
        return tuple(convert(arguments[0], one, place) for one in value)
    if isinstance(origin, type) and issubclass(origin, Mapping) and isinstance(value, Mapping):
        return {key: convert(arguments[1], one, f"{place}.{key}") for key, one in value.items()}
    if isinstance(origin, type) and issubclass(list, origin) and isinstance(value, list):
        return [convert(arguments[0], one, place) for one in value]
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if hint is Any or (
        isinstance(hint, type) and isinstance(value, hint) and (hint is bool) == isinstance(value, bool)
    ):
        return value
    raise ConfigError(f"{place}: received {value!r} ({type(value).__name__}), expected {_in_words(hint)}")


def _one_of(kinds: tuple[Any, ...], value: Any, place: str) -> Any:
    if value is None and type(None) in kinds:
        return None
    present = [kind for kind in kinds if kind is not type(None)]
    if len(present) == 1:
        return convert(present[0], value, place)
    for kind in present:
        try:
            return convert(kind, value, place)
        except ConfigError:
            continue
    expected = " or ".join(map(_in_words, present))
    raise ConfigError(f"{place}: received {value!r} ({type(value).__name__}), expected {expected}")


@dataclasses.dataclass(frozen=True)
class Setting:
    """Description of one setting. name: dotted. default: None also if the setting is required."""

    name: str
    type: str
    default: Any
    meaning: str
    required: bool = False


def described(kind: type[Any], place: str = "") -> Iterator[Setting]:
    """Every setting of the dataclass ``kind``, nested sections included; meanings are the strings under the fields."""
    meanings, hints = _meanings(kind), typing.get_type_hints(kind)
    for one in dataclasses.fields(kind):
        section = _section(hints[one.name])
        if section is not None:
            yield from described(section, f"{place}{one.name}.")
            continue
        default = one.default if one.default_factory is dataclasses.MISSING else one.default_factory()
        required = default is dataclasses.MISSING
        shown = None if required else default
        yield Setting(place + one.name, _in_words(hints[one.name]), shown, meanings.get(one.name, ""), required)


def _section(hint: Any) -> type[Any] | None:
    """The dataclass in a field's type, possibly optional or in a container; None: there is none."""
    kinds = [hint, *typing.get_args(hint)]
    return next((kind for kind in kinds if isinstance(kind, type) and dataclasses.is_dataclass(kind)), None)


def _meanings(kind: type[Any]) -> dict[str, str]:
    """The string under each field of a class, as one line."""
    body = ast.parse(textwrap.dedent(inspect.getsource(kind))).body[0]
    assert isinstance(body, ast.ClassDef)
    found = {}
    for pair in zip(body.body, body.body[1:], strict=False):
        match pair:
            case ast.AnnAssign(target=ast.Name(id=name)), ast.Expr(value=ast.Constant(value=str(text))):
                found[name] = " ".join(text.replace("``", "").split())
    return found


def replaced(config: Any, key: str, value: Any) -> Any:
    """``config`` with the dotted ``key`` set to ``value``, checked as in ``build``."""
    for part in reversed(key.split(".")):
        value = {part: value}
    return overlay(config, value)


def overlay(config: Any, values: Mapping[str, Any], place: str = "") -> Any:
    """``config`` with the keys of a TOML table replaced, section by section, checked as in ``build``."""
    return build(type(config), values, place, config)


def with_options(config: Any, options: Mapping[str, Any]) -> Any:
    """``config`` with settings replaced by dotted key; None means that the option was not given."""
    for key, value in options.items():
        if value is not None:
            config = replaced(config, key, value)
    return config


def read_toml(path: Path) -> dict[str, Any]:
    """The table in a TOML file.

    Raises:
        ConfigError: no such file, or not TOML.
    """
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read ({error.strerror}); give a TOML file with settings") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: not TOML ({error})") from None


def overridden(config: Any, overrides: Iterable[str]) -> Any:
    """``config`` with settings replaced, each as ``section.key=value``.

    Raises:
        ConfigError: no ``=``, an unknown key, or a value of the wrong type.
    """
    for override in overrides:
        key, equals, text = override.partition("=")
        if not equals:
            raise ConfigError(f"--set {override}: expected section.key=value")
        config = replaced(config, key.strip(), _parsed(text.strip()))
    return config


def _parsed(text: str) -> Any:
    """A value parsed as TOML; anything else is a plain string."""
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text


def everywhere(config: Any, name: str, value: Any) -> Any:
    """``config`` with every field called ``name``, at any depth, set to ``value``."""
    changes = {}
    for one in dataclasses.fields(config):
        inner = getattr(config, one.name)
        if one.name == name:
            changes[one.name] = value
        elif dataclasses.is_dataclass(inner):
            changes[one.name] = everywhere(inner, name, value)
    return dataclasses.replace(config, **changes)


def _in_words(hint: Any) -> str:
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin is typing.Literal:
        return "one of " + ", ".join(repr(one) for one in arguments)
    if origin in (types.UnionType, typing.Union):
        return " or ".join(_in_words(one) for one in arguments if one is not type(None))
    if origin is not None:
        inner = [one for one in arguments if one is not Ellipsis]
        kind = "table" if isinstance(origin, type) and issubclass(origin, Mapping) else "list"
        return f"a {kind} of {_in_words(inner[-1])}"
    return "a table" if dataclasses.is_dataclass(hint) else str(getattr(hint, "__name__", hint))
