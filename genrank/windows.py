"""Which windows of a long list the model sees, in which order: pure arithmetic, no model.

A strategy is a generator. It yields the windows that can be ranked now, as one batch, each a tuple of candidate
places (0-based, in the order in which the model shall see them); it is sent their scores, one ``[len(window)]``
sequence a window; and it returns what it found. So `Reranker` can run the strategies of many queries side by side
and put all windows that are ready into one batch of the engine. When `Interrupted` is thrown into it, it returns what
it has found so far.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from dataclasses import dataclass

from genrank.errors import InputError

Window = tuple[int, ...]
"""Places of the candidates in one window, in the order in which the model sees them."""

Scores = Sequence[float]
"""``[len(window)]`` scores, 0 to 1, in the window's order."""


@dataclass(frozen=True, slots=True)
class Ranked:
    """What a strategy found.

    Attributes:
        order: ``[n]`` places, best first.
        scores: Score of each candidate by its place, from the last window that held it; candidates that no window
            has held are missing.
    """

    order: tuple[int, ...]
    scores: dict[int, float]


Steps = Generator[list[Window], Sequence[Scores], Ranked]


class Interrupted(Exception):  # noqa: N818 - a signal, not an error
    """Thrown into a strategy: no further window will be ranked."""


def single(order: Sequence[int]) -> Steps:
    """One window over all candidates.

    Args:
        order: ``[n]`` places in the order in which the model shall see them.
    """
    window = tuple(order)
    try:
        (scores,) = yield [window]
    except Interrupted:
        return Ranked(window, {})
    return Ranked(tuple(_by_score(window, scores)), dict(zip(window, scores, strict=True)))


def sliding(order: Sequence[int], window: int, stride: int) -> Steps:
    """A window that slides from the end of the list to its head, so that the best rise (arXiv 2304.09542).

    ``ceil((n - window) / stride) + 1`` windows for ``n > window``, each after the one before. The best
    ``window - stride`` items of a window are carried into the next one.

    Args:
        order: ``[n]`` places in the first stage's order.
        window: Candidates in a window.
        stride: Candidates by which it moves.
    """
    check_window(window, stride)
    ranked = list(order)
    scores: dict[int, float] = {}
    for start, stop in sliding_spans(len(ranked), window, stride):
        places = tuple(ranked[start:stop])
        try:
            (window_scores,) = yield [places]
        except Interrupted:
            break
        scores.update(zip(places, window_scores, strict=True))
        ranked[start:stop] = _by_score(places, window_scores)
    return Ranked(tuple(ranked), scores)


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
    """Refuse a window that cannot slide.

    Raises:
        InputError: When the window is below 2, or the stride is not within 1..window - 1.
    """
    if window < 2:
        raise InputError(f"must be at least 2, got {window}", field="window")
    if not 1 <= stride < window:
        raise InputError(
            f"must lie within 1..{window - 1} (window - 1), so that windows overlap, got {stride}", field="stride"
        )


def _by_score(window: Window, scores: Scores) -> list[int]:
    return [place for place, _ in sorted(zip(window, scores, strict=True), key=lambda entry: -entry[1])]
