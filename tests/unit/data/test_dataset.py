from __future__ import annotations

import dataclasses
import io
import json
import re
import sys
from collections.abc import Callable
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from genrank.data import jsonl
from genrank.data.dataset import Dataset, DatasetQuery, Grade, sample_shop
from genrank.data.jsonl import dump_line, read_jsonl, read_requests, request_fields, write_jsonl, write_rankings
from genrank.data.trec import read_qrels, read_run, write_qrels, write_run
from genrank.errors import DataFormatError, InputError
from genrank.inputs import parse_request
from genrank.types import Candidate, Interaction, Listing, Price, Query, RankedItem, Ranking, Request

# ---------------------------------------------------------------------------------------------------------------------
# JSON Lines
# ---------------------------------------------------------------------------------------------------------------------


def _read(content: bytes) -> list[tuple[int, Any]]:
    return list(read_jsonl("x.jsonl", io.BytesIO(content)))


def _error(content: bytes) -> DataFormatError:
    """The error of the first line."""
    number, error = _read(content)[0]
    assert isinstance(error, DataFormatError)
    assert (error.path, error.line) == ("x.jsonl", number)
    return error


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b'{"a": 1}\n{"a": 2}\n', [(1, {"a": 1}), (2, {"a": 2})]),
        (b'{"a": 1}\n{"a": 2}', [(1, {"a": 1}), (2, {"a": 2})]),  # no line break at the end
        (b'{"a": 1}\r\n{"a": 2}\r\n', [(1, {"a": 1}), (2, {"a": 2})]),
        (b'\n{"a": 1}\n  \t\r\n\n{"a": 2}\n\n', [(2, {"a": 1}), (5, {"a": 2})]),  # blank lines count
        (b'\xef\xbb\xbf{"a": 1}\n{"a": 2}\n', [(1, {"a": 1}), (2, {"a": 2})]),  # byte-order mark
        ('{"a": "连衣裙\u2028夏季"}\n'.encode(), [(1, {"a": "连衣裙\u2028夏季"})]),  # U+2028 breaks no line
    ],
)
def test_read_jsonl(content: bytes, expected: list[tuple[int, Any]]) -> None:
    assert _read(content) == expected


@pytest.mark.parametrize(
    ("line", "found"),
    [
        (b"{'a': 1}", "column 2"),
        (b'{"a": NaN}', "NaN, which is no JSON number"),
        (b'{"a": -Infinity}', "-Infinity, which is no JSON number"),
        (b'{"a": 1} {"a": 2}', "Extra data at column 10"),
        (b"[" * 100_000, "JSON nested too deeply"),
        (b'{"a": ' * 100_000, "JSON nested too deeply"),
        (b'{"a": ' + b"9" * 5000 + b"}", "5000 digits"),
        (b"\x1f\x8b\x08\x00", "the byte 0x8b at column 2 (is this a binary file?)"),
        ("{}".encode("utf-16"), "the byte 0xff at column 1 (is this a binary file?)"),
        (b"\xef\xbb\xbf{}\xff", "the byte 0xff"),
        (b"not json", "Expecting value at column 1"),
    ],
)
def test_a_broken_line_is_told_with_what_was_found(line: bytes, found: str) -> None:
    assert found in str(_error(line + b'\n{"a": 1}\n'))


def test_the_line_after_a_broken_one_is_read() -> None:
    (_, error), second = _read(b'{"a": \n{"a": 1}\n')
    assert isinstance(error, DataFormatError)
    assert second == (2, {"a": 1})


WHOLE = '{"query": "red \\u00e9 dress", "n": [1.5, true, null], "query_id": "连衣裙"}'.encode()


@pytest.mark.parametrize("end", [b"", b"\n"], ids=["at the end of the file", "before another line"])
def test_a_line_that_is_cut_off_is_an_error_that_says_so(end: bytes) -> None:
    for length in range(1, len(WHOLE)):
        assert "(is the line cut off?)" in str(_error(WHOLE[:length] + end)), WHOLE[:length]


