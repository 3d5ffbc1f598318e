"""How the model is asked for a slot, by language."""

from __future__ import annotations

from dataclasses import asdict, dataclass

from genrank.files import fingerprint


@dataclass(frozen=True, slots=True)
class Example:
    """A question with its answer, shown to the model as a turn of its own.

    Attributes:
        query: What was searched for.
        name: The slot.
        options: Its values.
        answer: One of them, or `Wording.any`.
    """

    query: str
    name: str
    options: tuple[str, ...]
    answer: str


@dataclass(frozen=True, slots=True)
class Wording:
    """The words of a question.

    Attributes:
        system: The system's turn.
        question: With ``{query}``, ``{name}`` and ``{options}``.
        between: Between two options.
        category: Name of the slot of categories.
        any: The option that the query does not say.
        nothing: A query that says nothing; what the model answers to it is its leaning, not the query's meaning.
        examples: Shown before each question.
    """

    system: str
    question: str
    between: str
    category: str
    any: str
    nothing: str
    examples: tuple[Example, ...]


ENGLISH = Wording(
    system="You read what shoppers type into the search of an online shop. For one property of what they look for, "
    "answer with the value that the search asks for, or with `any` if it does not say.",
    question="Search: {query}\n{name}? One of: {options}",
    between="; ",
    category="kind of product",
    any="any",
    nothing="something",
    examples=(
        Example("red mug for tea", "colour", ("blue", "red", "white"), "red"),
        Example("red mug for tea", "material", ("glass", "steel"), "any"),
        Example(
            "hiking boots for him",
            "kind of product",
            ("Shoes > Men > Hiking", "Shoes > Women > Hiking", "Sport > Camping > Tents"),
            "Shoes > Men > Hiking",
        ),
        Example("oven glove of cotton", "material", ("silicone", "cotton"), "cotton"),
        Example("cheap umbrella", "kind of product", ("Garden > Tools", "Travel > Umbrellas"), "Travel > Umbrellas"),
    ),
)

CHINESE = Wording(
    system="你阅读顾客在网店输入的搜索词。对他们要找的商品的一个属性，回答搜索词要求的值；如果没有提到，回答“不限”。",
    question="搜索词：{query}\n{name}？可选：{options}",
    between="；",
    category="商品类别",
    any="不限",
    nothing="商品",
    examples=(
        Example("红色茶杯", "颜色", ("蓝色", "红色", "白色"), "红色"),
        Example("红色茶杯", "材质", ("玻璃", "不锈钢"), "不限"),
        Example(
            "登山鞋 男款",
            "商品类别",
            ("鞋靴 > 男鞋 > 登山鞋", "鞋靴 > 女鞋 > 登山鞋", "户外 > 帐篷"),
            "鞋靴 > 男鞋 > 登山鞋",
        ),
        Example("隔热手套 纯棉", "材质", ("硅胶", "纯棉"), "纯棉"),
        Example("便宜的雨伞", "商品类别", ("园艺 > 工具", "家居 > 雨伞"), "家居 > 雨伞"),
    ),
)

TRAINED = "understanding"
"""Where an adapter's manifest (`genrank.adapters`) names the words that it was trained with."""


def digest() -> str:
    """First 16 hex digits of the SHA-256 of all words, which an adapter's manifest names."""
    return fingerprint([asdict(ENGLISH), asdict(CHINESE)])[:16]
