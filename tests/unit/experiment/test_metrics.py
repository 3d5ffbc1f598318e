import copy
import math
import random
import statistics
import tempfile
import time
from itertools import permutations
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from genrank.data.dataset import Grade
from genrank.data.trec import read_run, write_run
from genrank.errors import DataFormatError, InputError
from genrank.experiment.metrics import align, best_first, measure, random_floor, relevant_grade, run_of
from genrank.types import Candidate, Listing, Query, Request

GRADES = {0: Grade("no", 0.0), 1: Grade("some", 1.0), 2: Grade("much", 3.0), 3: Grade("all", 7.0)}
THIRDS = {grade: Grade("", 2 ** (grade / 3) - 1) for grade in range(7)}


METRICS = [
    *("nDCG@5", "nDCG@10", "nDCG@20", "nDCG-linear@10", "nDCG-exponential@10"),
    *("MRR", "MAP", "P@10", "R@10"),
]


def reference_ndcg(order: Any, judged: Any, gains: Any, k: int) -> Any:
    def dcg(values: Any) -> Any:
        return sum(gain / math.log2(rank + 1) for rank, gain in enumerate(values[:k], start=1))

    worth = [gains[judged[key]].gain if key in judged else 0.0 for key in order]
    ideal = dcg(sorted(worth, reverse=True))
    return dcg(worth) / ideal if ideal else 0.0


def reference_rr(order: Any, judged: Any, threshold: Any) -> Any:
    ranks = [rank for rank, key in enumerate(order, start=1) if judged.get(key, -1) >= threshold]
    return 1 / ranks[0] if ranks else 0.0


def reference(order: Any, judged: Any, grades: Any, k: int, threshold: int) -> Any:
    """All other metrics in plain Python."""
    hits = [int(judged.get(key, -1) >= threshold) for key in order]
    relevant = sum(hits) or 1
    linear = {grade: Grade("", float(grade)) for grade in grades}
    exponential = {grade: Grade("", 2.0**grade - 1) for grade in grades}
    return {
        f"nDCG-linear@{k}": reference_ndcg(order, judged, linear, k),
        f"nDCG-exponential@{k}": reference_ndcg(order, judged, exponential, k),
        "MRR": reference_rr(order, judged, threshold),
        "MAP": sum(x * sum(hits[:i]) / i for i, x in enumerate(hits, start=1)) / relevant,
        f"P@{k}": sum(hits[:k]) / k,
        f"R@{k}": sum(hits[:k]) / relevant,
    }


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
    measured = measure(run, candidates, qrels, grades, k=k, cutoffs=(3,))
    threshold = relevant_grade(grades)
    for query, scores in run.items():
        order = list(scores)
        ndcg = reference_ndcg(order, qrels[query], grades, k)
        assert measured.per_query[f"nDCG@{k}"][query] == pytest.approx(ndcg, abs=1e-9)
        for name, value in reference(order, qrels[query], grades, k, threshold).items():
            assert measured.per_query[name][query] == pytest.approx(value, abs=1e-9), name
    assert measured.means["MRR"] == pytest.approx(statistics.fmean(measured.per_query["MRR"].values()), abs=1e-12)


def test_the_ideal_is_over_the_candidates() -> None:
    run = {"q": {"a": 1.0}}
    assert measure(run, {"q": ["a"]}, {"q": {"a": 1, "elsewhere": 3}}, GRADES).means["nDCG@10"] == 1.0


def test_equal_scores_stand_by_falling_id_whatever_order_they_come_in() -> None:
    qrels = {"q": {"a": 3}}
    for ids in ("ab", "ba"):
        run = {"q": dict.fromkeys(ids, 1.0)}
        assert measure(run, {"q": ids}, qrels, GRADES).means["MRR"] == 1 / 2
    assert best_first({"a": 1.0, "c": 1.0, "b": 1.0, "z": 0.0, "A": 2.0}) == ["A", "c", "b", "a", "z"]
    assert best_first({"a": 0.0, "b": -0.0}) == ["b", "a"]


