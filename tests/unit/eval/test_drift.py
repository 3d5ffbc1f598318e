import json
import math
import random
import re
from datetime import datetime, timedelta
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("duckdb")

from eval.drift import drift, jensen_shannon, main, stability_index, wilson, write_drift
from genrank.errors import InputError
from genrank.search.feedback.log import FeedbackEvent, FeedbackLog, Shown
from genrank.types import Listing, Provenance, RankedItem, Ranking

START, MIDDLE, END = datetime(2026, 1, 1), datetime(2026, 1, 2), datetime(2026, 1, 3)


def test_divergence() -> None:
    assert jensen_shannon(np.array([3, 1]), np.array([6, 2])) == 0
    assert jensen_shannon(np.array([1, 0]), np.array([0, 5])) == 1
    p, q = (1 / 2, 1 / 2), (1, 0)
    mean = [(x + y) / 2 for x, y in zip(p, q, strict=True)]
    expected = -sum(m * math.log2(m) for m in mean) - (1 + 0) / 2
    assert jensen_shannon(np.array([2, 2]), np.array([7, 0])) == pytest.approx(expected)


def test_stability_index() -> None:
    p, q = (10.5 / 21, 10.5 / 21), (0.5 / 21, 20.5 / 21)
    expected = sum((b - a) * math.log(b / a) for a, b in zip(p, q, strict=True))
    assert stability_index(np.array([10, 10]), np.array([0, 20])) == pytest.approx(expected)
    assert stability_index(np.array([10, 10]), np.array([10, 10])) == 0


def test_wilson() -> None:
    assert wilson(0, 0) == (0, 1)
    assert wilson(5, 10) == pytest.approx((0.2366, 0.7634), abs=1e-4)
    assert wilson(0, 10)[0] == 0


def period(log: FeedbackLog, start: datetime, queries: str, lift: float, click: float, adapter: str) -> None:
    chance = random.Random(str(start))
    lists, events = [], []
    for number in range(300):
        query = chance.choice(queries)
        scores = sorted((min(max(chance.gauss(0.5 + lift, 0.1), 0), 1) for _ in range(3)), reverse=True)
        items = tuple(
            RankedItem(Listing(f"{query}{rank}", "a lamp"), rank, score, rank) for rank, score in enumerate(scores, 1)
        )
        request, time = f"{start}-{number}", start + timedelta(minutes=number)
        lists.append(
            Shown(request, Ranking("", items, Provenance(model="m", adapter=adapter)), query, "ann", time=time)
        )
        events += [
            FeedbackEvent(request, item.listing_id, "click", time)
            for item in items
            if chance.random() < click / item.rank
        ]
    log.write(lists, events)


@pytest.fixture
def log(tmp_path: Path) -> FeedbackLog:
    return FeedbackLog(tmp_path / "log")


def test_two_like_periods_have_not_drifted(log: FeedbackLog) -> None:
    for start in (START, MIDDLE):
        period(log, start, "abcdef", 0, 0.5, "v1")
    found = drift(log, MIDDLE, END, START)
    assert found["drifted"] == []
    assert found["queries"]["new_share"] == 0
    assert found["queries"]["divergence"] < found["queries"]["divergence_by_chance"]


def test_what_changed_is_found(log: FeedbackLog, tmp_path: Path) -> None:
    period(log, START, "abcdef", 0, 0.6, "v1")
    period(log, MIDDLE, "bcdefgh", 0.2, 0.2, "<script>v2")
    found = drift(log, MIDDLE, END, START)
    assert found["drifted"] == ["queries", "listings", "scores", "clicks"]
    asked = log.query("SELECT count(DISTINCT request_id) AS n FROM impressions WHERE query IN ('g', 'h')")["n"][
        0
    ].as_py()
    assert found["queries"]["new_share"] == pytest.approx(asked / 300)
    assert {row["name"] for row in found["queries"]["moved"][:3]} == {"a", "g", "h"}
    assert found["sizes"]["old"]["lists"] == found["sizes"]["new"]["lists"] == 300
    first = found["clicks"][0]
    assert first["differs"]
    assert first["old"]["rate"] == pytest.approx(0.6, abs=0.1)
    assert first["new"]["rate"] == pytest.approx(0.2, abs=0.1)
    assert [row["share"] for row in found["makers"]] == [1.0, 1.0]
    page = write_drift(found, tmp_path / "out").read_text(encoding="utf-8")
    assert "Changed since 2026-01-01 00:00:00 to 2026-01-02 00:00:00: queries, listings, scores, clicks." in page
    assert "&lt;script&gt;v2" in page
    assert "<script" not in page
    assert not re.search(r'(?:src|href)="(?!data:)', page)
    assert json.loads((tmp_path / "out/drift.json").read_text()) == found


def test_lists_without_scores_and_events(log: FeedbackLog, tmp_path: Path) -> None:
    for time in (START, MIDDLE):
        log.shown(["a"], request_id=f"{time}", query="lamp", time=time)
    found = drift(log, MIDDLE, END, START)
    assert found["scores"] is None
    assert found["drifted"] == []
    assert "One of the periods has no scores." in write_drift(found, tmp_path / "out").read_text(encoding="utf-8")


def test_an_empty_period_is_an_error(log: FeedbackLog) -> None:
    log.shown(["a"], request_id="r", query="lamp", time=START)
    with pytest.raises(InputError, match="since: nothing was shown from 2026-01-02"):
        drift(log, MIDDLE, END, START)
    with pytest.raises(InputError, match="since: must be after 2026-01-02"):
        drift(log, START, END, MIDDLE)


def test_the_program(log: FeedbackLog, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for time in (START, MIDDLE):
        log.shown(["a", "b"], request_id=f"{time}", query="lamp", time=time)
    out = tmp_path / "out"
    assert main([str(log.folder), "--since", "2026-01-02", "--until", "2026-01-03", "--out", str(out)]) == 0
    said = json.loads(capsys.readouterr().out)
    assert said["report"] == str(out / "drift.html")
    assert said["periods"]["old"] == ["2026-01-01 00:00:00", "2026-01-02 00:00:00"]
    assert main([str(tmp_path), "--since", "2026-01-02"]) == 2
    assert "holds no feedback log" in capsys.readouterr().err
    assert not (tmp_path / "impressions").exists()
