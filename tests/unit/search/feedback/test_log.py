import os
import subprocess
import sys
import threading
from collections import Counter
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("duckdb")
pytest.importorskip("pyarrow")

import pyarrow as pa
import pyarrow.parquet as pq

from genrank.errors import InputError
from genrank.search.feedback.log import EVENTS, IMPRESSIONS, FeedbackEvent, FeedbackLog, Shown
from genrank.types import Listing, Provenance, RankedItem, Ranking
from tests.feedback_writers import SIZE, WRITERS

ROOT = Path(__file__).resolve().parents[4]
NEW_YEAR = datetime(2026, 1, 1)


@pytest.fixture
def log(tmp_path: Path) -> FeedbackLog:
    return FeedbackLog(tmp_path / "log")


def rows(log: FeedbackLog, sql: str, *parameters: Any) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = log.query(sql, parameters).to_pylist()
    return found


def stored(log: FeedbackLog, name: str) -> Any:
    """All rows of all parts, repeated ones too."""
    return pa.concat_tables(
        [pq.read_table(path, partitioning=None) for path in sorted((log.folder / name).glob("*.parquet"))]
    )


def test_what_was_shown_and_clicked_is_read_back(log: FeedbackLog) -> None:
    items = tuple(RankedItem(Listing(key, "a lamp"), rank, 1 / rank, 4 - rank) for rank, key in enumerate("abc", 1))
    ranking = Ranking("q", items, Provenance(model="m", adapter="v2", prompt_hash="0f", outcome="repaired"))
    shown_at = datetime(2026, 1, 1, 13, tzinfo=timezone(timedelta(hours=1)))
    log.shown(
        ranking,
        request_id="r1",
        query="red\nlamp",
        user_id="ann",
        session="s1",
        time=shown_at,
        propensities=[1.0, 0.5, 0.25],
        teams={"a": "new"},
    )
    log.event("r1", "b", "click", time=shown_at)
    log.event("r1", "b", "click", time=shown_at + timedelta(minutes=1))
    log.event("r1", "b", "purchase", time=shown_at + timedelta(hours=1))
    found = rows(log, "SELECT * FROM feedback ORDER BY rank")
    assert [(row["listing_id"], row["rank"], row["source_rank"], row["propensity"]) for row in found] == [
        ("a", 1, 3, 1.0),
        ("b", 2, 2, 0.5),
        ("c", 3, 1, 0.25),
    ]
    assert [(row["clicks"], row["carts"], row["purchases"], row["team"]) for row in found] == [
        (0, 0, 0, "new"),
        (2, 0, 1, None),
        (0, 0, 0, None),
    ]
    first = found[0]
    assert first["time"] == datetime(2026, 1, 1, 12)
    assert (first["query"], first["score"]) == ("red lamp", 1.0)
    assert (first["model"], first["adapter"], first["prompt_hash"], first["outcome"]) == ("m", "v2", "0f", "repaired")


def test_ids_and_items_of_a_later_page_can_be_shown(log: FeedbackLog) -> None:
    log.shown(["x", "y"], request_id="r1", query="lamp")
    log.shown([RankedItem(Listing("z", "a lamp"), 11, 0.5, 12)], request_id="r2", query="lamp")
    found = rows(log, "SELECT listing_id, rank, score FROM impressions ORDER BY request_id, rank")
    assert [tuple(row.values()) for row in found] == [("x", 1, None), ("y", 2, None), ("z", 11, 0.5)]


def test_a_repeated_call_adds_nothing(log: FeedbackLog) -> None:
    for _ in range(3):
        log.shown(["a", "b"], request_id="r1", query="lamp", time=NEW_YEAR)
        log.event("r1", "a", "click", time=NEW_YEAR)
        log.event("r1", "b", "cart", event_id="e1")
    found = rows(log, "SELECT listing_id, clicks, carts FROM feedback ORDER BY listing_id")
    assert [tuple(row.values()) for row in found] == [("a", 1, 0), ("b", 0, 1)]
    assert log.compact() == 9
    assert (len(stored(log, "impressions")), len(stored(log, "events"))) == (2, 2)
    assert log.compact() == 0


