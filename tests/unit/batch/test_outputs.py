from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from genrank.batch.dialects import Requests
from genrank.batch.outputs import LinesOutput, ParquetOutput
from genrank.errors import DataFormatError

KEY_OF = Requests().key_of


def _answer(number: int) -> dict[str, Any]:
    items = [{"listing_id": "a", "rank": 1, "score": 0.5, "source_rank": 1}]
    return {"query_id": f"q{number}", "items": items, "provenance": {"outcome": "model", "why": "ü\ud800"}}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("outputs")


@settings(max_examples=50)  # each waits for the disk
@given(st.data())
def test_a_file_cut_at_any_byte_keeps_its_whole_lines(folder: Path, data: st.DataObject) -> None:
    path = folder / "out.jsonl"
    path.unlink(missing_ok=True)
    with LinesOutput(path, KEY_OF) as output:
        output.append([_answer(number) for number in range(4)])
    written = path.read_bytes()
    size = data.draw(st.integers(0, len(written)))
    path.write_bytes(written[:size])
    whole = written[:size].count(b"\n")
    with LinesOutput(path, KEY_OF) as output:
        assert list(output.recover()) == [f"id:q{number}" for number in range(whole)]
        output.append([_answer(number) for number in range(whole, 4)])
    assert path.read_bytes() == written


@pytest.mark.parametrize("line", ["no JSON", "[1]", '{"other": 1}'])
def test_a_line_of_another_kind_is_an_error(tmp_path: Path, line: str) -> None:
    path = tmp_path / "out.jsonl"
    path.write_text(f'{{"query_id": "q1"}}\n{line}\n')
    with LinesOutput(path, KEY_OF) as output, pytest.raises(DataFormatError, match=r"out\.jsonl:2: expected a line"):
        list(output.recover())
    assert path.read_text().endswith(f"{line}\n"), "nothing was cut"


class TestParquet:
    @pytest.fixture(autouse=True)
    def _pyarrow(self) -> None:
        pytest.importorskip("pyarrow", reason="Parquet needs pyarrow")

    @staticmethod
    def _read(folder: Path) -> list[dict[str, Any]]:
        import pyarrow.parquet as pq

        return [row for part in sorted(folder.glob("*.parquet")) for row in pq.read_table(part).to_pylist()]

    def test_answers_become_parts_of_a_bounded_size(self, tmp_path: Path) -> None:
        out = tmp_path / "out.parquet"
        with ParquetOutput(out, KEY_OF, part_rows=3) as output:
            assert list(output.recover()) == []
            output.append([_answer(number) for number in range(5)])
            output.append([_answer(5), _answer(6)])
            output.finish()
        assert sorted(file.name for file in out.iterdir()) == [f"part-{i:06}.parquet" for i in range(3)]
        rows = self._read(out)
        assert [row["query_id"] for row in rows] == [f"q{number}" for number in range(7)]
        assert rows[0]["items"][0] == _answer(0)["items"][0] | {"reason": None, "evidence": []}
        assert rows[0]["outcome"] == "model"
        assert json.loads(rows[0]["provenance"]) == _answer(0)["provenance"]

    def test_a_killed_run_goes_on_with_the_answers_that_wait(self, tmp_path: Path) -> None:
        out = tmp_path / "out.parquet"
        with ParquetOutput(out, KEY_OF, part_rows=3) as output:
            list(output.recover())
            output.append([_answer(number) for number in range(5)])
        waiting = out / ".waiting.jsonl"
        waiting.write_bytes(waiting.read_bytes()[:-5])
        (out / ".0123.part").write_text("half of a part")
        with ParquetOutput(out, KEY_OF, part_rows=3) as output:
            assert list(output.recover()) == [f"id:q{number}" for number in range(4)]
            output.append([_answer(4)])
            output.finish()
        assert [row["query_id"] for row in self._read(out)] == [f"q{number}" for number in range(5)]
        assert {file.suffix for file in out.iterdir()} == {".parquet"}

    def test_a_run_killed_between_a_part_and_the_end_of_its_lines_writes_them_once(self, tmp_path: Path) -> None:
        out = tmp_path / "out.parquet"
        with ParquetOutput(out, KEY_OF, part_rows=3) as output:
            list(output.recover())
            output.append([_answer(0), _answer(1)])
            lines = (out / ".waiting.jsonl").read_bytes()
            output.append([_answer(2)])  # a part
        (out / ".waiting.jsonl").write_bytes(lines)
        with ParquetOutput(out, KEY_OF, part_rows=3) as output:
            assert list(output.recover()) == ["id:q0", "id:q1", "id:q2"]
            output.finish()
        assert [row["query_id"] for row in self._read(out)] == ["q0", "q1", "q2"]

    def test_a_job_without_answers_has_columns(self, tmp_path: Path) -> None:
        import pyarrow.parquet as pq

        with ParquetOutput(tmp_path / "out.parquet", KEY_OF) as output:
            list(output.recover())
            output.finish()
        assert pq.read_table(tmp_path / "out.parquet" / "part-000000.parquet").column_names[:3] == [
            "query_id", "row", "items",
        ]  # fmt: skip

    def test_another_part_is_an_error(self, tmp_path: Path) -> None:
        out = tmp_path / "out.parquet"
        out.mkdir()
        (out / "part-000000.parquet").write_text("no Parquet")
        with ParquetOutput(out, KEY_OF) as output, pytest.raises(DataFormatError, match="expected a part"):
            list(output.recover())
