import math
import os
import random
import statistics
import subprocess
import sys
import time
from itertools import product
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from eval.significance import Comparison, compare, holm, interval
from genrank.errors import InputError


def exact_randomisation(differences: Any) -> Any:
    """P over all sign flips."""
    observed = abs(sum(differences))
    sums = [abs(sum(s * d for s, d in zip(signs, differences, strict=True))) for signs in product((1, -1), repeat=8)]
    return sum(value >= observed - 1e-12 for value in sums) / len(sums)


def test_counts_and_difference() -> None:
    found = compare([0.5, 0.5, 0.9, 0.1], [0.4, 0.5 + 1e-10, 0.3, 0.6])
    assert (found.wins, found.ties, found.losses) == (2, 1, 1)
    assert found.difference == pytest.approx((0.1 + 0.0 + 0.6 - 0.5) / 4)
    assert found.low < found.difference < found.high


def test_tests_agree_with_their_definitions() -> None:
    values = [0.9, 0.8, 0.75, 0.3, 0.6, 0.5, 0.4, 0.95]
    reference = [0.5, 0.85, 0.5, 0.2, 0.4, 0.55, 0.1, 0.6]
    differences = [a - b for a, b in zip(values, reference, strict=True)]
    found = compare(values, reference)
    t = statistics.fmean(differences) / (statistics.stdev(differences) / math.sqrt(8))
    from scipy.stats import t as student

    assert found.p_student == pytest.approx(2 * student.sf(abs(t), df=7), abs=1e-12)
    assert found.p_randomisation == pytest.approx(exact_randomisation(differences), abs=0.01)


def test_equal_differences_are_not_missed_by_rounding() -> None:
    # every sign flip that moves as many up as down ties with the observed mean
    differences = [0.1, 0.1, 0.1, -0.1, -0.1, 0.1, 0.1, 0.1]
    found = compare([0.7 + d for d in differences], [0.7] * 8, resamples=100_000)
    assert found.p_randomisation == pytest.approx(exact_randomisation(differences), abs=0.005)


def test_same_seed_same_result_and_other_order_other_sign() -> None:
    rng = random.Random(1)
    one, other = ([rng.random() for _ in range(50)] for _ in range(2))
    found = compare(one, other, seed=5)
    assert compare(one, other, seed=5) == found
    assert compare(one, other, seed=6).p_randomisation != found.p_randomisation
    mirrored = compare(other, one, seed=5)
    assert mirrored.difference == -found.difference
    assert mirrored.p_student == pytest.approx(found.p_student)
    assert (mirrored.wins, mirrored.losses) == (found.losses, found.wins)


def test_the_seed_holds_in_another_process_with_one_thread() -> None:
    code = (
        "from eval.significance import compare\n"
        "print(compare([i % 7 / 7 for i in range(40)], [i % 5 / 5 for i in range(40)], seed=3))"
    )
    environment = os.environ | {"NUMBA_NUM_THREADS": "1"}
    root = Path(__file__).parents[3]
    answer = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, cwd=root)
    expected = compare([i % 7 / 7 for i in range(40)], [i % 5 / 5 for i in range(40)], seed=3)
    assert answer.stdout.strip() == str(expected), answer.stderr


@pytest.mark.parametrize(
    ("values", "reference", "expected"),
    [
        ([0.5], [0.25], Comparison(0.25, 0.25, 0.25, 1.0, 1.0, 1, 0, 0)),
        ([0.5], [0.5], Comparison(0.0, 0.0, 0.0, 1.0, 1.0, 0, 1, 0)),
        ([0.5, 0.1], [0.5, 0.1], Comparison(0.0, 0.0, 0.0, 1.0, 1.0, 0, 2, 0)),
    ],
    ids=["one query", "one equal query", "equal"],
)
def test_what_cannot_be_told_is_one(values: Any, reference: Any, expected: Any) -> None:
    assert compare(values, reference) == expected


def test_the_same_difference_everywhere_has_no_student_p() -> None:
    found = compare([0.75] * 10, [0.25] * 10)
    assert (found.difference, found.low, found.high) == (0.5, 0.5, 0.5)
    assert found.p_student == found.p_randomisation == pytest.approx(2 / 2**10, abs=0.002)