def test_the_log_opens_again_and_has_the_documented_columns(log: FeedbackLog) -> None:
    log.shown(["a"], request_id="r1", query="lamp", user_id="ann")
    again = FeedbackLog(log.folder)
    again.shown(["a"], request_id="r2", query="lamp", user_id="ann")
    assert len(rows(again, 'SELECT DISTINCT "user" FROM impressions')) == 1  # the same key
    again.compact()
    for name, schema in (("impressions", IMPRESSIONS), ("events", EVENTS)):
        assert log.query(f"SELECT * FROM {name}").column_names == schema.names
        assert all(pq.read_schema(path).equals(schema) for path in (log.folder / name).glob("*.parquet"))


def test_no_file_holds_a_shoppers_id(log: FeedbackLog) -> None:
    log.shown(["a"], request_id="r1", query="lamp", user_id="ann@example.org", session="visit-77")
    (row,) = rows(log, 'SELECT "user", session FROM impressions')
    assert len(row["user"]) == len(row["session"]) == 32
    assert "ann" not in str(stored(log, "impressions").to_pylist())
    assert "visit" not in str(stored(log, "impressions").to_pylist())
    assert FeedbackLog(log.folder.with_name("other"))._pseudonym("ann@example.org", "user_id") != row["user"]
    if os.name != "nt":
        assert (log.folder / "key").stat().st_mode & 0o077 == 0


def test_forget(log: FeedbackLog) -> None:
    for number, user in enumerate(["ann", "bob", None, "ann"]):
        log.shown(["a", "b"], request_id=f"r{number}", query="lamp", user_id=user)
        log.event(f"r{number}", "a", "click")
    log.compact()
    log.shown(["a", "b", "c"], request_id="r4", query="lamp", user_id="ann")
    unfinished = log.folder / "impressions" / ".0123.part"  # a writer was killed
    unfinished.write_bytes(b"ann")
    forgotten = log.forget("ann")
    assert (forgotten.impressions, forgotten.events) == (7, 2)
    assert set(stored(log, "impressions")["request_id"].to_pylist()) == {"r1", "r2"}
    assert set(stored(log, "events")["request_id"].to_pylist()) == {"r1", "r2"}
    assert not unfinished.exists()
    again = log.forget("ann")
    assert (again.impressions, again.events) == (0, 0)


def test_a_folder_may_have_any_name(tmp_path: Path) -> None:
    log = FeedbackLog(tmp_path / "an [a]'s k=v log")
    for number in range(2):
        log.shown(["a"], request_id=f"r{number}", query="lamp")
    assert log.query("SELECT * FROM impressions").column_names == IMPRESSIONS.names
    log.compact()
    assert log.query("SELECT count(*) AS n FROM impressions")["n"].to_pylist() == [2]
    log.shown(["a"], request_id="r2", query="lamp", user_id="ann")
    assert log.forget("ann").impressions == 1
    assert log.query("SELECT * FROM impressions").column_names == IMPRESSIONS.names


@pytest.mark.parametrize(
    ("shown", "words"),
    [
        (Shown("", ["a"], "lamp"), r"lists\[1\].request_id: must be text that is not empty"),
        (Shown("r", ["a", "a"], "lamp"), r"lists\[1\].items\[1\]: the id 'a' comes twice"),
        (Shown("r", "ab", "lamp"), r"lists\[1\].items: must be a ranking or a list, got text"),
        (Shown("r", [], "lamp"), r"lists\[1\].items: nothing was shown"),
        (Shown("r", ["\ud800"], "lamp"), r"lists\[1\].items\[0\]: must be valid Unicode"),
        (Shown("r", ["a"], "lamp", propensities=[0.0]), r"propensities\[0\]: must be over 0 and up to 1, got 0.0"),
        (Shown("r", ["a", "b"], "lamp", propensities=[1.0]), "there is none for rank 2; give 2 or more"),
        (Shown("r", ["a"], "lamp", time="2026"), r"lists\[1\].time: must be a datetime"),  # type: ignore[arg-type]
        (Shown("r", ["a"], 7), r"lists\[1\].query: must be text, got int"),  # type: ignore[arg-type]
    ],
)
def test_wrong_lists_are_named_and_nothing_is_written(log: FeedbackLog, shown: Shown, words: str) -> None:
    with pytest.raises(InputError, match=words):
        log.write([Shown("good", ["a"], "lamp"), shown])
    assert len(stored(log, "impressions")) == 0


