from __future__ import annotations

from pathlib import Path

from genrank.batch.ledger import Ledger


def test_keys_are_new_then_seen_again_and_done_ones_are_known(tmp_path: Path) -> None:
    path = tmp_path / "ids"
    path.write_text("left by a run that was killed")
    with Ledger(path) as ledger:
        assert ledger.add_done("a")
        assert not ledger.add_done("a")
        assert [ledger.see(key) for key in ("a", "b", "a", "b")] == ["done", "new", "again", "again"]
        assert ledger.add_done("b")
        assert [ledger.is_done(key) for key in ("a", "b", "c")] == [True, True, False]
        assert ledger.see("\ud800") == "new"
    assert not path.exists()


def test_many_keys_stay_apart(tmp_path: Path) -> None:
    with Ledger(tmp_path / "ids") as ledger:
        assert all(ledger.see(f"id:{i}") == "new" for i in range(2_000))
        assert all(ledger.see(f"id:{i}") == "again" for i in range(2_000))
