import math
import random
import statistics
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("duckdb")

from eval.ab import Worth, _Rows, _worth, crossed_attraction, off_policy, preference
from genrank.errors import InputError
from genrank.search.feedback.interleaving import team_draft
from genrank.search.feedback.log import FeedbackEvent, FeedbackLog, Shown

SEEN = [1.0, 0.5, 0.3, 0.2]
ATTRACTION = {"a": 0.1, "b": 0.3, "c": 0.6, "d": 0.8}
LOGGED, NEW = "abcd", "dcba"


@pytest.fixture
def log(tmp_path: Path) -> FeedbackLog:
    return FeedbackLog(tmp_path / "log")


def truth(order: str, worth: Worth) -> float:
    return sum(ATTRACTION[key] * _worth(rank, worth, SEEN) for rank, key in enumerate(order, 1))


def shoppers(lists: int, seed: int, *, worth: Worth = "dcg", shuffled: bool = False) -> _Rows:
    """What shoppers of the position-based model did with one query's list."""
    rng = np.random.default_rng(seed)
    rows = _Rows()
    for _ in range(lists):
        order = rng.permutation(list(LOGGED)).tolist() if shuffled else list(LOGGED)
        chances = [ATTRACTION[key] * seen for key, seen in zip(order, SEEN, strict=True)]
        hits = (rng.random(4) < chances).astype(int).tolist()
        rows.add("lamp", order, hits, SEEN, [_worth(NEW.index(key) + 1, worth, SEEN) for key in order])
        rows.old += [_worth(rank, worth, SEEN) for rank in range(1, 5)]
    return rows


@pytest.mark.parametrize("worth", ["clicks", "dcg"])
@pytest.mark.parametrize("shuffled", [False, True])
def test_estimates_are_right_on_average_and_their_intervals_too(worth: Worth, shuffled: bool) -> None:
    expected = truth(NEW, worth)
    found = [shoppers(300, seed, worth=worth, shuffled=shuffled).estimates(math.inf, seed, 0) for seed in range(30)]
    for name in ("ips", "doubly_robust"):
        values = [getattr(one, name).value for one in found]
        error = statistics.stdev(values) / math.sqrt(len(values))
        assert abs(statistics.fmean(values) - expected) < 4 * error, name
        covered = sum(getattr(one, name).low <= expected <= getattr(one, name).high for one in found)
        assert covered >= 0.8 * len(found), name
    if not shuffled:
        assert statistics.fmean(one.logged.value for one in found) == pytest.approx(truth(LOGGED, worth), rel=0.05)
    ideal = sum(ATTRACTION.values())
    assert statistics.fmean(one.snips.value for one in found if one.snips) == pytest.approx(expected / ideal, rel=0.03)


def test_a_click_model_lowers_the_variance() -> None:
    """By the theory, the variance of ``c / p`` falls from ``a * mean of 1 / p`` to about ``a / mean of p``."""
    found = shoppers(1000, 0, shuffled=True).estimates(math.inf, 0, 0)
    width = {name: getattr(found, name).high - getattr(found, name).low for name in ("ips", "doubly_robust")}
    assert width["doubly_robust"] < 0.9 * width["ips"]


def test_clipping_biases_it_less() -> None:
    """Clipping makes ``ips`` too low; the click model makes up for it."""
    found = [shoppers(300, seed).estimates(2.0, seed, 0) for seed in range(10)]
    expected = truth(NEW, "dcg")
    assert statistics.fmean(one.ips.value for one in found) < 0.9 * expected
    assert statistics.fmean(one.doubly_robust.value for one in found) == pytest.approx(expected, rel=0.05)
    assert 0 < found[0].clipped < 1


def test_attraction_comes_from_the_other_half() -> None:
    """Each half has one list; the other's clicks are all that its rows know."""
    seed = next(s for s in range(20) if sorted(np.random.default_rng(s).integers(2, size=2)) == [0, 1])
    found = crossed_attraction(np.array([1.0, 0.0]), np.array([1.0, 0.5]), np.array([0, 0]), np.array([0, 1]), seed)
    assert found.tolist() == [(0 + 0) / (0.5 + 1), (1 + 1) / (1 + 1)]


