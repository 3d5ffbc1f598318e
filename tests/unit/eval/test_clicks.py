import math
import random
import statistics
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from eval.clicks import auc, calibration_error, expected_calibration_error, interleave, ips, log_loss
from genrank.errors import InputError

GRADES = (0, 1, 2, 3)


def falling(ids: Any) -> dict[str, float]:
    return {key: float(len(ids) - i) for i, key in enumerate(ids)}


def test_auc_is_the_share_of_pairs_in_order() -> None:
    run = {"q": {"a": 0.9, "b": 0.5, "c": 0.5, "d": 0.1}, "r": {"a": 0.2, "b": 0.3}, "s": {"a": 0.4}}
    clicks = {"q": {"a": 0, "b": 1, "c": 0, "d": 0}, "r": {"a": 0, "b": 1}, "s": {"a": 0}, "t": {}}
    found = auc(run, clicks)
    within_q = (0 + 1 / 2 + 1) / 3  # b against a, c and d
    assert found.grouped == pytest.approx((within_q + 1) / 2)
    # clicked 0.5 and 0.3 against 0.9, 0.5, 0.1, 0.2, 0.4
    assert found.overall == pytest.approx(((0 + 1 / 2 + 1 + 1 + 1) + (0 + 0 + 1 + 1 + 0)) / 10)
    assert (found.queries, found.one_class) == (2, 1)


def test_auc_of_one_class_is_none() -> None:
    found = auc({"q": {"a": 0.5}}, {"q": {"a": 1}})
    assert (found.overall, found.grouped, found.queries, found.one_class) == (None, None, 0, 1)


def test_log_loss() -> None:
    loss = log_loss({"q": {"a": 0.9, "b": 0.2}}, {"q": {"a": 1, "b": 0}})
    assert loss == pytest.approx(-(math.log(0.9) + math.log(1 - 0.2)) / 2)
    assert log_loss({"q": {"a": 0.25}}, {"q": {"a": 0}}) == pytest.approx(-math.log(0.75))
    assert math.isfinite(log_loss({"q": {"a": 0.0}}, {"q": {"a": 1}}))


def test_calibration_error() -> None:
    run = {"q": {"a": 0.1, "b": 0.05, "c": 0.9, "d": 1.0}}
    clicks = {"q": {"a": 0, "b": 1, "c": 1, "d": 1}}
    # the bins 0.1 to 0.2, 0 to 0.1, and 0.9 to 1, which holds two
    expected = 1 / 4 * abs(0 - 0.1) + 1 / 4 * abs(1 - 0.05) + 2 / 4 * abs(1 - 0.95)
    assert calibration_error(run, clicks) == pytest.approx(expected)
    assert calibration_error(run, clicks, bins=1) == pytest.approx(abs(3 / 4 - 2.05 / 4))


def test_calibration_error_of_parts() -> None:
    found = expected_calibration_error([0.6, 0.65, 0.0], [0.5, 0.5, 0.0])
    assert found == pytest.approx((abs(0.5 + 0.5 - 0.6 - 0.65) + 0) / 3)


@pytest.mark.parametrize(
    ("run", "clicks", "words"),
    [
        ({}, {}, "clicks: no listing was seen"),
        ({}, {"q": {"a": 1}}, "run: query 'q' of the click data is missing"),
        ({"q": {}}, {"q": {"a": 1}}, "listing 'a' of the click data is missing"),
        ({"q": {"a": 0.5}}, {"q": {"a": 2}}, "listing 'a' must be 0 or 1, got 2"),
        ({"q": {"a": math.nan}}, {"q": {"a": 1}}, "no finite number"),
    ],
)
def test_bad_click_data_is_named(run: Any, clicks: Any, words: str) -> None:
    for function in (auc, log_loss, calibration_error):
        with pytest.raises(InputError, match=words):
            function(run, clicks)


@pytest.mark.parametrize("score", [-0.1, 1.5])
def test_probabilities_are_checked(score: float) -> None:
    for function in (log_loss, calibration_error):
        with pytest.raises(InputError, match=f"probabilities must be 0 to 1, got {score}"):
            function({"q": {"a": score}}, {"q": {"a": 1}})
    with pytest.raises(InputError, match="bins: must be 1 or more"):
        calibration_error({"q": {"a": 0.5}}, {"q": {"a": 1}}, bins=0)


