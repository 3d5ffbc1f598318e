from __future__ import annotations

from typing import Any

import pytest

from genrank.prompting import Renderer, load_template
from genrank.reasons import evidence, tidy, write_reasons
from genrank.testing import ScriptedEngine
from genrank.types import Interaction, Listing, Price, Query


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("It is red.", "It is red."),
        ("It is red. It is a dress.", "It is red."),
        ("It is red! Buy it.", "It is red!"),
        ("\n\n  It is\tred.\nIt is a dress.", "It is red."),
        ("Rated 4.5 stars. Cheap.", "Rated 4.5 stars."),  # the dot of a number ends no sentence
        ("Why not?! It is red.", "Why not?!"),
        ("See shop.example?id=1 for more. Bye.", "See shop.example?id=1 for more."),
        ("1. It is red.\n2. It is a dress.", "It is red."),  # the mark of a list
        ("2) It is red.", "It is red."),
        ("- It is red.", "It is red."),
        ("4-door car model.", "4-door car model."),
        ("适合夏天穿。很便宜。", "适合夏天穿。"),
        ("适合夏天穿！很便宜。", "适合夏天穿！"),
        ("要买吗？很便宜。", "要买吗？"),
        ("It is red and made of", "It is red and made of …"),
        ("适合夏天", "适合夏天 …"),
        ("\u200bIt is red.\x00", "It is red."),
        ("", ""),
        (" \n\u200b\n", ""),
    ],
)
def test_tidy_is_the_first_sentence(text: str, expected: str) -> None:
    assert tidy(text) == expected


def _dress(**fields: Any) -> Listing:
    return Listing(**{"listing_id": "p1", "title": "Maxi dress 38"} | fields)


@pytest.mark.parametrize(
    ("reason", "fields", "expected"),
    [
        ("A dress by Zara.", {"brand": "Zara"}, ("brand",)),
        ("A dress by ZARA.", {"brand": "Zara"}, ("brand",)),
        ("A dress by Zaranova.", {"brand": "Zara"}, ()),
        ("Rezara makes it.", {"brand": "Zara"}, ()),
        ("It is red.", {"attributes": {"colour": "red", "season": "summer"}}, ("attributes.colour",)),
        ("A Maxi Dress 38, as you like it.", {}, ("title",)),
        ("It is for women.", {"category": ("Women", "Dresses")}, ("category[0]",)),
        ("These dresses fit.", {"category": ("Women", "Dresses")}, ("category[1]",)),
        ("It costs 129 yuan.", {"price": Price(129.0)}, ("price.amount",)),
        ("It costs 1290 yuan.", {"price": Price(129.0)}, ()),
        ("It costs 12.5 yuan.", {"price": Price(12.0)}, ()),
        ("It costs 12.5 yuan.", {"price": Price(12.5)}, ("price.amount",)),
        ("An M&S shirt.", {"brand": "M&S"}, ("brand",)),
        ("Anything.", {"brand": "\u200b", "attributes": {"colour": ""}}, ()),
        ("", {"brand": "Zara"}, ()),
    ],
)
def test_evidence_names_fields_by_whole_words(reason: str, fields: dict[str, Any], expected: tuple[str, ...]) -> None:
    assert evidence(reason, _dress(**fields), ()) == expected


@pytest.mark.parametrize(
    ("reason", "fields", "expected"),
    [
        ("这条连衣裙适合夏季穿。", {"attributes": {"season": "夏季"}}, ("attributes.season",)),
        ("这条连衣裙适合冬季穿。", {"attributes": {"season": "夏季"}}, ()),
        ("这款Zara连衣裙适合你。", {"brand": "Zara"}, ("brand",)),  # Chinese puts no space around a Latin name
        ("这款Zaranova连衣裙适合你。", {"brand": "Zara"}, ()),
        ("价格129元。", {"price": Price(129.0)}, ("price.amount",)),
    ],
)
def test_evidence_in_chinese(reason: str, fields: dict[str, Any], expected: tuple[str, ...]) -> None:
    assert evidence(reason, _dress(**fields), ()) == expected


def test_evidence_names_the_fields_of_the_history() -> None:
    history = (
        Interaction("view", Listing("h0", "Hat", brand="Acme")),
        Interaction("purchase", Listing("h1", "Belt", brand="Zara", attributes={"colour": "red"})),
    )
    reason = "Red like the belt you bought, and from Zara again."
    assert evidence(reason, _dress(brand="Zara"), history) == (
        "brand",
        "history[1].title",
        "history[1].brand",
        "history[1].attributes.colour",
    )


def test_write_reasons_asks_for_all_pairs_in_one_batch() -> None:
    engine = ScriptedEngine(["It is red.", "It is blue."])
    renderer = Renderer(load_template("inline"), engine.tokenizer)
    pairs = [(Query("red dress"), _dress()), (Query("blue coat"), _dress(title="Blue coat"))]
    results = write_reasons(engine, renderer, pairs, max_tokens=9, max_prompt=500)
    assert [result.text for result in results] == ["It is red.", "It is blue."]
    assert engine.calls == 1
    prompts = [engine.tokenizer.decode(request.ids) for request in engine.requests]
    for prompt, (query, listing) in zip(prompts, pairs, strict=True):
        assert query.text in prompt
        assert listing.title in prompt
