from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest

from genrank.reasons.grounding import MAX_CHARS, Facts, find_claims, ground, named_wishes, shorten
from genrank.types import Interaction, Listing, Price, Query

CABLE = Listing(
    "p1",
    "Braided USB-C Cable 2 m",
    brand="Voltina",
    category=("Electronics", "Cables"),
    price=Price(39.0, "USD"),
    attributes={"colour": "navy", "length": "2 m", "material": "nylon", "waterproof": "no", "size": "S-XL"},
    rating=4.5,
    rating_count=1812,
    in_stock=True,
    description="Not dishwasher safe. Weighs 1,500 g. Batteries not included. Pack of 3. Fits a 15.6” screen.",
)
BELT = Interaction("purchase", Listing("h0", "Red belt", brand="Zara", attributes={"colour": "red"}), rating=3.0)
OTHER = Listing("o1", "Other cable", brand="Acme", attributes={"use": "hiking, running", "colour": "green"})
DRESS = Listing(
    "p2",
    "夏装新款碎花雪纺连衣裙女",
    brand="朵拉汐",
    category=("女装", "连衣裙"),
    price=Price(139.0, "CNY"),
    attributes={"颜色": "杏色碎花", "季节": "夏季", "材质": "雪纺", "尺码": "S-L", "防水": "否"},
    rating=4.7,
    rating_count=2316,
    description="轻薄雪纺配内衬，不含腰带。",
)
COAT = Interaction("view", Listing("h1", "羊毛大衣", brand="木槿序"))


MET = "For “usb cable”: its title says “USB-C Cable”."


def cable(query: str = "usb cable 3 m") -> Facts:
    return Facts(Query(query), CABLE, [BELT], [OTHER])


def dress() -> Facts:
    return Facts(Query("连衣裙 夏季"), DRESS, [COAT])


@pytest.mark.parametrize(
    ("text", "fields"),
    [
        ("It is 2 m long.", {"title", "attributes.length"}),
        ("It is 2m long.", {"title", "attributes.length"}),
        ("It is 2 metres long.", {"title", "attributes.length"}),
        ("It is 200 cm long.", {"title", "attributes.length"}),
        ("长2米", {"title", "attributes.length"}),
        ("It weighs 1500g.", {"description"}),
        ("It weighs 1.5 kg.", {"description"}),
        ("It fits 15.6 inch screens.", {"description"}),
        ('It fits a 15.6" screen.', {"description"}),
        ("It fits a 15.6″ screen.", {"description"}),
        ("A pack of 3.", {"description"}),
        ("A 3-pack.", {"description"}),
        ("Three pieces.", {"description"}),
        ("It costs $39.", {"price.amount"}),
        ("It costs 39 dollars.", {"price.amount"}),
        ("It costs 39.00 USD.", {"price.amount"}),
        ("It is priced at 39.", {"price.amount"}),
        ("Rated 4.5 stars.", {"rating"}),
        ("Rated 4.5.", {"rating"}),
        ("It has 4.5/5.", {"rating"}),
        ("It has 1,812 reviews.", {"rating_count"}),
        ("It is navy.", {"attributes.colour"}),
        ("It is navy blue.", {"attributes.colour"}),
        ("It is nylon.", {"attributes.material"}),
        ("It is not only nylon.", {"attributes.material"}),
        ("By Voltina.", {"brand"}),
        ("It is not waterproof.", {"attributes.waterproof"}),
        ("No battery included.", {"description"}),
        ("Not dishwasher safe.", {"description"}),
        ("It comes in size XL.", {"attributes.size"}),
        ("It comes in size S.", {"attributes.size"}),
        ("It is in stock.", {"in_stock"}),
        ("A cable.", {"category[1]"}),
    ],
)
def test_a_claim_stands_in_the_fields_that_say_the_same(text: str, fields: set[str]) -> None:
    (claim, *others) = [claim for claim in find_claims(text, cable()) if claim.text != "battery"]
    assert set(claim.fields) == fields
    assert not others


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("It is 3 m long.", "number"),  # the query says so, and the query is no evidence
        ("It is 2 cm long.", "number"),
        ("It weighs 2 kg.", "number"),
        ("It has 2 plugs.", "number"),  # 2 m are no two of anything
        ("It has two plugs.", "number"),
        ("It is 50% off.", "number"),
        ("An IPX7 cable.", "number"),
        ("It costs ¥39.", "price"),
        ("It costs $39.99.", "price"),
        ("It costs 2.", "price"),
        ("Rated 4.6 stars.", "rating"),
        ("It has 12 reviews.", "reviews"),
        ("It is blue.", "colour"),
        ("It is dark navy.", "colour"),
        ("It is leather.", "material"),
        ("It is not nylon.", "value"),
        ("It is without nylon.", "value"),
        ("It is nylon-free.", "value"),
        ("It is waterproof.", "feature"),
        ("Batteries included.", "feature"),
        ("It is dishwasher safe.", "feature"),
        ("It is stain-resistant.", "feature"),
        ("It is out of stock.", "feature"),
        ("It comes in size XXL.", "size"),
        ("It comes in size 8.", "size"),
        ("By Acme.", "value"),  # another candidate's brand
        ("It is for hiking.", "value"),  # another candidate's attribute
        ("By Zara.", "value"),  # the past, and the reason does not speak of it
        ("By Samsung.", "brand"),
        ("A great Quillon product.", "name"),
        ("It is the best.", "praise"),
        ("It is high quality.", "praise"),
        ("It is cheaper.", "praise"),
        ("You viewed it.", "history"),
    ],
)
def test_a_claim_that_stands_nowhere_is_not_grounded(text: str, kind: str) -> None:
    failed = [claim.kind for claim in find_claims(text, cable()) if not claim.fields]
    assert kind in failed


