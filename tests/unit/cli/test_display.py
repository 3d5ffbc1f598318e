from __future__ import annotations

import io
from typing import Any

import pytest

from genrank.cli.console import print_table
from genrank.cli.display import caption, moved, ranking_table
from genrank.types import Candidate, Listing, Outcome, Provenance, Query, RankedItem, Ranking, Request


def _print(request: Request, ranking: Ranking, width: int = 200) -> str:
    out = io.StringIO()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("COLUMNS", str(width))
        print_table(ranking_table(request, ranking), out)
    return out.getvalue()


def _request(*titles: str) -> Request:
    return Request(Query("dress"), tuple(Candidate(Listing(f"p{i}", title)) for i, title in enumerate(titles)))


def _item(listing_id: str, *fields: Any) -> RankedItem:
    return RankedItem(Listing(listing_id, listing_id), *fields)


@pytest.mark.parametrize(("places", "expected"), [(0, "="), (3, "↑3"), (-2, "↓2")])
def test_moved(places: int, expected: str) -> None:
    assert moved(places).text == expected


def test_a_row_has_rank_move_title_and_score() -> None:
    items = (
        _item("p1", 1, 0.91, 2),
        _item("p0", 2, 0.5, 1),
        _item("p2", 3, 0.04, 3),
    )
    rows = [
        line.replace("│", " ").split()
        for line in _print(_request("Coat", "Dress", "Hat"), Ranking("q", items)).splitlines()
    ]
    assert ["1", "↑1", "Dress", "0.910"] in rows
    assert ["2", "↓1", "Coat", "0.500"] in rows
    assert ["3", "=", "Hat", "0.040"] in rows


def test_reasons_have_a_column_only_where_there_is_one() -> None:
    request = _request("Coat")
    without = _print(request, Ranking("q", (_item("p0", 1, 0.5, 1),)))
    with_one = _print(request, Ranking("q", (_item("p0", 1, 0.5, 1, "It is warm."),)))
    assert "reason" not in without
    assert "reason" in with_one
    assert "It is warm." in with_one


def test_a_listings_text_is_no_markup() -> None:
    texts = ["[red]x[/red]", "[/]", ":smile:", "[link=https://shop.example]y[/link]"]
    request = _request(*texts)
    items = tuple(_item(f"p{i}", i + 1, 0.5, i + 1, f"[b]{text}") for i, text in enumerate(texts))
    printed = _print(Request(Query("[red]q[/red]"), request.candidates), Ranking("q", items, Provenance(why="[/x]")))
    for text in (*texts, *(f"[b]{text}" for text in texts), "[red]q[/red]", "[/x]"):
        assert text in printed


def test_control_characters_do_not_reach_the_terminal() -> None:
    printed = _print(_request("Red\x1b[31m\x07\ndress"), Ranking("q", (_item("p0", 1, 0.5, 1),)))
    assert "Red [31m dress" in printed
    assert not {"\x1b", "\x07"} & set(printed)


def test_a_long_title_is_folded_and_not_cut() -> None:
    title = "".join(chr(0x4E00 + i) for i in range(100))
    printed = _print(_request(title), Ranking("q", (_item("p0", 1, 0.5, 1),)), width=80)
    assert "".join(char for char in printed if char in title) == title


@pytest.mark.parametrize("outcome", ["model", "repaired", "fallback"])
def test_the_caption_says_where_the_ranking_came_from(outcome: Outcome) -> None:
    provenance = Provenance(model="m", decoding="inline", prompt="p@1", outcome=outcome, seconds=1.234)
    assert [cell.text for cell in caption(Ranking("q", (), provenance))] == [f"m · inline · p@1 · {outcome} · 1.23 s"]


def test_the_caption_says_who_stood_in() -> None:
    provenance = Provenance(model="m", decoding="inline", prompt="p@1", outcome="fallback", stand_in="baseline")
    assert caption(Ranking("q", (), provenance))[0].text == "m · inline · p@1 · fallback: baseline · 0 ms"


def test_the_caption_says_what_went_wrong_but_not_at_any_length() -> None:
    provenance = Provenance(why="the engine failed", repairs=tuple(f"mend {i}" for i in range(5)))
    lines = [cell.text for cell in caption(Ranking("q", (), provenance))][1:]
    assert lines == ["the engine failed", "mend 0", "mend 1", "mend 2", f"… and {5 - 3} more"]
