import gzip
import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from eval.sets import amazon_reviews
from eval.sets.histories import NEGATIVES, moment
from genrank.data.dataset import Dataset
from genrank.errors import DataFormatError, InputError

Row = tuple[str, str, int]  # user, item, milliseconds


def review(user: str, asin: str, time: int, rating: float = 5.0) -> dict[str, Any]:
    more = {"asin": f"{asin}-red", "title": "good", "text": "very", "images": [], "helpful_vote": 0}
    return {"user_id": user, "parent_asin": asin, "timestamp": time, "rating": rating, "verified_purchase": True} | more


def item(asin: str, *categories: str, **more: Any) -> dict[str, Any]:
    fields = {"title": f"Item {asin}", "main_category": "Toys", "average_rating": 4.9, "rating_number": 7, "store": "S"}
    return {"parent_asin": asin, "categories": list(categories)} | fields | more


def write(folder: Path, reviews: Sequence[Any], items: Sequence[Any], name: str = "Toys") -> Path:
    folder.mkdir(exist_ok=True)
    for stem, rows in ((name, reviews), (f"meta_{name}", items)):
        (folder / f"{stem}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return folder


def shop(folder: Path, rows: Sequence[Row]) -> Path:
    items = sorted({asin for _, asin, _ in rows})
    return write(folder, [review(*row) for row in rows], [item(asin, "Toys", "Dolls") for asin in items])


def test_the_last_review_is_the_query_and_the_older_ones_its_history(tmp_path: Path) -> None:
    rows = [("u", "c", 30), ("u", "a", 10), ("u", "b", 20), ("u", "a", 10), ("u", "d", 30)]
    rows += [("v", f"x{i}", i) for i in range(30)] + [("few", "y", 1)]
    notes: Counter[str] = Counter()
    dataset = amazon_reviews.read(shop(tmp_path / "a", rows), notes, min_interactions=3)
    query, other = dataset.queries
    assert (query.query.query_id, query.query.text, query.time) == ("user-u", "Dolls", moment(30))
    assert [(e.event, e.rating, e.listing.listing_id, e.time) for e in query.history] == [
        ("rating", 5.0, "a", moment(10)),
        ("rating", 5.0, "b", moment(20)),
    ]
    assert len(other.history) == 29
    assert dataset.qrels == {"user-u": {"d": 1}, "user-v": {"x29": 1}}
    assert len(dataset.candidates["user-u"]) == NEGATIVES + 1
    assert set(dataset.candidates["user-u"]) - {"d"} <= {f"x{i}" for i in range(30)}
    assert set(dataset.candidates["user-v"]) == {"a", "b", "c", "d", "x29"}
    assert "y" not in dataset.listings
    assert dataset.first_stage == "random"
    assert notes["interactions_not_before_the_query"] == 1  # c, of the same millisecond as d
    assert notes["repeated_reviews"] == 1
    assert notes["users_with_too_few_reviews"] == 1
    assert notes["queries_with_fewer_candidates"] == 1
    dataset.save(tmp_path / "out")
    assert Dataset.load(tmp_path / "out") == dataset


def test_a_user_with_too_few_different_reviews_is_left_out(tmp_path: Path) -> None:
    rows = [("u", "a", 1), ("u", "a", 1), ("v", "b", 1), ("v", "c", 2), ("w", "d", 1), ("w", "e", 2)]
    notes: Counter[str] = Counter()
    dataset = amazon_reviews.read(shop(tmp_path / "a", rows), notes, min_interactions=2)
    assert set(dataset.qrels) == {"user-v", "user-w"}
    assert notes["users_with_too_few_reviews"] == 1


def test_candidates_come_from_the_narrowest_category_first(tmp_path: Path) -> None:
    items = [item("t", "Toys", "Dolls"), item("h", "Toys", "Dolls")]
    items += [item(f"d{i}", "Toys", "Dolls") for i in range(4)] + [item(f"g{i}", "Toys", "Games") for i in range(40)]
    items += [item("z", "Books", "Dolls")]
    reviews = [review("u", "h", 1), review("u", "t", 2)]
    reviews += [review("v", one["parent_asin"], 5) for one in items[2:]]
    dataset = amazon_reviews.read(write(tmp_path / "a", reviews, items), Counter(), min_interactions=2)
    candidates = set(dataset.candidates["user-u"])
    assert {"t", "d0", "d1", "d2", "d3"} <= candidates
    assert len(candidates) == NEGATIVES + 1
    assert not candidates & {"h", "z"}


def test_users_and_items_over_several_files(tmp_path: Path) -> None:
    write(tmp_path / "a", [review("u", "a", 3), review("v", "c", 3)], [item("a", "Toys"), item("c", "Toys")])
    write(tmp_path / "a", [review("u", "b", 5), review("v", "d", 1)], [item("b"), item("d")], "Pet_Supplies")
    for path in (tmp_path / "a").glob("*Pet*"):
        path.with_name(f"{path.name}.gz").write_bytes(gzip.compress(path.read_bytes()))
        path.unlink()
    notes: Counter[str] = Counter()
    dataset = amazon_reviews.read(tmp_path / "a", notes, min_interactions=2)
    texts = {query.query.query_id: query.query.text for query in dataset.queries}
    assert texts == {"user-u": "Pet Supplies", "user-v": "Toys"}
    assert dataset.candidates["user-u"].keys() == {"b", "d"}


def test_listings(tmp_path: Path) -> None:
    items = [
        item("a", "Toys", " ", "Dolls", price="from 1,012.99", features=["<b>soft</b>"], description=["", "A doll."])
        | {"details": {"Brand": "Acme", "Colour": "red", "Best Sellers Rank": "#3 in Dolls", "Ranks": {"Toys": 3}}},
        item("b", price="None") | {"title": None, "categories": None, "store": None},
        item("c", "Toys", price=3.5),
    ]
    reviews = [review("u", asin, 1) for asin in "abcd"] + [review("v", "a", 1), review("v", "c", 2)]
    notes: Counter[str] = Counter()
    dataset = amazon_reviews.read(write(tmp_path / "a", reviews, items), notes, min_interactions=2)
    a, b, c, d = (dataset.listings[key] for key in "abcd")
    assert a.price is not None
    assert c.price is not None
    assert (a.price.amount, a.price.currency, c.price.amount) == (1012.99, "USD", 3.5)
    assert (a.category, a.description, a.brand) == (("Toys", "Dolls"), "soft\nA doll.", "Acme")
    assert a.attributes == {"Colour": "red"}
    assert (b.title, b.price, b.category, b.brand, c.brand) == ("b", None, ("Toys",), "", "S")
    assert (d.title, d.category) == ("d", ("Toys",))
    assert not any(x.rating is not None or x.rating_count is not None or x.reviews for x in (a, b, c, d))
    assert (notes["listings_without_title"], notes["listings_without_metadata"]) == (1, 1)


def test_a_sample_of_users_is_the_same_every_time(tmp_path: Path) -> None:
    rows = [(f"u{i}", f"i{i}-{j}", j) for i in range(30) for j in range(3)]
    folder = shop(tmp_path / "a", rows)

    def users(seed: int) -> set[str]:
        notes: Counter[str] = Counter()
        dataset = amazon_reviews.read(folder, notes, seed, min_interactions=3, max_users=7)
        assert notes["users_not_sampled"] == 23
        assert len(dataset.listings) == 21
        return {query.query.query_id for query in dataset.queries}

    assert len(users(0)) == 7
    assert users(0) == users(0) != users(1)


TIMES = st.integers(0, 9)
ROWS = st.lists(st.tuples(st.sampled_from("uvwxyz"), st.sampled_from([f"i{n}" for n in range(12)]), TIMES), max_size=60)


@settings(deadline=None, max_examples=50)
@given(ROWS, st.sampled_from(("user", "time")))
def test_no_history_holds_what_came_at_or_after_the_query(rows: list[Row], split_by: str) -> None:
    rows = [*rows, ("always", "i1", 1), ("always", "i2", 2)]
    with TemporaryDirectory() as folder:
        dataset = amazon_reviews.read(shop(Path(folder), rows), Counter(), min_interactions=2, split_by=split_by)
    ids = [query.query.query_id for query in dataset.queries]
    assert len(ids) == len(set(ids))  # one query a user: none is in two splits
    for query in dataset.queries:
        own = {(asin, time) for user, asin, time in rows if f"user-{user}" == query.query.query_id}
        last = max(time for _, time in own)
        assert query.time == moment(last)
        expected = {(asin, moment(time)) for asin, time in own if time < last}
        assert {(event.listing.listing_id, event.time) for event in query.history} == expected
        (target,) = dataset.qrels[query.query.query_id]
        assert {target} == dataset.candidates[query.query.query_id].keys() & {asin for asin, _ in own}
    if split_by == "time":
        order = [("train", "dev", "test").index(query.split) for query in dataset.queries]
        assert order == sorted(order)
        assert [query.time for query in dataset.queries] == sorted(q.time for q in dataset.queries if q.time)


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"rating": 9}, r"Toys\.jsonl:2: .*found rating: "),
        ({"timestamp": "soon"}, r"Toys\.jsonl:2: .*found timestamp: "),
        ({"user_id": "a b"}, r"Toys\.jsonl:2: .*found user_id: .*white space"),
        ({"parent_asin": None}, r"Toys\.jsonl:2: .*found parent_asin: "),
    ],
)
def test_wrong_reviews(tmp_path: Path, changed: dict[str, Any], words: str) -> None:
    reviews = [review("u", "a", 1), review("u", "b", 2) | changed]
    with pytest.raises(DataFormatError, match=words):
        amazon_reviews.read(write(tmp_path / "a", reviews, [item("a")]), Counter(), min_interactions=2)


