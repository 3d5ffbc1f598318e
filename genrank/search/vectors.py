"""An index's vectors in memory: exact search by dot product."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Protocol

import numpy as np
import numpy.typing as npt

from genrank.errors import ConfigError, ModelError
from genrank.search.dense import TextEncoder, Vectors

EncodeTexts = Callable[[Sequence[str]], Vectors]
"""Turns texts, queries and listings alike, into vectors, ``[n, d]``."""

_LEAST_ROOM = 1024


class Rows(Protocol):
    """What reads vectors out of the store."""

    def __call__(self, after: int, /) -> Iterator[tuple[int, bytes]]:
        """Number and vector of each listing with a number greater than `after`, in their order."""


class ListingEncoder:
    """A `TextEncoder` or a plain function behind one face."""

    def __init__(self, encoder: TextEncoder | EncodeTexts) -> None:
        self._encoder = encoder
        if isinstance(found := getattr(encoder, "fingerprint", None), str):
            self.fingerprint: str = found
        elif callable(encoder) and hasattr(encoder, "__qualname__"):
            self.fingerprint = f"{encoder.__module__}.{encoder.__qualname__}"
        else:
            raise ConfigError(f"the encoder {type(encoder).__name__} has no fingerprint; give it one, a text")

    def encode(self, texts: Sequence[str], *, queries: bool = False) -> Vectors:
        """Vectors of length 1, ``[n, d]``; a vector of zeros stays one.

        Raises:
            ModelError: When the encoder gives another shape, or numbers that are not finite.
        """
        encode = getattr(self._encoder, "encode", None)
        found = encode(texts, queries=queries) if encode is not None else self._encoder(texts)  # type: ignore[operator]
        vectors: Vectors = np.asarray(found, dtype=np.float32)
        if vectors.ndim != 2 or len(vectors) != len(texts) or not vectors.shape[1]:
            raise ModelError(f"the encoder gives vectors of shape {vectors.shape} for {len(texts)} texts, not [n, d]")
        if not np.isfinite(vectors).all():
            raise ModelError("the encoder gives vectors that are not finite")
        lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
        unit: Vectors = vectors / np.where(lengths == 0, np.float32(1), lengths)
        return unit


class VectorTable:
    """The vectors of all listings, in the order of their numbers, kept up to date with the store.

    A changed listing gets a new, greater number, so only numbers greater than the last one have to be read. Rows of
    listings that are gone stay until there are many of them; the caller asks the store which of the found ones exist.
    """

    def __init__(self, dimension: int) -> None:
        self._matrix = np.empty((_LEAST_ROOM, dimension), dtype=np.float32)
        self._numbers = np.empty(_LEAST_ROOM, dtype=np.int64)
        self._length = 0
        self._last = 0
        self._checked = 0

    def __len__(self) -> int:
        return self._length

    def refresh(self, rows: Rows, living: Callable[[], Sequence[int]]) -> None:
        """Read what is new, and drop what is gone once it could be a tenth of the rows.

        Args:
            rows: Reads vectors.
            living: The numbers of all listings.
        """
        for number, vector in rows(self._last):
            if self._length == len(self._numbers):
                self._resize(2 * self._length)
            self._matrix[self._length] = np.frombuffer(vector, dtype="<f4")
            self._numbers[self._length] = self._last = number
            self._length += 1
        if self._length > 1.1 * self._checked + _LEAST_ROOM:
            keep = np.isin(self.numbers, np.fromiter(living(), dtype=np.int64), assume_unique=True)
            kept = int(keep.sum())
            if kept < self._length:
                self._matrix[:kept] = self._matrix[: self._length][keep]
                self._numbers[:kept] = self.numbers[keep]
                self._length = kept
                if len(self._numbers) > 4 * max(kept, _LEAST_ROOM):
                    self._resize(2 * max(kept, _LEAST_ROOM))
            self._checked = kept

    @property
    def numbers(self) -> npt.NDArray[np.int64]:
        """The numbers of the listings, ``[n]``, rising."""
        return self._numbers[: self._length]

    def scores(self, vector: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """``vector . row`` for each row, ``[n]``; the cosine, as all have length 1."""
        found: npt.NDArray[np.float32] = self._matrix[: self._length] @ vector
        return found

    def _resize(self, room: int) -> None:
        matrix = np.empty((room, self._matrix.shape[1]), dtype=np.float32)
        numbers = np.empty(room, dtype=np.int64)
        matrix[: self._length] = self._matrix[: self._length]
        numbers[: self._length] = self.numbers
        self._matrix, self._numbers = matrix, numbers
