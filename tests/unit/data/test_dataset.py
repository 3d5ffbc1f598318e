from __future__ import annotations

import dataclasses
import json
import re
from pathlib import Path
from typing import Any

import pytest

from genrank.data.dataset import Dataset, DatasetQuery, Grade, sample_shop
from genrank.errors import DataFormatError, InputError
from genrank.types import Candidate, Guess, Intent, Listing, Query, Request
from tests.full_request import FULL, HISTORY


def _write(path: Path, content: str | bytes) -> Path:
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def _dataset(**change: Any) -> Dataset:
    fields: dict[str, Any] = {
        "name": 'a "small" shop',
        "source": "made up\\, 合成\n(two lines)",
        "grades": {0: Grade("no", 0.0), 3: Grade("fits", 7.0)},
        "listings": {"p1": FULL, "p2": Listing("p2", "Coat"), "p3": Listing("p3", "Hat")},
        "queries": (DatasetQuery(Query("连衣裙", "q1"), "train", HISTORY), DatasetQuery(Query("coat", "q2"), "test")),
        "qrels": {"q1": {"p1": 3, "p2": 0}, "q2": {"p2": 3}},
        "candidates": {"q1": {"p2": 2.0, "p1": 1.5, "p3": 1.25}},
    }
    return Dataset(**fields | change)


