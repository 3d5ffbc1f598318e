"""What the reranker makes of it is in test_reranker.py."""

from __future__ import annotations

from math import nan
from typing import Any

import pytest

from genrank.fallback import ask_fallback
from genrank.types import Candidate, Listing, Query, Request

REQUEST = Request(Query("q"), (Candidate(Listing("a", "A")), Candidate(Listing("b", "B"))))


def test_scores_come_back_as_they_are() -> None:
    assert ask_fallback(lambda requests: [(1, 2.5)] * len(requests), [REQUEST] * 2) == [[1, 2.5]] * 2
    assert ask_fallback(lambda requests: [], []) == []


@pytest.mark.parametrize(
    ("answer", "fault"),
    [
        ([1.0], "it gave 1 scores for 2 candidates"),
        ([1.0, nan], "it gave the score nan"),
        ([1.0, "2"], "it gave the score '2'"),
        ([True, 1.0], "it gave the score True"),
        (None, "TypeError: 'NoneType' object is not iterable"),
        ({1.0, 2.0}, "it gave the scores as a set, not as a list in the candidates' order"),
        ({"a": 1.0, "b": 2.0}, "it gave the scores as a dict, not as a list in the candidates' order"),
        ({1: "a", 2: "b"}, "it gave the scores as a dict, not as a list in the candidates' order"),
    ],
)
def test_what_is_wrong_with_one_answer_is_said_in_its_place(answer: Any, fault: str) -> None:
    assert ask_fallback(lambda requests: [answer, [1.0, 2.0]], [REQUEST] * 2) == [fault, [1.0, 2.0]]


def test_what_it_raises_is_said_for_all() -> None:
    assert ask_fallback(lambda requests: 1 / 0, [REQUEST] * 2) == ["ZeroDivisionError: division by zero"] * 2  # type: ignore[arg-type, return-value]


def test_what_is_wrong_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    ask_fallback(lambda requests: 1 / 0, [REQUEST] * 2)  # type: ignore[arg-type, return-value]
    ask_fallback(lambda requests: [[1.0], [nan, 1.0], [1.0]], [REQUEST] * 3)
    assert sorted(record.getMessage() for record in caplog.records) == [
        "the fallback failed: ZeroDivisionError: division by zero",
        "the fallback failed: it gave 1 scores for 2 candidates",
        "the fallback failed: it gave the score nan",
    ]
    assert {record.levelname for record in caplog.records} == {"WARNING"}
    assert {record.exc_info[0].__name__ for record in caplog.records if record.exc_info and record.exc_info[0]} == {
        "ZeroDivisionError",
        "ValueError",
    }
    caplog.clear()
    ask_fallback(lambda requests: [[1.0, 2.0]], [REQUEST])
    assert not caplog.records
