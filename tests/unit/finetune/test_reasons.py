from __future__ import annotations

import random
from collections import Counter

import pytest

from finetune.reasons import shared_runs, write_reason
from finetune.windows import Window, WindowOptions, draw_windows
from genrank.dataset import sample_shop
from genrank.grounding import Facts, ground, language
from genrank.types import Candidate, Interaction, Listing, Price, Query


def sample_windows() -> list[Window]:
    return list(draw_windows(sample_shop(), "train", WindowOptions(per_query=2)))


def written(window: Window, count: int = 40) -> set[str]:
    return {write_reason(window, 0, random.Random(i)) for i in range(count)}


def test_every_reason_passes_the_check_of_serving_in_the_language_of_the_query() -> None:
    said: Counter[str] = Counter()
    for window in sample_windows():
        for place, gain in enumerate(window.gains):
            text = write_reason(window, place, random.Random(place))
            if not text:
                continue
            others = [one.listing for i, one in enumerate(window.candidates) if i != place]
            result = ground(text, Facts(window.query, window.candidates[place].listing, window.history, others))
            assert not result.rewritten, (window.query.text, text)
            assert result.evidence
            assert text.endswith("。" if language(window.query.text) == "zh" else ".")
            said[language(window.query.text), gain > 0] += 1  # type: ignore[index]
    assert said["en", True] > 50  # type: ignore[index]
    assert said["zh", True] > 50  # type: ignore[index]


def test_words_vary() -> None:
    listing = Listing("l1", "Red Table Lamp", brand="Lux", attributes={"colour": "red"}, price=Price(9.0, "EUR"))
    past = Interaction("purchase", Listing("h1", "Desk Lamp", brand="Lux"))
    window = Window(Query("red lamp"), (past,), (Candidate(listing), Candidate(Listing("l2", "Desk"))), (1, 0))
    reasons = written(window, 100)
    assert len(reasons) > 20
    assert any("you bought Lux" in text.lower() or "You bought Lux" in text for text in reasons)
    assert any("colour" in text for text in reasons)


@pytest.mark.parametrize("query", ["leselampe für kinder", "赤い ランプ"])
def test_no_words_for_other_languages(query: str) -> None:
    assert written(Window(Query(query), (), (Candidate(Listing("l1", "Lamp", brand="Lux")),), (1,)), 5) == {""}


def test_nothing_to_say_is_no_reason() -> None:
    assert written(Window(Query("red lamp"), (), (Candidate(Listing("l1", "Desk")),), (1,)), 5) == {""}


@pytest.mark.parametrize(
    ("text", "query", "runs"),
    [
        ("Red Table Lamps, new", "red lamp table", ["Red Table Lamps"]),
        ("Red, blue Lamp", "red lamp", ["Red", "Lamp"]),
        ("夏季连衣裙 女", "连衣裙 夏季", ["夏季连衣裙"]),
        ("茶杯", "茶叶", []),
        ("Desk", "lamp", []),
    ],
)
def test_runs_that_stand_in_the_query(text: str, query: str, runs: list[str]) -> None:
    assert list(shared_runs(text, query)) == runs
