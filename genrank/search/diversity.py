"""Makes a ranking more varied: fewer listings of one kind among the first.

Two methods fill the first places one after the other, each with the listing of the highest value:

- ``mmr``, maximal marginal relevance (Carbonell & Goldstein 1998): ``(1 - v) * score - v * greatest similarity to a
  listing above``.
- ``dpp``, a determinantal point process (greedy MAP: Chen, Zhang & Zhou 2018, arXiv 1709.05135): ``(1 - v) * score +
  v * log(what is new)``, where what is new is the squared length of the listing's vector at right angles to the vectors
  of all listings above. The sum over the places is ``(1 - v) * sum of scores + v * log det(similarities)``.

``v`` is the knob ``variety``, from 0 to 1. Scores are standardised within the query first (mean 0, standard deviation
1, `genrank.blending.standardised`), so it means the same for every reranker: at 0.5, ``mmr`` gives up one standard
deviation of the scores for a listing that has nothing in common with those above instead of an equal one. Similarities
are cosines of vectors.

`dpp` works with logarithms and never with weighted determinants, so no knob makes it overflow. What is new counts as
at least 1e-6: copies of listings above differ only by their scores.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Collection, Sequence
from typing import Any, Literal, cast, get_args

import numpy as np
import numpy.typing as npt

from genrank.blending import is_weight, scaled, standardised
from genrank.errors import InputError, shown
from genrank.inputs import whole_number
from genrank.search.bm25 import tokenise
from genrank.types import Diversified, Listing, Ranking, Variety, in_order

Floats = npt.NDArray[np.float64]

Aspect = Literal["category", "brand", "seller", "title"]
ASPECTS: tuple[Aspect, ...] = ("category", "brand", "title")
"""The aspects by which listings are alike unless others, or vectors, are given."""

TOP_K = 10
_LEAST_NEW = 1e-6


def diversify(
    ranking: Ranking,
    *,
    variety: float,
    method: Variety = "mmr",
    top_k: int = TOP_K,
    aspects: Collection[Aspect] | None = None,
    vectors: npt.ArrayLike | None = None,
) -> Ranking:
    """Make the first places of a ranking more varied.

    Every item comes back exactly once, with its `source_rank` and its reason. A score stays as it is unless an item
    above has a lower one; then it is lowered to that, since scores never rise down a ranking.

    Scores count on the scale on which they are blended: as log-odds where the model judged each listing
    (`genrank.blending.scaled`).

    Args:
        ranking: What a reranker answered, with all items that are to be considered.
        variety: 0 returns the ranking as it is; at 1 only variety counts, and the scores choose the first item alone.
        method: See the module's text.
        top_k: How many places are filled anew, at least 1; the other items follow in their order.
        aspects: By which aspects listings are alike, see `aspect_vectors`; None takes `ASPECTS`.
        vectors: ``[n, d]`` in the ranking's order, of any length, such as `genrank.search.dense.Encoder` makes, in
            place of aspects.

    Raises:
        InputError: When an argument is wrong.
        MissingExtraError: When a title holds Chinese and jieba is not installed.
    """
    if not isinstance(ranking, Ranking):
        raise InputError(f"must be a Ranking, got {type(ranking).__name__}", field="ranking")
    if method not in get_args(Variety):
        raise InputError(f"must be one of {list(get_args(Variety))}, got {shown(method)}", field="method")
    if aspects is not None and vectors is not None:
        raise InputError("vectors say what is alike already; leave one of the two out", field="aspects")
    _check(variety, top_k)
    if not variety or not ranking.items:
        return ranking
    said = Diversified(method, float(variety), int(top_k), tuple(aspects or ASPECTS) if vectors is None else ())
    if vectors is None:
        vectors = aspect_vectors([item.listing for item in ranking], ASPECTS if aspects is None else aspects)
    scores = [item.score for item in ranking]
    if decoding := ranking.provenance.decoding:
        scores = scaled(scores, decoding)
    order = (mmr if method == "mmr" else dpp)(scores, vectors, variety=variety, top_k=top_k)
    return dataclasses.replace(
        ranking,
        items=in_order(ranking[place] for place in order),
        provenance=dataclasses.replace(ranking.provenance, diversified=said),
    )


def mmr(scores: Sequence[float], vectors: npt.ArrayLike, *, variety: float, top_k: int = TOP_K) -> list[int]:
    """The order of maximal marginal relevance; see the module's text.

    Args:
        scores: ``[n]`` any finite numbers; higher is better.
        vectors: ``[n, d]`` of any length; one of length 0 is like no other.
        variety: 0 orders by the scores, 1 by variety alone.
        top_k: How many places are chosen; the others come by falling score.

    Returns:
        ``[n]`` places, 0-based, best first; among equal values the higher score wins, and then the one that came first.

    Raises:
        InputError: When an argument is wrong.
    """
    relevance, units, order = _prepared(scores, vectors, variety, top_k)
    alike = np.zeros(len(order))
    chosen: list[int] = []
    while len(chosen) < min(top_k, len(order)):
        best = _highest((1 - variety) * relevance - variety * alike, chosen)
        cosines = units @ units[best]
        alike = np.maximum(alike, cosines) if chosen else cosines
        chosen.append(best)
    return _with_rest(chosen, order)


def dpp(scores: Sequence[float], vectors: npt.ArrayLike, *, variety: float, top_k: int = TOP_K) -> list[int]:
    """The greedy order of a determinantal point process; see the module's text.

    It takes ``O(top_k^2 n + top_k n d)`` operations. Arguments, result and errors are those of `mmr`.
    """
    relevance, units, order = _prepared(scores, vectors, variety, top_k)
    new = np.ones(len(order))
    seen = np.zeros((min(top_k, len(order)), len(order)))  # the vectors in an orthonormal basis of the chosen ones
    chosen: list[int] = []
    while len(chosen) < len(seen):
        best = _highest((1 - variety) * relevance + variety * np.log(new), chosen)
        if new[best] > _LEAST_NEW:  # otherwise the basis would only gain noise
            step = len(chosen)
            seen[step] = (units @ units[best] - seen[:step, best] @ seen[:step]) / math.sqrt(new[best])
            new = np.maximum(new - seen[step] ** 2, _LEAST_NEW)
        chosen.append(best)
    return _with_rest(chosen, order)


def aspect_vectors(listings: Sequence[Listing], aspects: Collection[Aspect] = ASPECTS) -> Floats:
    """Vectors that are close where listings have aspects in common; each aspect counts the same.

    Listings that lack an aspect are alike in it: nothing says that they differ. An aspect that all lack is left out.

    - ``category``: the path and each path it lies in, so neighbours in the tree are partly alike
    - ``brand`` and ``seller``: the name, whatever its case
    - ``title``: its words (`genrank.search.bm25.tokenise`)

    Args:
        listings: ``[n]``.
        aspects: Which ones; at least one.

    Returns:
        ``[n, d]`` of length 1; where no listing has any of the aspects, d is 0.

    Raises:
        InputError: When an aspect is unknown, or none is given.
        MissingExtraError: When a title holds Chinese and jieba is not installed.
    """
    if not aspects or (unknown := [name for name in aspects if name not in get_args(Aspect)]):
        got = shown(unknown[0]) if aspects else "none"
        raise InputError(f"must be some of {list(get_args(Aspect))}, got {got}", field="aspects")
    columns: dict[tuple[str, ...], int] = {}
    cells: list[tuple[int, int, float]] = []
    for aspect in aspects:
        found = [_values(listing, aspect) for listing in listings]
        for row, values in enumerate(found if any(found) else ()):
            for value in values or {()}:
                column = columns.setdefault((aspect, *value), len(columns))
                cells.append((row, column, 1 / math.sqrt(len(values) or 1)))
    vectors = np.zeros((len(listings), len(columns)))
    for row, column, length in cells:
        vectors[row, column] = length
    return _units(vectors)


def _values(listing: Listing, aspect: Aspect) -> set[tuple[str, ...]]:
    match aspect:
        case "category":
            return {listing.category[:depth] for depth in range(1, len(listing.category) + 1)}
        case "title":
            return {(word,) for word in tokenise(listing.title)}
    name = listing.brand if aspect == "brand" else listing.seller_id
    return {(name.casefold(),)} if name else set()


def _units(vectors: Floats) -> Floats:
    largest = np.abs(vectors).max(axis=1, keepdims=True, initial=0)
    within = vectors / np.where(largest > 0, largest, 1)  # squares of large numbers would overflow
    lengths = np.linalg.norm(within, axis=1, keepdims=True)
    return cast(Floats, within / np.where(lengths > 0, lengths, 1))


def _prepared(
    scores: Sequence[float], vectors: npt.ArrayLike, variety: float, top_k: int
) -> tuple[Floats, Floats, list[int]]:
    """Standardised scores and vectors of length 1, both by falling score, and the places these come from."""
    _check(variety, top_k)
    given = _finite(scores, "scores", 1)
    rows = _finite(vectors, "vectors", 2)
    if len(rows) != len(given):
        raise InputError(f"must have a row for each of the {len(given)} scores, got {len(rows)}", field="vectors")
    order = sorted(range(len(given)), key=lambda place: -given[place])
    return np.array(standardised(given.tolist()))[order], _units(rows)[order], order


def _check(variety: float, top_k: int) -> None:
    if not is_weight(variety):
        raise InputError(f"must be a number within 0..1, got {shown(variety)}", field="variety")
    whole_number("top_k", top_k, at_least=1)


def _finite(values: Any, field: str, dimensions: int) -> Floats:
    shape = "[n]" if dimensions == 1 else "[n, d]"
    try:
        found = np.asarray(values, dtype=np.float64)
    except (TypeError, ValueError):
        raise InputError(f"must be numbers of shape {shape}, got {shown(values)}", field=field) from None
    if found.ndim and not len(found):
        return np.zeros((0,) * dimensions)
    if found.ndim != dimensions:
        raise InputError(f"must be of shape {shape}, got {list(found.shape)}", field=field)
    if not np.isfinite(found).all():
        raise InputError("must be finite; replace NaN and infinity", field=field)
    return found


def _highest(values: Floats, chosen: list[int]) -> int:
    """Place of the highest value that is not chosen yet; the first of equal ones."""
    values[chosen] = -np.inf
    return int(np.argmax(values))


def _with_rest(chosen: list[int], order: list[int]) -> list[int]:
    rest = sorted(set(range(len(order))).difference(chosen))
    return [order[place] for place in (*chosen, *rest)]