def test_off_policy_reads_the_log(log: FeedbackLog) -> None:
    log.write(
        [Shown("r1", ["a", "b"], "Lamp"), Shown("r2", ["b", "a"], "lamp"), Shown("r3", ["x"], "desk")],
        [FeedbackEvent("r1", "b", "click"), FeedbackEvent("r2", "a", "click"), FeedbackEvent("r3", "x", "click")],
    )
    run = {"lamp": {"a": 1.0, "b": 2.0}}
    found = off_policy(log, run, [1.0, 0.5])
    assert (found.lists, found.clicks, found.unknown, found.clipped) == (2, 2, 1, 0.0)
    # b is clicked at rank 2 and goes to rank 1; a is clicked at rank 2 and stays there
    assert found.ips.value == pytest.approx((2 * 1 + 2 / math.log2(3)) / 2)
    assert found.logged.value == pytest.approx((2 / math.log2(3) + 2 / math.log2(3)) / 2)
    assert found.snips is not None
    assert found.snips.value == pytest.approx((2 + 2 / math.log2(3)) / 4)
    assert off_policy(log, run, [1.0, 0.5], worth="clicks").ips.value == pytest.approx((2 * 1 + 2 * 0.5) / 2)
    assert off_policy(log, run, [1.0, 0.5], clip=1.0).clipped == 1.0
    with pytest.raises(InputError, match="run: it lacks the queries or listings of all 3 lists"):
        off_policy(log, {}, [1.0, 0.5])
    with pytest.raises(InputError, match="propensities: the log has none for 5 impressions"):
        off_policy(log, run)
    with pytest.raises(InputError, match="worth: must be one of clicks, dcg"):
        off_policy(log, run, [1.0], worth="mrr")  # type: ignore[arg-type]


def test_logged_propensities_are_used(log: FeedbackLog) -> None:
    log.shown(["a", "b"], request_id="r1", query="lamp", propensities=[1.0, 0.25])
    log.event("r1", "b", "click")
    found = off_policy(log, {"lamp": {"a": 1.0, "b": 2.0}}, worth="clicks")
    assert found.ips.value == pytest.approx(4 * 1.0)
    assert found.logged.value == pytest.approx(4 * 0.25)


def interleaved(log: FeedbackLog, order: str, visits: int) -> None:
    """Shoppers see `order` (team new) and the logged order (team old) in one list, twice a visit."""
    chance = random.Random(1)
    lists, events = [], []
    for number in range(2 * visits):
        shown = team_draft(order, LOGGED, 4, chance)
        teams = {key: ("new", "old")[team] for key, team in shown}
        ids = [key for key, _ in shown]
        lists.append(Shown(f"r{number}", ids, "lamp", session=f"s{number // 2}", teams=teams))
        for key, seen in zip(ids, SEEN, strict=True):
            if chance.random() < ATTRACTION[key] * seen:
                events.append(FeedbackEvent(f"r{number}", key, "click"))
    log.write(lists, events)


def test_shoppers_prefer_the_better_order(log: FeedbackLog) -> None:
    interleaved(log, NEW, visits=150)
    log.shown(["a"], request_id="other", query="lamp")  # not interleaved
    found = preference(log, "new", "old")
    assert found.wins_a + found.wins_b + found.ties == 150
    assert found.low > 0.5
    assert found.p < 0.01
    back = preference(log, "old", "new")
    assert (back.wins_a, back.wins_b) == (found.wins_b, found.wins_a)
    assert back.share == pytest.approx(1 - found.share)
    with pytest.raises(InputError, match="no list holds listings of both 'new' and 'other'"):
        preference(log, "new", "other")


def test_the_same_order_is_no_better(log: FeedbackLog) -> None:
    interleaved(log, LOGGED, visits=150)
    found = preference(log, "new", "old")
    assert found.low < 0.5 < found.high
