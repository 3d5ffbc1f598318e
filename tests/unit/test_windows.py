from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence

import pytest

from genrank.errors import InputError
from genrank.windows import (
    Interrupted,
    Ranked,
    Steps,
    Window,
    check_window,
    single,
    sliding,
    sliding_spans,
    tournament,
    tournament_sizes,
)

SHAPES = [
    (n, window, stride) for n in (*range(1, 30), 100) for window in (2, 3, 4, 7, 20) for stride in range(1, window)
]


def _run(steps: Steps, score: Callable[[Window], Sequence[float]], stop_after: int | None = None) -> Ranked:
    """Drive a strategy to its end; interrupt it after `stop_after` batches."""
    windows = next(steps)
    batches = 0
    try:
        while True:
            if batches == stop_after:
                steps.throw(Interrupted({}))
            windows = steps.send([score(window) for window in windows])
            batches += 1
    except StopIteration as stop:
        ranked: Ranked = stop.value
        return ranked


def _by_place(window: Window) -> list[float]:
    """The further back a candidate stood at first, the better."""
    return [place / 1000 for place in window]


def test_spans_of_a_known_case() -> None:
    assert sliding_spans(30, 20, 10) == [(10, 30), (0, 20)]
    assert sliding_spans(25, 20, 10) == [(5, 25), (0, 20)]  # the last window is full, too
    assert sliding_spans(20, 20, 10) == [(0, 20)]
    assert sliding_spans(3, 20, 10) == [(0, 3)]


def test_spans_go_from_the_end_to_the_head_and_leave_no_gap() -> None:
    for n, window, stride in SHAPES:
        spans = sliding_spans(n, window, stride)
        assert spans[0][1] == n
        assert spans[-1][0] == 0
        for (start, _), (next_start, next_stop) in itertools.pairwise(spans):
            assert next_start < start < next_stop, "each window begins further ahead and overlaps the one before"
        assert {stop - start for start, stop in spans} == {min(n, window)}


def test_the_number_of_spans_is_that_of_the_docstring() -> None:
    for n, window, stride in SHAPES:
        expected = math.ceil((n - window) / stride) + 1 if n > window else 1
        assert len(sliding_spans(n, window, stride)) == expected


def test_the_best_items_rise_from_the_end_to_the_top() -> None:
    for n, window, stride in SHAPES:
        order = _run(sliding(range(n), window, stride), _by_place).order
        carried = min(n, window - stride)
        assert list(order[:carried]) == list(range(n - 1, n - 1 - carried, -1))
        assert sorted(order) == list(range(n))


def test_equal_scores_keep_the_first_stages_order() -> None:
    assert _run(sliding(range(9), 4, 2), lambda window: [0.5] * len(window)).order == tuple(range(9))
    assert _run(single(range(9)), lambda window: [0.5] * len(window)).order == tuple(range(9))


def test_a_score_is_that_of_the_last_window_that_held_the_candidate() -> None:
    seen: list[Window] = []

    def score(window: Window) -> list[float]:
        seen.append(window)
        return [0.1 * len(seen)] * len(window)

    ranked = _run(sliding(range(6), 4, 2), score)
    assert seen == [(2, 3, 4, 5), (0, 1, 2, 3)]
    assert ranked.scores == {4: 0.1, 5: 0.1, 0: 0.2, 1: 0.2, 2: 0.2, 3: 0.2}


def test_single_shows_all_in_the_given_order() -> None:
    steps = single([2, 0, 1])
    assert next(steps) == [(2, 0, 1)]
    with pytest.raises(StopIteration) as stop:
        steps.send([[0.1, 0.9, 0.5]])
    assert stop.value.value == Ranked((0, 1, 2), {2: 0.1, 0: 0.9, 1: 0.5})


def test_an_interrupted_strategy_returns_what_it_has_found() -> None:
    spans = sliding_spans(8, 4, 2)
    assert spans == [(4, 8), (2, 6), (0, 4)]
    assert _run(sliding(range(8), 4, 2), _by_place, 0) == Ranked(tuple(range(8)), {})
    after_one = _run(sliding(range(8), 4, 2), _by_place, 1)
    assert after_one.order == (0, 1, 2, 3, 7, 6, 5, 4)
    assert set(after_one.scores) == {4, 5, 6, 7}
    after_two = _run(sliding(range(8), 4, 2), _by_place, 2)
    assert after_two.order == (0, 1, 7, 6, 3, 2, 5, 4)
    assert set(after_two.scores) == {2, 3, 4, 5, 6, 7}
    assert _run(single(range(3)), _by_place, 0) == Ranked((0, 1, 2), {})


