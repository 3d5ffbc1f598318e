from typing import Any

import pytest

from eval.slices import slices
from genrank.data.dataset import DatasetQuery
from genrank.types import Interaction, Listing, Query

HISTORY = (Interaction("click", Listing("h", "A thing")),)


def query(query_id: str, text: str = "shoe", frequency: int | None = None, history: Any = ()) -> DatasetQuery:
    return DatasetQuery(Query(text, query_id), "test", history, frequency=frequency)


def test_length_by_words() -> None:
    texts = ["a red shoe", "shoe", "!!!", "a red and blue shoe", "red shoe", "one two three four"]
    groups = slices([query(str(i), text) for i, text in enumerate(texts)])["query length"]
    expected = {"no word": ["2"], "1 word": ["1"], "2 words": ["4"], "3 words": ["0"], "4 or more words": ["3", "5"]}
    assert groups == expected
    assert list(groups) == list(expected)


def test_words_are_counted_in_any_script() -> None:
    texts = ["दादी", "दादा दादी", "🎁", "C++ 🎁"]
    groups = slices([query(str(i), text) for i, text in enumerate(texts)])["query length"]
    assert groups == {"1 word": ["0", "2"], "2 words": ["1", "3"]}


@pytest.mark.parametrize(
    ("text", "script"),
    [
        ("red shoe", "latin"),
        ("ｒｅｄ café 42", "latin"),
        ("连衣裙", "han"),
        ("iphone 手机壳", "han"),
        ("ワンピース", "kana"),
        ("夏のワンピース", "kana"),
        ("ﾜﾝﾋﾟｰｽ", "kana"),
        ("чехол", "other"),
        ("чехол iphone", "other"),
        ("501", "other"),
        ("👗", "other"),
    ],
)
def test_script(text: str, script: str) -> None:
    assert slices([query("q", text)])["script"] == {script: ["q"]}


def test_history_is_kept_with_one_group_and_length_is_not() -> None:
    assert slices([query("q"), query("r")]) == {"script": {"latin": ["q", "r"]}, "history": {"without": ["q", "r"]}}
    groups = slices([query("q"), query("r", history=HISTORY)])
    assert groups["history"] == {"with": ["r"], "without": ["q"]}


@pytest.mark.parametrize(
    ("frequencies", "head"),
    [
        ({"a": 1, "b": 6, "c": 3, "d": 1}, ["b"]),
        ({"a": 2, "b": 4, "c": 3}, ["b", "c"]),
        ({"a": 5, "b": 5, "c": 1}, ["a", "b"]),
        ({"a": 2, "b": 2, "c": 3, "d": 2, "e": 2}, ["a", "b", "c"]),
        ({"a": 5, "b": 4, "c": None}, ["a"]),
    ],
)
def test_head_makes_half_of_the_traffic(frequencies: Any, head: Any) -> None:
    groups = slices([query(key, frequency=value) for key, value in frequencies.items()])["frequency"]
    assert groups["head"] == head
    known = {key for key, value in frequencies.items() if value is not None}
    assert set(groups["tail"]) == known - set(head)
    total = sum(frequencies[key] for key in known)
    least = min(head, key=lambda key: frequencies[key])
    assert sum(frequencies[key] for key in head) >= total / 2
    assert sum(frequencies[key] for key in head if key != least) < total / 2


@pytest.mark.parametrize("frequencies", [(None, None), (3, 3), (3, None), ()])
def test_frequency_says_nothing_where_unknown_or_all_the_same(frequencies: Any) -> None:
    assert "frequency" not in slices([query(str(i), frequency=value) for i, value in enumerate(frequencies)])


def test_no_query_no_slice() -> None:
    assert slices([]) == {}


def test_every_query_is_in_one_group_of_each_slice() -> None:
    queries = [
        query(str(i), "! " + "x " * (i % 6), frequency=i + 1, history=HISTORY if i % 2 else ()) for i in range(1, 30)
    ]
    for groups in slices(queries).values():
        ids = [key for group in groups.values() for key in group]
        assert sorted(ids) == sorted(one.query.query_id for one in queries)