@pytest.mark.parametrize(
    ("text", "fields"),
    [
        ("这条雪纺连衣裙适合夏天。", {"attributes.材质", "category[1]", "title", "attributes.季节"}),
        ("价格139元。", {"price.amount"}),
        ("评分4.7。", {"rating"}),
        ("4.7星。", {"rating"}),
        ("有2316条评价。", {"rating_count"}),
        ("杏色的。", {"attributes.颜色"}),
        ("不防水。", {"attributes.防水"}),
        ("朵拉汐品牌。", {"brand"}),
        ("您看过木槿序。", {"history[0].event", "history[0].brand"}),
    ],
)
def test_claims_in_chinese(text: str, fields: set[str]) -> None:
    assert {field for claim in find_claims(text, dress()) for field in claim.fields} == fields
    assert ground(text, dress()).text == text


@pytest.mark.parametrize(
    "text", ["红色的。", "价格129元。", "38码。", "防水。", "最好。", "长2米。", "Nike的。", "您买过。", "木槿序的。"]
)
def test_what_does_not_stand_in_chinese(text: str) -> None:
    assert any(not claim.fields for claim in find_claims(text, dress()))
    assert ground(text, dress()).text.startswith("符合“连衣裙 夏季”：名称里有“连衣裙”，季节是夏季")


def test_the_past_is_evidence_where_the_reason_speaks_of_it() -> None:
    result = ground("Red like the belt you bought.", cable())
    assert not result.rewritten
    assert result.evidence == ("history[0].attributes.colour", "history[0].event")
    assert next(iter(find_claims("You rated it 3 stars.", cable()))).fields == ()  # it was bought, not rated
    brand = ground("You bought Zara, the best.", cable())
    assert brand.rewritten