def test_an_over_long_line_is_passed_over_without_being_held(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jsonl, "MAX_LINE_BYTES", 20)
    exact = b'"' + b"x" * 17 + b'"\n'  # 20 bytes with its line break
    (one, first), (two, error), (three, last) = _read(exact + b'"' + b"x" * 95 + b'"\n' + b'{"a": 1}')
    assert (one, first) == (1, "x" * 17)
    assert isinstance(error, DataFormatError)
    assert str(error) == "x.jsonl:2: expected a line of at most 20 bytes, found a longer one"
    assert (two, three, last) == (2, 3, {"a": 1})


@pytest.mark.parametrize("content", [b"", b"\n", b" \n\r\n\t\n"])
def test_a_file_without_a_line_is_an_error(content: bytes) -> None:
    with pytest.raises(DataFormatError, match=r"^x\.jsonl: expected at least one line of JSON, found an empty file"):
        _read(content)


@pytest.mark.parametrize("reader", [read_jsonl, read_requests, read_run, read_qrels])
def test_a_file_that_cannot_be_read(reader: Callable[[Path], Any], tmp_path: Path) -> None:
    for path in (tmp_path / "missing", tmp_path):
        with pytest.raises(DataFormatError, match=f"^{re.escape(str(path))}: expected a readable file"):
            list(reader(path))


def test_a_dash_reads_standard_input(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=io.BytesIO(b'{"a": 1}\n{')))
    (_, first), (_, error) = read_jsonl("-")
    assert first == {"a": 1}
    assert str(error).startswith("<stdin>:2: ")


def test_write_jsonl_reads_back(tmp_path: Path) -> None:
    lines: list[dict[str, Any]] = [{"title": "连衣裙\u2028\n"}, {"title": "half \ud83d"}, {"n": 1.5, "list": ["a"]}]
    write_jsonl(tmp_path / "x.jsonl", lines)
    assert [value for _, value in read_jsonl(tmp_path / "x.jsonl")] == lines
    assert "连衣裙" in (tmp_path / "x.jsonl").read_text(encoding="utf-8"), "text stays readable"


def test_dump_line_is_one_line() -> None:
    assert dump_line({"a": "b\nc"}) == '{"a": "b\\nc"}\n'


# ---------------------------------------------------------------------------------------------------------------------
# Request and ranking lines
# ---------------------------------------------------------------------------------------------------------------------

GOOD = {"query_id": "q1", "query": "dress", "candidates": [{"listing_id": "p1", "title": "Dress"}]}


def test_read_requests_yields_requests_and_errors_with_their_lines() -> None:
    lines = [
        json.dumps(GOOD),
        '{"query": "dress", "cand',
        "",
        json.dumps(GOOD | {"candidates": ["a", {"listing_id": "p", "title": "t", "price": {"amount": "x"}}]}),
        json.dumps(["dress"]),
        json.dumps(GOOD | {"query_id": "q6"}),
        '{"query": "dress", "candidates": [{"listing_id": "p", "title": "t", "score": 1e999}]}',
    ]
    read = dict(read_requests("r.jsonl", io.BytesIO("\n".join(lines).encode())))
    assert list(read) == [1, 2, 4, 5, 6, 7]
    assert read[1] == parse_request(GOOD)
    assert read[6] == parse_request(GOOD | {"query_id": "q6"})
    errors = {number: str(line) for number, line in read.items() if isinstance(line, DataFormatError)}
    assert list(errors) == [2, 4, 5, 7]
    assert all(message.startswith(f"r.jsonl:{number}: expected ") for number, message in errors.items())
    assert "expected a rerank request, found candidates[1].price.amount: " in errors[4]
    assert "got list" in errors[5]
    assert "candidates[0].score" in errors[7]


