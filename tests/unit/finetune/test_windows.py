from __future__ import annotations

import dataclasses
import math
import random
from collections.abc import Iterator
from typing import Any

import pytest

from finetune.windows import TrainingWindow, WindowOptions, check_splits, draw_windows, drop_leaks, noisy, without
from genrank.data.dataset import Dataset, DatasetQuery, Grade, sample_shop
from genrank.errors import InputError
from genrank.types import Intent, Interaction, Listing, Price, Query


def shop(**changes: Any) -> Dataset:
    """Two train queries and one of test: of 30 listings l0 .. l9 are judged for q1, and l10, l11 for q2."""
    listings = {f"l{i}": Listing(f"l{i}", f"thing {i}", brand="Lux") for i in range(30)}
    queries = [
        DatasetQuery(
            Query("Red Lamps", "q1"), "train", tuple(Interaction("view", listings[f"l{i}"]) for i in range(3))
        ),
        DatasetQuery(Query("oil", "q2"), "train"),
        DatasetQuery(Query("desk", "q3"), "test"),
    ]
    qrels = {
        "q1": {f"l{i}": i % 3 for i in range(10)},
        "q2": {"l10": 1, "l11": 1},
        "q3": {"l12": 0, "l13": 2},
    }
    run = {"q1": {f"l{i}": float(30 - i) for i in range(20)}}
    grades = {grade: Grade(str(grade), 2.0**grade - 1) for grade in range(3)}
    made = Dataset("shop", "made here", grades, listings, queries, qrels, run, "bm25")
    return dataclasses.replace(made, **changes)


def drawn(options: WindowOptions, seed: int = 0, **changes: Any) -> list[TrainingWindow]:
    return list(draw_windows(shop(**changes), "train", options, seed))


def ids(window: TrainingWindow) -> list[str]:
    return [candidate.listing.listing_id for candidate in window.candidates]


def many(**options: Any) -> Iterator[TrainingWindow]:
    yield from drawn(WindowOptions(per_query=50, **options))


def test_a_window_holds_judged_listings_with_their_gains_and_no_listing_twice() -> None:
    sizes = set()
    for window in many(least=3, most=8):
        sizes.add(len(window.candidates))
        assert len(set(ids(window))) == len(window.candidates) == len(window.gains)
        assert dict(zip(ids(window), window.gains, strict=True)) == {
            key: 2.0 ** (int(key[1:]) % 3) - 1 for key in ids(window)
        }
        assert len(set(window.gains)) > 1
    assert sizes == {3, 4, 5, 6, 7, 8}


def test_a_teachers_labels_are_what_a_first_stage_would_say() -> None:
    grades = {grade: Grade(str(grade), grade / 2) for grade in range(3)}
    for window in drawn(WindowOptions(least=4, most=4), grades=grades, first_stage="distill"):
        scores = [candidate.score for candidate in window.candidates]
        odds = {0.0: math.log(0.005 / 0.995), 0.5: 0.0, 1.0: math.log(0.995 / 0.005)}
        assert scores == pytest.approx([odds[gain] for gain in window.gains])
    assert all(candidate.score is None for window in many() for candidate in window.candidates)


def test_a_random_history_is_of_other_listings_and_only_where_there_is_none() -> None:
    queries = [dataclasses.replace(query, history=()) for query in shop().queries]
    lengths = set()
    for window in drawn(WindowOptions(per_query=50, random_history=0.5), queries=queries):
        seen = {interaction.listing.listing_id for interaction in window.history}
        lengths.add(len(seen))
        assert not seen & set(ids(window))
    assert lengths == {0, 1, 2, 3, 4}
    assert {len(window.history) for window in many(random_history=1.0)} == {3}
    assert not any(window.history for window in many(random_history=1.0, drop_history=1.0))
    one, other = (next(many(random_history=chance)) for chance in (0.0, 1.0))
    assert (one.candidates, one.gains) == (other.candidates, other.gains)


def test_the_best_come_first_in_as_many_windows_as_asked_for() -> None:
    def sorted_ones(**options: Any) -> list[bool]:
        windows = many(least=6, most=8, **options)
        return [list(window.gains) == sorted(window.gains, reverse=True) for window in windows]

    assert all(sorted_ones(best_first=1.0))
    some, none = sum(sorted_ones(best_first=0.5)), sum(sorted_ones())
    assert none < some < len(sorted_ones())


