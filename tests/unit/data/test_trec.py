from __future__ import annotations

import itertools
import re
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ir_measures
import numpy as np
import pytest
import pytrec_eval
import ranx
from hypothesis import given, settings
from hypothesis import strategies as st

from genrank.data.trec import falling, read_qrels, read_run, write_qrels, write_run
from genrank.errors import DataFormatError, InputError


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
    run = {"q1": {"z": 0.1 + 0.2, "m": 0.1, "a": 0.05, "连": -5.0}, "q2": {"a": 0.0}}
    write_run(tmp_path / "run", run)
    read = read_run(tmp_path / "run")
    assert read == run, "scores that fall in float32 keep every digit"
    assert list(read["q1"]) == ["z", "m", "a", "连"]
    assert (tmp_path / "run").read_text(encoding="utf-8").splitlines()[1] == "q1 Q0 m 2 0.1 genrank"


read_with_ir_measures: Any = ir_measures.read_trec_run  # which has no types

SCORES = st.one_of(
    st.sampled_from([0.0, -0.0, 1.0, 1.0 + 1e-9, 0.1, 1e-45, 1e-39, -1e-40, 5e-324, 3.4e38, 2.0**24, 2.0**24 + 1]),
    st.floats(allow_nan=False, allow_infinity=False),
    st.floats(allow_nan=False, allow_infinity=False, width=32),
    st.floats(0, 1),
)


@given(st.dictionaries(st.text("ab1_é", min_size=1, max_size=3), SCORES, min_size=1, max_size=40))
@settings(max_examples=300, deadline=None)
def test_every_tool_reads_a_written_run_in_its_order(scores: dict[str, float]) -> None:
    expected = sorted(scores, key=lambda key: -scores[key])  # equal scores in the mapping's order
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "run"
        write_run(path, {"q": scores})
        assert list(read_run(path)["q"]) == expected
        columns = [line.split() for line in path.read_text(encoding="utf-8").splitlines()]
        theirs = [(row.doc_id, row.score) for row in read_with_ir_measures(str(path))]
    assert [(row[2], int(row[3])) for row in columns] == [(key, rank) for rank, key in enumerate(expected, start=1)]
    assert [key for key, _ in sorted(theirs, key=lambda row: (row[1], row[0]), reverse=True)] == expected
    for kind in (np.float32, np.float64):  # trec_eval keeps the first, ranx the second
        kept = [float(kind(row[4])) for row in columns]
        flushed = [0.0 if abs(score) < np.finfo(np.float32).tiny else score for score in kept]  # fast arithmetic
        for scores_read in (kept, flushed):
            assert all(one > other for one, other in itertools.pairwise(scores_read))


def test_trec_eval_and_ranx_measure_equal_scores_in_the_written_order(tmp_path: Path) -> None:
    ids = [f"d{(7 * i) % 50}" for i in range(50)]  # neither rising nor falling
    write_run(tmp_path / "run", {"q": dict.fromkeys(ids, 0.7)})
    run = {"q": {row.doc_id: row.score for row in read_with_ir_measures(str(tmp_path / "run"))}}
    for rank, key in enumerate(ids, start=1):
        trec_eval = pytrec_eval.RelevanceEvaluator({"q": {key: 1}}, {"recip_rank"}).evaluate(run)
        assert trec_eval["q"]["recip_rank"] == pytest.approx(1 / rank)
    read = ranx.Run.from_file(str(tmp_path / "run"), kind="trec")
    assert sorted(ids, key=lambda key: -read["q"][key]) == ids
    assert len(set(read["q"].values())) == len(ids)


def test_scores_beyond_float32_become_places(tmp_path: Path) -> None:
    write_run(tmp_path / "run", {"q": {"a": 1e308, "b": 1e300, "c": -1e308}, "r": {"a": 1.0}})
    assert read_run(tmp_path / "run") == {"q": {"a": 3.0, "b": 2.0, "c": 1.0}, "r": {"a": 1.0}}
    lowest = -float(np.finfo(np.float32).max)
    assert falling([0.0, lowest, lowest]) == [3.0, 2.0, 1.0]


@pytest.mark.parametrize("score", [np.float64(0.5), np.float32(0.5), 1])
def test_numbers_of_other_kinds_are_written_as_numbers(score: Any, tmp_path: Path) -> None:
    write_run(tmp_path / "run", {"q": {"a": score}}, tag="two words")
    assert (tmp_path / "run").read_text(encoding="utf-8") == f"q Q0 a 1 {float(score)} two-words\n"


