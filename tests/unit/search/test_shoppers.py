"""Shoppers are remembered, briefly, and forgotten on request."""

from __future__ import annotations

import contextlib
import sqlite3
import threading
from datetime import UTC, datetime
from pathlib import Path

import pytest

from genrank.errors import DataFormatError, InputError
from genrank.search.shoppers import Shoppers, profile
from genrank.types import Interaction, Listing, Price, Query


def interaction(listing_id: str, title: str, event: str = "view", category: str = "", day: int = 1) -> Interaction:
    listing = Listing(listing_id, title=title, category=(category,) if category else (), price=Price(1, "EUR"))
    return Interaction(event, listing, time=datetime(2026, 1, day, tzinfo=UTC))  # type: ignore[arg-type]


MUG, BOWL, LAMP = interaction("m", "Red mug"), interaction("b", "Bowl 碗"), interaction("l", "Desk lamp", "purchase")


def test_a_history_comes_back_as_it_was(tmp_path: Path) -> None:
    with Shoppers(tmp_path / "shoppers") as shoppers:
        shoppers.add("u1", [MUG, BOWL])
        shoppers.add("u1", [LAMP])
        shoppers.add("u2", [LAMP])
        assert shoppers.history("u1") == [MUG, BOWL, LAMP]
        assert shoppers.history("nobody") == []
    with Shoppers(tmp_path / "shoppers") as shoppers:
        assert shoppers.history("u2") == [LAMP]


def test_the_oldest_go(tmp_path: Path) -> None:
    with Shoppers(tmp_path / "shoppers", kept=2) as shoppers:
        shoppers.add("u1", [MUG, BOWL, LAMP])
        assert shoppers.history("u1") == [BOWL, LAMP]


def test_what_is_forgotten_is_not_in_the_file(tmp_path: Path) -> None:
    secret = interaction("s", "Embarrassing ointment")
    with Shoppers(tmp_path / "shoppers") as shoppers:
        shoppers.add("u1", [secret, MUG])
        shoppers.add("u2", [BOWL])
        assert shoppers.forget("u1") == 2
        assert shoppers.forget("u1") == 0
        assert shoppers.history("u1") == []
        assert shoppers.history("u2") == [BOWL]
        assert not any(b"ointment" in file.read_bytes() for file in tmp_path.iterdir())


def test_a_profile_is_short_useful_and_distinct() -> None:
    history = [
        interaction("1", "Red mug", day=1),
        interaction("2", "Garden hose", "purchase", day=2),
        interaction("1", "Red mug", "purchase", day=3),
        interaction("3", "Mug, red", day=4),
        interaction("4", "Tea pot", category="Kitchen", day=5),
    ]
    found = profile(history, Query("mug"), [Listing("c", title="Cup", category=("Kitchen",))], most=2)
    assert [one.listing.listing_id for one in found] == ["1", "4"]
    assert found[0].event == "purchase"
    assert [one.listing.listing_id for one in profile(history, Query("mug"), most=9)] == ["2", "1", "4"]
    assert profile(history, Query("mug"), most=0) == []
    assert profile([], Query("mug")) == []


def test_a_profile_of_the_stored(tmp_path: Path) -> None:
    with Shoppers(tmp_path / "shoppers") as shoppers:
        shoppers.add("u1", [MUG, BOWL, LAMP])
        assert shoppers.profile("u1", Query("lamp"), most=1) == [LAMP]


def test_threads_and_other_handles_see_what_was_added(tmp_path: Path) -> None:
    with Shoppers(tmp_path / "shoppers") as one, Shoppers(tmp_path / "shoppers") as other:
        threads = [threading.Thread(target=lambda: one.add("u", [MUG])) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(other.history("u")) == 8


@pytest.mark.parametrize("user_id", ["", "a\nb", 7])
def test_bad_users_are_named(tmp_path: Path, user_id: str) -> None:
    with Shoppers(tmp_path / "shoppers") as shoppers, pytest.raises(InputError, match="user_id"):
        shoppers.history(user_id)


def test_other_files_are_refused(tmp_path: Path) -> None:
    (tmp_path / "text").write_text("no database, but long enough to be read as one" * 40)
    with pytest.raises(DataFormatError, match="damaged"):
        Shoppers(tmp_path / "text")
    with contextlib.closing(sqlite3.connect(tmp_path / "other")) as other:
        other.execute("CREATE TABLE t (x)")
    with pytest.raises(DataFormatError, match="another database"):
        Shoppers(tmp_path / "other")
    with pytest.raises(OSError, match="unable to open"):
        Shoppers(tmp_path / "none" / "shoppers")
    with pytest.raises(InputError, match="kept"):
        Shoppers(tmp_path / "new", kept=0)
