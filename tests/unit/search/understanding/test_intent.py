"""An intent as JSON types and as slots."""

from __future__ import annotations

import json

from genrank.search.understanding import Guess, Intent

FULL = Intent(
    query="wintr coat",
    language="en",
    corrected="winter coat",
    categories=(Guess(("Women", "Coats"), 0.75),),
    brand=Guess("Tessa", 1.0),
    attributes={"season": Guess("winter", 0.123456)},
    least_price=10.0,
    most_price=99.5,
    currency="EUR",
    excluded=("fur",),
)


def test_json() -> None:
    assert json.loads(json.dumps(FULL.to_dict())) == {
        "query": "wintr coat",
        "language": "en",
        "corrected": "winter coat",
        "categories": [{"path": ["Women", "Coats"], "confidence": 0.75}],
        "brand": {"name": "Tessa", "confidence": 1.0},
        "attributes": {"season": {"value": "winter", "confidence": 0.1235}},
        "price": {"least": 10.0, "most": 99.5, "currency": "EUR"},
        "excluded": ["fur"],
        "source": "model",
    }


def test_what_is_empty_is_left_out() -> None:
    bare = Intent(query="dress", language="en", corrected="dress", currency="EUR")
    assert bare.to_dict() == {"query": "dress", "language": "en", "corrected": "dress", "source": "model"}
    assert bare.slots() == set()


def test_slots() -> None:
    assert FULL.slots() == {
        ("corrected", "winter coat"),
        ("category", "Women > Coats"),
        ("brand", "Tessa"),
        ("attributes.season", "winter"),
        ("least_price", "10"),
        ("most_price", "99.5"),
        ("excluded", "fur"),
    }
