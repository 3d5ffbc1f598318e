from __future__ import annotations

import io
import json
import re
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from genrank.data import jsonl
from genrank.data.jsonl import dump_line, read_jsonl, read_requests, request_fields, write_jsonl, write_rankings
from genrank.errors import DataFormatError
from genrank.inputs import parse_request
from genrank.types import Candidate, Listing, Query, RankedItem, Ranking, Request
from tests.full_request import FULL, HISTORY


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
        (
            b'\xef\xbb\xbf{"a": 1}\n\xef\xbb\xbf{"a": 2}\n',
            [(1, {"a": 1}), (2, {"a": 2})],
        ),
        (b'\xef\xbb\xbf\r\n{"a": 1}', [(2, {"a": 1})]),
        ('{"a": "连衣裙\u2028夏季"}\n'.encode(), [(1, {"a": "连衣裙\u2028夏季"})]),  # U+2028 breaks no line
    ],
)
def test_read_jsonl(content: bytes, expected: list[tuple[int, Any]]) -> None:
    assert _read(content) == expected


@pytest.mark.parametrize(
    ("line", "found"),
    [
        (b"{'a': 1}", "column 2"),
        (b'{"a": NaN}', "NaN, which is not a JSON number"),
        (b'{"a": -Infinity}', "-Infinity, which is not a JSON number"),
        (b'{"a": 1} {"a": 2}', "Extra data at column 10"),
        (b"[" * 100_000, "JSON nested too deeply"),
        (b'{"a": ' * 100_000, "JSON nested too deeply"),
        (b'{"a": ' + b"9" * 5000 + b"}", "found a number of 5000 digits"),
        (b"\x1f\x8b\x08\x00", "the byte 0x8b at column 2 (is this a binary file?)"),
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


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be", "utf-32"])
def test_another_unicode_encoding_is_told_once(encoding: str) -> None:
    content = '{"a": "连衣裙"}\n{"a": 2}\n'.encode(encoding)
    with pytest.raises(DataFormatError, match=r"^x\.jsonl: expected UTF-8 text, found UTF-\d\d; save it as UTF-8$"):
        _read(content)


@pytest.mark.parametrize("reader", [read_jsonl, read_requests])
def test_a_file_that_cannot_be_read(reader: Callable[[Path], Any], tmp_path: Path) -> None:
    for path in (tmp_path / "missing", tmp_path):
        with pytest.raises(DataFormatError, match=f"^{re.escape(str(path))}: expected a readable file"):
            list(reader(path))


def test_a_dash_reads_standard_input(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=io.BytesIO(b'{"a": 1}\n{')))
    (_, first), (_, error) = read_jsonl("-")
    assert first == {"a": 1}
    assert str(error).startswith("<stdin>:2: ")


def test_standard_input_that_cannot_be_read(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(sys, "stdin", None)
    with pytest.raises(DataFormatError, match=r"^<stdin>: expected request lines, found standard input is closed$"):
        list(read_jsonl("-"))
    with (tmp_path / "out").open("wb") as no_input:
        monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=no_input))
        with pytest.raises(DataFormatError, match=r"^<stdin>: expected a readable file, found "):
            list(read_jsonl("-"))


def test_write_jsonl_reads_back(tmp_path: Path) -> None:
    lines: list[dict[str, Any]] = [{"title": "连衣裙\u2028\n"}, {"title": "half \ud83d"}, {"n": 1.5, "list": ["a"]}]
    write_jsonl(tmp_path / "x.jsonl", lines)
    assert [value for _, value in read_jsonl(tmp_path / "x.jsonl")] == lines
    assert "连衣裙" in (tmp_path / "x.jsonl").read_text(encoding="utf-8"), "text stays readable"


def test_dump_line_is_one_line() -> None:
    assert dump_line({"a": "b\nc"}) == '{"a": "b\\nc"}\n'


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


@pytest.mark.parametrize("field", ["query", "query_id", "candidates", "history"])
def test_a_field_nested_as_deep_as_json_allows_is_an_error_of_its_line(field: str) -> None:
    for depth in range(100, 1000, 50):
        line = dump_line(GOOD | {field: 0}).replace(f'"{field}": 0', f'"{field}": ' + "[" * depth + "]" * depth)
        ((number, error),) = read_requests("r.jsonl", io.BytesIO(line.encode()))
        assert number == 1
        assert isinstance(error, DataFormatError)
        assert "\n" not in str(error)


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


def test_several_byte_order_marks_at_one_place_are_dropped(tmp_path: Path) -> None:
    path = tmp_path / "lines.jsonl"
    path.write_bytes(b"\xef\xbb\xbf\xef\xbb\xbf1\n\xef\xbb\xbf\xef\xbb\xbf\n\xef\xbb\xbf2\n")
    assert list(read_jsonl(path)) == [(1, 1), (3, 2)]