@pytest.mark.parametrize(
    ("query", "title", "past", "text", "true"),
    [
        (
            "lamp",
            "LED desk lamp",
            "Standing desk 140 cm",
            "LED desk lamp, like the LED desk lamp in your history.",
            False,
        ),
        (
            "lamp",
            "LED desk lamp",
            "Standing desk 140 cm",
            "LED desk lamp, like the standing desk in your history.",
            True,
        ),
        ("lamp", "LED desk lamp", "Standing desk 140 cm", "A lamp for the desk you bought.", True),
        ("面霜", "清爽控油面霜", "氨基酸控油洁面乳", "清爽控油面霜，和您之前选的清爽控油面霜相配。", False),
        ("面霜", "清爽控油面霜", "氨基酸控油洁面乳", "清爽控油面霜，和您之前选的控油洁面乳相配。", True),
    ],
)
def test_a_past_listing_is_named_by_its_own_words(query: str, title: str, past: str, text: str, true: bool) -> None:
    history = [Interaction("purchase", Listing("h", past))]
    facts = Facts(Query(query), Listing("p", title), history)
    (claim,) = [claim for claim in find_claims(text, facts) if claim.kind == "history"]
    assert bool(claim.fields) is true


def test_plurals_and_whole_words() -> None:
    listing = Listing("p", "Glass box", brand="Zara", attributes={"kind": "dress", "colour": "red"})
    facts = Facts(Query("dress"), listing)
    assert all(claim.fields for claim in find_claims("Two red dresses in boxes.", facts)[:1])
    assert not [claim for claim in find_claims("It is Zaranova.", facts) if claim.fields]
    assert find_claims("It is coloured.", facts) == []


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("It is a braided cable, 2 m long.", "It is a braided cable, 2 m long."),
        ("It is the best cable, $39, rated 4.5.", MET),
        ("It is the best.", MET),
        ("", MET),
        ("…", MET),
        ("Why does this cable match?", MET),
        ("这是2米的线。", "For “usb cable”: its title says “USB-C Cable” and its length is 2 m."),
        ("A cable | colour: navy", "For “usb cable”: its title says “USB-C Cable” and its colour is navy."),
        ("It is a cable " * 5, MET),
        ("You bought one, the best.", MET),
    ],
)
def test_a_reason_that_fails_says_which_wish_is_met_by_which_field(text: str, expected: str) -> None:
    assert ground(text, cable()).text == expected


@pytest.mark.parametrize(
    ("query", "expected", "evidence"),
    [
        (
            "nylon cable",
            "For “nylon cable”: its material is nylon and its title says “Cable”.",
            ("title", "attributes.material"),
        ),
        (
            "cable for hiking, two metres",
            "For “cable” and “two metres”: its title says “Cable” and its length is 2 m.",
            ...,
        ),
        ("wasserdichtes kabel, nylon, und", "nylon", ("attributes.material",)),
        (
            "voltina electronics",
            "For “voltina electronics”: its brand is Voltina and it is in Electronics.",
            ("brand", "category[0]"),
        ),
        ("cable, not waterproof", "For “cable”: its title says “Cable”.", ("title",)),
        ("waterproof cable", "For “cable”: its title says “Cable”.", ("title",)),
        ("tray, dishwasher safe", "", ()),
        (
            "tray not dishwasher safe",
            "For “not dishwasher safe”: its description mentions not dishwasher safe.",
            ("description",),
        ),
        ("size L for travelling", "For “size l”: its size is S-XL.", ("attributes.size",)),
        ("尼龙 navy", "符合“尼龙 navy”：material是nylon，colour是navy。", ("attributes.colour", "attributes.material")),
        ("best of the best, keeps most", "", ()),
        ("501", "", ()),
    ],
)
def test_wishes_are_met_by_the_most_telling_fields(query: str, expected: str, evidence: Any) -> None:
    result = ground("Great!", Facts(Query(query), CABLE))
    assert result.text == expected
    assert evidence in (..., result.evidence)


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ("免打孔 窗帘", "符合“免打孔 窗帘”：安装是免打孔，名称里有“窗帘”。"),
        ("打孔窗帘", "符合“窗帘”：名称里有“窗帘”。"),
        ("夏天用的", "符合“夏天”：季节是夏季。"),
        ("浴巾", ""),
    ],
)
def test_wishes_in_chinese(query: str, expected: str) -> None:
    listing = Listing("p", "遮光窗帘", attributes={"安装": "免打孔", "季节": "夏季"})
    assert ground("", Facts(Query(query), listing)).text == expected