def test_the_rank_column_of_a_run_file_changes_nothing(tmp_path: Path) -> None:
    lines = ["q Q0 a 1 0.5 x", "q Q0 b 2 0.5 x"]
    means = []
    for name, ranked in (("one", lines), ("two", [line.replace(" 2 ", " 0 ") for line in reversed(lines)])):
        (tmp_path / name).write_text("\n".join(ranked) + "\n")
        means.append(measure(read_run(tmp_path / name), {"q": "ab"}, {"q": {"a": 3}}, GRADES).means)
    assert means[0] == means[1]


def test_a_query_without_gain_scores_nothing_and_is_counted() -> None:
    measured = measure({"q": {"a": 1.0}, "r": {"a": 1.0}}, {"q": "a", "r": "a"}, {"q": {"a": 0}}, GRADES)
    assert measured.means == dict.fromkeys(METRICS, 0.0)
    assert (measured.without_gain, measured.without_relevant, measured.unjudged) == (2, 2, 1)


def test_arguments_are_left_alone() -> None:
    given_ = ({"q": {"b": 1.0, "a": 2.0}}, {"q": ["a", "b"]}, {"q": {"a": 1}, "r": {"a": 2}}, dict(GRADES))
    before = copy.deepcopy(given_)
    measure(*given_)
    random_floor(*given_[1:])
    align(*given_[:2])
    assert given_ == before
    assert list(given_[0]["q"]) == ["b", "a"]


def test_metrics_come_in_a_fixed_order() -> None:
    run, candidates, qrels = {"q": {"a": 1.0}}, {"q": "a"}, {"q": {"a": 1}}
    assert list(measure(run, candidates, qrels, GRADES).means) == METRICS
    assert list(random_floor(candidates, qrels, GRADES)) == METRICS
    names = list(measure(run, candidates, qrels, GRADES, k=3, cutoffs=(7, 7, 1)).means)
    assert names[:3] == ["nDCG@1", "nDCG@3", "nDCG@7"]
    assert names[3:] == ["nDCG-linear@3", "nDCG-exponential@3", "MRR", "MAP", "P@3", "R@3"]
    assert "nDCG@10" in measure(run, candidates, qrels, GRADES, cutoffs=()).means


@pytest.mark.parametrize(
    ("run", "candidates", "words"),
    [
        ({}, {}, "no query"),
        ({"q": {"a": 1.0}}, {"q": "a", "r": "a"}, "'r' is in only one"),
        ({"q": {}}, {"q": ""}, "no candidate"),
        ({"q": {"a": 1.0}}, {"q": "ab"}, "'b' was lost"),
        ({"q": {"a": 1.0, "b": 1.0}}, {"q": "a"}, "'b' is not a candidate"),
        ({"q": {"a": 1.0, "b": 1.0}, "r": {"a": 1.0}}, {"q": "ab"}, "'r' is in only one"),
        ({"q": {"a": 1.0}}, {"q": ["a", "a"]}, "'a' comes twice"),
        ({"q": {"a": math.nan}}, {"q": "a"}, "score of listing 'a' is not a finite number, got nan"),
        ({"q": {"a": -math.inf}}, {"q": "a"}, "not a finite number, got -inf"),
    ],
)
def test_run_must_fit_the_candidates(run: Any, candidates: Any, words: str) -> None:
    with pytest.raises(InputError, match=words):
        measure(run, candidates, {"q": {"a": 1}}, GRADES)


@pytest.mark.parametrize(("grades", "expected"), [(range(4), 2), (range(3), 2), (range(7), 4), ((0, 1), 1), ((5,), 5)])
def test_relevant_grade_is_the_upper_half(grades: Any, expected: Any) -> None:
    assert relevant_grade(grades) == expected


