"""What a query means, in the catalogue's own words."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

from genrank.text.language import Language
from genrank.types import Tokens, compact

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Guess(Generic[T]):
    """A value that the model has chosen.

    Attributes:
        value: One of the catalogue's.
        confidence: Probability, 0 to 1, among the values that it could choose from, "any" included.
    """

    value: T
    confidence: float


@dataclass(frozen=True, slots=True)
class Intent:
    """A query as a search engine can use it. What the query does not say is empty.

    Attributes:
        query: The query as it was typed.
        language: Of the query.
        corrected: The query with its spelling corrected; the query itself where nothing is wrong with it.
        categories: The categories that it asks for, the likeliest first.
        brand: The brand that it names.
        attributes: By name.
        least_price: The lowest price, in units of the currency.
        most_price: The highest price.
        currency: ISO 4217 code; empty where neither the query nor the catalogue tells.
        excluded: Words that the shopper does not want.
        source: ``model``, or ``literal`` where the model could not be asked, so that only what stands in the query in
            so many words is known (price, brand, exclusions).
        why: Why the model could not be asked.
        tokens: Token counts.
        seconds: Time taken.
    """

    query: str
    language: Language
    corrected: str
    categories: tuple[Guess[tuple[str, ...]], ...] = ()
    brand: Guess[str] | None = None
    attributes: dict[str, Guess[str]] = field(default_factory=dict)
    least_price: float | None = None
    most_price: float | None = None
    currency: str = ""
    excluded: tuple[str, ...] = ()
    source: str = "model"
    why: str = ""
    tokens: Tokens = field(default_factory=Tokens)
    seconds: float = 0.0

    @property
    def has_price(self) -> bool:
        """Whether the query names a price."""
        return self.least_price is not None or self.most_price is not None

    def slots(self) -> set[tuple[str, str]]:
        """The slots and values, as text, to be compared with labels."""
        found = {("category", " > ".join(guess.value)) for guess in self.categories}
        found |= {(f"attributes.{name}", guess.value) for name, guess in self.attributes.items()}
        found |= {("excluded", word) for word in self.excluded}
        if self.brand is not None:
            found.add(("brand", self.brand.value))
        if self.least_price is not None:
            found.add(("least_price", f"{self.least_price:g}"))
        if self.most_price is not None:
            found.add(("most_price", f"{self.most_price:g}"))
        if self.corrected != self.query:
            found.add(("corrected", self.corrected))
        return found

    def to_dict(self) -> dict[str, Any]:
        """The intent as JSON types, without empty fields."""
        price = {"least": self.least_price, "most": self.most_price, "currency": self.currency}
        plain: dict[str, Any] = {
            "query": self.query,
            "language": self.language,
            "corrected": self.corrected,
            "categories": [_guess("path", list(one.value), one.confidence) for one in self.categories],
            "brand": self.brand and _guess("name", self.brand.value, self.brand.confidence),
            "attributes": {name: _guess("value", one.value, one.confidence) for name, one in self.attributes.items()},
            "price": compact(price) if self.has_price else {},
            "excluded": list(self.excluded),
            "source": self.source,
            "why": self.why,
        }
        return compact(plain)


def _guess(name: str, value: object, confidence: float) -> dict[str, object]:
    return {name: value, "confidence": round(confidence, 4)}
