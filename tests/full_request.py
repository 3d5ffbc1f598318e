"""A listing with every field, and a history with every kind of event: what files must give back as it was."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone

from genrank.types import Aspect, Interaction, Listing, Price

HISTORY = (
    Interaction(
        "view", Listing("h0", "帽子 👒"), time=datetime(2026, 5, 1, 10, 0, 0, 250, tzinfo=UTC), query="夏季 帽子"
    ),
    Interaction("rating", Listing("h1", "Belt", price=Price(9.5, "EUR")), rating=4.5),
    Interaction("cart", Listing("h2", "Bag"), time=datetime(2026, 5, 2, tzinfo=timezone(timedelta(hours=8)))),
    Interaction("click", Listing("h3", "Bag"), time=datetime(2026, 5, 3, 7, 30)),  # no time zone
)
FULL = Listing(
    "p1",
    "连衣裙 “夏季”\u2028韩版",
    description="Light.\nAiry.",
    brand="Zára",
    category=("Women", "Dresses"),
    price=Price(129.0, "CNY"),
    attributes={"colour": "red", "尺码": "M"},
    rating=0.0,
    rating_count=0,
    reviews=("good", "很好"),
    image_url="https://shop.example/p1.jpg",
    in_stock=False,
    seller_id="s1",
    aspects=(Aspect("合身", 12, 3, quote="Fits."),),
)
