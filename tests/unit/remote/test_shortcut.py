from __future__ import annotations

import pytest

from genrank.remote.shortcut import Shortcut


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def shortcut(clock: Clock) -> Shortcut:
    made = Shortcut("fast", "slow", clock=clock)
    made.record(works=True)
    return made


def pauses(shortcut: Shortcut, clock: Clock, count: int) -> list[float]:
    """Seconds until each of the next tries, all of which fail."""
    found = []
    for _ in range(count):
        since = clock.now
        while not shortcut.take():
            clock.now += 10.0
        found.append(clock.now - since)
        shortcut.record(works=False)
    return found


def test_a_shortcut_that_works_is_always_taken(shortcut: Shortcut) -> None:
    assert all(shortcut.take() for _ in range(5))
    assert (str(shortcut), shortcut.failures) == ("fast", 0)


def test_each_failure_in_a_row_doubles_the_pause_up_to_an_hour(shortcut: Shortcut, clock: Clock) -> None:
    shortcut.record(works=False, why="nonsense")
    assert str(shortcut) == "slow"
    assert pauses(shortcut, clock, 9) == [30, 60, 120, 240, 480, 960, 1920, 3600, 3600]
    assert shortcut.failures == 1, "tries are no losses"


def test_many_failures_at_once_count_once(shortcut: Shortcut, clock: Clock) -> None:
    for _ in range(32):
        shortcut.record(works=False)
    assert shortcut.failures == 1
    assert pauses(shortcut, clock, 1) == [30]


def test_one_request_tries_it(shortcut: Shortcut, clock: Clock) -> None:
    shortcut.record(works=False)
    clock.now = 30.0
    assert [shortcut.take() for _ in range(3)] == [True, False, False]
    clock.now = 60.0
    assert shortcut.take(), "the first try was cut off"
    shortcut.record(works=True)
    assert shortcut.take()


@pytest.mark.parametrize(("worked_for", "pause"), [(100.0, 60), (5000.0, 30)])
def test_one_that_soon_fails_again_waits_longer(
    shortcut: Shortcut, clock: Clock, worked_for: float, pause: float
) -> None:
    shortcut.record(works=False)
    clock.now = 30.0
    assert shortcut.take()
    shortcut.record(works=True)
    clock.now += worked_for
    shortcut.record(works=False)
    assert pauses(shortcut, clock, 1) == [pause]
    assert shortcut.failures == 2


def test_the_log_says_it_once(shortcut: Shortcut, clock: Clock, caplog: pytest.LogCaptureFixture) -> None:
    for _ in range(3):
        shortcut.record(works=False, why="no scores")
        shortcut.record(works=True)
    assert caplog.messages == [
        "the server failed at 'fast' (no scores); it is asked by 'slow', and the other way is tried again after 30 s"
    ]
