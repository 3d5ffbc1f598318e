from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence

import numpy as np
import pytest

from genrank.errors import ConfigError, ModelError
from genrank.search.dense import Vectors
from genrank.search.vectors import ListingEncoder, VectorTable


class Store:
    """Numbered vectors, in place of the database."""

    def __init__(self) -> None:
        self.rows: dict[int, Vectors] = {}
        self.read = 0

    def __call__(self, after: int, /) -> Iterator[tuple[int, bytes]]:
        for number, vector in sorted(self.rows.items()):
            if number > after:
                self.read += 1
                yield number, vector.tobytes()

    def living(self) -> list[int]:
        return list(self.rows)


def test_only_what_is_new_is_read_and_what_is_gone_is_dropped_in_time() -> None:
    store, table = Store(), VectorTable(2)
    rng = np.random.default_rng(0)
    last = 0
    for _ in range(30):
        for _ in range(500):
            last += 1
            store.rows[last] = rng.standard_normal(2).astype(np.float32)
            store.rows.pop(last - 700, None)
        table.refresh(store, store.living)
        assert set(store.rows) <= set(table.numbers.tolist())
        assert len(table) <= 1.1 * 700 + 1024 + 500
        scores = dict(zip(table.numbers.tolist(), table.scores(np.array([1, 2], np.float32)).tolist(), strict=True))
        assert scores[last] == pytest.approx(float(store.rows[last] @ [1, 2]), abs=1e-5)
    assert store.read == last
    assert (np.diff(table.numbers) > 0).all()


def test_vectors_get_length_1() -> None:
    encoder = ListingEncoder(lambda texts: np.array([[3, 4], [0, 0]], dtype=np.float64))
    vectors = encoder.encode(["a", "b"])
    assert vectors.dtype == np.float32
    assert vectors.tolist() == [[pytest.approx(0.6), pytest.approx(0.8)], [0, 0]]


@pytest.mark.parametrize(
    ("found", "said"),
    [
        (np.zeros((1, 2)), r"vectors of shape \(1, 2\) for 2 texts"),
        (np.zeros(2), r"vectors of shape \(2,\)"),
        (np.full((2, 2), np.nan), "not finite"),
    ],
)
def test_vectors_that_cannot_be_are_refused(found: Vectors, said: str) -> None:
    with pytest.raises(ModelError, match=said):
        ListingEncoder(lambda texts: found).encode(["a", "b"])


def encode(texts: Sequence[str]) -> Vectors:
    return np.ones((len(texts), 1), dtype=np.float32)


def test_an_encoder_is_known_by_its_fingerprint_or_its_name() -> None:
    assert ListingEncoder(encode).fingerprint == f"{__name__}.encode"
    nameless = functools.partial(encode)
    with pytest.raises(ConfigError, match="the encoder partial has no fingerprint"):
        ListingEncoder(nameless)
    nameless.fingerprint = "model 1"  # type: ignore[attr-defined]
    assert ListingEncoder(nameless).fingerprint == "model 1"
