"""Reading an order and reasons out of a chat model's answer."""

from __future__ import annotations

import json
import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from genrank.errors import OutputError
from genrank.permutation import IDENTIFIERS, parse

_CHARS_READ = 20_000  # of one answer, the last ones: a model that thinks aloud answers in the end


@dataclass(frozen=True, slots=True)
class ReadAnswer:
    """What a model's text says.

    Attributes:
        order: Places of the candidates that it names, best first, 0-based.
        reasons: By place.
        repeated: Candidates that it names again.
    """

    order: tuple[int, ...]
    reasons: Mapping[int, str]
    repeated: int


def read_answer(text: str, count: int) -> ReadAnswer:
    """Read a model's order and reasons.

    The last JSON object with a ``ranking`` counts, whatever stands around it; without one, an order written as text
    (`genrank.permutation.parse`).

    Args:
        text: Anything at all.
        count: Candidates, which have the first letters of `IDENTIFIERS`.

    Raises:
        OutputError: When it holds no order of two candidates and half of them.
    """
    names = IDENTIFIERS[:count]
    text = text[-_CHARS_READ:]
    found = _last_object(text)
    ranking = found.get("ranking", text)
    if isinstance(ranking, list):
        ranking = " ".join(f"[{name.strip(' []')}]" for name in ranking if isinstance(name, str))
    parsed = parse(str(ranking), names)
    named = count - parsed.missing
    if named < 2 or 2 * named < count:
        raise OutputError(f"the answer names {named} of {count} listings")
    written = found.get("reasons")
    reasons = {}
    for name, reason in written.items() if isinstance(written, dict) else ():
        place = names.find(unicodedata.normalize("NFKC", name).strip(" []"))
        if len(name.strip(" []")) == 1 and place >= 0 and isinstance(reason, str):
            reasons[place] = reason
    return ReadAnswer(parsed.permutation.order[:named], reasons, parsed.repeated)


def _last_object(text: str) -> dict[str, Any]:
    """The last JSON object of a text that has a ``ranking``; else empty."""
    decoder = json.JSONDecoder()
    found: dict[str, Any] = {}
    at = text.find("{")
    while at >= 0:
        try:
            value, end = decoder.raw_decode(text, at)
        except (ValueError, RecursionError):
            end = at + 1
        else:
            found = value if "ranking" in value else found
        at = text.find("{", end)
    return found
