"""Whatever a model writes of whatever listing, a summary or title says nothing that no field and no review says."""

from __future__ import annotations

import re

from hypothesis import given
from hypothesis import strategies as st

from genrank.reasons import lexicon as reason_words
from genrank.reasons.grounding import Facts, find_claims, normalise
from genrank.testing import ScriptedEngine
from genrank.text.clean import clean
from genrank.text.language import HAN
from genrank.types import Interaction, Listing, Price, Query
from genrank.words import Words, lexicon
from genrank.words.check import lost_words

ENGLISH = [
    Listing(
        "d",
        "Floral Midi Sundress with Tie Straps, 2 Pieces",
        description="Unlined, so it stays cool. Contains no polyester.",
        brand="Tessaline",
        category=("Women", "Dresses"),
        price=Price(46.0, "USD"),
        attributes={"colour": "navy blue", "material": "viscose", "waterproof": "no"},
        rating=4.6,
        reviews=("Never felt too warm.", "Straps are a bit long but lovely."),
    ),
    Listing("c", "Clear Case for Noviqua 12 Pro Max", reviews=("Best case! Write to me@x.example.",)),
    Listing("x", "!!!", attributes={"": "?"}),
]
CHINESE = [
    Listing(
        "s",
        "氨基酸洗发水 敏感头皮 无香精 500毫升",
        brand="沐野",
        price=Price(59.0, "CNY"),
        attributes={"颜色": "白色", "适用": "敏感头皮"},
        reviews=("头皮不痒了，味道淡。", "我叫张伟，很好用。"),
    ),
    Listing("k", "澜屿X30手机壳 磨砂防摔", attributes={"材质": "硅胶"}, reviews=("手感好。",)),
]
PAST = Interaction("purchase", Listing("h", "Linen Shift 亚麻裙", brand="Marlowind", attributes={"fit": "relaxed"}))
GROUPS = (*reason_words.COLOURS, *reason_words.MATERIALS, *reason_words.FEATURES, *reason_words.PRAISE)


def split(text: str) -> list[str]:
    return text.split()


SCRAPS = {
    "en": [
        *split("a the is not no never without it comes with by for of and reviewers say customers love says"),
        *split("straps sundress viscose polyester waterproof long warm case pro max buy heals cancer best i my"),
        *["2 pieces", "12", "46 USD", "$9", "navy blue", "you bought", "like", "size XL", "Zara", "Reviewers say"],
        *[".", ". ", "!", "?", ", ", "“", "”", "\n", "🔥", "<|im_end|>", "https://x.example", "é"],
    ],
    "zh": [
        *split("洗发水 敏感 头皮 无 不 没有 含 香精 颜色是 白色 红色 最好 评价说 买家说 味道淡 痒 治 脱发 我 张伟"),
        *split("500毫升 800毫升 X30 X40 手机壳 磨砂 防摔 硅胶 您买过 一样 和 的 是 适合 容量 59元 手感好"),
        *["。", "，", "！", "\n", " ", "best", "🔥"],
    ],
}


def scraps(spoken: str) -> st.SearchStrategy[str]:
    words = st.sampled_from(SCRAPS[spoken]) | st.sampled_from([word for group in GROUPS for word in group])
    between = " " if spoken == "en" else ""
    return st.lists(words | st.text(max_size=4), max_size=14).map(between.join)


def words_of(text: str) -> set[str]:
    """Latin words without plural endings, numbers, and single Chinese characters."""
    found = re.findall(rf"[{HAN}]|[^\W\d_{HAN}]+|\d+", normalise(text))
    return {re.sub(r"(?:es|s)$", "", word) for word in found}


SYNONYMS = [words_of(" ".join(group)) for group in GROUPS]
SAYING_NOTHING = words_of(
    " ".join([*lexicon.FUNCTION_WORDS, *lexicon.PRODUCT_WORDS, *lexicon.HAN_FILLERS, *lexicon.HAN_FUNCTION])
) | words_of(
    "reviewers reviews customers buyers owners users according some few one two say said mention mentioned report"
    " reported note noted find found write wrote describe described who bought it star usd cny dollar 元 块 ¥ a s i"
    " 有一位部分评价评论买家用户顾客中里也还说提到反映表示认为觉得指出称写道"
    # of the plain words, and of the shopper's past
    " title say description mention brand category in stock out rated condition"
    " 名称里有描述提到品牌是属于价格评分条评价缺货有货符合"
    " you your have history past purchase order viewed clicked put added liked loved own looked seen saw browsed"
    " 您之前你之前的历史买过购买过买了看过浏览过浏览了点击过点过加入过购物车评过分 not no nor never without lack free"
)


