from __future__ import annotations

import pytest

from genrank.batch.dialects import Requests, key
from genrank.batch.sources import Place, Row
from genrank.errors import DataFormatError, InputError
from genrank.types import Ranking
from tests.batch_rig import line


def _row(value: object) -> Row:
    return Row(Place(0, 7), "in.jsonl:7", value)


def test_a_request_line_is_read_with_the_options_of_the_call() -> None:
    asked = Requests(top_k=2, reasons=1).read(_row(line(3)))
    assert asked.request is not None
    assert (asked.request.query.query_id, asked.top_k, asked.reasons) == ("q3", 2, 1)


def test_a_row_without_an_id_is_known_by_its_place() -> None:
    dialect = Requests()
    row = _row({name: part for name, part in line(3).items() if name != "query_id"})
    assert dialect.row_id(row) == ""
    answer = dialect.answer(row, dialect.read(row), Ranking("", ()))
    assert answer["row"] == "in.jsonl:7"
    assert dialect.key_of(answer) == key("", "in.jsonl:7") == "row:in.jsonl:7"


def test_an_answer_and_a_failure_have_the_rows_id() -> None:
    dialect = Requests()
    row = _row(line(3))
    answer = dialect.answer(row, dialect.read(row), Ranking("q3", ()))
    assert dialect.key_of(answer) == "id:q3"
    assert "row" not in answer
    assert dialect.failure(row, "why") == {"query_id": "q3", "row": "in.jsonl:7", "reason": "why"}
    assert dialect.key_of({"items": []}) is None


def test_a_wrong_row_says_why() -> None:
    with pytest.raises(InputError, match="candidates: this field is required"):
        Requests().read(_row({"query": "dress"}))
    with pytest.raises(DataFormatError, match="expected JSON"):
        Requests().read(_row(DataFormatError("in.jsonl", 7, "JSON", "no JSON")))
