from __future__ import annotations

import json
from typing import Any

import pytest

from eval.soak.answers import Asked, Reply, check

DEADLINE = 2.0


def ranking(*results: tuple[Any, Any], **details: Any) -> bytes:
    """An answer with these indices and scores."""
    rows = [{"index": index, "relevance_score": score} for index, score in results]
    return json.dumps({"results": rows, "genrank": {"tier": "model", "cause": "", "cached": False} | details}).encode()


GOOD = ranking((2, 0.9), (0, 0.5), (1, 0.5))


def promises(reply: Reply, asked: Asked | None = None) -> list[str]:
    return [broken.promise for broken in check(asked or Asked(3), reply, DEADLINE).broken]


def test_a_good_answer_breaks_nothing() -> None:
    checked = check(Asked(3), Reply(200, 2.1, GOOD), DEADLINE)
    assert (checked.broken, checked.tier, checked.cause, checked.cached) == ((), "model", "", False)
    assert promises(Reply(200, 0.1, ranking((4, 1), (0, 0))), Asked(5, wanted=2)) == []
    assert promises(Reply(200, 0.1, GOOD), Asked(3, wanted=7)) == []


def test_a_full_queue_is_an_answer_if_it_says_when_to_come_back() -> None:
    assert promises(Reply(429, 0.1, b"{}", "3")) == []
    assert promises(Reply(429, 0.1, b"{}")) == ["Retry-After"]


def test_a_body_that_never_ends_gets_a_408_and_no_ranking() -> None:
    stuck = Asked(3, expected=(408,))
    assert promises(Reply(408, DEADLINE, b"{}"), stuck) == []
    assert promises(Reply(200, 0.1, GOOD), stuck) == ["status"]


@pytest.mark.parametrize(
    ("results", "broken"),
    [
        ([(2, 0.9), (0, 0.5)], ["every candidate"]),
        ([(2, 0.9), (0, 0.5), (0, 0.5)], ["once", "every candidate"]),
        ([(2, 0.9), (0, 0.5), (1, 0.5), (1, 0.4)], ["once"]),
        ([(2, 0.9), (0, 0.5), (3, 0.5)], ["every candidate", "every candidate"]),
        ([(2, 0.9), (0, 0.5), ("1", 0.5)], ["every candidate", "every candidate"]),
        ([(2, 0.9), (0, 0.5), ([], 0.5)], ["every candidate"]),
        ([], ["every candidate"]),
        ([(2, 0.5), (0, 0.9), (1, 0.1)], ["scores"]),
        ([(2, 1.5), (0, 0.9), (1, 0.1)], ["scores"]),
        ([(2, 0.5), (0, 0.4), (1, -0.1)], ["scores"]),
        ([(2, float("nan")), (0, 0.4), (1, 0.1)], ["scores"]),
        ([(2, None), (0, 0.4), (1, 0.1)], ["scores"]),
        ([(2, True), (0, 0.4), (1, 0.1)], ["scores"]),
    ],
)
def test_candidates_that_are_lost_repeated_or_unknown_and_scores_that_are_none(
    results: list[tuple[Any, Any]], broken: list[str]
) -> None:
    assert promises(Reply(200, 0.1, ranking(*results))) == broken


@pytest.mark.parametrize(
    ("reply", "broken"),
    [
        (Reply(0, 3.0, words="ReadError"), "answered"),
        (Reply(200, 2.3, GOOD), "in time"),
        (Reply(429, 2.3, b"{}", "1"), "in time"),
        (Reply(500, 0.1, b"{}"), "status"),
        (Reply(503, 0.1, b"{}"), "status"),
        (Reply(408, 0.1, b"{}"), "status"),
        (Reply(200, 0.1, b"<html>"), "every candidate"),
        (Reply(200, 0.1, b'{"results": []}'), "every candidate"),
        (Reply(200, 0.1, ranking((2, 0.9), (0, 0.5), (1, 0.5), tier="")), "tier"),
    ],
)
def test_what_else_is_broken(reply: Reply, broken: str) -> None:
    assert promises(reply) == [broken]
