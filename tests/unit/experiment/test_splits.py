from collections import Counter

from genrank.experiment.splits import digest, fraction, middle_grade, query_id, shuffled, split_of


def test_the_same_query_has_the_same_id() -> None:
    assert query_id("  Red Dress ") == query_id("red dress") != query_id("red  dress")
    assert query_id("Crème") == query_id("cre\u0300me") != query_id("creme")
    assert len(query_id("red dress")) == len("q-") + 16
    assert digest("ab", "c") != digest("a", "bc")


def test_splits_are_spread_as_said() -> None:
    splits = Counter(split_of(f"query {i}") for i in range(20000))
    assert 0.69 < splits["train"] / 20000 < 0.71
    assert 0.09 < splits["dev"] / 20000 < 0.11
    assert 0 <= min(fraction(f"{i}") for i in range(100)) <= max(fraction(f"{i}") for i in range(100)) < 1


def test_middle_grade() -> None:
    assert [middle_grade(grades) for grades in ([3], [2, 3], [3, 2], [0, 3, 3], [0, 1, 2, 3])] == [3, 2, 2, 3, 1]


def test_shuffled_keeps_all_and_falls() -> None:
    qrels = {"q": {f"d{i}": 0 for i in range(30)}, "r": {"d1": 1}}
    run = shuffled(qrels, 0)
    assert {query: set(scores) for query, scores in run.items()} == {query: set(ids) for query, ids in qrels.items()}
    assert list(run["q"].values()) == [float(n) for n in range(30, 0, -1)]
    assert list(run["q"]) not in (list(qrels["q"]), list(shuffled(qrels, 1)["q"]))


def test_the_order_knows_nothing_of_the_grades() -> None:
    one = {"q": {f"d{i}": i % 4 for i in range(30)}}
    other = {"q": {f"d{i}": 3 - i % 4 for i in reversed(range(30))}}
    assert list(shuffled(one)["q"]) == list(shuffled(other)["q"])