@pytest.mark.parametrize(
    ("qrels", "grades", "options", "words"),
    [
        (
            {"q": {"a": 4}},
            GRADES,
            {},
            r"qrels: query 'q': listing 'a' has grade 4; the dataset's grades are \[0, 1, 2, 3\]",
        ),
        ({"q": {"a": -1}}, GRADES, {}, "listing 'a' has grade -1"),
        ({}, {-1: Grade("", 0.0)}, {}, "grades: a grade must be 0 to 1000, got -1"),
        ({}, {1001: Grade("", 1.0)}, {}, "must be 0 to 1000, got 1001"),
        ({}, {0: Grade("", -1.0)}, {}, "the gain of grade 0 must be 0, or"),
        ({}, {0: Grade("", math.nan)}, {}, "got nan"),
        ({}, {0: Grade("", math.inf)}, {}, "got inf"),
        ({}, {}, {}, "names no grade"),
        ({}, GRADES, {"relevant": 5}, "relevant: no grade 5"),
        ({}, GRADES, {"k": 0}, "k: must be 1 or more, got 0"),
        ({}, GRADES, {"cutoffs": (5, -1)}, "cutoffs: must be 1 or more, got -1"),
    ],
)
def test_bad_judgements_and_settings_are_named(qrels: Any, grades: Any, options: Any, words: str) -> None:
    with pytest.raises(InputError, match=words):
        measure({"q": {"a": 1.0}}, {"q": "a"}, qrels, grades, **options)
    with pytest.raises(InputError, match=words):
        random_floor({"q": "a"}, qrels, grades, **options)


def test_odd_judgements_of_no_candidate_do_not_matter() -> None:
    qrels = {"q": {"a": 3, "elsewhere": 99}, "no such query": {"a": -7}}
    assert measure({"q": {"a": 1.0}}, {"q": "a"}, qrels, GRADES).means["nDCG@10"] == 1.0


def test_a_query_without_any_judgement_is_all_unjudged() -> None:
    measured = measure({"q": {"a": 1.0, "b": 0.0}}, {"q": "ab"}, {}, GRADES)
    assert (measured.unjudged, measured.without_gain, measured.without_relevant) == (2, 1, 1)
    assert set(measured.means.values()) == {0.0}
    assert {(floor.mean, floor.deviation) for floor in random_floor({"q": "ab"}, {}, GRADES).values()} == {(0.0, 0.0)}


def test_where_all_grades_are_relevant_the_unjudged_are_not() -> None:
    measured = measure({"q": {"a": 1.0, "b": 2.0}}, {"q": "ab"}, {"q": {"a": 0}}, GRADES, relevant=0)
    assert (measured.means["MRR"], measured.without_relevant, measured.without_gain) == (1 / 2, 0, 1)


def test_one_query_of_many_candidates() -> None:
    ids = [f"d{i}" for i in range(5000)]
    qrels = {"q": dict.fromkeys(ids[:2000], 3)}
    run = {"q": {key: -float(i) for i, key in enumerate(ids)}}
    assert measure(run, {"q": ids}, qrels, GRADES).means["MAP"] == pytest.approx(1.0)
    floor = random_floor({"q": ids}, qrels, GRADES)
    share = 2000 / 5000
    # close to draws with replacement: E[1 / rank] of a geometric distribution
    assert floor["MRR"].mean == pytest.approx(-share * math.log(share) / (1 - share), rel=1e-3)


def test_fewer_candidates_than_the_depth() -> None:
    measured = measure({"q": {"a": 1.0}}, {"q": "a"}, {"q": {"a": 3}}, GRADES)
    assert measured.means == dict.fromkeys(METRICS, 1.0) | {"P@10": 1 / 10}


def test_extreme_gains_and_grades_are_exact() -> None:
    grades = {0: Grade("", 0.0), 1: Grade("", 1e-100), 1000: Grade("", 1e100)}
    run, candidates = {"q": {"a": 3.0, "b": 2.0, "c": 1.0}}, {"q": "abc"}
    means = measure(run, candidates, {"q": {"a": 1, "c": 1000}}, grades).means
    assert means["nDCG@10"] == pytest.approx(1 / math.log2(3 + 1), abs=1e-12)
    assert means["nDCG-exponential@10"] == pytest.approx(1 / math.log2(3 + 1), abs=1e-12)
    floor = random_floor(candidates, {"q": {"a": 1, "c": 1000}}, grades)
    assert floor["nDCG-exponential@10"].mean == pytest.approx((1 + 1 / math.log2(3) + 1 / 2) / 3)


