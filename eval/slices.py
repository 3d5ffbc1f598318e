"""Groups of queries for which results are reported separately: by length, script, history and frequency."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from itertools import accumulate

from genrank.data.dataset import DatasetQuery
from genrank.search.bm25 import tokenise

_ALWAYS = ("script", "history")


def slices(queries: Sequence[DatasetQuery]) -> dict[str, dict[str, list[str]]]:
    """Put queries into groups.

    - ``query length``: ``no word``, ``1 word``, ``2 words``, ``3 words``, ``4 or more words``, as
      `genrank.search.bm25.tokenise` cuts words.
    - ``script``: ``kana`` with any kana, else ``han`` with any Chinese character, else ``latin`` where all letters are
      Latin, else ``other`` (other scripts, mixtures with them, no letter).
    - ``history``: ``with`` or ``without``.
    - ``frequency``: ``head``, the most frequent queries which together make half of the traffic, and ``tail``, the
      rest; equal ones by query id. Queries of unknown frequency are in neither.

    Args:
        queries: Each with an id of its own.

    Returns:
        By slice and group, the ids of its queries in the order they came; without empty groups. A slice with a single
        group is left out, except for ``script`` and ``history``, which say something about the dataset.
    """
    table = {
        "query length": _grouped(queries, [_length(query) for query in queries], _LENGTHS),
        "script": _grouped(queries, [_script(query.query.text) for query in queries], _SCRIPTS),
        "history": _grouped(queries, ["with" if query.history else "without" for query in queries], _HISTORIES),
        "frequency": _grouped(queries, _head_and_tail(queries), _FREQUENCIES),
    }
    return {name: groups for name, groups in table.items() if len(groups) >= (1 if name in _ALWAYS else 2)}


_LENGTHS = ("no word", "1 word", "2 words", "3 words", "4 or more words")
_SCRIPTS = ("latin", "han", "kana", "other")
_HISTORIES = ("with", "without")
_FREQUENCIES = ("head", "tail")


def _grouped(queries: Sequence[DatasetQuery], labels: Sequence[str], names: Sequence[str]) -> dict[str, list[str]]:
    groups: dict[str, list[str]] = {name: [] for name in names}
    for query, label in zip(queries, labels, strict=True):
        if label:
            groups[label].append(query.query.query_id)
    return {name: ids for name, ids in groups.items() if ids}


def _length(query: DatasetQuery) -> str:
    return _LENGTHS[min(len(tokenise(query.query.text)), len(_LENGTHS) - 1)]


def _script(text: str) -> str:
    # the half of a letter's Unicode name that gives its script, such as HIRAGANA LETTER A
    names = [unicodedata.name(char, "") for char in unicodedata.normalize("NFKC", text) if char.isalpha()]
    if any(name.startswith(("HIRAGANA", "KATAKANA")) for name in names):
        return "kana"
    if any(name.startswith("CJK ") for name in names):
        return "han"
    return "latin" if names and all(name.startswith("LATIN ") for name in names) else "other"


def _head_and_tail(queries: Sequence[DatasetQuery]) -> list[str]:
    known = {query.query.query_id: query.frequency for query in queries if query.frequency is not None}
    if len(set(known.values())) < 2:
        return [""] * len(queries)
    order = sorted(known, key=lambda query_id: (-known[query_id], query_id))
    # the traffic before each query: as long as it is less than half, the query is needed to make half
    before = accumulate((known[query_id] for query_id in order), initial=0)
    half = sum(known.values()) / 2
    label = {query_id: "head" if sofar < half else "tail" for query_id, sofar in zip(order, before, strict=False)}
    return [label.get(query.query.query_id, "") for query in queries]