HISTORY = (
    Interaction(
        "view", Listing("h0", "帽子 👒"), time=datetime(2026, 5, 1, 10, 0, 0, 250, tzinfo=UTC), query="夏季 帽子"
    ),
    Interaction("rating", Listing("h1", "Belt", price=Price(9.5, "EUR")), rating=4.5),
    Interaction("cart", Listing("h2", "Bag"), time=datetime(2026, 5, 2, tzinfo=timezone(timedelta(hours=8)))),
    Interaction("click", Listing("h3", "Bag"), time=datetime(2026, 5, 3, 7, 30)),  # no time zone
)
FULL = Listing(
    "p1",
    "连衣裙 “夏季”\u2028韩版",
    description="Light.\nAiry.",
    brand="Zára",
    category=("Women", "Dresses"),
    price=Price(129.0, "CNY"),
    attributes={"colour": "red", "尺码": "M"},
    rating=0.0,
    rating_count=0,
    reviews=("good", "很好"),
    image_url="https://shop.example/p1.jpg",
    in_stock=False,
    seller_id="s1",
)


def test_request_fields_read_back_as_the_same_request() -> None:
    candidates = (Candidate(FULL, score=0.0, rank=3), Candidate(Listing("p2", "Coat")))
    for request in (Request(Query("连衣裙", "q1"), candidates, HISTORY), Request(Query("dress"), candidates)):
        assert parse_request(json.loads(dump_line(request_fields(request)))) == request


def test_write_rankings(tmp_path: Path) -> None:
    rankings = [Ranking("q1", (RankedItem(Listing("p1", "p1"), 1, 0.5, 1),)), Ranking("q2", ())]
    write_rankings(tmp_path / "out.jsonl", rankings)
    read = [value for _, value in read_jsonl(tmp_path / "out.jsonl")]
    assert read == [json.loads(dump_line(ranking.to_dict())) for ranking in rankings]
    assert read[0]["items"] == [{"listing_id": "p1", "rank": 1, "score": 0.5, "source_rank": 1}]


# ---------------------------------------------------------------------------------------------------------------------
# TREC files
# ---------------------------------------------------------------------------------------------------------------------


def _write(path: Path, content: str | bytes) -> Path:
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def test_read_run_sorts_by_score_and_then_by_rank(tmp_path: Path) -> None:
    path = _write(
        tmp_path / "run", "q1 Q0 a 1 1.0 t\nq1 Q0 b 2 3.5 t\nq2 Q0 a 1 -1e-3 t\n\nq1 Q0 d 4 1 t\nq1 Q0 c 3 1 t\n"
    )
    run = read_run(path)
    assert run == {"q1": {"b": 3.5, "a": 1.0, "c": 1.0, "d": 1.0}, "q2": {"a": -0.001}}
    assert list(run["q1"]) == ["b", "a", "c", "d"]


def test_write_run_reads_back_in_the_same_order(tmp_path: Path) -> None:
    run = {"q1": {"z": 0.1 + 0.2, "m": 0.1, "a": 0.1, "连": -5.0}, "q2": {"a": 0.0}}
    write_run(tmp_path / "run", run)
    read = read_run(tmp_path / "run")
    assert read == run
    assert list(read["q1"]) == ["z", "m", "a", "连"]
    assert (tmp_path / "run").read_text(encoding="utf-8").splitlines()[1] == "q1 Q0 m 2 0.1 genrank"


def test_write_qrels_reads_back(tmp_path: Path) -> None:
    qrels = {"q1": {"a": 3, "b": 0}, "q2": {"连": -1}}
    write_qrels(tmp_path / "qrels", qrels)
    assert read_qrels(tmp_path / "qrels") == qrels


@pytest.mark.parametrize("lead", [b"\xef\xbb\xbf", b"\r\n", b" \t"])
def test_trec_files_as_other_systems_write_them(lead: bytes, tmp_path: Path) -> None:
    assert read_qrels(_write(tmp_path / "qrels", lead + b"q1\t0\ta\t3\r\nq1 0 b 0\r\n")) == {"q1": {"a": 3, "b": 0}}
    assert read_run(_write(tmp_path / "run", lead + b"q1\tQ0\ta\t1\t2\tt\r\n")) == {"q1": {"a": 2.0}}


