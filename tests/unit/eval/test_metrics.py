import math
import random
import statistics
from typing import Any

import pytest

from eval.metrics import measure, random_floor, relevant_grade
from genrank.dataset import Grade
from genrank.errors import InputError

GRADES = {0: Grade("no", 0.0), 1: Grade("some", 1.0), 2: Grade("much", 3.0), 3: Grade("all", 7.0)}
THIRDS = {grade: Grade("", 2 ** (grade / 3) - 1) for grade in range(7)}


def reference_ndcg(order: Any, judged: Any, gains: Any, k: int) -> Any:
    def dcg(values: Any) -> Any:
        return sum(gain / math.log2(rank + 1) for rank, gain in enumerate(values[:k], start=1))

    worth = [gains[judged[key]].gain if key in judged else 0.0 for key in order]
    ideal = dcg(sorted(worth, reverse=True))
    return dcg(worth) / ideal if ideal else 0.0


def reference_rr(order: Any, judged: Any, threshold: Any) -> Any:
    ranks = [rank for rank, key in enumerate(order, start=1) if judged.get(key, -1) >= threshold]
    return 1 / ranks[0] if ranks else 0.0


def test_worked_example() -> None:
    run = {"q": {"a": 3.0, "b": 2.0, "c": 1.0}}
    measured = measure(run, {"q": ["a", "b", "c"]}, {"q": {"a": 1, "b": 3}}, GRADES)
    expected = (1 / math.log2(1 + 1) + 7 / math.log2(2 + 1)) / (7 / math.log2(1 + 1) + 1 / math.log2(2 + 1))
    assert measured.means["nDCG@10"] == pytest.approx(expected, abs=1e-12)
    assert measured.means["MRR"] == 1 / 2
    assert (measured.queries, measured.unjudged, measured.without_gain, measured.without_relevant) == (1, 1, 0, 0)


@pytest.mark.parametrize("grades", [GRADES, THIRDS], ids=["whole", "thirds"])
@pytest.mark.parametrize("k", [1, 5, 10, 100])
def test_equals_the_reference(grades: Any, k: int) -> None:
    rng = random.Random(k)
    run, candidates, qrels = {}, {}, {}
    for i in range(40):
        # query ids whose order as text is not the order they come in
        query, ids = f"q{i * 7919 % 101}", [f"d{j}" for j in range(rng.randint(1, 25))]
        order = rng.sample(ids, len(ids))
        run[query] = {key: -float(rank) for rank, key in enumerate(order)}
        candidates[query] = ids
        qrels[query] = {key: rng.choice(list(grades)) for key in ids if rng.random() < 0.8}
        qrels[query]["not a candidate"] = max(grades)
    measured = measure(run, candidates, qrels, grades, k=k)
    threshold = relevant_grade(grades)
    for query, scores in run.items():
        order = list(scores)
        ndcg = reference_ndcg(order, qrels[query], grades, k)
        assert measured.per_query[f"nDCG@{k}"][query] == pytest.approx(ndcg, abs=1e-9)
        assert measured.per_query["MRR"][query] == pytest.approx(reference_rr(order, qrels[query], threshold), abs=1e-9)
    assert measured.means["MRR"] == pytest.approx(statistics.fmean(measured.per_query["MRR"].values()), abs=1e-12)


def test_the_ideal_is_over_the_candidates() -> None:
    run = {"q": {"a": 1.0}}
    assert measure(run, {"q": ["a"]}, {"q": {"a": 1, "elsewhere": 3}}, GRADES).means["nDCG@10"] == 1.0


def test_equal_scores_stand_as_they_come() -> None:
    qrels = {"q": {"a": 3}}
    assert measure({"q": {"a": 1.0, "b": 1.0}}, {"q": "ab"}, qrels, GRADES).means["MRR"] == 1.0
    assert measure({"q": {"b": 1.0, "a": 1.0}}, {"q": "ab"}, qrels, GRADES).means["MRR"] == 0.5


def test_a_query_without_gain_scores_nothing_and_is_counted() -> None:
    measured = measure({"q": {"a": 1.0}, "r": {"a": 1.0}}, {"q": "a", "r": "a"}, {"q": {"a": 0}}, GRADES)
    assert measured.means == {"nDCG@10": 0.0, "MRR": 0.0}
    assert (measured.without_gain, measured.without_relevant, measured.unjudged) == (2, 2, 1)


def test_run_is_left_alone() -> None:
    run = {"q": {"b": 1.0, "a": 2.0}}
    measure(run, {"q": ["a", "b"]}, {"q": {"a": 1}}, GRADES)
    assert run == {"q": {"b": 1.0, "a": 2.0}}
    assert list(run["q"]) == ["b", "a"]


@pytest.mark.parametrize(
    ("run", "candidates", "words"),
    [
        ({}, {}, "no query"),
        ({"q": {"a": 1.0}}, {"q": "a", "r": "a"}, "'r' is in only one"),
        ({"q": {}}, {"q": ""}, "no candidate"),
        ({"q": {"a": 1.0}}, {"q": "ab"}, "'b' was lost"),
        ({"q": {"a": 1.0, "b": 1.0}}, {"q": "a"}, "'b' is no candidate"),
    ],
)
def test_run_must_fit_the_candidates(run: Any, candidates: Any, words: str) -> None:
    with pytest.raises(InputError, match=words):
        measure(run, candidates, {"q": {"a": 1}}, GRADES)


@pytest.mark.parametrize(("grades", "expected"), [(range(4), 2), (range(3), 2), (range(7), 4), ((0, 1), 1), ((5,), 5)])
def test_relevant_grade_is_the_upper_half(grades: Any, expected: Any) -> None:
    assert relevant_grade(grades) == expected


def test_random_floor_is_what_shuffling_comes_to() -> None:
    rng = random.Random(0)
    candidates = {f"q{i}": [f"d{j}" for j in range(n)] for i, n in enumerate((1, 2, 7, 15, 20))}
    qrels = {query: {key: rng.choice([0, 0, 1, 2, 3]) for key in ids} for query, ids in candidates.items()}
    floor = random_floor(candidates, qrels, GRADES, k=5)
    drawn: dict[str, list[float]] = {"nDCG@5": [], "MRR": []}
    times = 4000
    for _ in range(times):
        orders = {query: rng.sample(ids, len(ids)) for query, ids in candidates.items()}
        ndcg = [reference_ndcg(order, qrels[query], GRADES, 5) for query, order in orders.items()]
        rank = [reference_rr(order, qrels[query], 2) for query, order in orders.items()]
        drawn["nDCG@5"].append(statistics.fmean(ndcg))
        drawn["MRR"].append(statistics.fmean(rank))
    for name, values in drawn.items():
        error = statistics.stdev(values) / math.sqrt(times)
        assert floor[name].mean == pytest.approx(statistics.fmean(values), abs=4 * error)
        assert floor[name].deviation == pytest.approx(statistics.stdev(values), rel=0.06)


def test_random_floor_of_two() -> None:
    floor = random_floor({"q": "ab"}, {"q": {"a": 3, "b": 0}}, GRADES)
    assert floor["MRR"].mean == pytest.approx((1 + 1 / 2) / 2)
    assert floor["MRR"].deviation == pytest.approx((1 - 1 / 2) / 2)
    assert floor["nDCG@10"].mean == pytest.approx((1 + 1 / math.log2(3)) / 2)
    assert floor["nDCG@10"].deviation == pytest.approx((1 - 1 / math.log2(3)) / 2)


def test_random_floor_needs_a_query() -> None:
    with pytest.raises(InputError, match="no query"):
        random_floor({}, {}, GRADES)
