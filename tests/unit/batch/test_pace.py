from __future__ import annotations

import pytest

from genrank.batch.pace import Pace, duration


def test_the_time_left_follows_the_rate_of_this_run() -> None:
    now = 0.0
    pace = Pace(1000, lambda: now)
    assert (pace.rate, pace.left) == (0.0, None)
    pace.add(resumed=400)
    now = 50.0
    pace.add(ranked=98, failed=2)
    assert pace.rate == 98 / 50
    assert pace.left == 500 / pace.rate
    assert str(pace) == "500 of 1,000 rows, 2 failed, 1.96 rows/s, 4 min 15 s left"


def test_the_rate_is_that_of_the_last_minutes() -> None:
    now = 0.0
    pace = Pace(None, lambda: now)
    for _ in range(10):
        now += 60
        pace.add(ranked=60)
    for _ in range(10):
        now += 60
        pace.add(ranked=6)
    assert pace.rate == pytest.approx(0.1)
    assert pace.left is None
    assert str(pace) == "660 rows, 0.1 rows/s"


@pytest.mark.parametrize(
    ("seconds", "said"),
    [(0.4, "0 s"), (59, "59 s"), (60, "1 min"), (255, "4 min 15 s"), (3000, "50 min"), (7500, "2 h 5 min")],
)
def test_durations_are_for_people(seconds: float, said: str) -> None:
    assert duration(seconds) == said