@pytest.mark.parametrize(
    ("line", "expected", "found"),
    [
        ("q1 Q0 b 2 0.5", "query_id Q0 listing_id rank score tag", "5 columns"),
        ("q1 Q0 b 2 0.5 t extra", "query_id Q0 listing_id rank score tag", "7 columns"),
        ("q1 Q0 b second 0.5 t", "a whole-number rank", "'second'"),
        ("q1 Q0 b 1.5 0.5 t", "a whole-number rank", "'1.5'"),
        pytest.param(f"q1 Q0 b {'9' * 400} 0.5 t", "a whole-number rank", "'999", id="rank of 400 digits"),
        ("q1 Q0 b 2 high t", "a finite score", "'high'"),
        ("q1 Q0 b 2 nan t", "a finite score", "'nan'"),
        ("q1 Q0 b 2 1e999 t", "a finite score", "'1e999'"),
        ("q1 Q0 a 2 0.5 t", "each listing_id of query q1 once", "'a' again"),
    ],
)
def test_a_broken_line_of_a_run(line: str, expected: str, found: str, tmp_path: Path) -> None:
    path = _write(tmp_path / "run", f"q1 Q0 a 1 1.0 t\n\n{line}\n")
    with pytest.raises(DataFormatError, match=re.escape(f"{path}:3: expected {expected}, found {found}")):
        read_run(path)


@pytest.mark.parametrize(
    ("line", "expected", "found"),
    [
        ("q1 0 b", "query_id 0 listing_id grade", "3 columns"),
        ("q1 0 b 1 1", "query_id 0 listing_id grade", "5 columns"),
        ("q1 0 b 1.0", "a whole-number grade", "'1.0'"),
        ("q1 0 b good", "a whole-number grade", "'good'"),
        pytest.param(f"q1 0 b {'9' * 400}", "a whole-number grade", "'999", id="grade of 400 digits"),
        ("q1 0 a 1", "each listing_id of query q1 once", "'a' again"),
    ],
)
def test_a_broken_line_of_qrels(line: str, expected: str, found: str, tmp_path: Path) -> None:
    path = _write(tmp_path / "qrels", f"q1 0 a 1\n\n{line}\n")
    with pytest.raises(DataFormatError, match=re.escape(f"{path}:3: expected {expected}, found {found}")):
        read_qrels(path)


def test_a_binary_file_is_no_trec_file(tmp_path: Path) -> None:
    with pytest.raises(DataFormatError, match="is this a binary file"):
        read_qrels(_write(tmp_path / "qrels", b"\x1f\x8b\x08\x00\xff"))


# ---------------------------------------------------------------------------------------------------------------------
# The dataset folder
# ---------------------------------------------------------------------------------------------------------------------


def _dataset(**change: Any) -> Dataset:
    fields: dict[str, Any] = {
        "name": 'a "small" shop',
        "source": "made up\\, 合成\n(two lines)",
        "grades": {0: Grade("no", 0.0), 3: Grade("fits", 7.0)},
        "listings": {"p1": FULL, "p2": Listing("p2", "Coat"), "p3": Listing("p3", "Hat")},
        "queries": (DatasetQuery(Query("连衣裙", "q1"), "train", HISTORY), DatasetQuery(Query("coat", "q2"), "test")),
        "qrels": {"q1": {"p1": 3, "p2": 0}, "q2": {"p2": 3}},
        "candidates": {"q1": {"p2": 2.0, "p1": 1.5, "p3": 1.5}},
    }
    return Dataset(**fields | change)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A dataset folder without a fault."""
    _dataset().save(tmp_path / "set")
    return tmp_path / "set"


@pytest.mark.parametrize("change", [{}, {"candidates": {}}, {"qrels": {}}, {"name": "", "source": "\t\x7f"}])
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
        (b"\xff\xfe", "expected TOML"),
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
            Candidate(made.listings["p3"], score=1.5, rank=3),
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
