from __future__ import annotations

import datetime
import io
import json
import sys
from decimal import Decimal
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from genrank.batch.sources import open_source
from genrank.errors import DataFormatError, InputError
from genrank.inputs import parse_request
from tests.batch_rig import line, write_lines


def _rows(path: Path) -> list[Any]:
    return list(open_source(str(path)).rows())


def test_lines_have_places_from_which_they_are_read_again(tmp_path: Path) -> None:
    path = tmp_path / "in.jsonl"
    broken = '{"query": '
    path.write_text(f"{json.dumps(line(0))}\n\n  \n{json.dumps(line(1))}\n{broken}\n{json.dumps(line(2))}")
    source = open_source(str(path))
    rows = list(source.rows())
    assert [row.label for row in rows] == ["in.jsonl:1", "in.jsonl:4", "in.jsonl:5", "in.jsonl:6"]
    assert [row.value for row in rows if isinstance(row.value, dict)] == [line(0), line(1), line(2)]
    again = source.read([row.place for row in rows])
    assert [(row.place, row.label, str(row.value)) for row in again] == [
        (row.place, row.label, str(row.value)) for row in rows
    ]
    assert str(rows[2].value).startswith("in.jsonl:5: expected one JSON object, found ")
    assert source.count() == 6, "blank lines are counted too"


def test_a_folder_is_its_files_in_the_order_of_their_names(tmp_path: Path) -> None:
    write_lines(tmp_path / "b.jsonl", 2)
    write_lines(tmp_path / "a.jsonl", 1)
    (tmp_path / "_log.jsonl").write_text("no row")
    (tmp_path / "empty.jsonl").touch()
    source = open_source(str(tmp_path))
    assert [row.label for row in source.rows()] == ["a.jsonl:1", "b.jsonl:1", "b.jsonl:2"]
    assert source.count() == 3
    assert [row.label for row in source.read([row.place for row in source.rows()])] == [
        "a.jsonl:1", "b.jsonl:1", "b.jsonl:2",
    ]  # fmt: skip
    (tmp_path / "c.parquet").write_text("no Parquet")
    with pytest.raises(InputError, match=r"must hold files of one kind"):
        open_source(str(tmp_path))


def test_the_digest_tells_a_changed_input(tmp_path: Path) -> None:
    path = write_lines(tmp_path / "in.jsonl", 3)
    before = open_source(str(path)).digest()
    assert open_source(str(path)).digest() == before
    path.write_text(path.read_text().replace("dress 2", "skirt 2"))
    assert open_source(str(path)).digest() != before


def test_standard_input_has_rows_but_no_count(monkeypatch: pytest.MonkeyPatch) -> None:
    stdin = SimpleNamespace(buffer=io.BytesIO(json.dumps(line(0)).encode()))
    monkeypatch.setattr(sys, "stdin", stdin)
    source = open_source("-")
    assert [row.value for row in source.rows()] == [line(0)]
    assert (source.count(), source.digest()) == (None, "")


def test_what_is_missing_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="IN: there is no file or folder nowhere"):
        open_source("nowhere")
    with pytest.raises(InputError, match="must hold files of one kind"):
        open_source(str(tmp_path))


class TestParquet:
    @pytest.fixture
    def path(self, tmp_path: Path) -> Path:
        pa = pytest.importorskip("pyarrow", reason="Parquet needs pyarrow")
        import pyarrow.parquet as pq

        listing = pa.struct(
            [
                ("listing_id", pa.string()),
                ("title", pa.string()),
                ("price", pa.struct([("amount", pa.decimal128(8, 2)), ("currency", pa.string())])),
                ("category", pa.list_(pa.string())),
                ("attributes", pa.map_(pa.string(), pa.string())),
                ("score", pa.float64()),
            ]
        )
        seen = pa.struct([("listing_id", pa.string()), ("title", pa.string())])
        event = pa.struct([("event", pa.string()), ("time", pa.timestamp("us", "UTC")), ("listing", seen)])
        schema = pa.schema(
            [
                ("query_id", pa.int64()),
                ("query", pa.string()),
                ("history", pa.list_(event)),
                ("candidates", pa.list_(listing)),
                ("shop", pa.string()),
            ]
        )
        rows = []
        for number in range(200):
            full = {
                "listing_id": "a",
                "title": f"Dress {number}",
                "price": {"amount": Decimal("19.50"), "currency": "EUR"},
                "category": ["Women", "Dresses"],
                "attributes": {"season": "summer"},
                "score": 1.5,
            }
            bare = {"listing_id": "b", "title": "Coat"}
            click = {"event": "click", "time": datetime.datetime(2026, 5, 1, tzinfo=datetime.UTC), "listing": bare}
            past = [click] if number % 2 else None
            row = {"query_id": number, "query": "dress", "history": past, "candidates": [full, bare], "shop": "s"}
            rows.append(row)
        pq.write_table(pa.Table.from_pylist(rows, schema=schema), tmp_path / "in.parquet", row_group_size=50)
        return tmp_path / "in.parquet"

    def test_nested_columns_are_request_lines(self, path: Path) -> None:
        rows = _rows(path)
        assert len(rows) == open_source(str(path)).count() == 200
        request = parse_request(rows[1].value)
        assert request.query.query_id == "1"
        full, bare = (candidate.listing for candidate in request.candidates)
        assert full.price is not None
        assert (full.price.amount, full.category, full.attributes) == (19.5, ("Women", "Dresses"), {"season": "summer"})
        assert (request.candidates[0].score, bare.title, bare.price) == (1.5, "Coat", None)
        assert request.history[0].time == datetime.datetime(2026, 5, 1, tzinfo=datetime.UTC)
        assert parse_request(rows[0].value).history == ()

    def test_rows_are_read_again_by_their_places(self, path: Path) -> None:
        source = open_source(str(path))
        rows = list(source.rows())
        for some in (rows[3:5], rows[60:61], rows[2:3], rows[199:]):
            assert source.read([row.place for row in some]) == some

    def test_nested_columns_may_be_json(self, tmp_path: Path) -> None:
        pa = pytest.importorskip("pyarrow", reason="Parquet needs pyarrow")
        import pyarrow.parquet as pq

        written = [json.dumps(line(number)["candidates"]) for number in range(2)]
        table = pa.table({"query_id": ["q0", "q1"], "query": ["a", "b"], "candidates": [written[0], "[{"]})
        pq.write_table(table, tmp_path / "in.parquet")
        right, wrong = _rows(tmp_path / "in.parquet")
        assert parse_request(right.value).candidates == parse_request(line(0)).candidates
        assert str(wrong.value).startswith("in.parquet:2: expected JSON in the column candidates, found ")

    def test_other_files_are_refused(self, tmp_path: Path) -> None:
        pa = pytest.importorskip("pyarrow", reason="Parquet needs pyarrow")
        import pyarrow.parquet as pq

        (tmp_path / "a.parquet").write_text("no Parquet")
        with pytest.raises(DataFormatError, match=r"a\.parquet: expected a Parquet file"):
            open_source(str(tmp_path / "a.parquet"))
        pq.write_table(pa.table({"text": ["a"]}), tmp_path / "b.parquet")
        with pytest.raises(DataFormatError, match=r"expected the columns query_id, query, .*, found only text"):
            open_source(str(tmp_path / "b.parquet"))
