from __future__ import annotations

import pytest

from genrank.server.privacy import check_mask, masked
from genrank.types import Interaction, Listing

HISTORY = [Interaction("click", Listing("h1", "Hat", brand="Acme", attributes={"size": "M"}), rating=4.0, query="hats")]


def test_fields_are_as_if_left_out() -> None:
    (one,) = masked(HISTORY, ["query", "listing.brand", "listing.attributes"])
    assert one == Interaction("click", Listing("h1", "Hat"), rating=4.0)


def test_without_a_mask_nothing_changes() -> None:
    assert masked(HISTORY, []) == tuple(HISTORY)


@pytest.mark.parametrize("field", ["event", "listing", "listing.title", "listing.listing_id", "brand", ""])
def test_only_optional_fields_can_be_masked(field: str) -> None:
    with pytest.raises(ValueError, match="is no optional field of an interaction; there are time, rating, query"):
        check_mask(["query", field])
