import json
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from eval.sets import amazon_user_history
from eval.sets.histories import NEGATIVES, moment
from genrank.data.dataset import Dataset
from genrank.errors import DataFormatError

FILES = ("training", "validation", "test")


def review(asin: str, time: int, rating: float = 4.0, **product: Any) -> dict[str, Any]:
    known = {"title": f"Item {asin}", "brand": None, "price": 2.5, "main_category": "All Beauty"}
    return {"parent_asin": asin, "rating": rating, "timestamp_ms": time, "product": known | product, "review_full": "x"}


def row(user: str, category: str, *times: tuple[str, int]) -> dict[str, Any]:
    *history, heldout = (review(asin, time) for asin, time in times)
    return {"user_id": user, "category": category, "history": history, "heldout": heldout}


def write(folder: Path, *files: Iterable[Any]) -> Path:
    folder.mkdir(exist_ok=True)
    filler = row("filler", "Fillers", ("f1", 1), ("f2", 2))
    for i, name in enumerate(FILES):
        rows = list(files[i]) if i < len(files) else [filler | {"user_id": name}]
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows), encoding="utf-8")
    return folder


def past(dataset: Dataset, query_id: str) -> list[str]:
    (query,) = (query for query in dataset.queries if query.query.query_id == query_id)
    return [event.listing.listing_id for event in query.history]


def test_histories_cross_categories_and_files_but_not_the_query(tmp_path: Path) -> None:
    folder = write(
        tmp_path / "a",
        [row("u", "All_Beauty", ("b1", 10), ("b2", 30), ("b3", 50)), row("v", "All_Beauty", ("b4", 1), ("b5", 2))],
        [row("u", "Gift_Cards", ("g1", 20), ("g2", 40)), row("v", "Gift_Cards", ("g3", 50), ("g4", 60))],
        [row("u", "Software", ("b1", 10), ("s2", 50)), row("w", "Software", ("s3", 3))],
    )
    notes: Counter[str] = Counter()
    dataset = amazon_user_history.read(folder, notes)
    assert past(dataset, "u-All_Beauty") == ["b1", "g1", "b2", "g2"]
    assert past(dataset, "u-Gift_Cards") == ["b1", "g1", "b2"]
    assert past(dataset, "u-Software") == ["b1", "g1", "b2", "g2"]
    assert past(dataset, "w-Software") == []
    # u-All_Beauty: s2 at 50; u-Gift_Cards: b3 and s2; u-Software: b3; v-All_Beauty: g3 and g4
    assert notes["interactions_not_before_the_query"] == 6
    assert notes["repeated_interactions"] == 3  # b1 at 10 stands in two files
    query = dataset.queries[0]
    assert (query.query.text, query.time) == ("All Beauty", moment(50))
    assert [(event.event, event.rating, event.time) for event in query.history][:1] == [("rating", 4.0, moment(10))]
    assert len({q.split for q in dataset.queries if q.query.query_id.startswith("u-")}) == 1
    dataset.save(tmp_path / "out")
    assert Dataset.load(tmp_path / "out") == dataset


def test_candidates_are_the_target_and_others_items_of_the_category(tmp_path: Path) -> None:
    rows = [row(f"u{i}", "All_Beauty", *((f"a{i}-{j}", j) for j in range(5))) for i in range(8)]
    notes: Counter[str] = Counter()
    dataset = amazon_user_history.read(write(tmp_path / "a", rows, [row("w", "Kindle_Store", ("k", 1))]), notes)
    assert dataset.first_stage == "random"
    for query in dataset.queries[:8]:
        query_id = query.query.query_id
        candidates = list(dataset.candidates[query_id])
        user = query_id.partition("-")[0][1:]
        assert len(candidates) == NEGATIVES + 1
        assert [item for item in candidates if item.startswith(f"a{user}-")] == [f"a{user}-4"]
        assert dataset.qrels[query_id] == {f"a{user}-4": 1}
    places = {list(dataset.candidates[f"u{i}-All_Beauty"]).index(f"a{i}-4") for i in range(8)}
    assert len(places) > 1
    assert "w-Kindle_Store" not in dataset.qrels
    assert notes["queries_without_other_candidates"] == 2  # w's, and the filler's of the third file
    assert notes["queries_with_fewer_candidates"] == 0
    again = amazon_user_history.read(tmp_path / "a", Counter(), seed=1)
    assert again.candidates != dataset.candidates