@pytest.mark.parametrize(
    ("run", "message"),
    [
        ({"q": {"a": float("nan")}}, "query 'q': the score of listing 'a' must be a finite number, got nan"),
        ({"q": {"a": float("inf")}}, "must be a finite number, got inf"),
        ({"q": {"a": 10**400}}, "must be a finite number, got 1000"),
        ({"q": {"a b": 1.0}}, "an id must be non-empty and without white space, got 'a b'"),
        ({"": {"a": 1.0}}, "an id must be non-empty and without white space, got ''"),
        ({"q\n": {"a": 1.0}}, "an id must be non-empty and without white space"),
        ({1: {"a": 1.0}}, "an id must be text, got 1"),
        ({"q": {1: 1.0}}, "an id must be text, got 1"),
        ({"\ufeffq": {"a": 1.0}}, "an id must be printable, got '\\ufeffq'"),
        ({"q": {"\ud800": 1.0}}, "an id must be printable, got '\\ud800'"),
    ],
)
def test_what_no_run_can_hold_is_refused(run: Any, message: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=re.escape(message)) as caught:
        write_run(tmp_path / "run", run)
    assert caught.value.field == "run"
    assert "\n" not in str(caught.value)


def test_write_qrels_reads_back(tmp_path: Path) -> None:
    qrels = {"q1": {"a": 3, "b": 0}, "q2": {"连": -1}}
    write_qrels(tmp_path / "qrels", qrels)
    assert read_qrels(tmp_path / "qrels") == qrels


@pytest.mark.parametrize(
    ("qrels", "message"),
    [
        ({"q": {"a": 1.5}}, "query 'q': the grade of listing 'a' must be a whole number, got 1.5"),
        ({"q": {"a": None}}, "must be a whole number, got None"),
        ({"q": {"a b": 1}}, "an id must be non-empty and without white space, got 'a b'"),
        ({"": {"a": 1}}, "an id must be non-empty and without white space, got ''"),
        ({1: {"a": 1}}, "an id must be text, got 1"),
    ],
)
def test_what_no_qrels_can_hold_is_refused(qrels: Any, message: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=re.escape(message)) as caught:
        write_qrels(tmp_path / "qrels", qrels)
    assert caught.value.field == "qrels"


def test_grades_of_numpy_and_truths_are_written_as_whole_numbers(tmp_path: Path) -> None:
    write_qrels(tmp_path / "qrels", {"q": {"a": np.int64(2), "b": True}})  # type: ignore[dict-item]
    assert read_qrels(tmp_path / "qrels") == {"q": {"a": 2, "b": 1}}


@pytest.mark.parametrize("lead", [b"\xef\xbb\xbf", b"\xef\xbb\xbf" * 2, b"\r\n", b" \t"])
def test_trec_files_as_other_systems_write_them(lead: bytes, tmp_path: Path) -> None:
    assert read_qrels(_write(tmp_path / "qrels", lead + b"q1\t0\ta\t3\r\nq1 0 b 0\r\n")) == {"q1": {"a": 3, "b": 0}}
    assert read_run(_write(tmp_path / "run", lead + b"q1\tQ0\ta\t1\t2\tt\r\n")) == {"q1": {"a": 2.0}}


def test_marks_of_files_put_one_behind_another_are_no_part_of_an_id(tmp_path: Path) -> None:
    path = _write(tmp_path / "run", b"\xef\xbb\xbfq1 Q0 a 1 2 t\n\xef\xbb\xbfq2 Q0 a 1 1 t\n")
    assert read_run(path) == {"q1": {"a": 2.0}, "q2": {"a": 1.0}}


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-32"])
def test_another_unicode_encoding_is_told(encoding: str, tmp_path: Path) -> None:
    path = _write(tmp_path / "qrels", "q1 0 a 3\n".encode(encoding))
    with pytest.raises(DataFormatError, match=rf"^{path}: expected UTF-8 text, found UTF-\d\d; save it as UTF-8$"):
        read_qrels(path)


@pytest.mark.parametrize("reader", [read_run, read_qrels])
def test_a_file_that_cannot_be_read(reader: Callable[[Path], Any], tmp_path: Path) -> None:
    for path in (tmp_path / "missing", tmp_path):
        with pytest.raises(DataFormatError, match=f"^{re.escape(str(path))}: expected a readable file"):
            reader(path)


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
