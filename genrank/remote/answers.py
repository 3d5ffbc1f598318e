"""Reads an order and reasons from a chat model's answer."""

from __future__ import annotations

import json
import re
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from genrank.errors import OutputError
from genrank.permutation import IDENTIFIERS
from genrank.remote.thinking import CutOffError, names_thinking, without_thinking

_CHARS_READ = 20_000  # the last ones: a model that reasons without any markup still answers at the end

_SEPARATOR = r"[\s*_`]*(?:-{1,2}>|[>,;|=])[\s*_`]*"
_FENCE = re.compile(r"\A(?:```|~~~)(?:json)?\s*\n|\n(?:```|~~~)\Z", re.IGNORECASE)
_ARRAY = re.compile(r'^[ \t]*\[\s*((?:"[^"\n]{1,20}"\s*,?\s*)+)\][ \t]*$', re.MULTILINE)
_JOINED = re.compile(_SEPARATOR)
_JOINED_BRACKETS = re.compile(rf"[ \t]*|{_SEPARATOR}|[^\[\]\n]{{0,200}}>[ \t]*")  # [C] red lamp > [A] blue lamp
_LIST_ITEM = re.compile(r"\s*(?:[-*•#]+|\(?[0-9]{1,3}[.):])?[ \t]*[*_`]*")
_NEXT_ITEM = re.compile(rf"[ \t\r*_`.]*\n{_LIST_ITEM.pattern}")
_NOUN = re.compile(r"^\s*(?:listing|item|candidate|product|option)\s+", re.IGNORECASE)
_REFUSED = re.compile(
    r"\b(?:can(?:no|')?t|can ?not|unable|sorry|won't|not able|refuse|decline)\b[^.!?:\n]*\Z", re.IGNORECASE
)
_DANGLING = re.compile(r"(?:\[\s*\w?|(?:\]|(?<![\w/<])[A-Za-z])\s*(?:->|[>,;]))\s*\Z")


@dataclass(frozen=True, slots=True)
class ReadAnswer:
    """The order and the reasons in a model's text.

    Attributes:
        order: Places of the candidates that it names, best first, 0-based.
        reasons: By place.
        repeated: How often it names a candidate again.
    """

    order: tuple[int, ...]
    reasons: Mapping[int, str]
    repeated: int


def read_answer(text: str, count: int, *, finished: bool = True) -> ReadAnswer:
    """Read a model's order and reasons.

    The model's thinking is never read (`without_thinking`). In the rest, JSON objects with a ``ranking`` take
    precedence over orders written as text (``[B] > [A]``, ``B, A``, a list). Of several orders, the last that names all
    candidates counts, or, if none does, the last that names at least half of them: those before it are drafts.

    Args:
        text: Anything at all.
        count: Number of candidates; they have the first letters of `IDENTIFIERS`.
        finished: Whether the endpoint said that the model stopped of its own accord. If it did not, a written order
            that is incomplete at the end of the text counts as cut off.

    Raises:
        CutOffError: When the text ends inside its thinking, a JSON object or an order.
        OutputError: When it holds no order of at least two candidates and half of them.
    """
    names = IDENTIFIERS[:count]
    text = text.strip()
    if not _is_object(text):  # markup inside the strings of a whole object is the listings'
        text = without_thinking(text)[-_CHARS_READ:].rstrip()
    objects, text, rest = _rankings(text)
    if rest.count("{") > rest.count("}"):
        raise CutOffError("the answer ends inside a JSON object")
    if _DANGLING.search(unicodedata.normalize("NFKC", rest)):
        raise CutOffError("the answer ends inside an order")
    if objects:
        orders = [_listed(found["ranking"], names) for found in objects]
        chosen = _last_whole(orders, count)
        return _read(orders[chosen], _reasons(objects[chosen].get("reasons"), names))
    text = _ARRAY.sub(lambda array: array[1].replace('"', ""), unicodedata.normalize("NFKC", text))
    written = _written_orders(text, names)
    chosen = _last_whole([order.places for order in written], count)
    last = written[-1]
    at_end = set(last.places) if last.end == len(text) else set(re.findall(rf"(?<![^\W_])[{names}]\Z", text))
    if not finished and 0 < len(at_end) < count:
        raise CutOffError(f"the answer ends after {len(at_end)} of {count} listings")
    return _read(written[chosen].places, {})


def _read(places: Sequence[int], reasons: Mapping[int, str]) -> ReadAnswer:
    order = tuple(dict.fromkeys(places))
    return ReadAnswer(order, reasons, len(places) - len(order))