def test_a_single_different_query_proves_nothing() -> None:
    found = compare([1.0] + [0.5] * 9, [0.0] + [0.5] * 9)
    assert found.p_randomisation == 1.0
    assert (found.wins, found.ties) == (1, 9)


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(*[st.sampled_from([0.0, 0.1, 1 / 3, 0.5, 1.0])] * 2), min_size=1, max_size=12))
def test_nothing_is_ever_nan(pairs: Any) -> None:
    found = compare([a for a, _ in pairs], [b for _, b in pairs], resamples=200)
    assert 0 <= found.p_student <= 1
    assert 0 < found.p_randomisation <= 1
    assert found.low - 1e-12 <= found.high
    assert -1 <= found.low <= 1
    assert -1 <= found.high <= 1
    assert found.wins + found.ties + found.losses == len(pairs)


def test_interval_is_about_two_standard_errors() -> None:
    rng = random.Random(0)
    values = [rng.gauss(0.5, 0.1) for _ in range(400)]
    low, high = interval(values, 1)
    error = statistics.stdev(values) / math.sqrt(len(values))
    assert low == pytest.approx(statistics.fmean(values) - 1.96 * error, abs=0.2 * error)
    assert high == pytest.approx(statistics.fmean(values) + 1.96 * error, abs=0.2 * error)
    assert interval(values, 1) == (low, high)
    assert interval(values, 2) != (low, high)


def test_interval_covers_the_mean_as_often_as_it_says() -> None:
    rng = random.Random(4)
    hits = 0
    for seed in range(200):
        low, high = interval([rng.random() for _ in range(40)], seed, resamples=500)
        hits += low <= 0.5 <= high
    assert 0.90 <= hits / 200 <= 0.99


def test_interval_of_values_that_do_not_vary() -> None:
    assert interval([0.3]) == (0.3, 0.3)
    assert interval([0.5, 0.5, 0.5]) == (0.5, 0.5)


def test_interval_where_bca_is_undefined_is_by_percentiles() -> None:
    # a single resample lies on one side of the mean, so that the bias correction is infinite
    low, high = interval([0.0, 0.0, 1.0], 0, resamples=1)
    assert low == high
    assert math.isfinite(low)


@pytest.mark.parametrize(
    ("values", "reference", "words"),
    [
        ([], [], "values: there is no query"),
        ([0.1], [0.1, 0.2], "reference: 2 values, but there are 1"),
        ([0.1, math.nan], [0.1, 0.2], r"values\[1\]: must be finite numbers, got nan"),
        ([0.1], [math.inf], r"reference\[0\]: must be finite numbers, got inf"),
    ],
)
def test_bad_values_are_named(values: Any, reference: Any, words: str) -> None:
    with pytest.raises(InputError, match=words):
        compare(values, reference)


def test_resamples_are_checked() -> None:
    for call in (lambda: compare([0.1], [0.2], resamples=0), lambda: interval([0.1], resamples=0)):
        with pytest.raises(InputError, match="resamples: must be 1 or more, got 0"):
            call()


def test_holm() -> None:
    # sorted: 0.01 * 3, max(0.03, 0.03 * 2), max(0.06, 0.04 * 1)
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.01 * 3, 0.03 * 2, 0.03 * 2])
    assert holm([0.9, 0.8]) == [1.0, 1.0]
    assert holm([0.2]) == [0.2]
    assert holm([]) == []
    for odd in (math.nan, 1.5, -0.1):
        with pytest.raises(InputError, match="p_values"):
            holm([0.1, odd])


def test_ten_systems_and_many_queries_are_quick() -> None:
    rng = random.Random(0)
    systems = [[rng.random() for _ in range(61)] for _ in range(11)]
    compare(systems[0], systems[1])
    started = time.monotonic()
    for values in systems[1:]:
        compare(values, systems[0])
    assert time.monotonic() - started < 10
    started = time.monotonic()
    compare([rng.random() for _ in range(10_000)], [rng.random() for _ in range(10_000)], resamples=1000)
    assert time.monotonic() - started < 30
