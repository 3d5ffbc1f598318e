"""Which windows of a long list the model sees, and in which order: pure arithmetic, no model.

A strategy is a generator. It yields a batch of windows that can be ranked now, each a tuple of candidate places
(0-based, in the order in which the model is to see them). It is then sent their scores, one ``[len(window)]`` sequence
for each window. At the end it returns the order. This lets `Reranker` run the strategies of many queries side by side
and rank all windows that are ready in one engine batch. When `Interrupted` is thrown into a strategy, it uses the
windows that were finished and returns the order it has so far.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass

from genrank.errors import InputError

Window = tuple[int, ...]
"""Places of a window's candidates, in the order in which the model sees them."""

Scores = Sequence[float]
"""``[len(window)]`` scores, 0 to 1, in the window's order."""


@dataclass(frozen=True, slots=True)
class Ranked:
    """A strategy's result.

    Attributes:
        order: ``[n]`` places, best first.
        scores: Each candidate's score by its place, from the last window that held it; candidates that were in no
            window are missing.
    """

    order: tuple[int, ...]
    scores: dict[int, float]


Steps = Generator[list[Window], Sequence[Scores], Ranked]


class Interrupted(Exception):  # noqa: N818 - a signal, not an error
    """Thrown into a strategy: no further window will be ranked.

    Args:
        finished: Scores of the windows that were ranked, by their index in the yielded batch, 0-based.
    """

    def __init__(self, finished: Mapping[int, Scores]) -> None:
        super().__init__()
        self.finished = finished


def each(order: Sequence[int]) -> Steps:
    """A window for each candidate, all at once; equal scores keep their order.

    Args:
        order: ``[n]`` places.
    """
    scores, _ = yield from _rank([(place,) for place in order])
    ranked = iter(sorted((place for place in order if place in scores), key=lambda place: -scores[place]))
    return Ranked(tuple(next(ranked) if place in scores else place for place in order), scores)


def single(order: Sequence[int]) -> Steps:
    """One window over all candidates.

    Args:
        order: ``[n]`` places in the order in which the model is to see them.
    """
    window = tuple(order)
    scores, _ = yield from _rank([window])
    return Ranked(tuple(_reordered(window, [window], scores)), scores)


def sliding(order: Sequence[int], window: int, stride: int) -> Steps:
    """A window that slides from the end of the list to its head and carries the best items along (arXiv 2304.09542).

    It takes ``ceil((n - window) / stride) + 1`` windows for ``n > window``, one after the other. The best
    ``window - stride`` items of a window are carried into the next one.

    Args:
        order: ``[n]`` places in the first stage's order.
        window: Candidates in a window.
        stride: Candidates by which the window moves.
    """
    check_window(window, stride)
    ranked = list(order)
    scores: dict[int, float] = {}
    for start, stop in sliding_spans(len(ranked), window, stride):
        places = tuple(ranked[start:stop])
        found, interrupted = yield from _rank([places])
        scores |= found
        ranked[start:stop] = _reordered(places, [places], found)
        if interrupted:
            break
    return Ranked(tuple(ranked), scores)


def tournament(order: Sequence[int], window: int, top_k: int) -> Steps:
    """Rounds of groups whose best advance, until one window holds all that are left (after TourRank, arXiv 2406.11678).

    A round deals the remaining candidates into ``g = ceil(n / window)`` groups of equal strength, one by one in their
    current order, and ranks all groups at once. The first of every group comes before the second of any, and so on. The
    first ``max(g, min(ceil(1.5 * top_k), window))`` advance; that is more than `top_k`, because the best are not spread
    evenly over the groups. The last round is a single window and decides the order of the top. Candidates that dropped
    out come after it, those of later rounds first.

    A round over ``n`` candidates costs ``g`` windows and reads ``n`` candidates; `tournament_sizes` gives each round's
    ``n``. ``sliding`` reads about ``n * window / stride`` candidates, and each of its windows waits for the one before.

    Args:
        order: ``[n]`` places in the first stage's order.
        window: The most candidates in a window.
        top_k: How many of the best matter, 1 to `window`.
    """
    left = list(order)
    out: list[int] = []
    scores: dict[int, float] = {}
    sizes = tournament_sizes(len(left), window, top_k)
    for n, keep in itertools.zip_longest(sizes, sizes[1:]):
        count = math.ceil(n / window)
        groups = [tuple(left[i::count]) for i in range(count)]
        found, interrupted = yield from _rank(groups)
        scores |= found
        if interrupted:
            left = _reordered(left, groups, found)
            break
        ranked = [_reordered(group, [group], found) for group in groups]
        firsts_first = itertools.chain.from_iterable(itertools.zip_longest(*ranked))
        left = [place for place in firsts_first if place is not None]
        if keep is not None:
            left, out = left[:keep], left[keep:] + out
    return Ranked((*left, *out), scores)


def tournament_sizes(n: int, window: int, top_k: int) -> list[int]:
    """How many candidates each round of `tournament` ranks; the last number is at most `window`.

    Raises:
        InputError: When the window is below 2, or `top_k` is not within 1..window.
    """
    if window < 2:
        raise InputError(f"must be at least 2, got {window}", field="window")
    if not 1 <= top_k <= window:
        raise InputError(
            f"a tournament finds at most as many top items as its window holds ({window}), got {top_k}; use strategy "
            "sliding or a larger window",
            field="top_k",
        )
    sizes = [n]
    enough = min(math.ceil(1.5 * top_k), window)
    while sizes[-1] > window:
        sizes.append(max(math.ceil(sizes[-1] / window), enough))
    return sizes


def sliding_spans(n: int, window: int, stride: int) -> list[tuple[int, int]]:
    """The half-open spans ``[start, stop)`` of `sliding`, in the order in which they are ranked.

    Raises:
        InputError: When the window is below 2, or the stride is not within 1..window - 1.
    """
    check_window(window, stride)
    spans = []
    stop = n
    while True:
        start = max(0, stop - window)
        spans.append((start, stop))
        if start == 0:
            return spans
        stop = max(stop - stride, window)


def check_window(window: int, stride: int) -> None:
    """Raise an error for a window that cannot slide.

    Raises:
        InputError: When the window is below 2, or the stride is not within 1..window - 1.
    """
    if window < 2:
        raise InputError(f"must be at least 2, got {window}", field="window")
    if not 1 <= stride < window:
        raise InputError(
            f"must lie within 1..{window - 1} (window - 1), so that windows overlap, got {stride}", field="stride"
        )


def _rank(windows: list[Window]) -> Generator[list[Window], Sequence[Scores], tuple[dict[int, float], bool]]:
    """Have windows ranked; the scores by place of those that were, and whether ranking was interrupted."""
    try:
        answers: Mapping[int, Scores] = dict(enumerate((yield windows)))
        interrupted = False
    except Interrupted as signal:
        answers, interrupted = signal.finished, True
    scores = {place: score for i, found in answers.items() for place, score in zip(windows[i], found, strict=True)}
    return scores, interrupted


def _reordered(order: Sequence[int], windows: Sequence[Window], scores: Mapping[int, float]) -> list[int]:
    """`order`, with each ranked window's places sorted by score within the positions they occupy."""
    turns: dict[int, int] = {}
    for window in windows:
        if window[0] in scores:
            turns |= dict(zip(window, sorted(window, key=lambda place: -scores[place]), strict=True))
    return [turns.get(place, place) for place in order]
