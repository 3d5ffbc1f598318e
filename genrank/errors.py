"""Every error that genrank raises.

    GenrankError
    ├── InputError            (ValueError)   a call's argument is wrong: your mistake, named with the fix
    │   └── BudgetError                      the token budget cannot hold the candidates
    ├── DataFormatError       (ValueError)   a file is wrong: ``path:line``, what was expected, what was found
    ├── ConfigError           (ValueError)   a setting or a prompt template is wrong
    ├── MissingExtraError     (ImportError)  an optional package is missing, with the command that installs it
    ├── ModelError                           a model cannot be found, fetched or read
    │   ├── ModelNotFoundError
    │   ├── LicenceError                     the model's licence has not been accepted
    │   ├── DownloadError                    no source could deliver the model
    │   └── ChecksumError                    a file differs from its recorded size or hash
    ├── EngineError                          the engine failed while it ran the model
    └── OutputError                          the model misbehaved: its answer cannot be used

A user's mistake and a misbehaving model are different errors. The first is raised. `Reranker` catches the second,
records it in the provenance and still returns a complete ranking.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any


class GenrankError(Exception):
    """Base of all errors of this package."""


class InputError(GenrankError, ValueError):
    """An argument is wrong; the message names the field, the value and the fix.

    Attributes:
        field: Path of the field, such as ``candidates[3].price.amount``.
    """

    def __init__(self, message: str, *, field: str = "") -> None:
        super().__init__(f"{field}: {message}" if field else message)
        self.field = field


class BudgetError(InputError):
    """The token budget cannot hold the candidates.

    Attributes:
        least: The smallest budget that would do, in tokens.
    """

    def __init__(self, message: str, *, least: int) -> None:
        super().__init__(message, field="max_prompt_tokens")
        self.least = least


class DataFormatError(GenrankError, ValueError):
    """A file does not have the expected format.

    Attributes:
        path: The file.
        line: The line, 1-based; 0 when the error concerns the whole file.
    """

    def __init__(self, path: str, line: int, expected: str, found: str) -> None:
        where = f"{path}:{line}" if line else path
        super().__init__(f"{where}: expected {expected}, found {found}")
        self.path = path
        self.line = line


class ConfigError(GenrankError, ValueError):
    """A setting, a configuration file or a prompt template is wrong."""


class MissingExtraError(GenrankError, ImportError):
    """An optional package is missing.

    Attributes:
        extra: The extra of genrank that brings the package.
    """

    def __init__(self, package: str, extra: str) -> None:
        super().__init__(f"{package} is not installed; get it with: pip install 'genrank[{extra}]'")
        self.extra = extra


class ModelError(GenrankError):
    """A model cannot be found, fetched or read."""


class ModelNotFoundError(ModelError):
    """No such model: neither a known name, nor a local folder, nor an answer from the hub."""


class LicenceError(ModelError):
    """The model's licence must be accepted first."""


class DownloadError(ModelError):
    """No source could deliver the model; the message lists each source and its answer."""


class ChecksumError(ModelError):
    """Files differ from their recorded size or SHA-256."""


class EngineError(GenrankError):
    """The engine failed while it ran the model."""


class OutputError(GenrankError):
    """The model's answer cannot be read as a permutation."""


def first_problem(
    errors: Sequence[Mapping[str, Any]], *, fixes: Mapping[str, str] = MappingProxyType({})
) -> tuple[str, str]:
    """The field and the message of pydantic's first error.

    Args:
        errors: From ``pydantic.ValidationError.errors(include_url=False)``.
        fixes: How to fix it, by the error's ``type``.

    Returns:
        The field's path, such as ``price.amount`` or ``category[1]``; and the message, with what was found and the fix.
    """
    first = errors[0]
    field = ""
    for part in first["loc"]:
        field += f"[{part}]" if isinstance(part, int) else f".{part}" if field else str(part)
    about_all = first["type"] == "value_error" and isinstance(first["input"], Mapping)  # the message names the field
    found = "" if first["type"] == "missing" or about_all else f", got {shown(first['input'])}"
    fix = fixes.get(first["type"])
    return field, first["msg"].removeprefix("Value error, ") + found + (f"; {fix}" if fix else "")


def shown(value: object) -> str:
    """A value for an error message: one line of at most 80 characters."""
    try:
        text = repr(value)
    except Exception:  # a value may be anything, and some integers are too long to print
        text = f"a value of type {type(value).__name__}"
    return text if len(text) <= 80 else text[:77] + "..."