@pytest.mark.parametrize(
    ("window", "stride", "field"),
    [(1, 1, "window"), (0, 1, "window"), (-5, 1, "window"), (4, 0, "stride"), (4, 4, "stride"), (4, -1, "stride")],
)
def test_a_window_that_cannot_slide_is_refused(window: int, stride: int, field: str) -> None:
    for call in (lambda: check_window(window, stride), lambda: sliding_spans(9, window, stride)):
        with pytest.raises(InputError) as caught:
            call()
        assert caught.value.field == field
        assert f"got {window if field == 'window' else stride}" in str(caught.value)


def test_windows_at_the_edge_are_allowed() -> None:
    check_window(2, 1)
    check_window(20, 19)


def test_sizes_of_a_tournament() -> None:
    assert tournament_sizes(100, 20, 10) == [100, 15], "1.5 * 10 go on"
    assert tournament_sizes(1000, 20, 10) == [1000, 50, 15], "the first of each of 50 groups, then 1.5 * 10"
    assert tournament_sizes(100, 20, 20) == [100, 20], "no more than a window"
    assert tournament_sizes(20, 20, 10) == [20]
    assert tournament_sizes(1, 2, 1) == [1]


@pytest.mark.parametrize(
    ("n", "window", "top_k"), [(n, w, k) for n in (1, 2, 5, 21, 100, 457) for w in (2, 3, 20) for k in (1, 2, w)]
)
def test_a_tournament_finds_the_best_and_keeps_everyone(n: int, window: int, top_k: int) -> None:
    ranked = _run(tournament(range(n), window, top_k), _by_place)
    assert sorted(ranked.order) == list(range(n))
    assert ranked.order[0] == n - 1, "the best beats everyone whom it meets"
    assert ranked.scores.keys() == set(range(n))


def test_a_tournament_finds_the_whole_top_where_the_first_stage_is_exactly_wrong() -> None:
    assert _run(tournament(range(100), 20, 10), _by_place).order[:10] == tuple(range(99, 89, -1))


def test_the_windows_of_a_tournament_are_those_of_its_formula() -> None:
    for n, window, top_k in [(100, 20, 10), (457, 20, 5), (1000, 20, 10), (30, 7, 7)]:
        rounds: list[int] = []
        steps = tournament(range(n), window, top_k)
        windows = next(steps)
        try:
            while True:
                rounds.append(sum(map(len, windows)))
                assert len(windows) == math.ceil(rounds[-1] / window)
                assert max(map(len, windows)) - min(map(len, windows)) <= 1, "even groups"
                windows = steps.send([_by_place(places) for places in windows])
        except StopIteration:
            assert rounds == tournament_sizes(n, window, top_k)


def test_groups_hold_an_even_share_of_the_first_stages_best() -> None:
    windows = next(tournament(range(100), 20, 10))
    assert [sum(place < 20 for place in window) for window in windows] == [4] * 5


def test_an_interrupted_tournament_keeps_the_groups_that_were_finished() -> None:
    steps = tournament(range(6), 3, 1)
    first, second = next(steps)
    assert (first, second) == ((0, 2, 4), (1, 3, 5))
    with pytest.raises(StopIteration) as stop:
        steps.throw(Interrupted({0: _by_place(first)}))
    assert stop.value.value.order == (4, 1, 2, 3, 0, 5), "the unfinished group stays where it stood"
    assert stop.value.value.scores.keys() == {0, 2, 4}


def test_a_tournament_that_is_interrupted_before_its_end_stands_as_the_groups_found_it() -> None:
    ranked = _run(tournament(range(6), 3, 1), _by_place, stop_after=1)
    assert ranked.order == (4, 5, 2, 3, 0, 1)
    assert len(ranked.scores) == 6


@pytest.mark.parametrize(("window", "top_k", "field"), [(1, 1, "window"), (5, 6, "top_k"), (5, 0, "top_k")])
def test_a_tournament_that_cannot_be_held_is_refused(window: int, top_k: int, field: str) -> None:
    with pytest.raises(InputError) as raised:
        tournament_sizes(10, window, top_k)
    assert raised.value.field == field
