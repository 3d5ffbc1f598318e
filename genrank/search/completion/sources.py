"""What can be suggested: queries that several shoppers asked, and phrases of the catalogue."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from genrank.errors import InputError, shown
from genrank.search.bm25 import tokenise
from genrank.search.completion.keys import key
from genrank.search.completion.suggestion import Source
from genrank.search.filters import value_parts
from genrank.text.clean import clean
from genrank.text.language import HAN
from genrank.text.words import words
from genrank.types import Listing

if TYPE_CHECKING:  # suggestions from a catalogue need neither pyarrow nor DuckDB
    from genrank.search.feedback.log import FeedbackLog

LEAST_LISTINGS = 2
"""Listings that must have a value of an attribute, or a phrase of titles."""

MOST_PHRASES = 50_000
"""Phrases of titles at most, the most frequent."""

_LONGEST = 3  # words of a phrase of titles
_DAY_S = 86_400.0
_SIGN = re.compile(r"[^\w\s'’&+.#-]+|\s[-–—.&+]+\s")  # ends a phrase
_HAN = re.compile(f"[{HAN}]")
_EMPTY_WORDS = """
a an and as at by for from in into is it new no not of off on or per the to with without
的 和 与 或 及 在 是 了 款 新款 个 等
"""
_EMPTY = frozenset(_EMPTY_WORDS.split())  # no phrase begins or ends with one
_NO_VALUES = frozenset(("yes", "no", "true", "false", "none", "other", "n/a", "是", "否", "有", "无", "其他"))

_ASKED = """
SELECT query, {shopper} AS shopper, epoch(max(time)) AS last, count(DISTINCT request_id) AS times
FROM impressions WHERE {shopper} IS NOT NULL GROUP BY ALL
"""


@dataclass(frozen=True, slots=True)
class Counted:
    """A text with its count.

    Attributes:
        text: As it is shown.
        count: Of queries, the shoppers, later ones counting more; of phrases, the listings.
        source: Where it comes from.
    """

    text: str
    count: float
    source: Source


def asked_queries(
    queries: Mapping[str, int] | FeedbackLog,
    allowed: Callable[[str], bool],
    *,
    least_shoppers: int,
    half_life_days: float,
    visits: bool,
) -> dict[str, Counted]:
    """The queries that enough shoppers have asked, by their keys.

    Args:
        queries: ``{query: different shoppers}``, or the log. In a log, a shopper counts once for each query, half as
            much for each half-life between their last time and the log's newest entry.
        allowed: Which texts may be suggested.
        least_shoppers: Different shoppers that must have asked.
        half_life_days: Of a shopper's weight.
        visits: Whether each visit of an unknown shopper counts as a shopper.

    Raises:
        InputError: When a count is wrong.
    """
    if isinstance(queries, Mapping):
        return _from_mapping(queries, allowed, least_shoppers)
    shopper = 'coalesce("user", session)' if visits else '"user"'
    table = queries.query(_ASKED.format(shopper=shopper))
    asked: dict[str, dict[str, float]] = defaultdict(dict)  # the last time of each shopper
    forms: dict[str, Counter[str]] = defaultdict(Counter)
    keys: dict[str, str] = {}
    newest = 0.0
    for query, who, last, times in zip(*(column.to_pylist() for column in table.columns), strict=True):
        if (name := keys.get(query)) is None:
            name = keys[query] = key(query)
        asked[name][who] = max(last, asked[name].get(who, last))
        forms[name][query] += times
        newest = max(newest, last)
    found = {}
    for name, shoppers in asked.items():
        text = min(forms[name], key=lambda form: (-forms[name][form], form))
        if len(shoppers) >= least_shoppers and allowed(text):
            count = sum(0.5 ** ((newest - last) / _DAY_S / half_life_days) for last in shoppers.values())
            found[name] = Counted(text, count, "query")
    return found


def _from_mapping(
    queries: Mapping[str, int], allowed: Callable[[str], bool], least_shoppers: int
) -> dict[str, Counted]:
    found: dict[str, Counted] = {}
    for query, count in queries.items():
        if not isinstance(query, str) or isinstance(count, bool) or not isinstance(count, int) or count < 0:
            raise InputError(
                f"must be queries with their numbers of shoppers, got {shown({query: count})}", field="queries"
            )
        text = clean(query)
        name = key(text)
        if count < least_shoppers or not allowed(text):
            continue
        # other spellings of the same key may be the same shoppers', so counts are not added up
        if name not in found or found[name].count < count:
            found[name] = Counted(text, float(count), "query")
    return found


def catalogue_phrases(listings: Iterable[Listing], allowed: Callable[[str], bool]) -> dict[str, Counted]:
    """The phrases of a catalogue, by their keys.

    They are brands; categories, each part of the path; values of attributes; a brand or a value before the narrowest
    category (``red dresses``); and the most frequent phrases of one to three words in titles.
    """
    counts: dict[Source, Counter[str]] = {"category": Counter(), "brand": Counter(), "attribute": Counter()}
    titles: list[list[list[str]]] = []
    for listing in listings:
        for source, texts in _fields(listing).items():
            counts[source].update(set(texts))
        titles.append([phrase for part in _SIGN.split(listing.title) if (phrase := words(part, cut_han=_cut))])
    counts["attribute"] = Counter({text: n for text, n in counts["attribute"].items() if n >= LEAST_LISTINGS})
    counts["title"] = _frequent(titles)
    found: dict[str, Counted] = {}
    for source, some in counts.items():
        for text, count in some.items():
            name = key(text)
            if (name in found and found[name].count >= count) or not allowed(text):
                continue
            found[name] = Counted(text, float(count), found[name].source if name in found else source)
    return found


def _fields(listing: Listing) -> dict[Source, list[str]]:
    """What a listing's fields give."""
    path = [text for part in listing.category if (text := clean(part))]
    brand = clean(listing.brand)
    values = [
        value
        for text in listing.attributes.values()
        for value in value_parts(text)
        if len(value) > 1 and value.lower() not in _NO_VALUES and any(map(str.isalpha, value))
    ]
    narrowest = path[-1] if path else ""
    return {
        "category": path,
        "brand": [brand, *_before([brand], narrowest)] if brand else [],
        "attribute": [*values, *_before(values, narrowest)],
    }