def test_wrong_events_are_named(log: FeedbackLog) -> None:
    with pytest.raises(InputError, match=r"events\[0\].kind: must be one of click, cart, purchase, got 'buy'"):
        log.write(events=[FeedbackEvent("r", "a", "buy")])  # type: ignore[arg-type]
    with pytest.raises(InputError, match=r"events\[0\].event_id"):
        log.event("r", "a", "click", event_id="")


def test_a_maintainer_takes_nothing_from_writers_that_are_alive(log: FeedbackLog) -> None:
    """Unfinished files are swept nearly all the time; every write is there in the end."""
    stop = threading.Event()

    def sweep() -> None:
        while not stop.is_set():
            with log._maintenance():
                log._sweep()

    sweeper = threading.Thread(target=sweep)
    sweeper.start()
    try:
        for number in range(8):
            log.event(f"r{number}", "a", "click")
    finally:
        stop.set()
        sweeper.join()
    assert len(stored(log, "events")) == 8


def test_queries_run_while_parts_are_merged(log: FeedbackLog) -> None:
    log.write([Shown(f"r{i}", ["a", "b"], "lamp", "ann" if i % 2 else "bob") for i in range(50)])
    stop = threading.Event()
    counts: Counter[int] = Counter()
    failures: list[BaseException] = []

    def read() -> None:
        try:
            while not stop.is_set():
                counts[log.query("SELECT count(*) AS n FROM impressions")["n"][0].as_py()] += 1
        except BaseException as error:
            failures.append(error)

    reader = threading.Thread(target=read)
    reader.start()
    try:
        for _ in range(4):
            log.shown(["a", "b"], request_id="r0", query="lamp")
            log.compact()
    finally:
        stop.set()
        reader.join()
    assert not failures
    assert set(counts) == {100}


@pytest.mark.skipif(not hasattr(os, "fork"), reason="forks its writers")
def test_nothing_is_lost_or_doubled_by_eight_writers_that_are_killed(log: FeedbackLog, tmp_path: Path) -> None:
    acknowledged = tmp_path / "acknowledged"
    command = [sys.executable, "-m", "tests.feedback_writers", str(log.folder), str(acknowledged), "20"]
    subprocess.run(command, cwd=ROOT, check=True, timeout=240)
    found = rows(
        log,
        "SELECT request_id, count(*) AS shown, count(DISTINCT rank) AS ranks, sum(clicks)::INT AS clicks FROM feedback "
        "GROUP BY request_id",
    )
    done = set(acknowledged.read_text().splitlines())
    assert len(done) >= WRITERS
    assert {row["shown"] for row in found} == {row["ranks"] for row in found} == {SIZE}  # whole lists only
    clicks = {row["request_id"]: row["clicks"] for row in found}
    assert {clicks.get(request) for request in done} == {1}  # none lost, none twice
    assert set(clicks.values()) <= {0, 1}
    log.compact()
    once = rows(log, "SELECT count(*) AS n FROM impressions")[0]["n"]
    assert len(stored(log, "impressions")) == once == len(found) * SIZE
    assert len(stored(log, "events")) == sum(clicks.values())
    assert not list(log.folder.rglob(".*.part"))


def test_times_are_utc(log: FeedbackLog) -> None:
    before = datetime.now(UTC).replace(tzinfo=None)
    log.shown(["a"], request_id="r", query="lamp")
    (row,) = rows(log, "SELECT time FROM impressions")
    assert before <= row["time"] <= datetime.now(UTC).replace(tzinfo=None)