@pytest.mark.parametrize(
    ("event", "query", "expected"),
    [
        ("purchase", "belt", "Its brand is Zara, like “Silk scarf” that you bought."),
        ("view", "hat", "For “hat”: its title says “Hat” and its brand is Zara, like “Silk scarf” that you viewed."),
        ("cart", "帽子", "品牌是Zara，和您加入过购物车的“Silk scarf”一样。"),
        ("click", "帽子", "品牌是Zara，和您点击过的“Silk scarf”一样。"),
        ("rating", "rotes hat und", "Hat · Zara"),
    ],
)
def test_what_is_like_the_past_is_a_wish_that_is_met(event: Any, query: str, expected: str) -> None:
    past = [Interaction(event, Listing("h", "Silk scarf", brand="Zara")), Interaction("view", Listing("i", "Mug"))]
    result = ground("Great!", Facts(Query(query), Listing("p", "Hat", brand="Zara"), past))
    assert result.text == expected
    assert {"brand", "history[0].brand", "history[0].event"} <= set(result.evidence)


@pytest.mark.parametrize(
    ("text", "wishes"),
    [
        ("A cable of nylon.", ("cable",)),
        ("Its length of 300 cm is yours.", ("3 m",)),
        ("Red like the belt you bought.", ("you bought",)),
        ("It is in Electronics.", ()),
        ("You viewed a mug.", ()),
    ],
)
def test_the_wishes_that_a_reason_names(text: str, wishes: tuple[str, ...]) -> None:
    assert named_wishes(text, cable()) == wishes


@pytest.mark.parametrize(
    "query", ["cream under 60", "cream under 60 dollars", "cream for less than $60", "面霜 60以内"]
)
def test_the_bound_of_a_price_asks_for_no_weight(query: str) -> None:
    dear = Listing("p", "Cream 面霜", price=Price(80.0, "USD"), attributes={"weight": "60 g", "height": "60 cm"})
    assert "60" not in ground("Simply the best.", Facts(Query(query), dear)).text
    assert ground(f"A {query}.", Facts(Query(query), dear)).rewritten, "no weight bears out a price"
    cheap = Listing("p", "Cream 面霜", price=Price(50.0, "USD"), attributes={"weight": "60 g"})
    assert "50" in ground("Simply the best.", Facts(Query(query), cheap)).text
    assert not ground(f"A {query}.", Facts(Query(query), cheap)).rewritten


@pytest.mark.parametrize(
    ("text", "stands"),
    [
        ("A keyboard under 60.", True),
        ("A keyboard for less than $50.", True),
        ("A keyboard under 40.", False),
        ("It costs under 60 EUR.", False),
        ("60 or under.", True),
        ("300元以下的键盘。", False),
        ("It costs 60.", False),
        ("It is wireless.", True),
        ("It is 2 cm thick.", True),
        ("It is thick.", False),
        ("It is kid-friendly for boys.", False),
        ("For beginners.", False),
        ("A senior keyboard.", False),
        ("It runs for 20 hours.", True),
        ("It is low in profile.", True),
        ("It is ordinary.", True),
        ("For travel.", False),
        ("For gaming.", True),  # the query's own wish
    ],
)
def test_what_a_field_says_in_other_words(text: str, stands: bool) -> None:
    listing = Listing(
        "p",
        "Keyboard, low profile",
        price=Price(49.0, "USD"),
        attributes={"connection": "Bluetooth", "height": "2 cm", "battery": "20 h", "new": "yes"},
    )
    past = Interaction("view", Listing("h", "Mouse", attributes={"shape": "low profile"}))
    other = Listing("o", "Board", attributes={"ordinary": "yes", "shape": "是"})
    facts = Facts(Query("gaming keyboard"), listing, [past], [other])
    assert all(claim.fields for claim in find_claims(text, facts)) == stands, find_claims(text, facts)


