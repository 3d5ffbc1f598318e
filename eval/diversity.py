"""How varied the first results are, and who is seen.

`diversity` looks at the first k of each query, `exposure` at how much of people's attention each brand and each seller
gets over the whole lists. None of it says that a result is good: more variety is only worth something at equal nDCG.
"""

from __future__ import annotations

import contextlib
import io
import itertools
import math
from collections import defaultdict
from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Any

from genrank.data.trec import Qrels
from genrank.errors import InputError, MissingExtraError
from genrank.experiment.metrics import Scores, best_first
from genrank.search.bm25 import tokenise
from genrank.types import Listing

TOP_NAMES = 10


def diversity(
    run: Scores, listings: Mapping[str, Listing], qrels: Qrels, relevant: int, *, k: int = 10, alpha: float = 0.5
) -> dict[str, float]:
    """Measure how varied the first k listings of each query are; means over queries.

    - ``alpha-nDCG@k`` (Clarke et al. 2008) = ``alpha-DCG@k / ideal``, ``alpha-DCG@k = sum over ranks i <= k and
      subtopics s of x_is * (1 - alpha)^(times s was seen before) / log2(i + 1)``: a relevant listing is worth less the
      more relevant ones of its kind stand above it. The ideal is over the run's listings, built greedily.
    - ``ERR-IA@k`` (Chapelle et al. 2009, as ndeval computes it) = ``sum over ranks i <= k and subtopics s of
      x_is * 0.5^(times s was seen before) / i``, divided by the query's number of subtopics and by what a listing of
      each subtopic at every rank would make of one, ``sum over i <= k of 0.5^(i - 1) / i``.
    - ``intra-list distance@k``: mean of ``1 - |A & B| / |A | B|`` over all pairs of title word sets (Ziegler et al.
      2005, Jaccard for their similarity), over the queries with two listings or more.
    - ``category coverage@k``: categories among the first k, of the categories among all of the query's listings, over
      the queries with any.

    A listing's only subtopic is its category (the whole path to the leaf), or its brand where it has no category;
    ``x_is = 1`` where it is relevant. The first two come from ``ir_measures`` (pyndeval).

    Args:
        run: Scores by query and listing; for ties see `eval.metrics`.
        listings: By id.
        qrels: Judgements.
        relevant: Lowest grade that is relevant.
        k: Depth, 1 or more.
        alpha: How much less a repeated subtopic is worth, 0 to 1.

    Returns:
        The values above. Beside the first two, ``queries without subtopic``: those without a relevant listing that has
        a category or a brand, which count 0; and ``queries with one subtopic``, where variety cannot show. What no
        listing has data for is left out: these four if none has a category or brand, the last value if none has a
        category.

    Raises:
        InputError: When there is no query, a listing is unknown, or `k` or `alpha` is out of range.
        MissingExtraError: When ir_measures or pyndeval is not installed.
    """
    _check(run, listings)
    if k < 1:
        raise InputError(f"must be 1 or more, got {k}", field="k")
    if not 0 <= alpha <= 1:
        raise InputError(f"must be 0 to 1, got {alpha}", field="alpha")
    orders = {query: best_first(scores) for query, scores in run.items()}
    shown = {listing_id for order in orders.values() for listing_id in order}
    found: dict[str, float] = {}
    if any(_subtopic(listings[key]) for key in shown):
        found |= _by_subtopic(orders, listings, qrels, relevant, k, alpha)
    distances = [_distance([listings[key] for key in order[:k]]) for order in orders.values() if min(k, len(order)) > 1]
    if distances:
        found[f"intra-list distance@{k}"] = math.fsum(distances) / len(distances)
    covered = coverage(orders, {key: listings[key].category for key in shown}, k)
    if covered is not None:
        found[f"category coverage@{k}"] = covered
    return found


def coverage(orders: Mapping[str, Sequence[str]], aspects: Mapping[str, Hashable], k: int) -> float | None:
    """How many of the aspects among all of a query's listings are among the first k; the mean over queries.

    Args:
        orders: Listing ids by query, best first.
        aspects: The aspect of each listing, such as its category; an empty one counts as none.
        k: Depth, 1 or more.

    Returns:
        0 to 1, over the queries that have any aspect; None if no query has.
    """
    shares = []
    for order in orders.values():
        found = [aspects[key] for key in order]
        if any(found):
            shares.append(len(set(filter(None, found[:k]))) / len(set(filter(None, found))))
    return math.fsum(shares) / len(shares) if shares else None