@st.composite
def tied_runs(draw: st.DrawFn) -> Any:
    run, candidates, qrels = {}, {}, {}
    for i in range(draw(st.integers(1, 4))):
        ids = draw(st.lists(st.text("ab€1", min_size=1, max_size=3), min_size=1, max_size=12, unique=True))
        run[f"q{i}"] = {key: float(draw(st.integers(0, 3))) for key in ids}
        candidates[f"q{i}"] = ids
        qrels[f"q{i}"] = {key: draw(st.integers(0, 3)) for key in ids if draw(st.booleans())}
    return run, candidates, qrels


@settings(max_examples=60, deadline=None)
@given(tied_runs())
def test_agrees_with_the_reference_and_ir_measures(data: Any) -> None:
    import ir_measures
    from ir_measures import AP, RR, P, R, nDCG

    run, candidates, qrels = data
    measured = measure(run, candidates, qrels, GRADES, k=3, cutoffs=(5,), relevant=2)
    for query, scores in run.items():
        order = sorted(sorted(scores, reverse=True), key=lambda key: -scores[key])
        expected = reference(order, qrels[query], GRADES, 3, 2)
        expected |= {f"nDCG@{depth}": reference_ndcg(order, qrels[query], GRADES, depth) for depth in (3, 5)}
        found = {name: values[query] for name, values in measured.per_query.items()}
        assert found == pytest.approx(expected, abs=1e-9)
    # a query needs a judgement to be in its answer
    judged = {query: {key: qrels[query].get(key, 0) for key in ids} for query, ids in candidates.items()}
    gains = {0: 0, 1: 1, 2: 3, 3: 7}
    theirs = {
        "nDCG@3": nDCG(gains=gains) @ 3,
        "nDCG@5": nDCG(gains=gains) @ 5,
        "nDCG-exponential@3": nDCG(gains=gains) @ 3,
        "nDCG-linear@3": nDCG @ 3,
        "MRR": RR(rel=2),
        "MAP": AP(rel=2),
        "P@3": P(rel=2) @ 3,
        "R@3": R(rel=2) @ 3,
    }
    provider = ir_measures.providers.registry["pytrec_eval"]
    for name, metric in theirs.items():
        values = {value.query_id: value.value for value in provider.iter_calc([metric], judged, run)}
        assert measured.per_query[name] == pytest.approx(values, abs=1e-9), name


@settings(max_examples=30, deadline=None)
@given(tied_runs(), st.randoms(use_true_random=False))
def test_the_order_of_anything_given_changes_nothing(data: Any, rng: Any) -> None:
    def shuffled(table: Any) -> Any:
        return dict(rng.sample(list(table.items()), len(table)))

    run, candidates, qrels = data
    one = measure(run, candidates, qrels, GRADES)
    mixed = shuffled({query: shuffled(scores) for query, scores in run.items()})
    again = measure(mixed, shuffled(candidates), shuffled(qrels), GRADES)
    assert again.means == one.means
    assert again == one


def test_many_queries_are_measured_in_time_and_as_a_few_are() -> None:
    rng = random.Random(0)
    run = {f"q{i}": {f"d{i}-{j}": rng.random() for j in range(rng.choice((1, 99, 100)))} for i in range(3000)}
    qrels = {query: {key: rng.randrange(4) for key in scores} for query, scores in run.items()}
    few = {query: run[query] for query in list(run)[:30]}
    small = measure(few, few, qrels, GRADES)
    started = time.monotonic()
    whole = measure(run, run, qrels, GRADES)
    random_floor(run, qrels, GRADES)
    assert time.monotonic() - started < 60
    for name, values in small.per_query.items():
        assert values == {query: whole.per_query[name][query] for query in few}