def test_a_past_listing_is_not_this_one() -> None:
    past = Interaction("purchase", Listing("h", "氨基酸控油洁面乳 油皮"))
    facts = Facts(Query("面霜"), Listing("p", "清爽控油面霜"), [past])
    assert ground("清爽控油面霜，氨基酸控油洁面乳。", facts).rewritten
    assert not ground("清爽控油面霜，和您买过的氨基酸控油洁面乳相配。", facts).rewritten
    assert ground("氨基酸控油洁面乳，和您买过的氨基酸控油洁面乳相配。", facts).rewritten, (
        "only its own clause is of the past"
    )
    assert ground("清爽面霜，和您买过的清爽面霜相配。", facts).rewritten, "that was not bought"
    assert not ground("清爽控油面霜，和您买过的洁面乳相配。", facts).rewritten


def test_the_wish_may_be_repeated_where_it_is_a_wish() -> None:
    other = Listing("o", "Candle", attributes={"for": "mum", "coating": "non-stick"})
    facts = Facts(Query("non-stick gift for mum"), Listing("p", "Massage Pad"), others=[other])
    assert not ground("Massage pad, so it suits mum.", facts).rewritten
    assert ground("Massage pad, a mum of pads.", facts).rewritten
    assert ground("Non-stick massage pad.", facts).rewritten


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Braided USB-C cable, 2 m long, so it suits travel.", "Braided USB-C cable, 2 m long."),
        ("A braided cable, 2 m, length: 2 m, colour: navy, brand: Volt …", "A braided cable, 2 m, length: 2 m."),
        ("Very long, waterproof, the best cable.", "For “usb cable”: its title says “USB-C Cable”."),
        ("It costs 1,000 USD, cable.", "For “usb cable”: its title says “USB-C Cable”."),
    ],
)
def test_last_clauses_that_do_not_stand_are_cut_off(text: str, expected: str) -> None:
    result = ground(text, cable())
    assert (result.text, result.rewritten) == (expected, True)
    assert result.evidence


def test_last_clauses_in_chinese() -> None:
    assert ground("雪纺连衣裙，适合夏季，最好的。", dress()).text == "雪纺连衣裙，适合夏季。"


def test_sizes_and_ages_within_a_range_are_grounded() -> None:
    facts = Facts(Query("shoes"), Listing("p", "Shoes", attributes={"size": "39-46", "age": "4-10 years"}))
    for text, stands in (
        ("In size 43.", True),
        ("In size 47.", False),
        ("For children of 6 years.", True),
        ("For 3 years.", False),
    ):
        assert all(claim.fields for claim in find_claims(text, facts) if claim.kind in ("size", "number")) == stands, (
            text
        )
    shirt = Facts(Query("尺码 L"), Listing("p", "衬衫", attributes={"尺码": "M-3XL"}))
    assert [bool(claim.fields) for claim in find_claims("有尺码XXL，没有尺码S。", shirt)] == [True, False]


def test_a_hostile_title_is_quoted_or_stands_alone() -> None:
    for title in ("Best waterproof 39 USD", "8” x 8” “best”", "not", "最好的" * 99, "x" * 999, "\ue000"):
        facts = Facts(Query("lamp"), Listing("p", title, attributes={"]": "best", "price.amount": "x", "": "0"}))
        result = ground("It is 5 m.", facts)
        assert all(claim.fields for claim in find_claims(result.text, facts))
        assert len(result.text) <= MAX_CHARS


@pytest.mark.parametrize(
    ("text", "chars", "expected"),
    [("ab cd", 5, "ab cd"), ("abc def ghi", 10, "abc def …"), ("x" * 9, 5, "xxx …"), ("", 5, "")],
)
def test_shorten(text: str, chars: int, expected: str) -> None:
    assert shorten(text, chars) == expected
    assert len(shorten(text, chars)) <= chars


def test_a_long_reason_is_cut_before_it_is_checked() -> None:
    result = ground("It is a cable of nylon from the shelf where we keep them " * 2 + "and then " * 40, cable())
    assert len(result.text) <= MAX_CHARS


