import itertools
import math

import pytest

from genrank.errors import InputError
from genrank.search.bm25 import Bm25, listing_text, tokenise
from genrank.types import Listing


def test_tokenise() -> None:
    assert tokenise("Red T-Shirts, ＸＬ (Größe 42)") == ["red", "t", "shirts", "xl", "größe", "42"]
    assert tokenise("夏季连衣裙") == ["夏季", "连衣", "衣裙", "连衣裙"]
    assert tokenise("ワンピース red韩版") == ["ワンピース", "red", "韩版"]
    assert tokenise(" .,!") == []
    assert tokenise("दादी 🎁 C++", stem=True) == ["दादी", "🎁", "c++"]


@pytest.mark.parametrize(
    ("query", "found"),
    [("दादी", "b"), ("🎁", "c"), ("👟", "d"), ("c++", "e"), ("c#", "f"), ("เสื้อ", "g"), ("dứa", "h"), ("dừa", "i")],
)
def test_words_of_any_script_are_found(query: str, found: str) -> None:
    titles = ["दादा", "दादी", "🎁 box", "👟 box", "C++ primer", "C# primer", "ขายเสื้อแดง", "kẹo dứa", "kẹo dừa"]
    index = Bm25([Listing(key, title) for key, title in zip("abcdefghi", titles, strict=True)])
    scores = index.scores(query)
    assert [key for key, score in zip("abcdefghi", scores, strict=True) if score > 0] == [found]


@pytest.mark.parametrize(
    ("word", "stem"),
    [
        ("shirts", "shirt"),
        ("batteries", "battery"),
        ("shoes", "shoe"),
        ("glass", "glass"),
        ("bus", "bus"),
        ("gas", "gas"),
    ],
)
def test_stem(word: str, stem: str) -> None:
    assert tokenise(word, stem=True) == [stem]


def test_listing_text() -> None:
    listing = Listing("a", "T", "D", "B", ("C1", "C2"), attributes={"colour": "red"})
    assert listing_text(listing).split() == ["T", "B", "C1", "C2", "colour", "red", "D"]
    assert listing_text(listing, ["title"]) == "T"
    with pytest.raises(InputError, match="price"):
        listing_text(listing, ["price"])


def test_score_is_the_formula() -> None:
    index = Bm25([Listing("a", "red red dress"), Listing("b", "blue coat")], k1=1.2, b=0.75)
    idf = math.log(1 + (2 - 1 + 0.5) / (1 + 0.5))
    expected = idf * 2 / (2 + 1.2 * (1 - 0.75 + 0.75 * 3 / 2.5))
    assert index.scores("red shoes").tolist() == pytest.approx([expected, 0.0], abs=1e-4)


def test_rank_keeps_all_and_falls_strictly() -> None:
    listings = [Listing(key, title) for key, title in (("c", "x"), ("b", "x"), ("d", "red dress"), ("a", "x"))]
    ranked = Bm25(listings).rank("red", ["c", "b", "d", "a"])
    assert list(ranked) == ["d", "a", "b", "c"]
    scores = list(ranked.values())
    assert all(second <= first - 0.0001 + 1e-9 for first, second in itertools.pairwise(scores))


def test_search_fills_up_by_id() -> None:
    listings = [Listing(key, title) for key, title in (("z", "red"), ("b", "x"), ("a", "x"), ("c", "x"))]
    index = Bm25(listings)
    assert list(index.search("red", 3)) == ["z", "a", "b"]
    assert list(index.search("nothing known", 9)) == ["a", "b", "c", "z"]


def test_texts_without_words() -> None:
    assert list(Bm25([Listing("b", "!"), Listing("a", "?")]).rank("red", ["b", "a"])) == ["a", "b"]


def test_wrong_calls() -> None:
    with pytest.raises(InputError, match="twice"):
        Bm25([Listing("a", "x"), Listing("a", "y")])
    with pytest.raises(InputError, match="not in the index"):
        Bm25([Listing("a", "x")]).rank("x", ["b"])
