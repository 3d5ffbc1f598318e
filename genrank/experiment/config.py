"""Configuration files of the programs: YAML, checked, with every unknown key an error."""

from __future__ import annotations

import difflib
import typing
from pathlib import Path
from typing import Annotated, Any, TypeGuard, TypeVar

import pydantic
from pydantic import BaseModel, ConfigDict, Field

from genrank.errors import ConfigError, MissingExtraError

Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")]


C = TypeVar("C", bound=BaseModel)


class Strict(BaseModel):
    """What a configuration is made of: frozen, and a key that it does not know is an error."""

    model_config = ConfigDict(extra="forbid", frozen=True)


def load_config(path: str | Path, kind: type[C]) -> C:
    """Read a configuration file.

    Args:
        path: A YAML file.
        kind: What it describes, such as `RunConfig`.

    Raises:
        ConfigError: When the file cannot be read, is no YAML, or a key or value is wrong; the message names the
            file, the place and, for an unknown key, the known ones.
        MissingExtraError: When pyyaml is not installed.
    """
    try:
        import yaml
    except ImportError:
        raise MissingExtraError("pyyaml", "eval") from None
    try:
        values = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror or error}") from None
    except UnicodeDecodeError:
        raise ConfigError(f"{path}: no UTF-8 text") from None
    except yaml.YAMLError as error:
        raise ConfigError(f"{path}: no YAML: {error}") from None
    if not isinstance(values, dict):
        raise ConfigError(f"{path}: must be a mapping with the keys {', '.join(kind.model_fields)}")
    try:
        return kind.model_validate(values)
    except pydantic.ValidationError as error:
        raise ConfigError(f"{path}: {_complaint(error, kind)}") from None


def _complaint(error: pydantic.ValidationError, kind: type[BaseModel]) -> str:
    first = error.errors(include_url=False)[0]
    place: list[str | int] = []
    known: list[str] = []
    here: Any = kind
    for part in first["loc"]:
        variants = _variants(here)
        if part in variants:  # the tag of a union, no part of the path
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
    message = first["msg"].removeprefix("Value error, ")
    return f"{path}: {message}" if path else message


def _variants(annotation: Any) -> dict[str, type[BaseModel]]:
    """The models inside a field's annotation, by the value of their ``type`` key, or by class name without one."""
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