@pytest.mark.parametrize("number", ["1/0 m", "9" * 400, "٣", "²", "1.2.3.4", "1,2,3"])
def test_odd_numbers_are_read(number: str) -> None:
    fields: Any = {"title": f"Gadget {number}"}
    facts = Facts(Query("gadget"), Listing("p", **fields))
    assert ground(f"It is {number}.", facts).text


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 1, 0), (1, 2, 0)])
def test_evidence_names_the_latest_purchase_by_its_place_in_the_list_that_was_given(order: tuple[int, ...]) -> None:
    history = [
        Interaction("purchase", Listing(f"h{i}", f"Hat {i}"), time=datetime(2026, 5, 1 + i, tzinfo=UTC))
        for i in range(3)
    ]
    given_order = [history[i] for i in order]
    facts = Facts(Query("hat"), Listing("p", "Hat"), given_order)
    (claim,) = [
        claim for claim in find_claims("It is a hat like the one you bought before.", facts) if claim.kind == "history"
    ]
    assert claim.fields == (f"history[{order.index(2)}].event",)


@pytest.mark.parametrize(
    ("said", "stands"),
    [
        ("It takes 70 °C.", ["70 °C", "70°C", "70C", "70 degrees Celsius", "70 ℃", "70摄氏度"]),
        ("It takes 70°F.", ["70 °F", "70F", "70 F", "70 degrees Fahrenheit", "70 ℉"]),
        ("It takes 70 degrees.", ["70 °C", "70°F", "70 degrees", "70°"]),
        ("It works at -20 °C.", ["-20 °C", "\u221220°C"]),
        ("It takes 70 °C.", ["70ºC", "摂氏70度", "섭씨 70도", "70 Grad Celsius", "70 degrees-C", "60-70 °C"]),
        ("It works at -5 °C.", ["minus 5 °C", "零下5℃", "摄氏-5度", "5 °C below zero"]),
        ("It moves 100 MB/s.", ["100 MBps", "100MB/s"]),
        ("It has 10 ohms.", ["10 Ω", "0.01 kΩ"]),
        ("It is an EU 42.", ["EU 42", "eu42", "size 42"]),
        ("It is size 42.", ["EU 42", "size 42"]),
        ("It gives 2700K light.", ["2700 K", "2700 Kelvin", "2700K"]),
        ("It is 6 ft long.", ["6 feet", "72 inches", "2 yards"]),
        ("It holds 12 fl oz.", ["12 fl. oz", "12 fluid ounces"]),
        ("It holds 500 ml.", ["0.5 l", "500ml"]),
        ("It gives 800 lumens.", ["800 lm", "800 Lumens"]),
        ("It moves 5 Gbps.", ["5 Gbit/s", "5000 Mbps"]),
        ("It covers 20 sq ft.", ["20 square feet", "20 sq. ft."]),
    ],
)
def test_a_unit_grounds_the_same_unit(said: str, stands: list[str]) -> None:
    for value in stands:
        assert all(claim.fields for claim in find_claims(said, Facts(Query("thing"), Listing("l", "Thing", value)))), (
            value
        )


