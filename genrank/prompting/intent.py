"""How a prompt says what a query means."""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Iterator, Sequence

import pydantic

from genrank.prompting.fields import FieldReader
from genrank.text.clean import number_text
from genrank.types import Intent

_MOST_CLAUSES = 32  # that are read; a limit in tokens shows fewer


class IntentForm(pydantic.BaseModel, extra="forbid", frozen=True):
    """How a prompt says what a query means: a clause for each slot, and what is around them.

    Clauses come in this order: categories, brand, attributes, prices, exclusions. Those at the end, which are cut
    first, repeat what stands in the query in so many words.

    Attributes:
        section: Holds ``{intent}``, the clauses.
        between: Comes between two clauses.
        category: The likeliest category; holds ``{value}``.
        other_category: Each further one; holds ``{value}``.
        brand: Holds ``{value}``.
        attribute: Holds ``{name}`` and ``{value}``.
        least_price: The lowest price, with its currency; holds ``{value}``.
        most_price: The highest; holds ``{value}``.
        excluded: A word that the shopper does not want; holds ``{value}``.
        limit: The most tokens of all clauses together.
    """

    section: str
    between: str = "; "
    category: str = "category {value}"
    other_category: str = "or category {value}"
    brand: str = "brand {value}"
    attribute: str = "{name} {value}"
    least_price: str = "at least {value}"
    most_price: str = "at most {value}"
    excluded: str = "not {value}"
    limit: int = pydantic.Field(default=48, ge=8)

    @pydantic.model_validator(mode="after")
    def _check(self) -> IntentForm:
        _placeholders("section", self.section, "intent")
        _placeholders("attribute", self.attribute, "name", "value")
        for field in ("category", "other_category", "brand", "least_price", "most_price", "excluded"):
            _placeholders(field, getattr(self, field), "value")
        return self

    @property
    def around(self) -> tuple[str, str]:
        """The texts before and after the clauses."""
        before, _, after = self.section.partition("{intent}")
        return before, after

    def clauses(self, intent: Intent, reader: FieldReader) -> list[str]:
        """What an intent says, clause by clause, the most important first; empty where it says nothing.

        Args:
            intent: The intent.
            reader: Reads its texts; see `FieldReader` for what it counts.
        """
        slots = self._slots(intent)
        found = []
        for form, texts in itertools.islice(slots, _MOST_CLAUSES):
            read = [reader.text(text, self.limit) for text in texts]
            if all(read):
                found.append("".join(itertools.chain(*itertools.zip_longest(_parts(form), read, fillvalue=""))))
        reader.unread += sum(len(form) + sum(map(len, texts)) for form, texts in slots)
        return found

    def _slots(self, intent: Intent) -> Iterator[tuple[str, Sequence[str]]]:
        for place, category in enumerate(intent.categories):
            yield self.other_category if place else self.category, [" > ".join(category.value)]
        if intent.brand is not None:
            yield self.brand, [intent.brand.value]
        for name, guess in intent.attributes.items():
            yield self.attribute, [name, guess.value]
        for form, amount in ((self.least_price, intent.least_price), (self.most_price, intent.most_price)):
            if amount is not None and math.isfinite(amount):
                yield form, [f"{number_text(amount)} {intent.currency}".strip()]
        for word in intent.excluded:
            yield self.excluded, [word]


def _parts(form: str) -> list[str]:
    """The texts around the placeholders."""
    return re.split(r"\{[a-z]+\}", form)


def _placeholders(field: str, form: str, *names: str) -> None:
    found = tuple(re.findall(r"\{([a-z]+)\}", form))
    if found != names:
        wanted, has = (", ".join(f"{{{name}}}" for name in group) or "none" for group in (names, found))
        raise ValueError(f"{field} must hold the placeholders {wanted}, in this order; found {has}")
