"""Prices and exclusions are read from a query's own words."""

from __future__ import annotations

import time

import pytest

from genrank.search.understanding.literal import Money, exclusions, prices, with_digits


@pytest.mark.parametrize(
    ("text", "money", "rest"),
    [
        ("laptop under 800", Money(most=800), "laptop"),
        ("wireless earbuds under $100", Money(most=100, currency="USD"), "wireless earbuds"),
        ("phone below $1k", Money(most=1000, currency="USD"), "phone"),
        ("bag over 1,200 usd", Money(least=1200, currency="USD"), "bag"),
        ("shirt 20 dollars or less", Money(most=20, currency="USD"), "shirt"),
        ("tv between 300 and 500 euros", Money(300, 500, "EUR"), "tv"),
        ("boots from 80 to 50", Money(50, 80), "boots"),
        ("shoes £50-100", Money(50, 100, "GBP"), "shoes"),
        ("轻薄笔记本电脑 5000元以内", Money(most=5000, currency="CNY"), "轻薄笔记本电脑"),
        ("不超过200块的耳机", Money(most=200, currency="CNY"), "的耳机"),
        ("手机 2000到3000元", Money(2000, 3000, "CNY"), "手机"),
        ("1万以上 相机", Money(least=10_000), "相机"),
        ("耳机 ３００元以下", Money(most=300, currency="CNY"), "耳机"),
    ],
)
def test_prices(text: str, money: Money, rest: str) -> None:
    assert prices(text) == (money, rest)


@pytest.mark.parametrize(
    "text",
    ["gift for a 3 year old", "toys 2-4 years", "laptops 10-17 inch", "tent under 3 kg", "跑步鞋 43码", "spf 50",
     "from paris with love", "3岁以上 玩具", "dress"],
)  # fmt: skip
def test_what_is_no_price(text: str) -> None:
    assert prices(text) == (Money(), text)


WORDS = {"sugar", "糖", "硅油", "线", "打孔"}
VALUES = {"non-stick", "免打孔", "无线"}


@pytest.mark.parametrize(
    ("text", "excluded", "rest"),
    [
        ("peanut butter without sugar", ["sugar"], "peanut butter"),
        ("bottle not plastic", ["plastic"], "bottle"),
        ("sugar-free gum, no nuts", ["sugar", "nuts"], "gum,"),
        ("non stick pan", [], "non stick pan"),
        ("无糖速溶咖啡", ["糖"], "速溶咖啡"),
        ("洗发水 不含硅油", ["硅油"], "洗发水"),
        ("鼠标 无线", [], "鼠标 无线"),
        ("窗帘 免打孔", [], "窗帘 免打孔"),
        ("非洲", [], "非洲"),
        ("notebook", [], "notebook"),
    ],
)
def test_exclusions(text: str, excluded: list[str], rest: str) -> None:
    assert exclusions(text, WORDS.__contains__, VALUES.__contains__) == (excluded, rest)


def test_number_words() -> None:
    assert with_digits("tent for Two people") == "tent for 2 people"
    assert with_digits("双人帐篷 三件套 一般") == "2人帐篷 3件套 一般"


@pytest.mark.parametrize("text", ["1" * 500, "$ " * 250, "无" * 500, "under " * 80, "1,111" * 100, "not " * 125])
def test_long_nonsense_is_read_quickly(text: str) -> None:
    started = time.perf_counter()
    prices(text)
    exclusions(text, WORDS.__contains__, VALUES.__contains__)
    assert time.perf_counter() - started < 1
