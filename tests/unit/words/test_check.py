from __future__ import annotations

import pytest

from genrank.reasons.grounding import Facts
from genrank.types import Interaction, Listing, Price, Query
from genrank.words.check import Grounds, check_title, lost_words

DRESS = Listing(
    "d",
    "Floral Midi Sundress with Tie Straps",
    description="Unlined, so it stays cool. Contains no polyester.",
    brand="Tessaline",
    category=("Women", "Dresses"),
    price=Price(46.0, "USD"),
    attributes={"colour": "cornflower blue", "material": "viscose", "waterproof": "no"},
    rating_count=812,
    reviews=("Wore it all through July, never felt too warm.", "Straps are a bit long on me but the knot hides it."),
)
SHAMPOO = Listing(
    "s",
    "氨基酸洗发水 敏感头皮 无香精",
    brand="沐野",
    attributes={"容量": "500毫升", "颜色": "白色"},
    reviews=("头皮不痒了，味道淡。",),
)
BOUGHT = (Interaction("purchase", Listing("h", "Linen Shift", attributes={"fit": "relaxed"})),)


def why(text: str, listing: Listing = DRESS, spoken: str = "en", history: tuple[Interaction, ...] = ()) -> str:
    grounds = Grounds(Facts(Query("?"), listing, history), listing, spoken)  # type: ignore[arg-type]
    found = grounds.check(text)
    assert bool(found.why) != bool(found.evidence)
    return found.why


@pytest.mark.parametrize(
    "text",
    [
        "A floral midi sundress in cornflower blue.",
        "It comes with tie straps and costs 46 USD.",
        "The sundress has no polyester.",
        "It is not waterproof.",
        "Reviewers say straps are a bit long.",
        "Reviewers say the sundress never felt too warm.",
        "It has 812 reviews.",
    ],
)
def test_what_the_fields_and_reviews_say_stays(text: str) -> None:
    assert why(text) == ""


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("It cures cancer.", "no field says 'cures', 'cancer'"),  # on no word list
        ("The best sundress.", "'best'"),
        ("A silk sundress.", "'silk'"),
        ("A red sundress.", "'red'"),
        ("It costs 26 USD.", "26"),
        ("A waterproof sundress.", "'waterproof'"),
        ("A sundress of polyester.", "'polyester'"),  # the field denies it
        ("The sundress has no straps.", "'no"),
        ("The sundress is by Zara.", "'zara'"),
        ("Buy it now.", "'buy', 'now'"),
        ("Is it a sundress?", "no whole sentence"),
        ("See www.tessaline.com for the sundress.", "no whole sentence"),
        ("A sundress 🔥 in viscose.", "🔥"),
        ("I wear the sundress.", "first person"),
        ("碎花连衣裙。", "another language"),
        ("You will like the sundress.", "'like'"),
        ("It is available.", "says nothing"),
        ("Customers like the sundress.", "reviewers"),
        ("Reviewers say it felt too warm.", "no review says this"),  # never
        ("Reviewers say straps are long and the fabric is soft.", "no review says this"),
        ("Reviewers say it is great.", "no review says this"),
        ("All reviewers say straps are long.", "no review says this"),
        ("Reviewers say knot felt warm.", "no review says this"),  # of two reviews
        ("A floral sundress like the linen shift that you bought.", ""),
    ],
)
def test_what_nobody_says_is_cut(text: str, says: str) -> None:
    found = why(text)
    assert found
    assert says in found


@pytest.mark.parametrize(
    "text", ["氨基酸洗发水，无香精。", "容量是500毫升，品牌是沐野。", "评价说味道淡。", "评价说头皮不痒了。"]
)
def test_chinese_that_is_known_stays(text: str) -> None:
    assert why(text, SHAMPOO, "zh") == ""


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("洗发水含香精。", "'香', '精'"),
        ("洗发水能治脱发。", "'治', '脱', '发'"),
        ("最好的洗发水。", "'最"),
        ("红色的洗发水。", "'红色'"),
        ("容量800毫升的洗发水。", "800"),
        ("评价说头皮很痒。", "no review"),
        ("评价说味道香。", "no review"),
        ("大家都喜欢这款洗发水。", "reviewers"),
        ("我喜欢洗发水。", "first person"),
        ("An amino acid shampoo.", "another language"),
    ],
)
def test_chinese_that_nobody_says_is_cut(text: str, says: str) -> None:
    assert says in why(text, SHAMPOO, "zh")


def test_the_past_may_be_named_where_it_was_so() -> None:
    assert why("A sundress with straps, like the linen shift that you bought.", history=BOUGHT) == ""
    assert why("A sundress with straps, like the linen shift that you viewed.", history=BOUGHT)
    assert why("A relaxed sundress.", history=BOUGHT), "the listing of the past is another one"


@pytest.mark.parametrize(
    ("original", "variant", "lost"),
    [
        ("Clear Case for Noviqua 12 Pro Max", "Case for Noviqua 12", {"clear", "pro", "max"}),
        ("Case for Noviqua 12", "Noviqua 12 with Case", {"for"}),
        ("Kettle 0.9 l, Acme", "Kettle 1.7 l", {"0.9 l", "acme"}),
        ("Socks, 6 Pairs", "Socks", {"6 pairs"}),
        ("Best New Mug, Perfect Gift", "Mug", set()),
        ("澜屿X30手机壳 磨砂防摔", "澜屿手机壳 磨砂防摔", {"x30"}),
        ("爆款手机壳 两片装", "手机壳", {"两", "片", "装"}),
        ("新款 夏季连衣裙", "连衣裙", set()),
    ],
)
def test_what_tells_two_products_apart_may_not_be_lost(original: str, variant: str, lost: set[str]) -> None:
    assert set(lost_words(original, variant)) == lost


@pytest.mark.parametrize(
    ("variant", "says"),
    [
        ("Cornflower Blue Floral Midi Sundress with Tie Straps", ""),
        ("Tie Straps Midi Sundress, Floral", "'with'"),
        ("Lovely Floral Midi Sundress with Tie Straps", "'lovely'"),
        ("Floral Midi Sundress with Tie Straps for Weddings", "'weddings'"),
        ("Floral Midi Sundress with Tie Straps, Silk", "'silk'"),
        ("Floral Midi Sundress with Tie Straps by Tessaline of Women, Dresses", "longer than 60"),
        ("Floral Midi Sundress with Tie Straps. Buy now", "no title"),
        ("Floral Midi Sundress with Tie Straps, waterproof", "'waterproof'"),
        ("My Floral Midi Sundress with Tie Straps", "person"),
        ("", "no title"),
    ],
)
def test_a_title_variant_only_adds_facts(variant: str, says: str) -> None:
    found = check_title(variant, Facts(Query("?"), DRESS), 60)
    assert says in found.why
    assert bool(found.why) == bool(says)


def test_praise_of_the_title_itself_is_not_added() -> None:
    mug = Listing("m", "Perfect Mug")
    assert not check_title("Perfect Mug", Facts(Query("?"), mug), 60).why
    assert check_title("Best Perfect Mug", Facts(Query("?"), mug), 60).why
