from __future__ import annotations

import threading
from pathlib import Path

import pytest

from genrank.experiment.journal import Journal


def test_what_is_added_comes_back_oldest_first(tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    journal = Journal(path)
    journal.add([("k", {"text": "一\n\u2028two", "cost": 0.25}), ("other", {"cost": 1})])
    journal.add([("k", {"text": "lone \ud800"})])
    for one in (journal, Journal(path)):
        assert [fields["text"] for fields in one.of("k")] == ["一\n\u2028two", "lone \ud800"]
        assert one.of("unknown") == []
        assert one.total("cost") == 1.25


@pytest.mark.parametrize("torn", [b'\n{"key": "k2", "te', b"\n\xff\xfe", b'\n["key"]', b'\n{"no": "key"}', b"\n[[["])
def test_a_torn_line_costs_only_itself(torn: bytes, tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    Journal(path).add([("k1", {"n": 1})])
    with path.open("ab") as out:
        out.write(torn)
    Journal(path).add([("k3", {"n": 3})])
    again = Journal(path)
    assert [again.of(key) for key in ("k1", "k2", "k3")] == [[{"key": "k1", "n": 1}], [], [{"key": "k3", "n": 3}]]


def test_many_threads_may_add(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "journal.jsonl")
    threads = [threading.Thread(target=journal.add, args=([(f"k{i}", {"n": 1})],)) for i in range(30)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert Journal(tmp_path / "journal.jsonl").total("n") == 30


def test_keys_come_in_the_order_of_their_first_entries(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "journal.jsonl")
    journal.add([("b", {}), ("a", {}), ("b", {})])
    assert list(journal) == list(Journal(tmp_path / "journal.jsonl")) == ["b", "a"]


def test_the_folder_is_made_when_something_is_added(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "new" / "journal.jsonl")
    assert not (tmp_path / "new").exists()
    journal.add([("k", {"n": 1})])
    assert Journal(tmp_path / "new" / "journal.jsonl").total("n") == 1


def test_without_a_file_entries_are_in_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    journal = Journal(None)
    journal.add([("k", {"n": 1})])
    assert [fields["n"] for fields in journal.of("k")] == [1]
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("cost", [float("nan"), 2.5])
def test_only_numbers_are_added_up(cost: float, tmp_path: Path) -> None:
    journal = Journal(tmp_path / "journal.jsonl")
    journal.add([("k", {"cost": 1}), ("k", {"cost": "many"}), ("k", {"cost": cost}), ("k", {})])
    assert journal.total("cost") == Journal(tmp_path / "journal.jsonl").total("cost") == (3.5 if cost == cost else 1)
