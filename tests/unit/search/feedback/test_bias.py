from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("duckdb")

from genrank.errors import InputError
from genrank.search.feedback.bias import attractions, estimate, fit
from genrank.search.feedback.log import FeedbackEvent, FeedbackLog, Shown

TRUE = np.array([1.0, 0.6, 0.4, 0.25, 0.1])


@pytest.fixture
def log(tmp_path: Path) -> FeedbackLog:
    return FeedbackLog(tmp_path / "log")


def counts(pairs: int, lists: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Listings whose rank depends on their attraction, as in a shop whose ranker is good, moved a little."""
    rng = np.random.default_rng(seed)
    attraction = rng.uniform(0.05, 0.9, pairs)
    home = np.clip(np.floor((1 - attraction) * 5), 0, 4).astype(int)
    shown, clicked = np.zeros((pairs, 5)), np.zeros((pairs, 5))
    for step in (-1, 0, 1):
        place = np.clip(home + step, 0, 4)
        times = lists if step == 0 else lists // 10
        shown[np.arange(pairs), place] += times
        clicked[np.arange(pairs), place] += rng.binomial(times, attraction * TRUE[place])
    return shown, clicked, attraction


def test_propensities_are_recovered_where_good_listings_stand_high() -> None:
    shown, clicked, _ = counts(pairs=2000, lists=50)
    found = fit(shown, clicked)
    assert np.array(found.values) == pytest.approx(TRUE, rel=0.1)
    raw = clicked.sum(axis=0) / shown.sum(axis=0)
    assert raw[4] / raw[0] < 0.5 * TRUE[4]  # clicks by rank would not do
    assert found.values[0] == 1.0


def test_two_ranks_have_a_closed_form() -> None:
    """With one pair shown equally often at both ranks, the ratio of clicks; the smoothing moves it a little."""
    found = fit(np.array([[1e6, 1e6]]), np.array([[4e5, 1e5]]))
    assert found.values == pytest.approx((1.0, 1e5 / 4e5), rel=1e-4)


def test_a_rank_without_clicks_has_its_neighbours_value() -> None:
    found = fit(np.array([[1e4, 1e4, 0, 0]]), np.array([[4e3, 1e3, 0, 0]]))
    assert found.values[2:] == pytest.approx([found.values[1]] * 2)
    assert found.clicks == (4000, 1000, 0, 0)


def test_merit_alone_tells_nothing_of_ranks() -> None:
    with pytest.raises(InputError, match="no listing that was clicked was shown at two ranks"):
        fit(np.array([[10.0, 0.0], [0.0, 10.0]]), np.array([[5.0, 0.0], [0.0, 1.0]]))


def test_estimate_reads_the_log(log: FeedbackLog) -> None:
    shown, clicked, _ = counts(pairs=40, lists=20)
    lists, events = [], []
    for pair in range(len(shown)):
        for place in range(5):
            for number in range(int(shown[pair, place])):
                request = f"{pair}-{place}-{number}"
                ids = [f"other{i}" for i in range(5)]
                ids[place] = f"l{pair}"
                text = f"Lamp {pair}" if number % 2 else f"lamp {pair}"
                lists.append(Shown(request, ids, text, time=datetime(2026, 1, 1)))
                if number < clicked[pair, place]:
                    events.append(FeedbackEvent(request, f"l{pair}", "click"))
    log.write(lists, events)
    found, expected = estimate(log), fit(shown, clicked)
    assert found.values == pytest.approx(expected.values)
    assert found.clicks == expected.clicks
    assert estimate(log, ranks=2).values == pytest.approx(fit(shown[:, :2], clicked[:, :2]).values)
    with pytest.raises(InputError, match="no listing that was clicked"):
        estimate(log, kind="cart")
    with pytest.raises(InputError, match="no listing that was clicked"):
        estimate(log, until=datetime(2025, 1, 1))


def test_an_empty_log_gives_no_estimate(log: FeedbackLog) -> None:
    with pytest.raises(InputError, match="no listing that was clicked"):
        estimate(log)
    assert attractions(log, [1.0]) == []


def test_attractions(log: FeedbackLog) -> None:
    log.write(
        [Shown(f"r{i}", ["a", "b"] if i < 3 else ["b", "a"], "Lamp", propensities=[1.0, 0.1]) for i in range(4)],
        [FeedbackEvent("r0", "a", "click"), FeedbackEvent("r0", "a", "click"), FeedbackEvent("r1", "b", "click")],
    )
    a, b = attractions(log, prior=0)
    assert (a.query, a.listing_id, a.rank, a.shown, a.clicked) == ("lamp", "a", 5 / 4, 4, 1)
    assert a.examined == pytest.approx(3 * 1.0 + 0.1)
    assert a.estimate == pytest.approx(1 / 3.1)
    assert b.estimate == pytest.approx(1 / (3 * 0.1 + 1.0))
    assert [one.estimate for one in attractions(log, [1.0], prior=0)] == [1 / 4, 1 / 4]  # as they are
    assert attractions(log, [1.0, 0.5], prior=0)[1].estimate == pytest.approx(1 / (3 * 0.5 + 1.0))
    ips = attractions(log, prior=0, method="ips", clip=100.0)
    assert [one.estimate for one in ips] == [1 / 4, 1.0]  # 10 / 4 is more than a chance can be
    assert attractions(log, prior=0, method="ips", clip=2.0)[1].estimate == pytest.approx(2 / 4)
    mean = 2 / (3.1 + 1.3)
    assert attractions(log, prior=5)[0].estimate == pytest.approx((1 + 5 * mean) / (3.1 + 5))


def test_nobody_outweighs_all_others(log: FeedbackLog) -> None:
    """One shopper, one visitor and two lists of nobody; each list is clicked on its last listing."""
    whose = [("ann", None)] * 20 + [(None, "visit")] * 5 + [(None, None)] * 2 + [("bob", None)]
    start = datetime(2026, 5, 1, tzinfo=UTC)
    log.write(
        [
            Shown(
                f"r{i:02}", ["a", "b"], "Lamp", user, session, time=start + timedelta(hours=i), propensities=[1.0, 1.0]
            )
            for i, (user, session) in enumerate(whose)
        ],
        [FeedbackEvent(f"r{i:02}", "b", "click", time=start + timedelta(hours=i, minutes=1)) for i in range(20)],
    )
    assert [one.shown for one in attractions(log)] == [28, 28]
    a, b = attractions(log, most_lists=3)
    assert (a.shown, a.clicked, a.examined) == (3 + 3 + 2 + 1, 0, 9.0)
    assert (b.shown, b.clicked) == (9, 3)
    other_query = attractions(log, most_lists=3, since=start + timedelta(hours=17))
    assert other_query[1].clicked == 3, "the first ones of the time that is looked at"
    with pytest.raises(InputError, match="most_lists: must be"):
        attractions(log, most_lists=0)


@pytest.mark.parametrize("method", ["model", "ips"])
def test_attractions_are_right_on_average(log: FeedbackLog, method: str) -> None:
    """One listing, clicked with chance 0.5 when it is seen, at the ranks 1 to 5 equally often."""
    rng = np.random.default_rng(3)
    lists, events = [], []
    for number in range(2000):
        place = number % 5
        ids = [f"o{i}" for i in range(5)]
        ids[place] = "l"
        lists.append(Shown(f"r{number}", ids, "lamp", propensities=TRUE.tolist()))
        if rng.random() < 0.5 * TRUE[place]:
            events.append(FeedbackEvent(f"r{number}", "l", "click"))
    log.write(lists, events)
    found = {one.listing_id: one for one in attractions(log, method=method, prior=0)}  # type: ignore[arg-type]
    assert found["l"].estimate == pytest.approx(0.5, abs=0.06)
    assert found["l"].clicked / found["l"].shown < 0.3


def test_lists_without_propensities_need_some(log: FeedbackLog) -> None:
    log.shown(["a", "b"], request_id="r", query="lamp")
    with pytest.raises(InputError, match=r"propensities: the log has none for 2 impressions; give some, or \[1.0\]"):
        attractions(log)
    with pytest.raises(InputError, match="there is none; give one for each rank"):
        attractions(log, [])
    with pytest.raises(InputError, match=r"propensities\[1\]: must be over 0 and up to 1, got 2.0"):
        attractions(log, [1.0, 2.0])
    with pytest.raises(InputError, match="clip: must be over 0"):
        attractions(log, [1.0], clip=0)
    with pytest.raises(InputError, match="prior: must be 0 or more"):
        attractions(log, [1.0], prior=-1)
    with pytest.raises(InputError, match="method: must be one of model, ips"):
        attractions(log, [1.0], method="em")  # type: ignore[arg-type]
    with pytest.raises(InputError, match="kind: must be one of click, cart, purchase"):
        attractions(log, [1.0], kind="view")  # type: ignore[arg-type]
