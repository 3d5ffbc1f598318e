from __future__ import annotations

import json

import pytest

from eval.soak.answers import Broken, Checked, Reply
from eval.soak.page import page, report
from eval.soak.run import Seen, Settings


def seen(memory: list[float], seconds: float = 1200.0) -> Seen:
    found = Seen(Settings(), seconds=seconds, memory=[(60.0 * i, mib) for i, mib in enumerate(memory)], files=[20, 25])
    found.tally.add("steady", Reply(200, 0.5), Checked((), "model"), "at 1 s")
    found.recoveries["kill"].append(1.5)
    found.faults["kill"] += 1
    found.asked["cut within the answer"] += 4
    return found


@pytest.mark.parametrize(
    ("memory", "seconds", "kept"),
    [
        ([80, 90, 100, 100, 100, 100, 100, 104, 104, 104], 1200.0, True),
        ([80, 90, 100, 100, 101, 102, 103, 104, 106, 106], 1200.0, False),
        ([80, 90, 100, 100, 101, 102, 103, 104, 106, 106], 60.0, True),  # too short to judge
        ([120, 110, 100, 100, 90, 80, 80, 80, 80, 80], 1200.0, True),
        ([100, 900], 1200.0, True),
    ],
)
def test_memory_may_grow_by_a_twentieth(memory: list[float], seconds: float, kept: bool) -> None:
    found = report(seen(memory, seconds), "python -m eval.soak")
    assert found["kept"] is kept
    assert list(found["broken"]) == ([] if kept else ["memory"])


def test_the_page_says_what_was_seen_and_what_was_broken() -> None:
    run = seen([100.0] * 10)
    run.held_up, run.longest = 2.0, 1.5
    run.tally.break_(Broken("status", "status 500"), "at 7 s, a steady client")
    found = report(run, "python -m eval.soak --seed 3")
    json.dumps(found, allow_nan=False)
    text = page(found)
    for part in (
        "# Soak: promises were broken",
        "`python -m eval.soak --seed 3`",
        "| model | 1 |",
        "| model | 100.0% |",
        "8 steady clients, at most 20 candidates and 0.2 s of pause",
        "| kill | 1 |",
        "| kill | 1 | 1.50 | 1.50 |",
        "| cut within the answer | 4 |",
        "100 MiB in the second fifth of the time, 100 MiB in the last (+0.0%; may grow by 5%)",
        "not counted above: 2.0 s in all, at most 1.50 s at a time",
        "## Broken 1 times: status",
        "- at 7 s, a steady client: status 500",
    ):
        assert part in text
    assert "every promise was kept" in page(report(seen([100.0] * 10), ""))


@pytest.mark.parametrize(("models", "kept"), [(2, True), (1, False), (0, False)])
def test_the_model_must_have_ranked_a_fifth(models: int, kept: bool) -> None:
    run = Seen(Settings(), seconds=60.0)
    for i in range(10):
        run.tally.add("steady", Reply(200, 0.5), Checked((), "reasons" if i < models else "first-stage"), "")
    for _ in range(100):
        run.tally.add("steady", Reply(200, 0.1), Checked((), "model", cached=True), "")  # says nothing of the model
    found = report(run, "")
    assert found["shares"].get("reasons", 0.0) == models / 10
    assert list(found["broken"]) == ([] if kept else ["model"])
    assert kept or found["broken"]["model"]["examples"][0].startswith(f"{models} of 10 new rankings were the model's")
    nothing = Seen(Settings(least_model=0.0), seconds=60.0)
    assert report(nothing, "")["shares"] == {}


def test_percentiles_are_values_that_were_seen() -> None:
    run = seen([])
    run.tally.seconds["model"] = [0.1 * i for i in range(1, 101)]
    assert report(run, "")["latency_s"]["model"] == {"median": 5.1, "p95": 9.6, "p99": 10.0, "most": 10.0}
