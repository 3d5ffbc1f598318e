from __future__ import annotations

import hmac

import pytest

from genrank.server.auth import ANYONE, Keys, RateLimit


@pytest.mark.parametrize(
    "header", ["Bearer second-key", "bearer second-key", "Bearer  second-key ", "second-key"], ids=repr
)
def test_a_known_key_is_let_in(header: str) -> None:
    caller = Keys(["first-key", "second-key"]).caller(header)
    assert caller is not None
    assert len(caller) == 8
    assert "second" not in caller
    assert caller != Keys(["first-key"]).caller("Bearer first-key")


@pytest.mark.parametrize(
    "header", [None, "", "Bearer", "Bearer ", "Bearer second", "Basic second-key", "Bearer \udcff"]
)
def test_others_are_not(header: str | None) -> None:
    assert Keys(["first-key", "second-key"]).caller(header) is None


def test_without_keys_everyone_is_let_in() -> None:
    assert Keys([]).caller(None) == ANYONE


def test_every_key_is_compared_in_constant_time(monkeypatch: pytest.MonkeyPatch) -> None:
    compared = []

    def compare(one: bytes, other: bytes) -> bool:
        compared.append((one, other))
        return one == other

    monkeypatch.setattr(hmac, "compare_digest", compare)
    assert Keys(["first-key", "second-key", "third-key"]).caller("Bearer first-key")
    assert len(compared) == 3
    assert {len(part) for pair in compared for part in pair} == {32}, "digests, whose length says nothing"


def test_each_caller_has_its_own_limit() -> None:
    limit = RateLimit("2/minute")
    assert [limit.wait("a"), limit.wait("a")] == [0, 0]
    assert 1 <= limit.wait("a") <= 60
    assert limit.wait("b") == 0


def test_without_a_rate_there_is_no_limit() -> None:
    limit = RateLimit(None)
    assert not any(limit.wait("a") for _ in range(1000))
