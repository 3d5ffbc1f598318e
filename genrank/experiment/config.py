"""Configuration files of the programs: YAML, strictly checked; an unknown key is an error."""

from __future__ import annotations

import difflib
import math
import typing
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any, ClassVar, TypeGuard, TypeVar

import pydantic
from pydantic import BaseModel, ConfigDict, Field

from genrank.errors import ConfigError, MissingExtraError, first_problem
from genrank.files import read_text

Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")]


C = TypeVar("C", bound=BaseModel)


class Strict(BaseModel):
    """Base of all parts of a configuration: frozen, and an unknown key is an error."""

    model_config: ClassVar[ConfigDict] = ConfigDict(extra="forbid", frozen=True)


def check_names_differ(names: Iterable[str]) -> None:
    """Check that no two systems share a name, ignoring case: names become file names.

    Raises:
        ValueError: When a name comes twice.
    """
    lower = [name.lower() for name in names]
    for name in lower:
        if lower.count(name) > 1:
            raise ValueError(f"two systems have the name {name!r}; give each its own")


def load_config(path: str | Path, kind: type[C]) -> C:
    """Read a configuration file.

    Args:
        path: A YAML file.
        kind: What it describes, such as `RunConfig`.

    Raises:
        ConfigError: When the file cannot be read or is not valid YAML, or a key or value is wrong; the message names
            the file, the place and, for an unknown key, the known ones.
        MissingExtraError: When pyyaml is not installed.
    """
    values = read_yaml(path)
    if not isinstance(values, dict):
        raise ConfigError(f"{path}: must be a mapping with the keys {', '.join(kind.model_fields)}")
    try:
        return kind.model_validate(values)
    except pydantic.ValidationError as error:
        raise ConfigError(f"{path}: {_complaint(error, kind)}") from None


def read_yaml(path: str | Path) -> Any:
    """Read a YAML file more strictly than YAML itself does.

    A key that is given twice is an error, as are numbers that are not finite or need more than 64 bits, aliases that
    expand to more than `MAX_VALUES` values, and aliases that contain themselves. A byte order mark is skipped.

    Args:
        path: The file.

    Returns:
        The file's content; None if it is empty.

    Raises:
        ConfigError: When the file cannot be read or is not such YAML; one line that names the file and its line.
        MissingExtraError: When pyyaml is not installed.
    """
    try:
        import yaml
    except ImportError:
        raise MissingExtraError("pyyaml", "eval") from None
    try:
        text = read_text(path)
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror or error}") from None
    except ValueError as error:
        raise ConfigError(f"{path}: {error}") from None
    try:
        loader = yaml.SafeLoader(text)
        try:
            node = loader.get_single_node()
            if node is None:
                return None
            _check_node(node, loader, path, {})
            return loader.construct_document(node)
        finally:
            loader.dispose()
    except RecursionError:
        raise ConfigError(f"{path}: is nested too deeply") from None
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        where = f"{path}:{mark.line + 1}" if mark else f"{path}"
        hint = "; indent with spaces, not with tabs" if "\\t" in (error.problem or "") else ""
        raise ConfigError(
            f"{where}: not valid YAML: {_one_line(error.problem or error.context or error)}{hint}"
        ) from None
    except (yaml.YAMLError, ValueError) as error:
        if isinstance(error, ConfigError):
            raise
        raise ConfigError(f"{path}: not valid YAML: {_one_line(error)}") from None


MAX_VALUES = 100_000
"""The most values in a YAML file, with aliases expanded."""

_MERGE = "tag:yaml.org,2002:merge"


def _check_node(node: Any, loader: Any, path: str | Path, sizes: dict[int, int]) -> int:
    """Check a YAML node and everything in it; returns the number of values it expands to.

    Args:
        node: A PyYAML node.
        loader: Constructs keys and numbers.
        path: The file, for messages.
        sizes: Sizes of the nodes that were checked before, by `id`; 0 for the nodes that contain this one.
    """
    import yaml

    where = f"{path}:{node.start_mark.line + 1}"
    if id(node) in sizes:
        if not sizes[id(node)]:
            raise ConfigError(f"{where}: an alias contains itself")
        return sizes[id(node)]
    sizes[id(node)] = 0
    size = 1
    if isinstance(node, yaml.ScalarNode) and node.tag != _MERGE:
        _check_scalar(node, loader, where)
    children = list(node.value) if isinstance(node, yaml.SequenceNode) else []
    if isinstance(node, yaml.MappingNode):
        lines: dict[Any, int] = {}
        for key, value in node.value:
            children += (key, value)
            if isinstance(key, yaml.ScalarNode) and key.tag != _MERGE:
                line = key.start_mark.line + 1
                _check_scalar(key, loader, f"{path}:{line}")
                if first := lines.get(name := loader.construct_object(key)):
                    again = f"the key {key.value!r} is given twice, first on line {first}; remove one"
                    raise ConfigError(f"{path}:{line}: {again}")
                lines[name] = line
    for child in children:
        size += _check_node(child, loader, path, sizes)
        if size > MAX_VALUES:
            raise ConfigError(f"{where}: holds more than {MAX_VALUES} values, aliases expanded")
    sizes[id(node)] = size
    return size


def _check_scalar(node: Any, loader: Any, where: str) -> None:
    try:
        value = loader.construct_object(node)
    except ValueError as error:
        raise ConfigError(
            f"{where}: {node.value[:40]!r} is not a valid {node.tag.rpartition(':')[2]}: {error}"
        ) from None
    if isinstance(value, int) and not -(2**63) <= value < 2**64:
        raise ConfigError(f"{where}: {node.value[:40]!r} needs more than 64 bits")
    if isinstance(value, float) and not math.isfinite(value):
        raise ConfigError(f"{where}: {node.value[:40]!r} is not a finite number")


def _one_line(words: object) -> str:
    return " ".join(str(words).split())


def _complaint(error: pydantic.ValidationError, kind: type[BaseModel]) -> str:
    first = error.errors(include_url=False)[0]
    place: list[str | int] = []
    known: list[str] = []
    here: Any = kind
    for part in first["loc"]:
        variants = _variants(here)
        if part in variants:  # a union's tag is not part of the path
            here = variants[str(part)]
            continue
        place.append(part)
        if isinstance(part, str):
            model = here if _is_model(here) else next(iter(variants.values())) if len(variants) == 1 else None
            known = list(model.model_fields) if model else []
            here = model.model_fields[part].annotation if model and part in model.model_fields else None
    path = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in place).lstrip(".")
    if first["type"] == "extra_forbidden":
        near = difflib.get_close_matches(str(place[-1]), known, n=1)
        hint = f"; did you mean {near[0]}?" if near else ""
        return f"{path}: unknown key{hint} The known keys are {', '.join(known)}"
    _, message = first_problem([first])
    return f"{path}: {message}" if path else message


def _variants(annotation: Any) -> dict[str, type[BaseModel]]:
    """The models in a field's annotation, by the value of their ``type`` key, or else by class name."""
    if _is_model(annotation):
        return {}
    found: dict[str, type[BaseModel]] = {}
    for inner in typing.get_args(annotation):
        if _is_model(inner):
            tag = inner.model_fields.get("type")
            found[str(typing.get_args(tag.annotation)[0]) if tag else inner.__name__] = inner
        else:
            found |= _variants(inner)
    return found


def _is_model(annotation: Any) -> TypeGuard[type[BaseModel]]:
    return isinstance(annotation, type) and issubclass(annotation, BaseModel)