def test_wrong_items_and_missing_columns(tmp_path: Path) -> None:
    reviews = [review("u", "a", 1), review("u", "b", 2)]
    for changed, words in (
        ({"price": -1.0}, r"meta_Toys\.jsonl:1: expected an item, found amount: "),
        ({"categories": "Toys"}, r"meta_Toys\.jsonl:1: .*found categories: "),
    ):
        with pytest.raises(DataFormatError, match=words):
            amazon_reviews.read(write(tmp_path / "a", reviews, [item("a") | changed]), Counter(), min_interactions=2)
    for column in ("user_id", "parent_asin", "timestamp", "rating"):
        row = {key: value for key, value in reviews[0].items() if key != column}
        with pytest.raises(DataFormatError, match=rf"Toys\.jsonl:1: .*found {column}: Field required"):
            amazon_reviews.read(write(tmp_path / "a", [row], [item("a")]), Counter())


def test_wrong_calls_and_folders(tmp_path: Path) -> None:
    with pytest.raises(DataFormatError, match="no folder"):
        amazon_reviews.read(tmp_path / "none", Counter())
    with pytest.raises(DataFormatError, match=r"no meta_CATEGORY\.jsonl in it"):
        amazon_reviews.read(tmp_path, Counter())
    folder = shop(tmp_path / "a", [("u", "a", 1), ("u", "b", 2)])
    with pytest.raises(DataFormatError, match="expected a user with 5 reviews, found none"):
        amazon_reviews.read(folder, Counter())
    with pytest.raises(InputError, match="min_interactions"):
        amazon_reviews.read(folder, Counter(), min_interactions=1)
    with pytest.raises(InputError, match="max_users"):
        amazon_reviews.read(folder, Counter(), max_users=0)
    with pytest.raises(InputError, match="split_by"):
        amazon_reviews.read(folder, Counter(), split_by="item")
    (folder / "Toys.jsonl").unlink()
    with pytest.raises(DataFormatError, match=r"Toys\.jsonl or Toys\.jsonl\.gz"):
        amazon_reviews.read(folder, Counter())