def test_a_query_without_a_preference_gives_no_window() -> None:
    assert {window.query.query_id for window in many()} == {"q1"}
    with_others = {window.query.query_id for window in many(random_negatives=3)}
    assert with_others == {"q1", "q2"}


def test_negatives_are_unjudged_and_worth_nothing() -> None:
    hard: set[str] = set()
    others: set[str] = set()
    for window in many(least=12, most=12, hard_negatives=4, random_negatives=2):
        assert len(window.candidates) <= 12
        for key, gain in zip(ids(window), window.gains, strict=True):
            number = int(key[1:])
            judged = number < 10 if window.query.query_id == "q1" else number in (10, 11)
            assert judged or gain == 0
            if window.query.query_id == "q1" and not judged:
                (hard if number < 20 else others).add(key)
    assert len(hard) > 5
    assert len(others) > 5


def test_a_window_with_too_few_judged_listings_is_filled_up_with_hard_negatives_first() -> None:
    def of_one_judged(hard: int, others: int) -> list[TrainingWindow]:
        options = WindowOptions(per_query=50, least=12, most=16, hard_negatives=hard, random_negatives=others)
        return drawn(options, qrels={"q1": {"l0": 1}})

    for window in of_one_judged(9, 9):
        assert 12 <= len(set(ids(window))) == len(window.candidates) <= 16
        assert sum(window.gains) == 1
    for window in of_one_judged(11, 1):
        assert sum(int(key[1:]) < 20 for key in ids(window)) >= 11  # with the judged one and a random one at most
    assert {len(window.candidates) for window in of_one_judged(2, 0)} == {3}


def test_the_same_seed_draws_the_same_and_a_query_more_changes_no_other() -> None:
    options = WindowOptions(per_query=3, random_negatives=5, drop_fields=0.5, query_noise=1.0)
    assert drawn(options) == drawn(options)
    assert drawn(options) != drawn(options, seed=1)
    only = [query for query in shop().queries if query.query.query_id != "q2"]
    assert [w for w in drawn(options) if w.query.query_id == "q1"] == drawn(options, queries=only)


def test_candidates_stand_in_random_order_or_in_the_first_stages() -> None:
    places = [int(key[1:]) for key in ids(next(many(least=10, most=10)))]
    assert places != sorted(places)
    for window in many(least=10, most=10, shuffle=False, hard_negatives=3):
        places = [int(key[1:]) for key in ids(window)]
        assert places == sorted(places)


def test_augmentations_can_be_switched_on_one_by_one() -> None:
    plain = list(many())
    assert all(c.listing.brand == "Lux" for w in plain for c in w.candidates)
    assert all(w.query.text == "Red Lamps" and len(w.history) == 3 for w in plain)
    assert all(not c.listing.brand and c.listing.title for w in many(drop_fields=1.0) for c in w.candidates)
    assert all(not w.history for w in many(drop_history=1.0))
    cut = {tuple(i.listing.listing_id for i in w.history) for w in many(cut_history=1.0)}
    assert cut == {("l2",), ("l1", "l2"), ("l0", "l1", "l2")}
    assert {w.query.text for w in many(query_noise=1.0)} > {"red lamps", "RED LAMPS", "Lamps Red"}
    assert {w.query.query_id for w in many(query_noise=1.0)} == {"q1"}


def test_noise_on_a_query() -> None:
    found = {noisy("navy cotton dress", random.Random(i)) for i in range(300)}
    assert {"navy blue cotton dress", "NAVY COTTON DRESS", "navy cotton dresss"} & found
    assert {"navy coton dress", "dress cotton navy"} <= found
    assert all(noisy("连衣裙", random.Random(i)) == "连衣裙" for i in range(50))
    assert all(noisy(text, random.Random(i)) for text in ("a", "usb", "1/2") for i in range(50))


