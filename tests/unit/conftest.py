import hashlib
import random
from collections.abc import Sequence

import numpy as np
import pytest

from genrank.data.dataset import Dataset, DatasetQuery, Grade
from genrank.search.dense import Vectors
from genrank.types import Interaction, Listing, Price, Query

COLOURS = ("red", "blue", "green", "white")
THINGS = ("lamp", "desk", "chair", "shelf", "rug")


class HashingEncoder:
    """Words hashed into 64 places: the same interface as `Encoder`, without a model."""

    name = "hashing"

    def __init__(self, fingerprint: str = "f" * 16) -> None:
        self.fingerprint = fingerprint

    def encode(self, texts: Sequence[str], *, queries: bool = False) -> Vectors:
        found = np.zeros((len(texts), 64), dtype=np.float32)
        for row, text in zip(found, texts, strict=True):
            for word in [*text.lower().split(), ""]:
                row[hashlib.sha256(word.encode("utf-8", "surrogatepass")).digest()[0] % 64] += 1.0
            row /= np.linalg.norm(row)
        return found


@pytest.fixture(scope="session")
def encoder() -> HashingEncoder:
    return HashingEncoder()


@pytest.fixture(scope="session")
def bazaar() -> Dataset:
    """60 queries such as "red lamp"; grade 2 for both words, 1 for the thing alone; the gains are not whole numbers."""
    draw = random.Random(0)
    listings = {}
    for i in range(200):
        colour, thing = draw.choice(COLOURS), draw.choice(THINGS)
        listings[f"l{i}"] = Listing(
            f"l{i}",
            f"{colour} {thing} no {i}",
            brand=draw.choice(("Acme", "Globex", "")),
            price=Price(draw.uniform(5, 200), "EUR"),
            reviews=("works great",) if i % 3 == 0 else (),
        )
    queries, qrels = [], {}
    ids = list(listings)
    for i in range(60):
        colour, thing = draw.choice(COLOURS), draw.choice(THINGS)
        split = ("train", "train", "train", "dev", "test")[i % 5]
        history = tuple(Interaction("click", listings[key]) for key in draw.sample(ids, 2)) if i % 2 else ()
        queries.append(DatasetQuery(Query(f"{colour} {thing}", f"q{i}"), split, history))
        qrels[f"q{i}"] = {
            key: 0 if thing not in listings[key].title else 1 + (colour in listings[key].title)
            for key in draw.sample(ids, 15)
        }
    grades = {0: Grade("no", 0.0), 1: Grade("some", 0.26), 2: Grade("all", 1.5)}
    return Dataset("bazaar", "made up", grades, listings, queries, qrels)


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