def test_ips_worked_example() -> None:
    logged = {"q": ["a", "b", "c"], "r": ["a", "b"]}
    run = {"q": falling("cba"), "r": falling("ab")}
    found = ips(run, logged, {"q": ["c", "a"]}, eta=1.0)
    expected = 3 / math.log2(1 + 1) + 1 / math.log2(3 + 1)
    assert found.value == pytest.approx(expected / 2)
    assert found.self_normalised == pytest.approx(expected / (3 + 1))
    assert (found.clipped, found.clicks, found.queries) == (0.0, 2, 2)
    assert found.low <= found.value <= found.high
    clipped = ips(run, logged, {"q": ["c", "a"]}, eta=1.0, clip=2.0)
    assert clipped.value == pytest.approx((2 / math.log2(1 + 1) + 1 / math.log2(3 + 1)) / 2)
    assert clipped.clipped == 1 / 2
    table = ips(run, logged, {"q": ["c", "a"]}, propensities=[1.0, 0.5, 0.1])
    assert table.value == pytest.approx((10 / math.log2(1 + 1) + 1 / math.log2(3 + 1)) / 2)


@settings(max_examples=50, deadline=None)
@given(st.lists(st.tuples(st.permutations("abcde"), st.sets(st.sampled_from("abcde"))), min_size=1, max_size=5))
def test_the_logged_order_without_position_bias_is_worth_its_clicks(sessions: Any) -> None:
    logged = {f"q{i}": shown for i, (shown, _) in enumerate(sessions)}
    clicked = {f"q{i}": clicks for i, (_, clicks) in enumerate(sessions)}
    found = ips({query: falling(shown) for query, shown in logged.items()}, logged, clicked, eta=0.0)
    plain = [
        sum(1 / math.log2(rank + 1) for rank, key in enumerate(shown, start=1) if key in clicked[query])
        for query, shown in logged.items()
    ]
    assert found.value == pytest.approx(statistics.fmean(plain))


def test_ips_is_unbiased_and_clipping_makes_it_too_low() -> None:
    rng = random.Random(0)
    ids = [f"d{i}" for i in range(8)]
    liked = {"d1", "d6", "d7"}
    new = falling(ids[::-1])
    truth = sum(1 / math.log2(rank + 1) for rank, key in enumerate(ids[::-1], start=1) if key in liked)
    logged, clicked = {}, {}
    for i in range(4000):
        shown = rng.sample(ids, len(ids))
        logged[f"q{i}"] = shown
        clicked[f"q{i}"] = [key for rank, key in enumerate(shown, start=1) if key in liked and rng.random() < 1 / rank]
    run = dict.fromkeys(logged, new)
    found = ips(run, logged, clicked, eta=1.0, seed=1)
    assert found.low < truth < found.high
    assert found.high - found.low < 0.2 * truth
    assert ips(run, logged, clicked, eta=1.0, clip=2.0).value < 0.8 * truth
    naive = ips(run, logged, clicked, eta=0.0).value
    assert naive < 0.8 * truth
    assert found.self_normalised == pytest.approx(truth / len(liked), rel=0.1)


def test_ips_without_a_click() -> None:
    found = ips({"q": falling("ab")}, {"q": ["a", "b"]}, {})
    assert (found.value, found.low, found.high, found.self_normalised, found.clipped) == (0.0, 0.0, 0.0, None, 0.0)


@pytest.mark.parametrize(
    ("logged", "clicked", "options", "words"),
    [
        ({}, {}, {}, "logged: no query"),
        ({"q": ["a", "a"]}, {}, {}, "query 'q' shows a listing twice"),
        ({"q": ["a"]}, {"r": ["a"]}, {}, "query 'r' was never logged"),
        ({"q": ["a"]}, {"q": ["b"]}, {}, "listing 'b' was never shown"),
        ({"q": ["a", "z"]}, {"q": ["z"]}, {}, "run: query 'q': listing 'z'"),
        ({"r": ["a"]}, {"r": ["a"]}, {}, "run: query 'r'"),
        ({"q": ["a"]}, {}, {"eta": -1.0}, "eta: must be 0 or more"),
        ({"q": ["a"]}, {}, {"eta": math.nan}, "eta: must be 0 or more"),
        ({"q": ["a"]}, {}, {"clip": 0.0}, "clip: must be more than 0"),
        ({"q": ["a"]}, {}, {"clip": math.nan}, "clip: must be more than 0"),
        ({"q": ["a"]}, {}, {"propensities": [1.0, 0.0]}, r"propensities\[1\]: must be over 0 and up to 1, got 0"),
        ({"q": ["a", "b"]}, {"q": ["b"]}, {"propensities": [1.0]}, "propensities: there is none for rank 2"),
    ],
)
def test_bad_logs_are_named(logged: Any, clicked: Any, options: Any, words: str) -> None:
    with pytest.raises(InputError, match=words):
        ips({"q": falling("ab")}, logged, clicked, **options)