def exposure(run: Scores, listings: Mapping[str, Listing]) -> dict[str, dict[str, Any]]:
    """Share of people's attention by brand and by seller.

    ``share of a name = sum over queries and its listings of 1 / log2(rank + 1) / the same over all listings``
    (exposure: Singh & Joachims 2018, arXiv 1802.07281).

    Args:
        run: Scores by query and listing; for ties see `eval.metrics`.
        listings: By id.

    Returns:
        For ``brand`` and ``seller``, or ``{}`` where no listing has one: ``shares`` of the `TOP_NAMES` names with the
        most, and of ``""`` where listings lack one; ``rest``, the share of all other names; ``names``, their number;
        ``gini``, 0 where all names get the same, towards 1 where one gets all (listings without a name left out); and
        ``listings_without``, the places in the lists whose listing lacks one.

    Raises:
        InputError: When there is no query, or a listing is unknown.
    """
    _check(run, listings)
    return {
        "brand": _exposure(run, listings, lambda listing: listing.brand),
        "seller": _exposure(run, listings, lambda listing: listing.seller_id),
    }


def _check(run: Scores, listings: Mapping[str, Listing]) -> None:
    if not run:
        raise InputError("no query to measure", field="run")
    for query, scores in run.items():
        if unknown := [key for key in scores if key not in listings]:
            raise InputError(f"query {query!r}: listing {min(unknown)!r} is unknown", field="run")


def _subtopic(listing: Listing) -> tuple[str, ...]:
    if listing.category:
        return ("category", *listing.category)
    return ("brand", listing.brand) if listing.brand else ()


def _by_subtopic(
    orders: Mapping[str, Sequence[str]],
    listings: Mapping[str, Listing],
    qrels: Qrels,
    relevant: int,
    k: int,
    alpha: float,
) -> dict[str, float]:
    try:
        import ir_measures
        import pyndeval  # noqa: F401  # ir_measures would only say so at the first value
        from ir_measures.providers import registry
    except ImportError as error:
        raise MissingExtraError(error.name or "ir_measures", "eval") from None
    judgements: list[Any] = []
    scored: list[Any] = []
    kinds: list[int] = []
    # ids and names may be anything: the library gets numbers instead
    subtopics: dict[tuple[str, ...], str] = {}
    for number, (query, order) in enumerate(orders.items()):
        judged = qrels.get(query, {})
        names: set[str] = set()
        for rank, key in enumerate(order):
            if rank < k:
                scored.append(ir_measures.ScoredDoc(str(number), str(rank), float(k - rank)))
            subtopic = _subtopic(listings[key])
            if subtopic and judged.get(key, relevant - 1) >= relevant:
                name = subtopics.setdefault(subtopic, str(len(subtopics)))
                judgements.append(ir_measures.Qrel(str(number), str(rank), 1, name))
                names.add(name)
        kinds.append(len(names))
    metrics = {
        ir_measures.alpha_nDCG(alpha=alpha) @ k: f"alpha-nDCG@{k}",
        ir_measures.ERR_IA @ k: f"ERR-IA@{k}",
    }
    values: dict[str, list[float]] = {name: [] for name in metrics.values()}
    if judgements:
        # it writes to stderr if all queries have one subtopic; the caller gets that as a count
        with contextlib.redirect_stderr(io.StringIO()):
            evaluator = registry["pyndeval"].evaluator(list(metrics), judgements)
        for found in evaluator.iter_calc(scored):
            values[metrics[found.measure]].append(found.value)
    means: dict[str, float] = {name: math.fsum(column) / len(orders) for name, column in values.items()}
    return means | {"queries without subtopic": kinds.count(0), "queries with one subtopic": kinds.count(1)}


def _distance(listings: Sequence[Listing]) -> float:
    words = [frozenset(tokenise(listing.title)) for listing in listings]
    pairs = [
        # two titles without a word are the same
        1 - len(one & other) / len(one | other) if one | other else 0.0
        for one, other in itertools.combinations(words, 2)
    ]
    return math.fsum(pairs) / len(pairs)


def _exposure(run: Scores, listings: Mapping[str, Listing], name_of: Callable[[Listing], str]) -> dict[str, Any]:
    parts: defaultdict[str, list[float]] = defaultdict(list)
    for scores in run.values():
        for rank, key in enumerate(best_first(scores), start=1):
            parts[name_of(listings[key])].append(1 / math.log2(rank + 1))
    without = len(parts.get("", ()))
    total = math.fsum(itertools.chain.from_iterable(parts.values()))
    shares = {name: math.fsum(part) / total for name, part in parts.items()}
    nameless = shares.pop("", 0.0)
    if not shares:
        return {}
    ordered = sorted(shares, key=lambda name: (-shares[name], name))
    return {
        "shares": {name: shares[name] for name in ordered[:TOP_NAMES]} | ({"": nameless} if without else {}),
        "rest": math.fsum(shares[name] for name in ordered[TOP_NAMES:]),
        "names": len(ordered),
        "gini": _gini([shares[name] for name in ordered]),
        "listings_without": without,
    }


def _gini(falling: Sequence[float]) -> float:
    """``sum over i of (n + 1 - 2 i) * x_i / (n * sum of x)`` for falling ``x``, ``i`` from 1."""
    n = len(falling)
    return math.fsum((n + 1 - 2 * i) * x for i, x in enumerate(falling, start=1)) / (n * math.fsum(falling))