def test_listings(tmp_path: Path) -> None:
    odd = row("u", "All_Beauty", ("b1", 1), ("b2", 2))
    odd["heldout"] = review("b2", 2, title=None, price=None, main_category=None, brand="Acme")
    notes: Counter[str] = Counter()
    dataset = amazon_user_history.read(write(tmp_path / "a", [odd]), notes)
    full, bare = dataset.listings["b1"], dataset.listings["b2"]
    assert full.price is not None
    assert (full.title, full.price.amount, full.category) == ("Item b1", 2.5, ("All Beauty",))
    assert (bare.title, bare.price, bare.category, bare.brand) == ("b2", None, (), "Acme")
    assert notes["listings_without_title"] == 1
    assert not any(x.reviews or x.rating is not None or x.rating_count is not None for x in dataset.listings.values())


TIMES = st.integers(0, 12)
ROWS = st.lists(
    st.tuples(
        st.sampled_from("uvw"),
        st.sampled_from(("All_Beauty", "Gift_Cards", "Software")),
        st.integers(0, 2),
        st.lists(st.tuples(st.sampled_from([f"i{n}" for n in range(9)]), TIMES), min_size=1, max_size=5),
    ),
    min_size=1,
    max_size=9,
    unique_by=lambda one: one[:2],
)


@settings(deadline=None, max_examples=50)
@given(ROWS)
def test_no_history_holds_what_came_at_or_after_the_query(rows: list[Any]) -> None:
    files: list[list[Any]] = [[], [], []]
    for i, (user, category, file, times) in enumerate(rows):
        files[(file + i) % 3].append(row(user, category, *times))
    for i, file in enumerate(files):
        file.append(row(f"filler{i}", "Fillers", (f"f{i}", 1)))
    with TemporaryDirectory() as folder:
        dataset = amazon_user_history.read(write(Path(folder), *files), Counter())
    splits: dict[str, set[str]] = {}
    raw = {
        user: {(asin, time) for who, _, _, times in rows if who == user for asin, time in times} for user, *_ in rows
    }
    for query in dataset.queries:
        user = query.query.query_id.partition("-")[0]
        splits.setdefault(user, set()).add(query.split)
        if user not in raw:
            continue
        assert query.time is not None
        expected = {(asin, moment(time)) for asin, time in raw[user] if moment(time) < query.time}
        assert {(event.listing.listing_id, event.time) for event in query.history} == expected
        assert len(query.history) == len(expected)
        times = [event.time for event in query.history if event.time]
        assert times == sorted(times)
    assert all(len(names) == 1 for names in splits.values())


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"heldout": None}, r"training\.jsonl:2: .*found heldout: "),
        ({"history": [{}]}, r"training\.jsonl:2: .*found history\[0\]\.parent_asin: Field required"),
        ({"history": [review("a", -1)]}, r"training\.jsonl:2: .*found history\[0\]\.timestamp_ms: "),
        ({"history": [review("a", 1, 6.0)]}, r"training\.jsonl:2: .*found history\[0\]\.rating: "),
        ({"history": [review("a", 1, price=-1)]}, r"training\.jsonl:2: expected a user's reviews, found amount: "),
        ({"history": [review("a a", 1)]}, r"training\.jsonl:2: .*white space"),
        ({"category": "All Beauty"}, r"training\.jsonl:2: .*found category: .*white space"),
        ({"category": "_"}, r"training\.jsonl:2: expected a user's reviews, found text: "),
        ({"user_id": "u"}, r"training\.jsonl:2: expected each user once in a category"),
    ],
)
def test_wrong_files(tmp_path: Path, changed: dict[str, Any], words: str) -> None:
    rows = [row("u", "All_Beauty", ("b1", 1), ("b2", 2)), row("v", "All_Beauty", ("b3", 1), ("b4", 2)) | changed]
    with pytest.raises(DataFormatError, match=words):
        amazon_user_history.read(write(tmp_path / "a", rows), Counter())


def test_needs_all_three_files(tmp_path: Path) -> None:
    with pytest.raises(DataFormatError, match="no folder"):
        amazon_user_history.read(tmp_path / "none", Counter())
    (write(tmp_path / "a") / "validation.jsonl").unlink()
    with pytest.raises(DataFormatError, match=r"validation\.jsonl"):
        amazon_user_history.read(tmp_path / "a", Counter())
