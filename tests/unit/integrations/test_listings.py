from __future__ import annotations

from datetime import UTC, datetime
from decimal import Decimal
from fractions import Fraction
from types import MappingProxyType
from typing import Any

import pytest

from genrank.errors import InputError
from genrank.integrations.listings import Document, candidates, listing, listing_ids
from genrank.types import Aspect, Candidate, Listing, Price


def read(text: str | None = "A", **metadata: Any) -> Listing | None:
    return listing(text, MappingProxyType(metadata), "p1")


def test_metadata_are_the_fields_of_a_listing() -> None:
    found = read(
        "A light dress for warm days.",
        title="Red dress",
        brand="Acme",
        category=["Women", "Dresses"],
        price={"amount": 39, "currency": "EUR"},
        attributes={"season": "summer"},
        rating=4.5,
        rating_count=12,
        reviews=["Lovely."],
        image_url="https://shop.example/1.jpg",
        in_stock=True,
        seller_id="s1",
        aspects=[{"name": "fit", "positive": 2}],
        colour="red",
    )
    assert found == Listing(
        "p1",
        "Red dress",
        description="A light dress for warm days.",
        brand="Acme",
        category=("Women", "Dresses"),
        price=Price(39, "EUR"),
        attributes={"colour": "red", "season": "summer"},
        rating=4.5,
        rating_count=12,
        reviews=("Lovely.",),
        image_url="https://shop.example/1.jpg",
        in_stock=True,
        seller_id="s1",
        aspects=(Aspect("fit", positive=2),),
    )


def test_a_text_without_a_title_is_the_title_and_keeps_its_metadata() -> None:
    assert read("Red dress", brand="Acme", description="Light.", title=None) == Listing(
        "p1", "Red dress", description="Light.", brand="Acme"
    )
    assert read("Red dress", title=" ") == Listing("p1", "Red dress")


def test_the_metadatas_description_counts_before_the_text() -> None:
    assert read("Words", title="Red dress", description="Light.") == Listing("p1", "Red dress", description="Light.")


@pytest.mark.parametrize("text", [None, "", " \u200b"])
def test_a_document_without_text(text: str | None) -> None:
    assert read(text, title="Red dress") == Listing("p1", "Red dress")
    assert read(text, brand="Acme", colour="red", price=None) == Listing("p1", "brand: Acme | colour: red")
    assert read(text, title=" ", id="x", score=0.3) is None
    assert listing(text, {"title": "Red dress", "text": "Light."}, "p1") == Listing(
        "p1", "Red dress", description="Light."
    )
    assert listing(text, {"text": "Light."}, "p1") == Listing("p1", "Light.")


def test_flat_metadata_make_a_price() -> None:
    assert read(price=39.0, currency="EUR") == Listing("p1", "A", price=Price(39, "EUR"))
    assert read(price=39.0) == Listing("p1", "A", price=Price(39))
    assert read(price="39 EUR", currency="EUR") == Listing("p1", "A", attributes={"price": "39 EUR", "currency": "EUR"})


@pytest.mark.parametrize(
    ("name", "value", "text"),
    [
        ("rating", "four stars", "four stars"),
        ("rating", 11, "11"),
        ("price", -1, "-1"),
        ("reviews", 17, "17"),
        ("attributes", ["soft", "warm"], "soft, warm"),
        ("description", ["soft", "warm"], "soft, warm"),
        ("category", [1, 2], "1, 2"),
        ("aspects", "fit", "fit"),
        ("in_stock", "in Rome only", "in Rome only"),
    ],
)
def test_what_a_field_cannot_hold_is_an_attribute(name: str, value: object, text: str) -> None:
    found = listing("A", {"title": "A", "brand": "Acme", "colour": "red", name: value}, "p1")
    assert found is not None
    assert found.attributes[name] == text
    assert (found.brand, found.attributes["colour"]) == ("Acme", "red")


def test_two_wrong_fields_do_no_harm() -> None:
    found = read(attributes="soft", rating="four", reviews=3)
    assert found == Listing("p1", "A", attributes={"attributes": "soft", "rating": "four", "reviews": "3"})


def test_other_values_are_plain() -> None:
    found = read(
        price=Decimal("39.5"),
        rating=Fraction(9, 2),
        brand=501,
        sizes=("S", None, "M"),
        since=datetime(2026, 5, 1, tzinfo=UTC),
        nothing=float("nan"),
        endless=float("inf"),
        thing=object(),
    )
    assert found == Listing(
        "p1",
        "A",
        brand="501",
        price=Price(39.5),
        rating=4.5,
        attributes={"sizes": "S, M", "since": "2026-05-01T00:00:00+00:00"},
    )


def test_values_of_numpy_and_pandas_are_plain() -> None:
    np = pytest.importorskip("numpy", reason="numpy is not installed: pip install 'genrank[search]'")
    pd = pytest.importorskip("pandas", reason="pandas is not installed: pip install 'genrank[eval]'")
    found = read(rating=np.float32(4.5), rating_count=np.int64(3), never=pd.NaT, unknown=pd.NA, vector=np.ones(3))
    assert found == Listing("p1", "A", rating=4.5, rating_count=3)
    assert candidates([Document("A", {}, np.int64(7), np.float32(0.25))]) == [Candidate(Listing("7", "A"), 0.25)]


def test_what_rankers_wrote_is_not_read() -> None:
    assert read(relevance_score=0.9, genrank={"rank": 1}, score=0.4, rank=2, id="x", listing_id="y") == (
        Listing("p1", "A")
    )
    assert read(rank="captain") == Listing("p1", "A", attributes={"rank": "captain"})
    assert listing("A", {1: "one"}, "p1") == Listing("p1", "A", attributes={"1": "one"})


def test_a_wrong_id_is_an_error() -> None:
    with pytest.raises(InputError, match="listing_id"):
        listing("A", {}, "two words")


def test_every_document_has_an_id_of_its_own() -> None:
    documents = [
        Document("A", {"listing_id": "p1", "id": "x"}, "d1"),
        Document("A", {"listing_id": None, "id": "x"}, "d2"),
        Document("A", {"id": 7}),
        Document("A", {}, "d2"),
        Document("A", {}),
        Document("A", {}, "two words"),
        Document("A", {}, "document-4"),
        Document("A", {"listing_id": float("nan")}, ""),
    ]
    assert listing_ids(documents) == [
        "p1", "d2", "7", "document-3", "document-4-", "document-5", "document-4", "document-7",
    ]  # fmt: skip


def test_candidates_keep_the_first_stages_scores() -> None:
    documents = [
        Document("A", {"score": 2.0}, "a", 0.5),
        Document("B", {"score": 2.0}, "b"),
        Document("C", {}, "c", float("nan")),
        Document("", {}, "d", 0.1),
        Document("E", {"score": "high"}, "e", Fraction(1, 4)),
    ]
    assert candidates(documents) == [
        Candidate(Listing("a", "A"), 0.5),
        Candidate(Listing("b", "B"), 2.0),
        Candidate(Listing("c", "C")),
        None,
        Candidate(Listing("e", "E", attributes={"score": "high"}), 0.25),
    ]


def test_only_the_fields_that_are_named_are_read() -> None:
    document = Document("words", {"title": "A", "brand": "Acme", "colour": "red", "listing_id": "p1", "score": 1.5})
    assert candidates([document], ["title", "colour"]) == [
        Candidate(Listing("p1", "A", description="words", attributes={"colour": "red"}), 1.5)
    ]
    assert candidates([document], []) == [Candidate(Listing("p1", "words"), 1.5)]