def judged_runs(queries: int) -> Any:
    rng = random.Random(0)
    qrels = {f"q{i}": {f"d{j}": rng.choice(GRADES) for j in range(15)} for i in range(queries)}
    good = {query: {key: grade + rng.random() for key, grade in judged.items()} for query, judged in qrels.items()}
    poor = {query: {key: rng.random() for key in judged} for query, judged in qrels.items()}
    return qrels, good, poor


@pytest.mark.parametrize("user", ["perfect", "navigational", "informational"])
def test_users_prefer_the_better_run(user: Any) -> None:
    qrels, good, poor = judged_runs(60)
    found = interleave(good, poor, qrels, GRADES, user=user)
    assert found.wins_a > 3 * found.wins_b
    assert found.p < 1e-4
    assert found.share > 0.6
    assert found.wins_a + found.wins_b + found.ties == 60
    mirrored = interleave(poor, good, qrels, GRADES, user=user)
    assert mirrored.wins_b > 3 * mirrored.wins_a
    assert mirrored.share < 0.4


@pytest.mark.parametrize("user", ["perfect", "navigational", "informational"])
def test_users_do_not_prefer_one_of_two_equal_runs(user: Any) -> None:
    qrels, good, _ = judged_runs(200)
    found = interleave(good, good, qrels, GRADES, user=user)
    assert found.p > 0.01
    assert found.share == pytest.approx(0.5, abs=0.03)


def test_perfect_users_click_nothing_that_is_not_relevant() -> None:
    ids = ["a", "b", "c", "d"]
    run, other = {"q": falling(ids)}, {"q": falling(ids[::-1])}
    found = interleave(run, other, {"q": {"a": 0}}, GRADES, user="perfect")
    assert (found.wins_a, found.wins_b, found.ties, found.share, found.p) == (0, 0, 1, 0.5, 1.0)
    # the first place of either team holds what A likes best, so A never loses
    found = interleave(run, other, {"q": {"a": 3}}, GRADES, user="perfect", k=2)
    assert (found.wins_a, found.share) == (1, 1.0)


def test_interleaving_is_seeded_and_knows_no_order_of_queries() -> None:
    qrels, good, poor = judged_runs(20)
    found = interleave(good, poor, qrels, GRADES, seed=1)
    backwards = dict(reversed(list(good.items())))
    assert interleave(backwards, poor, qrels, GRADES, seed=1) == found
    assert interleave(good, poor, qrels, GRADES, seed=2) != found


def test_one_grade_and_lists_of_different_length() -> None:
    found = interleave({"q": falling("a")}, {"q": falling("bcd")}, {"q": {"a": 1}}, (1,), user="perfect", k=10)
    assert found.wins_a == 1


@pytest.mark.parametrize(
    ("a", "b", "options", "words"),
    [
        ({}, {}, {}, "no query"),
        ({"q": {"a": 1.0}}, {"r": {"a": 1.0}}, {}, "query 'q' is in only one of a and b"),
        ({"q": {"a": 1.0}}, {"q": {"a": 1.0}}, {"user": "kind"}, "user: must be one of perfect, navigational"),
        ({"q": {"a": 1.0}}, {"q": {"a": 1.0}}, {"sessions": 0}, "sessions: must be 1 or more"),
        ({"q": {"a": 1.0}}, {"q": {"a": 1.0}}, {"k": 0}, "k: must be 1 or more"),
        ({"q": {"a": 1.0}}, {"q": {"a": 1.0}}, {"grades": ()}, "grades: the dataset names no grade"),
        ({"q": {"a": 1.0}}, {"q": {"a": 1.0}}, {"grades": (0, 1)}, "listing 'a' has grade 2"),
    ],
)
def test_bad_interleaving_is_named(a: Any, b: Any, options: Any, words: str) -> None:
    with pytest.raises(InputError, match=words):
        interleave(a, b, {"q": {"a": 2}}, **({"grades": GRADES} | options))