def _last_whole(orders: Sequence[Sequence[int]], count: int) -> int:
    """The number of the last order that names all candidates, or else at least two and half of them."""
    named = [len(set(places)) for places in orders]
    for least in (count, max(2, -(-count // 2))):
        for number in reversed(range(len(named))):
            if named[number] >= least:
                return number
    raise OutputError(f"the answer names {max(named, default=0)} of {count} listings")


def _is_object(text: str) -> bool:
    """Whether a text is one JSON object and nothing else but a code fence around it."""
    try:
        return isinstance(json.loads(_FENCE.sub("", text)), dict)
    except (ValueError, RecursionError):
        return False


def _rankings(text: str) -> tuple[list[dict[str, Any]], str, str]:
    """The JSON objects of a text that have a ``ranking``; the text without those that hold thinking; what ends it.

    Raises:
        CutOffError: When the text ends inside an object.
    """
    decoder = json.JSONDecoder()
    found: list[dict[str, Any]] = []
    kept = []
    rest = begin = 0
    at = text.find("{")
    while at >= 0:
        end = at + 1
        try:
            value, after = decoder.raw_decode(text, at)
        except json.JSONDecodeError as error:
            cut = error.pos >= len(text) or error.msg.startswith("Unterminated string")
            if cut and re.match(r'\{\s*"', text[at:]):
                raise CutOffError("the answer ends inside a JSON object") from None
        except (ValueError, RecursionError):
            pass
        else:
            end = after
            if inside := list(_with_ranking(value)):
                found += inside
                rest = after
            elif any(map(names_thinking, value)):
                kept.append(text[begin:at])
                begin = after
        at = text.find("{", end)
    return found, "".join([*kept, text[begin:]]), text[rest:]


def _with_ranking(value: Any) -> Iterator[dict[str, Any]]:
    """The objects with a ``ranking`` in a JSON value, but for those that are some object's thinking."""
    if isinstance(value, dict):
        if "ranking" in value:
            yield value
            return
        for key, inner in value.items():
            if not names_thinking(key):
                yield from _with_ranking(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from _with_ranking(inner)


def _listed(ranking: Any, names: str) -> list[int]:
    """The places that a JSON value names in order."""
    if isinstance(ranking, str):
        written = _written_orders(unicodedata.normalize("NFKC", ranking), names)
        return list(written[-1].places) if written else []
    places = [_place(name, names) for name in ranking] if isinstance(ranking, list) else []
    return [place for place in places if place is not None]


def _place(name: Any, names: str) -> int | None:
    """The place of a candidate by its letter: ``B``, ``[B]``, ``Listing B``; None if it is none."""
    letter = unicodedata.normalize("NFKC", name) if isinstance(name, str) else ""
    letter = _NOUN.sub("", letter).strip(" []")
    return names.index(letter) if len(letter) == 1 and letter in names else None


def _reasons(written: Any, names: str) -> dict[int, str]:
    items = written.items() if isinstance(written, dict) else ()
    found = [(_place(name, names), reason) for name, reason in items]
    return {place: reason for place, reason in found if place is not None and isinstance(reason, str)}


@dataclass(slots=True)
class _Written:
    """Candidates that a text names in order.

    Attributes:
        places: 0-based, as often as they are named.
        start: Where the first name begins.
        end: Where the last name ends.
        single: Whether no separators join them, as in a numbered list.
    """

    places: list[int]
    start: int
    end: int
    single: bool = True

    def add(self, other: _Written, *, joined: bool) -> None:
        self.places += other.places
        self.end = other.end
        self.single = self.single and other.single and not joined


def _written_orders(text: str, names: str) -> list[_Written]:
    """The orders that a text spells out, drafts included.

    Names in square brackets count wherever they stand, bare ones only where separators or line breaks join them: a
    letter within a sentence is text. Joined names are one order. The names of a list are one order as well, until one
    of them comes again.
    """
    bracketed = _orders_of(text, names, bracketed=True)
    bare = _orders_of(text, names, bracketed=False)
    if bracketed:  # beside them, bare names are most likely words
        bare = [order for order in bare if len(set(order.places)) == len(names)]
    return sorted(bracketed + bare, key=lambda order: order.end)


def _orders_of(text: str, names: str, *, bracketed: bool) -> list[_Written]:
    pattern = rf"\[\s*([{names}])\s*\]" if bracketed else rf"(?<![^\W_])([{names}])(?![^\W_])"
    joined = _JOINED_BRACKETS if bracketed else _JOINED
    groups: list[_Written] = []
    for match in re.finditer(pattern, text):
        one = _Written([names.index(match[1])], match.start(), match.end())
        if groups and joined.fullmatch(text, groups[-1].end, one.start):
            groups[-1].add(one, joined=True)
        else:
            groups.append(one)
    orders: list[_Written] = []
    for group in _without_asides(groups, text):
        last = orders[-1] if orders else None
        between = text[last.end : group.start] if last else ""
        near = (not between.strip() and bracketed) or _NEXT_ITEM.fullmatch(between) is not None
        listed = bracketed and group.single and last is not None and last.single
        if last and (near or listed) and not set(last.places) & set(group.places):
            last.add(group, joined=False)
        else:
            orders.append(group)
    if bracketed:
        return orders
    # "I cannot rank A, B and C" is no order
    return [order for order in orders if len(order.places) > 1 and not _REFUSED.search(text[: order.start])]


def _without_asides(groups: Sequence[_Written], text: str) -> Iterator[_Written]:
    """Leave out names in the words of a list item that begins with a name: ``1. [C] is cheaper than [A]``."""
    item: _Written | None = None
    for group in groups:
        line = text.rfind("\n", 0, group.start) + 1
        if item and item.start >= line and group.single:
            continue
        item = group if group.single and _LIST_ITEM.fullmatch(text, line, group.start) else None
        yield group