INTENT = Intent("连衣裙", "zh", "连衣裙", categories=(Guess(("Women", "Dresses"), 0.5),), most_price=9.0)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A dataset folder without a fault."""
    _dataset().save(tmp_path / "set")
    return tmp_path / "set"


@pytest.mark.parametrize(
    "change",
    [
        {},
        {"candidates": {}},
        {"qrels": {}},
        {"name": "", "source": "\t\x7f\r\x00\\\u2028"},
        {"first_stage": "BM25 of titles"},
        {"queries": (DatasetQuery(Query("连衣裙", "q1"), "train", intent=INTENT), _dataset().queries[1])},
    ],
)
def test_save_and_load_round_trip(change: dict[str, Any], tmp_path: Path) -> None:
    made = _dataset(**change)
    made.save(tmp_path / "deep" / "set")
    assert Dataset.load(tmp_path / "deep" / "set") == made
    assert (tmp_path / "deep" / "set" / "candidates.trec").exists() == bool(made.candidates)


def _append(path: Path, line: str) -> None:
    path.write_text(path.read_text(encoding="utf-8") + line + "\n", encoding="utf-8")


@pytest.mark.parametrize(
    ("file", "line", "message"),
    [
        (
            "listings.jsonl",
            '{"listing_id": "p1", "title": "again"}',
            ":4: expected each listing_id once, found 'p1' again",
        ),
        ("listings.jsonl", '{"listing_id": "p4"}', ":4: expected valid fields, found title: "),
        ("listings.jsonl", '["p4"]', ":4: expected one JSON object, found list"),
        ("listings.jsonl", '{"listing_id": "p4", "ti', ":4: expected one JSON object, found "),
        ("queries.jsonl", '{"query_id": "q1", "query": "x", "split": "dev"}', ":3: expected each query_id once"),
        ("queries.jsonl", '{"query_id": "q3", "query": "x"}', ":3: expected valid fields, found split: "),
        ("queries.jsonl", '{"query": "x", "split": "dev"}', ":3: expected valid fields, found query_id: "),
        ("queries.jsonl", '{"query_id": "q3", "query": "x", "split": 5}', ":3: expected valid fields, found split: "),
        (
            "queries.jsonl",
            '{"query_id": "q3", "query": " ", "split": "dev"}',
            ":3: expected valid fields, found query: ",
        ),
        (
            "queries.jsonl",
            '{"query_id": "q3", "query": "x", "split": "dev", "lang": "en"}',
            ":3: expected valid fields, found lang: unknown field; a query has query_id, query, split, history",
        ),
        (
            "queries.jsonl",
            '{"query_id": "q3", "query": "x", "split": "dev", "history": [{"event": "buy"}]}',
            ":3: expected valid fields, found history[0].event: ",
        ),
        ("qrels.trec", "q9 0 p1 3", ": expected only query ids of queries.jsonl, found 'q9'"),
        ("qrels.trec", "q2 0 p9 3", ": expected only listing ids of listings.jsonl, found 'p9' (query q2)"),
        ("qrels.trec", "q2 0 p1 2", ": expected grades of dataset.toml, [0, 3], found grade 2"),
        ("qrels.trec", "q2 0 p1", ":4: expected query_id 0 listing_id grade"),
        ("candidates.trec", "q9 Q0 p1 1 1 t", ": expected only query ids of queries.jsonl, found 'q9'"),
        ("candidates.trec", "q2 Q0 p9 1 1 t", ": expected only listing ids of listings.jsonl, found 'p9' (query q2)"),
        ("dataset.toml", "name = ", ": expected TOML, found "),
        ("dataset.toml", "[grades.good]\nlabel = 'g'\ngain = 1", ": expected grades as whole numbers"),
        ("dataset.toml", "[grades.1]\nlabel = 'g'", ": expected grades as whole numbers"),
        ("dataset.toml", "[grades.1]\nlabel = 'g'\ngain = 'much'", ": expected grades as whole numbers"),
        ("dataset.toml", "[grades.1]\nlabel = 'g'\ngain = nan", ": expected grades as whole numbers"),
    ],
)
def test_a_fault_in_one_file_is_told_with_its_place(file: str, line: str, message: str, folder: Path) -> None:
    _append(folder / file, line)
    with pytest.raises(DataFormatError, match=re.escape(f"{folder / file}{message}")):
        Dataset.load(folder)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("name = 'x'\n[grades.0]\nlabel = ''\ngain = 0", "expected the keys name, source and grades, found no source"),
        ("name = 'x'\nsource = 'y'", "found no grades"),
        ("name = 'x'\nsource = 'y'\ngrades = 3", "expected grades as whole numbers"),
        (b"\xff\xfe", "expected TOML, found UTF-16 in place of UTF-8 text; save it as UTF-8"),
        (b"name = '\xff'", "expected TOML, found text that is not UTF-8: the byte 0xff"),
    ],
)
def test_a_wrong_dataset_toml(content: str | bytes, message: str, folder: Path) -> None:
    _write(folder / "dataset.toml", content)
    with pytest.raises(DataFormatError, match=message):
        Dataset.load(folder)


@pytest.mark.parametrize("file", ["listings.jsonl", "queries.jsonl", "qrels.trec", "dataset.toml"])
def test_a_missing_file_is_named(file: str, folder: Path) -> None:
    (folder / file).unlink()
    with pytest.raises(DataFormatError, match=re.escape(f"{folder / file}: expected a readable file")):
        Dataset.load(folder)


def test_every_file_may_begin_with_a_byte_order_mark(folder: Path) -> None:
    whole = Dataset.load(folder)
    for path in folder.iterdir():
        path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes().replace(b"\n", b"\r\n"))
    assert Dataset.load(folder) == dataclasses.replace(whole)


def test_equal_scores_are_saved_in_their_order(tmp_path: Path) -> None:
    made = _dataset(candidates={"q1": {"p1": 1.5, "p3": 1.5, "p2": 1.5}})
    made.save(tmp_path)
    assert list(Dataset.load(tmp_path).candidates["q1"]) == ["p1", "p3", "p2"]


def test_split() -> None:
    made = _dataset()
    assert [query.query.query_id for query in made.split("train")] == ["q1"]
    with pytest.raises(InputError, match=re.escape("the splits are ['test', 'train']")) as caught:
        made.split("dev")
    assert caught.value.field == "split"


def test_request_takes_the_first_stages_order() -> None:
    made = _dataset()
    assert made.request(made.queries[0]) == Request(
        Query("连衣裙", "q1"),
        (
            Candidate(made.listings["p2"], score=2.0, rank=1),
            Candidate(FULL, score=1.5, rank=2),
            Candidate(made.listings["p3"], score=1.25, rank=3),
        ),
        HISTORY,
    )
    assert len(made.request(made.queries[0], max_candidates=2).candidates) == 2


def test_request_without_a_first_stage_takes_the_judged_listings() -> None:
    made = _dataset()
    assert made.request(made.queries[1]).candidates == (Candidate(made.listings["p2"]),)
    with pytest.raises(InputError, match="neither candidates nor judgements"):
        _dataset(qrels={}).request(made.queries[1])


def test_a_random_stand_in_hands_on_no_scores() -> None:
    made = _dataset(first_stage="random")
    query = next(query for query in made.queries if query.query.query_id in made.candidates)
    request = made.request(query)
    assert [candidate.listing.listing_id for candidate in request.candidates] == list(
        made.candidates[query.query.query_id]
    )
    assert {(candidate.score, candidate.rank) for candidate in request.candidates} == {(None, None)}


def test_a_first_stage_is_saved_alone(folder: Path) -> None:
    made = dataclasses.replace(Dataset.load(folder), candidates={"q1": {"p2": 2.0, "p1": 1.0}}, first_stage="bm25")
    before = {path.name: path.stat().st_mtime_ns for path in folder.iterdir() if path.suffix == ".jsonl"}
    made.save_first_stage(folder)
    assert Dataset.load(folder) == made
    assert before == {path.name: path.stat().st_mtime_ns for path in folder.iterdir() if path.suffix == ".jsonl"}


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"time": "2026-05-01T10:00:00Z"}, None),
        ({"time": "2026-05-01T11:00:00+01:00"}, None),
        ({"time": "2026-05-01T10:00:00"}, None),  # without a zone it is read as UTC
        ({"time": "2026-05-01T09:59:59Z"}, r"history\[0\].time: .* is later than the query"),
        ({"time": "2026-05-01T10:59:59+01:00"}, r"history\[0\].time: .* is later than the query"),
        ({"time": "yesterday"}, "time: must be ISO 8601"),
        ({"time": 5}, "time: must be ISO 8601"),
        ({"frequency": 3}, None),
        ({"frequency": 0}, "frequency: must be a whole number"),
        ({"frequency": True}, "frequency: must be a whole number"),
    ],
)
def test_time_and_frequency_of_a_query(fields: dict[str, Any], words: str | None, folder: Path) -> None:
    history = [{"event": "view", "time": "2026-05-01T10:00:00Z", "listing": {"listing_id": "p1", "title": "Dress"}}]
    lines = (folder / "queries.jsonl").read_text(encoding="utf-8").splitlines()
    first = json.loads(lines[0]) | {"history": history} | fields
    (folder / "queries.jsonl").write_text("\n".join([json.dumps(first), *lines[1:]]) + "\n", encoding="utf-8")
    if words:
        with pytest.raises(DataFormatError, match=words):
            Dataset.load(folder)
        return
    read = Dataset.load(folder)
    read.save(folder)
    assert Dataset.load(folder) == read
    assert (read.queries[0].time is None, read.queries[0].frequency) == ("time" not in fields, fields.get("frequency"))


def test_the_sample_shop_is_whole() -> None:
    shop = sample_shop()
    assert shop.queries
    for query in shop.queries:
        request = shop.request(query)
        assert {candidate.listing.listing_id for candidate in request.candidates} >= set(
            shop.qrels[query.query.query_id]
        )


def test_null_in_an_optional_field_of_a_query_is_as_if_left_out(folder: Path) -> None:
    path = folder / "queries.jsonl"
    first, *others = path.read_text(encoding="utf-8").splitlines()
    fields = json.loads(first)
    for key in ("history", "time", "frequency"):
        fields.pop(key, None)
    path.write_text("\n".join([json.dumps(fields), *others]), encoding="utf-8")
    bare = Dataset.load(folder).queries[0]
    nulls = json.dumps(fields | {"history": None, "time": None, "frequency": None})
    path.write_text("\n".join([nulls, *others]), encoding="utf-8")
    assert Dataset.load(folder).queries[0] == bare


def test_an_intent_is_part_of_the_request() -> None:
    query = DatasetQuery(Query("连衣裙", "q1"), "train", intent=INTENT)
    assert _dataset().request(query).intent == INTENT


def test_a_wrong_intent_is_told_with_its_place(folder: Path) -> None:
    line = {"query_id": "q1", "query": "coat", "split": "test", "intent": {"price": 9}}
    (folder / "queries.jsonl").write_text(json.dumps(line), encoding="utf-8")
    with pytest.raises(DataFormatError, match=r"queries\.jsonl:1: expected valid fields, found intent\.price"):
        Dataset.load(folder)
