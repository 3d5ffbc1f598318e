from __future__ import annotations

import dataclasses
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest

from examples.picture import ROWS, draw
from genrank import Ranking, Request, Reranker, parse_request, sample_shop
from genrank.models.registry import KNOWN_MODELS
from genrank.testing import OracleEngine

ROOT = Path(__file__).resolve().parent.parent.parent.parent
SVG = "{http://www.w3.org/2000/svg}"


def ranked(query_id: str = "q-en-19") -> tuple[Request, Ranking, dict[str, int]]:
    shop = sample_shop()
    (query,) = [query for query in shop.queries if query.query.query_id == query_id]
    request, grades = shop.request(query), shop.qrels[query_id]
    ranking = Reranker(engine=OracleEngine(grades)).rerank_batch([request], reasons=2)[0]
    return request, ranking, grades


def words(svg: str) -> list[str]:
    return [text.text or "" for text in ET.fromstring(svg).iter(f"{SVG}text")]


def test_a_ranking_is_always_drawn_alike() -> None:
    assert draw(*ranked()) == draw(*ranked())


def test_it_shows_both_orders_with_places_and_reasons() -> None:
    request, ranking, grades = ranked()
    shown = words(draw(request, ranking, grades))
    for candidate, item in zip(request.candidates[:ROWS], ranking, strict=False):
        for title in (candidate.listing.title, item.listing.title):
            assert any(text.rstrip("…") and title.startswith(text.rstrip("…")) for text in shown), title
    reasons = [item.reason for item in ranking if item.reason]
    assert len(reasons) == 2
    for reason in reasons:
        assert any(len(text) > 20 and reason.startswith(text) for text in shown)
    best = ranking[0]
    assert best.source_rank > 1
    assert f"up {best.source_rank - 1}" in shown


@pytest.mark.parametrize(
    ("reason", "lines"),
    [
        (
            "Six linen napkins in sand, like the linen tablecloth",
            ["Six linen napkins in sand, like the linen tablecloth"],
        ),
        (
            "Six linen napkins in sand, like the linen tablecloth in your history.",
            ["Six linen napkins in sand, like the linen tablecloth", "in your history."],
        ),
        ("猫" * 40, ["猫" * 27, "猫" * 13]),
        (
            "linen " * 40,
            ["linen linen linen linen linen linen linen linen linen", "linen linen linen linen linen linen linen lin…"],
        ),
    ],
)
def test_a_long_reason_takes_two_lines(reason: str, lines: list[str]) -> None:
    request, ranking, grades = ranked()
    items = (dataclasses.replace(ranking[0], reason=reason), *ranking[1:])
    picture = ET.fromstring(draw(request, dataclasses.replace(ranking, items=items), grades))
    shown = [text.text for text in picture.iter(f"{SVG}text") if text.get("class") == "reason"]
    assert shown[: len(lines)] == lines


def test_dots_are_the_grades() -> None:
    request, ranking, grades = ranked()
    dots = [dot.get("class") for dot in ET.fromstring(draw(request, ranking, grades)).iter(f"{SVG}circle")]
    before = [grades[candidate.listing.listing_id] for candidate in request.candidates[:ROWS]]
    after = [grades[item.listing_id] for item in ranking[:ROWS]]
    assert dots.count("dot") == sum(before + after)
    assert len(dots) == 2 * ROWS * 3


def test_markup_and_wide_characters_in_a_title_are_text() -> None:
    long = "韩版夏季连衣裙" * 8
    request = parse_request(
        {
            "query": "<a> & b",
            "candidates": [{"listing_id": "x", "title": "<b>&</b>"}, {"listing_id": "y", "title": long}],
        }
    )
    grades = {"x": 0, "y": 3}
    ranking = Reranker(engine=OracleEngine(grades)).rerank_batch([request])[0]
    shown = words(draw(request, ranking, grades))
    assert "“<a> & b”" in shown
    assert "<b>&</b>" in shown
    cut = max(shown, key=lambda text: text.count("韩"))
    assert cut.endswith("…")
    assert len(cut) <= 23


def test_the_committed_picture_is_one_of_the_sample_shop() -> None:
    shown = words((ROOT / "docs/reranking.svg").read_text(encoding="utf-8"))
    shop = sample_shop()
    (query,) = [query for query in shop.split("test") if f"“{query.query.text}”" in shown and query.history][:1]
    request = shop.request(query)
    for candidate in request.candidates[:ROWS]:
        assert any(candidate.listing.title.startswith(text.rstrip("…")) for text in shown if len(text) > 8)
    assert any(name in text for text in shown for name in KNOWN_MODELS)
