from __future__ import annotations

import threading
from pathlib import Path

import pytest

from genrank.experiment.journal import Journal


def test_what_is_added_comes_back_oldest_first(tmp_path: Path) -> None:
    path = tmp_path / "answers.jsonl"
    answers = Journal(path)
    answers.add([("k", {"text": "一\n\u2028two", "cost": 0.25}), ("other", {"cost": 1})])
    answers.add([("k", {"text": "lone \ud800"})])
    for one in (answers, Journal(path)):
        assert [fields["text"] for fields in one.of("k")] == ["一\n\u2028two", "lone \ud800"]
        assert one.of("unknown") == []
        assert one.total("cost") == 1.25


@pytest.mark.parametrize("torn", [b'\n{"key": "k2", "te', b"\n\xff\xfe", b'\n["key"]', b'\n{"no": "key"}', b"\n[[["])
def test_a_torn_line_costs_only_itself(torn: bytes, tmp_path: Path) -> None:
    path = tmp_path / "answers.jsonl"
    Journal(path).add([("k1", {"n": 1})])
    with path.open("ab") as out:
        out.write(torn)
    Journal(path).add([("k3", {"n": 3})])
    again = Journal(path)
    assert [again.of(key) for key in ("k1", "k2", "k3")] == [[{"key": "k1", "n": 1}], [], [{"key": "k3", "n": 3}]]


def test_many_threads_may_add(tmp_path: Path) -> None:
    answers = Journal(tmp_path / "answers.jsonl")
    threads = [threading.Thread(target=answers.add, args=([(f"k{i}", {"n": 1})],)) for i in range(30)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert Journal(tmp_path / "answers.jsonl").total("n") == 30
