"""Removes fields of the shopper's history before anything else sees it."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

from genrank.types import Interaction, Listing


def _optional(kind: Any) -> dict[str, Any]:
    """The fields of a type that may be left out, each with what it is then."""
    found = {}
    for one in dataclasses.fields(kind):
        if one.default_factory is not dataclasses.MISSING:
            found[one.name] = one.default_factory()
        elif one.default is not dataclasses.MISSING:
            found[one.name] = one.default
    return found


_LISTING = "listing."
_DEFAULTS = _optional(Interaction) | {f"{_LISTING}{name}": value for name, value in _optional(Listing).items()}


def check_mask(mask: Sequence[str]) -> None:
    """Check that every field can be removed.

    Raises:
        ValueError: When one is unknown or required.
    """
    for field in mask:
        if field not in _DEFAULTS:
            raise ValueError(f"{field!r} is no optional field of an interaction; there are {', '.join(_DEFAULTS)}")


def masked(history: Sequence[Interaction], mask: Sequence[str]) -> tuple[Interaction, ...]:
    """The history without the fields in `mask`."""
    if not mask:
        return tuple(history)
    event = {field: _DEFAULTS[field] for field in mask if not field.startswith(_LISTING)}
    listing = {field.removeprefix(_LISTING): _DEFAULTS[field] for field in mask if field.startswith(_LISTING)}
    return tuple(
        dataclasses.replace(one, **event, listing=dataclasses.replace(one.listing, **listing)) for one in history
    )