def test_a_million_judgements_of_other_listings_cost_nothing() -> None:
    qrels = {f"q{i}": {f"d{j}": j % 4 for j in range(10_000)} for i in range(100)}
    candidates = {query: [f"d{j}" for j in range(20)] for query in qrels}
    run = {query: {key: float(len(key)) for key in ids} for query, ids in candidates.items()}
    measure({"q0": run["q0"]}, {"q0": candidates["q0"]}, qrels, GRADES)
    started = time.monotonic()
    assert measure(run, candidates, qrels, GRADES).unjudged == 0
    assert time.monotonic() - started < 5


def test_align_completes_a_run_from_elsewhere_and_counts() -> None:
    candidates = {"q": ["c", "a", "b"], "r": ["b", "a"], "s": ["x", "a"]}
    foreign = {"q": {"b": 1.0, "x": 9.0, "a": 1.0}, "s": {"a": -1.0, "x": -2.0}, "t": {"a": 1.0}}
    run, counts = align(foreign, candidates)
    assert run == {"q": {"b": 3.0, "a": 2.0, "c": 1.0}, "r": {"b": 2.0, "a": 1.0}, "s": {"a": 2.0, "x": 1.0}}
    assert [list(scores) for scores in run.values()] == [["b", "a", "c"], ["b", "a"], ["a", "x"]]
    assert counts == {"unknown_queries": 1, "missing_queries": 1, "unknown_listings": 1, "missing_listings": 1}
    assert measure(run, candidates, {}, GRADES).queries == 3


def test_align_leaves_a_complete_run_its_order() -> None:
    run, counts = align({"q": {"b": 7.0, "a": 5.5}}, {"q": ["a", "b"]})
    assert list(run["q"]) == ["b", "a"]
    assert set(counts.values()) == {0}


@pytest.mark.parametrize(
    ("run", "words"),
    [
        ({}, "no query of this dataset's; the run's queries are such as none, the dataset's 'q'"),
        ({"Q1": {"a": 1.0}}, "the run's queries are such as 'Q1', the dataset's 'q'"),
        (
            {"q": {"z": 1.0}},
            "none of the candidates; its listings for query 'q' are such as 'z', the candidates 'a', 'b'",
        ),
        ({"q": {"a": math.nan}}, "not a finite number"),
    ],
)
def test_align_refuses_what_has_nothing_in_common(run: Any, words: str) -> None:
    with pytest.raises(InputError, match=words):
        align(run, {"q": ["b", "a"]})


def test_a_run_file_with_a_repeated_listing_or_nan_is_refused(tmp_path: Path) -> None:
    for line in ("q Q0 a 2 1.0 x", "q Q0 b 2 nan x"):
        (tmp_path / "run.trec").write_text(f"q Q0 a 1 2.0 x\n{line}\n")
        with pytest.raises(DataFormatError, match=r"run\.trec:2"):
            read_run(tmp_path / "run.trec")


def test_a_run_without_ties_is_worth_the_same_after_a_file(tmp_path: Path) -> None:
    rng = random.Random(3)
    run = {"q": {f"d{i}": rng.random() for i in range(20)}}
    qrels = {"q": {key: rng.randrange(4) for key in run["q"]}}
    write_run(tmp_path / "run.trec", run)
    assert measure(read_run(tmp_path / "run.trec"), run, qrels, GRADES) == measure(run, run, qrels, GRADES)


def test_random_floor_is_what_all_orders_come_to() -> None:
    candidates = {"q": "abcdef", "r": "a", "s": "abc"}
    qrels = {"q": {"a": 3, "b": 1, "c": 2, "d": 0, "e": 3}, "r": {"a": 2}, "s": {"b": 1}}
    floor = random_floor(candidates, qrels, GRADES, k=2, cutoffs=(4,))
    values: dict[str, dict[str, list[float]]] = {name: {} for name in floor}
    for query, ids in candidates.items():
        orders = {str(i): order for i, order in enumerate(permutations(ids))}
        run = {i: {key: -float(rank) for rank, key in enumerate(order)} for i, order in orders.items()}
        measured = measure(run, orders, dict.fromkeys(orders, qrels[query]), GRADES, k=2, cutoffs=(4,))
        for name in floor:
            values[name][query] = list(measured.per_query[name].values())
    for name, one in floor.items():
        mean = statistics.fmean(statistics.fmean(column) for column in values[name].values())
        variance = sum(statistics.pvariance(column) for column in values[name].values()) / len(candidates) ** 2
        assert one.mean == pytest.approx(mean, abs=1e-12), name
        assert one.deviation == pytest.approx(math.sqrt(variance), abs=1e-9), name


