from __future__ import annotations

import json

import pytest

from eval.bench import main
from eval.completion import logged_queries, measure_completion, pinyin, with_slip
from genrank import sample_shop

SHOP = sample_shop()


def test_queries_are_different_and_few_are_frequent() -> None:
    titles = [listing.title for listing in SHOP.listings.values()]
    found = logged_queries(titles, 500)
    assert len(found) == 500
    assert min(found.values()) == 3
    assert sorted(found.values())[250] < 8 < max(found.values())
    assert found == logged_queries(titles, 500)
    assert len(logged_queries(["one title"], 50)) == 50


def test_ways_of_typing() -> None:
    import random

    slip = with_slip("dress", random.Random(0))
    assert sum(one != other for one, other in zip(slip, "dress", strict=True)) == 1
    assert slip[0] == "d"
    assert with_slip("连衣裙", random.Random(0)) == "连衣裙"
    assert pinyin("连衣裙") == "lianyiqun"


def test_every_keystroke_of_a_logged_query_is_answered() -> None:
    found = measure_completion(SHOP, 300, logged=200, queries=20)
    assert (found["listings"], found["logged"]) == (300, 200)
    assert found["suggestions"] > 200
    assert list(found["typing"]) == ["as logged", "one letter wrong", "no such query", "pinyin"]
    for typing in found["typing"].values():
        assert typing["keystrokes"] >= typing["answered"]
        assert typing["ms"] == sorted(typing["ms"])
    exact = found["typing"]["as logged"]
    assert exact["answered"] == exact["keystrokes"] > 100


def test_the_part_prints_json(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    asked = {}
    monkeypatch.setattr(
        "eval.completion.measure_completion", lambda *given, **options: asked.update(options) or {"a": 1}
    )
    assert main(["--only", "completion", "--listings", "7", "--logged", "5", "--queries", "3"]) == 0
    assert json.loads(capsys.readouterr().out) == {"completion": {"a": 1}}
    assert asked == {"queries": 3, "logged": 5}
    assert main(["--only", "completion", "--logged", "0"]) == 2
    assert "logged: must be at least 1, got 0" in capsys.readouterr().err