def _before(texts: Iterable[str], category: str) -> Iterator[str]:
    if category:
        for text in texts:
            if key(text) not in key(category):
                yield _join([text.lower(), category.lower()])


def _frequent(titles: list[list[list[str]]]) -> Counter[str]:
    """Phrases of titles with the number of titles that have them.

    A phrase is counted only if both phrases that are one word shorter are frequent, so few are ever kept.
    """
    found: Counter[str] = Counter()
    shorter: frozenset[tuple[str, ...]] = frozenset()
    for length in range(1, _LONGEST + 1):
        counts: Counter[tuple[str, ...]] = Counter()
        for title in titles:
            phrases = {tuple(part[at : at + length]) for part in title for at in range(len(part) - length + 1)}
            counts.update(one for one in phrases if length == 1 or (one[1:] in shorter and one[:-1] in shorter))
        shorter = frozenset(one for one, count in counts.items() if count >= LEAST_LISTINGS)
        for phrase in shorter:
            if not {phrase[0], phrase[-1]} & _EMPTY and (length > 1 or len(phrase[0]) > 1):
                found[_join(phrase)] = counts[phrase]
    return Counter(dict(sorted(found.items(), key=lambda one: (-one[1], one[0]))[:MOST_PHRASES]))


def _join(parts: Iterable[str]) -> str:
    """Words as one text; Chinese has no spaces."""
    joined = ""
    for part in parts:
        apart = joined and not (_HAN.match(joined[-1]) and _HAN.match(part[0]))
        joined += f" {part}" if apart else part
    return joined


def _cut(text: str) -> list[str]:
    """Chinese cut into words that do not overlap."""
    tokenise("中")  # loads jieba quietly, or says what is missing
    import jieba

    return list(jieba.cut(text))
