from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from eval.retune.config import ReplaySettings
from eval.retune.mixing import mixed
from genrank.data.dataset import Dataset, DatasetQuery, Grade
from genrank.experiment.splits import query_identity
from genrank.types import Listing, Query


def dataset(name: str, texts: list[str], gain: float = 3.0, split: str = "train") -> Dataset:
    queries = [DatasetQuery(Query(text, f"{i}"), split) for i, text in enumerate(texts)]
    listings = {key: Listing(key, f"{name} {key}") for key in ("a", "b", "c")}
    qrels = {query.query.query_id: {"a": 0, "b": 1} for query in queries}
    candidates = {query.query.query_id: {"c": 9.0, "b": 5.0, "a": 1.0} for query in queries}
    return Dataset(name, "made up", {0: Grade("no", -1.0), 1: Grade("yes", gain)}, listings, queries, qrels, candidates)


def texts(made: Dataset) -> list[str]:
    return [query.query.text for query in made.queries]


def test_the_newest_of_equal_queries_is_taken_and_barred_ones_never() -> None:
    new = dataset("new", ["red dress", "held out", "blue dress"])
    old = [dataset("second", ["dress red", "green"]), dataset("first", ["green", "white"])]
    barred = {query_identity(query) for query in dataset("x", ["Held out!"]).queries}
    shares = ReplaySettings(round_share=0.5, original_share=0.0)
    made, counts = mixed(new, old, [], shares, barred)
    assert texts(made)[:2] == ["red dress", "blue dress"]
    assert sorted(texts(made)[2:]) == ["green", "white"]
    assert counts == {"feedback": 2, "rounds": 2, "originals": 0}
    assert made.listings["a"].title == "new a"


def test_gains_keep_their_order_and_candidates_theirs() -> None:
    made, _ = mixed(
        dataset("new", ["x"], gain=0.5),
        [],
        [dataset("old", ["y"], gain=7.0)],
        ReplaySettings(original_share=0.5, round_share=0.0),
    )
    assert len(made.queries) == 2
    for query in made.queries:
        query_id = query.query.query_id
        assert made.qrels[query_id] == {"a": 0, "b": 100}
        assert list(made.candidates[query_id]) == ["c", "b", "a"]
        assert made.request(query).candidates[0].listing.listing_id == "c"
    assert len({query.query.query_id for query in made.queries}) == 2
    assert made.grades[100].gain == 1.0


def test_only_train_queries_are_replayed() -> None:
    shares = ReplaySettings(original_share=0.5, round_share=0.0)
    made, counts = mixed(dataset("new", ["x"]), [], [dataset("old", ["y"], split="test")], shares)
    assert (texts(made), counts["originals"]) == (["x"], 0)


@settings(max_examples=60)
@given(
    st.integers(1, 30),
    st.integers(0, 60),
    st.integers(0, 60),
    st.floats(0, 0.49),
    st.floats(0, 0.49),
    st.integers(0, 9),
)
def test_shares(new: int, rounds: int, originals: int, round_share: float, original_share: float, seed: int) -> None:
    def named(name: str, count: int) -> Dataset:
        return dataset(name, [f"{name} {i}" for i in range(count)])

    shares = ReplaySettings(round_share=round_share, original_share=original_share)
    made, counts = mixed(named("n", new), [named("r", rounds)], [named("o", originals)], shares, seed=seed)
    assert counts["feedback"] == new
    whole = new / (1 - round_share - original_share)
    assert counts["rounds"] == min(rounds, round(whole * round_share))
    assert counts["originals"] == min(originals, round(whole * original_share))
    assert len(made.queries) == sum(counts.values())
    again, _ = mixed(named("n", new), [named("r", rounds)], [named("o", originals)], shares, seed=seed)
    assert texts(again) == texts(made)