def test_a_listing_without_fields_keeps_its_title() -> None:
    listing = Listing("l1", "Lamp", brand="Lux", price=Price(3.0, "EUR"), attributes={"colour": "red"})
    assert without(listing, []) is listing
    assert without(listing, ["brand", "attributes", "price"]) == Listing("l1", "Lamp")


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("per_query", 0),
        ("least", 1),
        ("most", 1),
        ("hard_negatives", -1),
        ("random_negatives", -1),
        ("drop_fields", 1.1),
        ("query_noise", -0.1),
        ("drop_history", 2),
        ("cut_history", float("nan")),
        ("drop_intent", 1.5),
    ],
)
def test_wrong_options_are_named(option: str, value: float) -> None:
    with pytest.raises(InputError) as caught:
        WindowOptions(**{option: value})  # type: ignore[arg-type]
    assert caught.value.field == option
    assert str(value) in str(caught.value)


def test_a_query_that_is_learned_and_measured_is_an_error() -> None:
    check_splits([shop(), sample_shop()], "train", ["dev", "test"])
    same = DatasetQuery(Query("lamps, RED", "q9"), "test", shop().queries[0].history)
    leaking = shop(queries=[*shop().queries, same])
    with pytest.raises(InputError, match=r"query q9 of shop \(test\) is query q1 of the split train too: 'lamps, RED'"):
        check_splits([leaking], "train", ["test"])
    with pytest.raises(InputError, match="q9"):  # of another dataset
        check_splits([shop(), dataclasses.replace(leaking, queries=[same])], "train", ["dev", "test"])
    check_splits([leaking], "train", ["dev"])
    another = dataclasses.replace(same, history=())
    check_splits([shop(queries=[*shop().queries, another])], "train", ["test"])


def test_train_queries_that_are_measured_can_be_left_out() -> None:
    same = DatasetQuery(Query("lamps, RED", "q9"), "test", shop().queries[0].history)
    elsewhere = shop(queries=[same])
    kept, count = drop_leaks(shop(), [shop(), elsewhere], "train", ["dev", "test"])
    assert count == 1
    assert [query.query.query_id for query in kept.queries] == ["q2", "q3"]
    check_splits([kept, elsewhere], "train", ["dev", "test"])
    assert drop_leaks(shop(), [shop()], "train", ["dev", "test"]) == (shop(), 0)


@pytest.mark.parametrize(
    ("learned", "measured"),
    [
        ("🎁", "👟"),
        ("C++", "C#"),
        ("blood A+", "blood A-"),
        ("thermometer -5", "thermometer 5"),
        ("1½ inch", "11/2 inch"),
        ("👍🏿", "👍🏻"),
        (".NET", "net"),
        ("दादा", "दादी"),
        ("dừa", "dứa"),
        ("เสื้อแดง", "เสื้อดำ"),
        ("上海", "海上"),
        ("pipe 1/2", "pipe 2/1"),
        ("cable 3.5mm", "cable 5.3mm"),
        ("★", "♫"),
        ("?", "!"),
    ],
)
def test_queries_of_other_words_are_no_leak(learned: str, measured: str) -> None:
    queries = [DatasetQuery(Query(learned, "q1"), "train"), DatasetQuery(Query(measured, "q2"), "test")]
    check_splits([shop(queries=queries)], "train", ["test"])


@pytest.mark.parametrize(
    ("learned", "measured"),
    [
        ("🎁 red", "Red  🎁"),
        ("C++ book", "book: c++"),
        ("½ inch", "1/2 inch"),
        ("كتـاب", "كتاب"),
        ("dừa", "du\u031b\u0300a"),
        ("ＲＥＤ mug!", "mug, red"),
        ("❤", "❤\ufe0f"),
        ("★", " ★"),
        ("t-shirt", "T shirt"),
    ],
)
def test_the_same_words_are_a_leak(learned: str, measured: str) -> None:
    queries = [DatasetQuery(Query(learned, "q1"), "train"), DatasetQuery(Query(measured, "q2"), "test")]
    with pytest.raises(InputError, match="q2"):
        check_splits([shop(queries=queries)], "train", ["test"])


def test_a_window_carries_what_its_query_means() -> None:
    intent = Intent("red lamps", "en", "red lamps", most_price=9.0)
    queries = [dataclasses.replace(query, intent=intent) for query in shop().queries]
    carried = [window.intent for window in drawn(WindowOptions(), queries=queries)]
    assert carried
    assert all(one == intent for one in carried)
    assert not any(window.intent for window in drawn(WindowOptions(drop_intent=1.0), queries=queries))
    assert not any(window.intent for window in drawn(WindowOptions()))
