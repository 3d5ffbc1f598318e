"""A short template and a renderer whose prompts are read as text, for the tests of `genrank.prompting`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from genrank.errors import BudgetError
from genrank.prompting.renderer import Renderer
from genrank.prompting.template import Template
from genrank.testing import WordTokenizer
from genrank.types import Candidate, Decoding, Interaction, Listing, Query

FIELDS: dict[str, Any] = {
    "name": "plain",
    "version": 1,
    "description": "short, so that its tokens are easily counted",
    "source": "this test",
    "system": "Judge.",
    "query": "Query: {query}\n",
    "history_head": "Past:\n",
    "interaction": "- {event}: {listing}\n",
    "candidates_head": "Listings:\n",
    "candidate": "[{identifier}] {listing}",
    "question": "\nFit:",
    "yes": [" yes", " Yes"],
    "no": [" no"],
    "instruction": "Rank them.\n",
    "plain_end": "Answer:",
    "fields": {"title": "{value}", "brand": " | brand: {value}", "attributes": " | {value}"},
    "reason": {
        "en": {
            "system": "Say why.",
            "query": "Query: {query}\n",
            "history_head": "Past:\n",
            "interaction": "- {event}: {listing}\n",
            "listing": "Listing: {listing}",
            "task": "Why?",
            "plain_end": "Because",
            "fields": {"title": "{value}", "brand": " | brand: {value}"},
            "examples": [
                {"query": "hat", "listing": "Red hat", "reason": "It is a hat."},
                {"query": "cap", "history": "Past:\n- bought: Cap\n", "listing": "Cap", "reason": "You bought one."},
            ],
        },
        "zh": {
            "system": "说明理由。",
            "query": "搜索词：{query}\n",
            "listing": "商品：{listing}",
            "task": "为什么？",
            "plain_end": "理由：",
            "fields": {"title": "{value}"},
            "examples": [{"query": "帽子", "listing": "红帽子", "reason": "这是帽子。"}],
        },
    },
}


def make_template(**change: Any) -> Template:
    return Template.model_validate(FIELDS | change)


def words(n: int, word: str = "w") -> str:
    """A text of `n` tokens."""
    return " ".join([word] * n)


def candidates_of(*titles: str) -> list[Candidate]:
    return [Candidate(Listing(f"p{i}", title)) for i, title in enumerate(titles)]


class Rig:
    """A renderer whose prompts are read as text; it leaves repeated words, which the tests count, as they are."""

    def __init__(self, *, neutralise: bool = False, **change: Any) -> None:
        self.tokenizer = WordTokenizer()
        self.renderer = Renderer(make_template(**change), self.tokenizer, neutralise=neutralise)

    def count(self, *texts: str) -> int:
        return sum(len(encoded.ids) for encoded in self.tokenizer.encode(texts))

    def render(
        self,
        candidates: Sequence[Candidate],
        history: Sequence[Interaction] = (),
        *,
        query: str = "dress",
        max_tokens: int = 10_000,
        decoding: Decoding = "inline",
    ) -> tuple[str, dict[str, int], int]:
        """The user's turn as text, the cuts, and the number of tokens."""
        prompt = self.renderer.render(Query(query), candidates, history, max_tokens=max_tokens, decoding=decoding)
        assert prompt.listing_ids == tuple(candidate.listing.listing_id for candidate in candidates)
        return self.tokenizer.decode(prompt.ids).split("<user>", 1)[1], dict(prompt.cuts), len(prompt.ids)

    def least(self, candidates: Sequence[Candidate], **options: Any) -> int:
        with pytest.raises(BudgetError) as caught:
            self.render(candidates, max_tokens=1, **options)
        return caught.value.least


NO_CUTS = {"query": 0, "history": 0, "candidates": 0}


HEAD = "Query: dress\nPast:\n- viewed: Red hat\n- bought: Blue belt\nListings:\n"


HISTORY = [Interaction("view", Listing("h0", "Red hat")), Interaction("purchase", Listing("h1", "Blue belt"))]


def past(n: int) -> list[Interaction]:
    return [Interaction("view", Listing(f"h{i}", f"old {i} thing")) for i in range(n)]