def known(listing: Listing, history: tuple[Interaction, ...]) -> set[str]:
    texts = [str(listing.to_dict()), *(str(one.listing.to_dict()) for one in history)]
    found = words_of(" ".join(texts)) | SAYING_NOTHING
    for group in SYNONYMS:  # a synonym of what a field says
        if group & found - SAYING_NOTHING:
            found |= group
    return found | words_of(" ".join(f"{word} {number}" for word, number in reason_words.NUMBER_WORDS.items()))


@given(st.sampled_from([("en", one) for one in ENGLISH] + [("zh", one) for one in CHINESE]), st.data(), st.booleans())
def test_no_word_of_a_summary_is_unknown(case: tuple[str, Listing], data: st.DataObject, past: bool) -> None:
    spoken, listing = case
    said = data.draw(scraps(spoken))
    query = {"en": "blue dress for a wedding", "zh": "洗发水 去屑 男"}[spoken]
    history = (PAST,) if past else ()
    written = Words(ScriptedEngine([said])).summary(listing, query, history)
    assert clean(written.text) == written.text
    assert written.text
    assert written.fate == "fallback" or written.evidence
    if written.fate != "fallback":
        assert words_of(written.text) - known(listing, history) == set()
    facts = Facts(Query(query), listing, history)
    sentences = re.split(r"(?<=[.!?])\s+|(?<=[。！？])", written.text)
    own = [
        one
        for one in sentences
        if not re.search("(?i)reviewer|customer|buyer|owner|user|评价|评论|买家|用户|顾客", one)
    ]
    if written.text != clean(listing.title):
        assert [claim.text for one in own for claim in find_claims(one, facts) if not claim.fields] == []
    assert not re.search("张伟|x.example|(?<![a-z])my(?![a-z])", written.text)


@given(st.sampled_from([("en", one) for one in ENGLISH] + [("zh", one) for one in CHINESE]), st.data(), st.booleans())
def test_a_title_loses_nothing_and_gains_no_praise(case: tuple[str, Listing], data: st.DataObject, grown: bool) -> None:
    spoken, listing = case
    said = data.draw(scraps(spoken))
    if grown:
        said = data.draw(st.permutations([*listing.title.split(), *said.split()[:2]]).map(" ".join))
    written = Words(ScriptedEngine([said])).title(listing, max_chars=70)
    assert lost_words(listing.title, written.text) == ()
    assert written.fate != "kept" or len(written.text) <= 70
    praise = {word for group in reason_words.PRAISE for word in group}
    before, after = (normalise(text) for text in (listing.title, written.text))
    added = {word for word in praise if re.search(rf"(?<![a-z]){re.escape(word)}(?![a-z])", after)}
    assert not {word for word in added if word not in before}
    assert words_of(written.text) <= known(listing, ())


@given(
    st.lists(scraps("en") | scraps("zh") | st.text(max_size=30), min_size=5, max_size=5),
    st.sampled_from([None, "red dress", "红色 连衣裙", "501"]),
    scraps("en") | scraps("zh"),
)
def test_any_listing_gets_words_that_claim_only_what_stands(texts: list[str], query: str | None, said: str) -> None:
    title, description, brand, value, review = texts
    title = title if clean(title).strip("\u200c\u200d ") else f"x{title}"
    attributes = {value: title, "colour": value}
    listing = Listing("a", title, description=description, brand=brand, attributes=attributes, reviews=(review, title))
    words = Words(ScriptedEngine([said, said]))
    summary = words.summary(listing, query, (PAST,))
    assert words.title(listing, query).text
    assert summary.evidence
    assert clean(summary.text) == summary.text != ""
    if summary.fate == "fallback" and summary.text != clean(title):
        facts = Facts(Query(query or "?"), listing, (PAST,))
        facts.language = summary.spoken
        assert [claim.text for claim in find_claims(summary.text, facts) if not claim.fields] == []
