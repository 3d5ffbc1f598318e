"""Which interactions of a shopper's history say most about a search."""

from __future__ import annotations

from collections.abc import Sequence

from genrank.text.words import words
from genrank.types import Interaction, Listing, Query

EVENT_WORDS = {"view": "viewed", "click": "clicked", "cart": "put in cart", "purchase": "bought", "rating": "rated"}


def usefulness(history: Sequence[Interaction], query: Query, candidates: Sequence[Listing]) -> list[float]:
    """How much each interaction may say about a search, ``[len(history)]``, 0 to 3.

    The sum of three parts from 0 to 1: how late it came (``(i + 1) / n``), how near it is to the search (1 in the
    category of a candidate, else the share of the query's words in its title), and what the shopper did: a purchase
    1, a rating 0.6 to 0.8 by its value, cart 0.6, click 0.4, view 0.2.

    Args:
        history: Oldest first.
        query: The query.
        candidates: The listings of the window.
    """
    categories = {one.category[-1].casefold() for one in candidates if one.category}
    wanted = set(words(query.text))
    found = []
    for i, interaction in enumerate(history):
        listing = interaction.listing
        same = bool(listing.category) and listing.category[-1].casefold() in categories
        near = 1.0 if same else len(wanted.intersection(words(listing.title))) / max(1, len(wanted))
        found.append((i + 1) / len(history) + near + event_weight(interaction))
    return found


def event_weight(interaction: Interaction) -> float:
    """How much an event says by its kind alone, 0 to 1; see `usefulness`."""
    if interaction.event == "rating":
        return 0.6 + 0.2 * (2.5 if interaction.rating is None else interaction.rating) / 5
    return {"purchase": 1.0, "cart": 0.6, "click": 0.4, "view": 0.2}[interaction.event]