@pytest.mark.parametrize(
    ("said", "other"),
    [
        ("It takes 70 °F.", ["70 °C", "70C", "70 degrees Celsius", "70°", "70 K", "70%"]),
        ("It takes 70F.", ["70 °C", "70C", "70摄氏度"]),
        ("It takes 70 F.", ["70 °C", "70C"]),
        ("It takes 70 degrees Fahrenheit.", ["70 °C", "70 degrees", "70 degrees Celsius"]),
        ("It takes 70 °C.", ["70 °F", "70F", "70 degrees Fahrenheit", "70°", "70 kelvin", "-70 °C"]),
        ("It works at -20 °C.", ["20 °C", "-20 °F"]),
        ("It takes 70 °F.", ["70ºC", "摂氏70度", "섭씨 70도", "70 degC", "70 Grad Celsius", "60-70 ℃"]),
        (
            "It takes 70 °F.",
            ["70 градусов Цельсия", "70 grados C"],
        ),
        ("It takes 70 degF.", ["70 degC", "70度"]),
        ("华氏70度", ["摄氏70度", "70℃", "70度"]),
        ("It works at 5 °C.", ["minus 5 °C", "零下5度", "零下5℃", "5 °C below zero"]),
        ("It works at 5 kelvin.", ["5K race", "5 km"]),
        ("It is an EU 42.", ["US 42", "UK 42", "US42"]),
        ("It moves 100 MB/s.", ["100 Mbps", "100 Mb/s", "100 MB"]),
        ("It moves 100 Mbps.", ["100 MB/s", "100 MBps"]),
        ("It is 30 m long.", ["30 m/s"]),
        ("It holds 5 l.", ["5 l/min", "5 L / h"]),
        ("It gives 2700K light.", ["2700 lumens", "2700 °C", "2700 W"]),
        ("It is 6 ft long.", ["6 inches", "6 m", "6 sq ft", '6"']),
        ("It is 6 inches long.", ["6 ft", "6 cm", "6'"]),
        ("It holds 12 fl oz.", ["12 oz", "12 ml"]),
        ("It weighs 12 oz.", ["12 fl oz", "12 lb", "12 g"]),
        ("It holds 500 ml.", ["500 l", "500 mg", "500 g"]),
        ("It stores 64 GB.", ["64 MB", "64 Gbps", "64 Gbit", "64 TB"]),
        ("It moves 5 Gbps.", ["5 GB", "5 Mbps"]),
        ("It gives 800 lumens.", ["800 lux", "800 W", "800 sheets"]),
        ("It draws 5 amps.", ["5 V", "5 mA", "5 W", "5 Ah"]),
        ("It is 40 dB loud.", ["40 Hz", "40 W"]),
        ("It covers 20 sq ft.", ["20 ft", "20 square meters"]),
    ],
)
def test_a_unit_does_not_ground_another(said: str, other: list[str]) -> None:
    for value in other:
        claims = find_claims(said, Facts(Query("thing"), Listing("l", "Thing", value)))
        assert not all(claim.fields for claim in claims), value
        assert claims


@pytest.mark.parametrize(
    ("said", "currency"),
    [
        *(("€39", "USD"), ("US$39", "CAD"), ("HK$39", "USD"), ("R$ 39", "USD"), ("₩39", "USD"), ("39₽", "USD")),
        *(("39 kr", "USD"), ("39 zł", "EUR"), ("Rs. 39", "USD"), ("39 rupees", "GBP"), ("39 cents", "USD")),
        *(
            ("39韩元", "CNY"),
            ("39英镑", "CNY"),
            ("39 pesos", "USD"),
            ("A$39", "NZD"),
            ("39 SEK", "NOK"),
            ("39¢", "USD"),
        ),
    ],
)
def test_a_price_does_not_ground_another_currency(said: str, currency: str) -> None:
    claims = find_claims(f"It costs {said}.", Facts(Query("mug"), Listing("l", "Mug", price=Price(39.0, currency))))
    assert claims
    assert not all(claim.fields for claim in claims)


@pytest.mark.parametrize(
    ("said", "currency"),
    [
        *(("US$39", "USD"), ("C$39", "CAD"), ("R$ 39", "BRL"), ("₩39", "KRW"), ("39 kr", "SEK"), ("39 zł", "PLN")),
        *(("Rs. 39", "INR"), ("39英镑", "GBP"), ("39 pesos", "MXN"), ("$39", "AUD")),
    ],
)
def test_a_price_grounds_its_currency(said: str, currency: str) -> None:
    facts = Facts(Query("mug"), Listing("l", "Mug", price=Price(39.0, currency)))
    assert [claim.fields for claim in find_claims(f"It costs {said}.", facts)] == [("price.amount",)]


@pytest.mark.parametrize("title", ["You bought", "you've bought it", "Clicked? You rated it", "您买过"])
@pytest.mark.parametrize("query", ["mug", "杯子", "Tasse für ihn"])
def test_a_title_that_speaks_of_the_past_is_not_believed(title: str, query: str) -> None:
    facts = Facts(Query(query), Listing("l", title), [Interaction("view", Listing("h", "Hat"))])
    result = ground(title, facts)
    assert (result.text, result.evidence) == ("", ())
    meant = Facts(Query(title), Listing("l", title), [Interaction("view", Listing("h", "Hat"))])
    assert all(claim.fields for claim in find_claims(ground(title, meant).text, meant))
