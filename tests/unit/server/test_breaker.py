from __future__ import annotations

from genrank.server.breaker import Breaker


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


def test_it_opens_after_failures_in_a_row() -> None:
    breaker = Breaker(3, 5.0, clock=Clock())
    for failed in (True, True, False, True, True):
        breaker.record(failed=failed)
    assert (breaker.state, breaker.admits()) == ("closed", True)
    breaker.record(failed=True)
    assert (breaker.state, breaker.admits()) == ("open", False)


def test_after_the_pause_one_try_decides() -> None:
    clock = Clock()
    breaker = Breaker(1, 5.0, clock=clock)
    breaker.record(failed=True)
    clock.now += 4.9
    assert not breaker.admits()
    clock.now += 0.1
    assert [breaker.state, breaker.admits(), breaker.admits()] == ["half-open", True, False], "one at a time"
    breaker.record(failed=True)
    assert not breaker.admits()
    clock.now += 5.0
    assert breaker.admits()
    breaker.record(failed=False)
    assert [breaker.state, breaker.admits(), breaker.admits()] == ["closed", True, True]


def test_a_try_that_tells_nothing_makes_room_for_another() -> None:
    clock = Clock()
    breaker = Breaker(1, 5.0, clock=clock)
    breaker.record(failed=True)
    clock.now += 5.0
    assert breaker.admits()
    breaker.give_up()
    assert (breaker.state, breaker.admits()) == ("half-open", True)
