import pytest

from genrank.dataset import Dataset, DatasetQuery, Grade
from genrank.types import Listing, Query


@pytest.fixture
def shop() -> Dataset:
    """Two test queries and one of train; the catalogue holds a listing that nobody judged."""
    titles = {"l1": "red lamp", "l2": "blue lamp", "l3": "red desk", "l4": "oak desk", "l5": "lamp oil"}
    texts = {"q1": ("red lamp", "test"), "q2": ("desk", "test"), "q3": ("oil", "train")}
    return Dataset(
        name="shop",
        source="made up",
        grades={0: Grade("no", 0.0), 1: Grade("some", 1.0), 2: Grade("all", 3.0)},
        listings={key: Listing(key, title) for key, title in titles.items()},
        queries=[DatasetQuery(Query(text, key), split) for key, (text, split) in texts.items()],
        qrels={"q1": {"l1": 2, "l2": 1, "l3": 0}, "q2": {"l2": 0, "l3": 2, "l4": 2}, "q3": {"l5": 2}},
    )
