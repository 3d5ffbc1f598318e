import pytest

from genrank.rankers.wording import colours, listing_colours, normal, numbers, price_limit, same_size, sizes
from genrank.reasons import lexicon


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Red and GREY shoes", {"red", "grey"}),
        ("gray", {"grey"}),
        ("reddish, hundred", set()),
        ("红色裙子", {"red"}),
        ("红茶", set()),
        ("藏青色外套", {"blue"}),
        ("红色black", {"red", "black"}),
        ("", set()),
    ],
)
def test_colours(text: str, expected: set[str]) -> None:
    assert colours(normal(text)) == expected


def test_a_listings_colour_attribute_goes_before_its_title() -> None:
    assert listing_colours("red lamp", {"Colour": "墨绿"}) == {"green"}
    assert listing_colours("red lamp", {"颜色": "black/white"}) == {"black", "white"}
    assert listing_colours("red lamp", {"size": "white"}) == {"red"}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("36 in. door", {("length", 36 * 2.54)}),
        ('a 36" door', {("length", 36 * 2.54)}),
        ("500ML", {("volume", 500.0)}),
        ("５００毫升", {("volume", 500.0)}),
        ("2-pack", {("count", 2.0)}),
        ("10 lbs", {("weight", 4536.0)}),
        ("43码", {("shoe size", 43.0)}),
        ("size 10.5", {("shoe size", 10.5)}),
        ("shirt xl", {("letter", 5.0)}),
        ("size m shirt", {("letter", 3.0)}),
        ("3/4 in pipe", set()),
        ("5 minutes", set()),
        ("men s jacket", set()),
    ],
)
def test_sizes(text: str, expected: set[tuple[str, float]]) -> None:
    assert sizes(normal(text)) == expected


def test_sizes_are_equal_across_units() -> None:
    (metres,), (feet,), (kilos,) = sizes("2m"), sizes("6.56ft"), sizes("2kg")
    assert same_size(metres, feet)
    assert not same_size(metres, kilos)


def test_numbers() -> None:
    assert numbers("iphone 15 6.1 a54") == {"15", "6.1", "54"}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("laptop under 800", 800.0),
        ("earbuds below $99.50", 99.5),
        ("笔记本 5000元以内", 5000.0),
        ("低于300", 300.0),
        ("under 5 ft ladder", None),
        ("under 5% fat", None),
        ("under armour shoes", None),
        ("size 10", None),
    ],
)
def test_price_limit(text: str, expected: float | None) -> None:
    assert price_limit(normal(text)) == expected


@pytest.mark.timeout(10)
@pytest.mark.parametrize("text", ["1" * 300_000, "1." * 150_000, "under " * 50_000, " " * 300_000, "1 " * 150_000])
def test_long_hostile_texts_are_read_in_linear_time(text: str) -> None:
    flat = normal(text)
    sizes(flat), colours(flat), numbers(flat), price_limit(flat)


def test_colours_and_units_are_those_of_the_lexicon() -> None:
    families = {word: family for word, family in lexicon.COLOUR_FAMILIES.items() if word.isascii()}
    assert all(colours(word) == {family} for word, family in families.items())
    (inches,), (metres,) = sizes("39.37 in"), sizes("1 m")
    assert same_size(inches, metres)
    assert inches[1] / 100 == pytest.approx(39.37 * lexicon.UNITS["length"]["in"], rel=1e-3)