@pytest.mark.parametrize(("n", "relevant"), [(1, 1), (20, 1), (20, 7), (20, 20), (100, 30)])
def test_random_floor_of_average_precision_has_the_closed_form(n: int, relevant: int) -> None:
    ids = [f"d{i}" for i in range(n)]
    floor = random_floor({"q": ids}, {"q": dict.fromkeys(ids[:relevant], 3)}, GRADES)
    harmonic = sum(1 / i for i in range(1, n + 1))
    expected = (harmonic + (relevant - 1) / max(n - 1, 1) * (n - harmonic)) / n
    assert floor["MAP"].mean == pytest.approx(expected, abs=1e-12)


def test_random_floor_of_two() -> None:
    floor = random_floor({"q": "ab"}, {"q": {"a": 3, "b": 0}}, GRADES)
    assert floor["MRR"].mean == pytest.approx((1 + 1 / 2) / 2)
    assert floor["MRR"].deviation == pytest.approx((1 - 1 / 2) / 2)
    assert floor["nDCG@10"].mean == pytest.approx((1 + 1 / math.log2(3)) / 2)
    assert floor["nDCG@10"].deviation == pytest.approx((1 - 1 / math.log2(3)) / 2)


def test_random_floor_needs_a_query() -> None:
    with pytest.raises(InputError, match="no query"):
        random_floor({}, {}, GRADES)


@pytest.mark.parametrize("values", [[1.0, 1.0, 2.0, 1.0], [0.0, 0.0, 0.0, -0.0], [1e300, 1e300, 1e300, 0.0]])
def test_a_run_of_scores_falls_strictly_and_equal_ones_stand_as_they_came(values: list[float]) -> None:
    ids = ["b", "a", "d", "c"]
    request = Request(Query("x", "q"), tuple(Candidate(Listing(key, "t")) for key in ids))
    ranked = run_of([request], [values])["q"]
    assert list(ranked) == [key for _, key in sorted(zip(values, ids, strict=True), key=lambda pair: -pair[0])]
    assert best_first(ranked) == list(ranked)  # whatever breaks ties
    kept = np.array(list(ranked.values()), dtype=np.float32)
    assert (np.diff(kept) < 0).all()
    if max(values) < 1e38:
        assert kept.tolist() == pytest.approx(sorted(values, reverse=True), rel=1e-6, abs=1e-37)


@given(st.lists(st.floats(-1e9, 1e9, width=32), min_size=1, max_size=30))
@settings(max_examples=50, deadline=None)
def test_equal_scores_are_measured_as_other_tools_measure_the_written_run(values: list[float]) -> None:
    import ir_measures
    from ir_measures import nDCG

    scores = [round(value, -8) for value in values]  # many are equal
    ids = [f"d{(7 * i) % 31}" for i in range(len(scores))]
    request = Request(Query("x", "q"), tuple(Candidate(Listing(key, "t")) for key in ids))
    qrels = {"q": {key: i % 4 for i, key in enumerate(ids)}}
    measured = measure(run_of([request], [scores]), {"q": ids}, qrels, GRADES)
    with tempfile.TemporaryDirectory() as folder:
        write_run(Path(folder) / "run.trec", run_of([request], [scores]))
        read_trec_run: Any = ir_measures.read_trec_run  # which has no types
        read = list(read_trec_run(str(Path(folder) / "run.trec")))
    judged = [ir_measures.Qrel("q", key, grade) for key, grade in qrels["q"].items()]
    found = ir_measures.calc_aggregate([nDCG @ 10], judged, read)
    assert measured.means["nDCG-linear@10"] == pytest.approx(found[nDCG @ 10], abs=1e-9)
