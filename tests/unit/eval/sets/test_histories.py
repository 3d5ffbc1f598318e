import gzip
import json
from collections import Counter
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import BaseModel

from eval.sets.histories import NEGATIVES, Milliseconds, before, moment, negatives, read_records, split_by_time
from genrank.data.dataset import DatasetQuery
from genrank.errors import DataFormatError
from genrank.types import Interaction, Listing, Query

NOON = datetime(2024, 5, 1, 12, tzinfo=UTC)


class Row(BaseModel):
    name: str
    at: Milliseconds


def event(listing_id: str, seconds: float) -> Interaction:
    return Interaction("click", Listing(listing_id, "lamp"), NOON + timedelta(seconds=seconds))


def test_before_keeps_what_is_strictly_older_once_and_in_order() -> None:
    notes: Counter[str] = Counter()
    unknown = Interaction("click", Listing("d", "lamp"))
    events = [event("a", -1), event("b", 0), event("c", 1), event("e", -5), event("a", -1), unknown]
    assert before(NOON, events, notes) == (event("e", -5), event("a", -1))
    assert notes == {"interactions_not_before_the_query": 3, "repeated_interactions": 1}


def test_negatives_take_the_next_pool_only_when_the_first_is_empty() -> None:
    near, far = [f"n{i}" for i in range(12)], [f"f{i}" for i in range(12)]
    drawn = negatives("q", [near, near + far], {"n0", "f0"}, 0)
    assert set(drawn[:11]) == set(near) - {"n0"}
    assert len(drawn) == len(set(drawn)) == NEGATIVES
    assert "f0" not in drawn
    assert drawn == negatives("q", [near, near + far], {"n0", "f0"}, 0)
    assert drawn != negatives("q", [near, near + far], {"n0", "f0"}, 1)
    assert drawn != negatives("r", [near, near + far], {"n0", "f0"}, 0)
    assert negatives("q", [["a"], []], {"a"}, 0) == []


def test_negatives_are_drawn_evenly() -> None:
    pool = [str(i) for i in range(4 * NEGATIVES)]
    counts = Counter(listing for i in range(400) for listing in negatives(f"q{i}", [pool], (), 0))
    assert set(counts) == set(pool)
    assert 60 < min(counts.values()) <= 100 <= max(counts.values()) < 145  # 400 / 4 expected, deviation 8.7


@settings(deadline=None, max_examples=50)
@given(st.lists(st.integers(0, 5), max_size=30))
def test_a_split_by_time_never_asks_train_after_test(times: list[int]) -> None:
    queries = [
        DatasetQuery(query=Query("lamp", f"q{i}"), split="x", time=NOON + timedelta(hours=hours))
        for i, hours in enumerate(times)
    ]
    split = split_by_time(queries)
    assert [query.time for query in split] == sorted(NOON + timedelta(hours=hours) for hours in times)
    assert [query.split for query in split] == sorted((q.split for q in split), key=["train", "dev", "test"].index)
    counts = Counter(query.split for query in split)
    assert counts["test"] == len(times) - round(0.8 * len(times))
    assert counts["train"] == round(0.7 * len(times))


def test_moment() -> None:
    assert moment(1_577_836_800_123) == datetime(2020, 1, 1, 0, 0, 0, 123000, tzinfo=UTC)
    assert moment(253402300799999).year == 9999


@pytest.mark.parametrize("name", ["rows.jsonl", "rows.jsonl.gz"])
def test_reads_records(tmp_path: Path, name: str) -> None:
    lines = b'{"name": "a", "at": 5, "more": 1}\n\n{"name": "b", "at": 6}\n'
    path = tmp_path / name
    path.write_bytes(gzip.compress(lines) if name.endswith("gz") else lines)
    assert [(line, row.name, row.at) for line, row in read_records(path, Row)] == [(1, "a", 5), (3, "b", 6)]


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("{", r"rows\.jsonl:2: expected one JSON object"),
        ("3", r"rows\.jsonl:2: expected an object with name, at, found the line: "),
        ('{"name": "b"}', r"rows\.jsonl:2: expected an object with name, at, found at: Field required"),
        ('{"name": 3, "at": 1}', r"rows\.jsonl:2: .*found name: .*string"),
        ('{"name": "b", "at": -1}', r"rows\.jsonl:2: .*found at: "),
        ('{"name": "b", "at": 253402300800000}', r"rows\.jsonl:2: .*found at: "),
        ('{"name": "b", "at": NaN}', r"rows\.jsonl:2: "),
    ],
)
def test_a_broken_line_is_named(tmp_path: Path, line: str, words: str) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text(json.dumps({"name": "a", "at": 1}) + "\n" + line + "\n", encoding="utf-8")
    with pytest.raises(DataFormatError, match=words):
        list(read_records(path, Row))


def test_broken_files(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl.gz"
    for content, words in (
        (b"plain", "a gzip file"),
        (gzip.compress(b'{"name": "a", "at": 1}\n' * 1000, mtime=0)[:-20], "a gzip file"),
        (gzip.compress(b"", mtime=0), "an empty file"),
    ):
        path.write_bytes(content)
        with pytest.raises(DataFormatError, match=words):
            list(read_records(path, Row))
    with pytest.raises(DataFormatError, match="a readable file"):
        list(read_records(tmp_path / "none.jsonl", Row))
