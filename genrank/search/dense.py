"""Encodes texts as vectors with a BERT-like encoder (sentence-transformers), and caches listings' vectors on disk.

The cache is one SQLite file for each model, ``home()/encodings/FINGERPRINT.sqlite``. A vector's key is a hash of its
text, so a changed listing or another model never gets an old vector. SQLite's transactions keep it safe when several
programs use it at once, or one is killed.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import sqlite3
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import numpy.typing as npt

from genrank.engines.tokenizer import load_config, longest_context
from genrank.errors import DataFormatError, MissingExtraError, ModelError
from genrank.models.store import home, resolve
from genrank.models.weights import check_files, model_fingerprint, reading
from genrank.progress import quiet_loading, track
from genrank.search.bm25 import listing_text
from genrank.text.clean import clean
from genrank.types import Listing, Request

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

Vectors = npt.NDArray[np.float32]

DESCRIPTION_CHARACTERS = 500
_BATCH = 64
_SAVE_EVERY = 1024
_ASK_AT_ONCE = 500  # SQLite takes at least 999 parameters


class TextEncoder(Protocol):
    """Turns texts into vectors."""

    @property
    def name(self) -> str:
        """The model's name, as in the configuration."""

    @property
    def fingerprint(self) -> str:
        """A hash that changes whenever the vectors could change."""

    def encode(self, texts: Sequence[str], *, queries: bool = False) -> Vectors:
        """Vectors of length 1, ``[n, d]``."""


def encoded_text(listing: Listing) -> str:
    """The text of a listing to encode: title, brand, category, attributes, 500 characters of the description."""
    text = listing_text(listing, ("title", "brand", "category", "attributes"))
    return clean(f"{text}\n{listing.description[:DESCRIPTION_CHARACTERS]}")


class Encoder:
    """A sentence-transformers model with a cache on disk.

    Any encoder on the Hugging Face hub works; one that is not a sentence-transformers model gets mean pooling. If a
    model has prompts for queries and documents, they are used. Texts longer than the model's limit are cut.
    """

    def __init__(self, model: str = "bert-minilm", cache: str | Path | None = None) -> None:
        """Find the model; it is loaded when the first text is not in the cache.

        Args:
            model: A known name, a local folder or a hub name.
            cache: Folder for the vectors; None takes ``home()/encodings``.

        Raises:
            ModelError: When there is no such model, or it cannot be read.
        """
        self.name = model
        self._folder = resolve(model)
        check_files(self._folder)
        self.fingerprint: str = model_fingerprint(self._folder)[:16]
        self._cache = (Path(cache) if cache is not None else home() / "encodings") / f"{self.fingerprint}.sqlite"

    def encode(self, texts: Sequence[str], *, queries: bool = False) -> Vectors:
        """Encode texts; duplicates are encoded once.

        Args:
            texts: Any texts; control characters are removed.
            queries: Whether they are queries, which are not cached and get the model's query prompt, if it has one.

        Returns:
            Vectors of length 1, ``[n, d]``.

        Raises:
            MissingExtraError: When sentence-transformers is not installed.
            ModelError: When the model cannot be loaded, or gives vectors that are not finite.
            DataFormatError: When the cache cannot be read or written.
        """
        if not texts:
            return np.zeros((0, self._model.get_embedding_dimension() or 0), dtype=np.float32)
        if queries:
            distinct = sorted(set(texts), key=len)
            vectors = self._compute([clean(text) for text in distinct], self._model.encode_query)
            place = {text: i for i, text in enumerate(distinct)}
            return vectors[[place[text] for text in texts]]
        keys = [_key(text) for text in texts]
        wanted = dict(zip(keys, texts, strict=True))
        with self._connection() as connection:
            known = _look_up(connection, list(wanted))
            missing = sorted((key for key in wanted if key not in known), key=lambda key: len(wanted[key]))
            parts = [missing[i : i + _SAVE_EVERY] for i in range(0, len(missing), _SAVE_EVERY)]
            for part in track(parts, "encode") if len(parts) > 1 else parts:
                vectors = self._compute([clean(wanted[key]) for key in part], self._model.encode_document)
                rows = [(key, vector.tobytes()) for key, vector in zip(part, vectors, strict=True)]
                with connection:
                    connection.executemany("INSERT OR REPLACE INTO vectors VALUES (?, ?)", rows)
                known.update(rows)
        return np.stack([np.frombuffer(known[key], dtype=np.float32) for key in keys])

    def _compute(self, texts: list[str], encode: Callable[..., Any]) -> Vectors:
        with reading(self._folder):
            found = encode(texts, batch_size=_BATCH, normalize_embeddings=True, show_progress_bar=False)
        vectors: Vectors = np.asarray(found, dtype=np.float32)
        if not np.isfinite(vectors).all():
            raise ModelError(f"{self.name} gives vectors that are not finite")
        return vectors

    @functools.cached_property
    def _model(self) -> SentenceTransformer:
        try:
            from sentence_transformers import SentenceTransformer
        except ImportError:
            raise MissingExtraError("sentence-transformers", "rankers") from None
        from transformers import AutoModel

        from genrank.engines.loading import check_numbers, check_weights, load_fitting_tokenizer

        pickles = [path for path in self._folder.rglob("pytorch_model.bin") if path.parent != self._folder]
        if alone := [path for path in pickles if not path.with_name("model.safetensors").is_file()]:
            raise ModelError(f"{alone[0]} is a pickle, which can run code when it is read; save it as safetensors")
        with quiet_loading(), reading(self._folder):
            config = load_config(self._folder)
            if not getattr(config, "is_encoder_decoder", False):  # of these, only one half is used
                lacks = r"(^|\.)pooler\."
                empty = check_weights(AutoModel, self._folder, config, may_lack=lacks, may_hold_more=True)
                load_fitting_tokenizer(empty, self._folder)
            model = SentenceTransformer(
                str(self._folder),
                trust_remote_code=False,
                local_files_only=True,
                model_kwargs={"use_safetensors": True},
            )
            check_numbers(model, self._folder)
            if model.max_seq_length is not None:
                model.max_seq_length = min(int(model.max_seq_length), longest_context(config.get_text_config()))
        return model

    @contextlib.contextmanager
    def _connection(self) -> Iterator[sqlite3.Connection]:
        try:
            self._cache.parent.mkdir(parents=True, exist_ok=True)
            with contextlib.closing(sqlite3.connect(self._cache, timeout=60)) as connection:
                connection.execute("CREATE TABLE IF NOT EXISTS vectors (key BLOB PRIMARY KEY, vector BLOB NOT NULL)")
                yield connection
        except (sqlite3.Error, OSError) as error:
            found = f"{error}; delete it: everything in it can be computed again"
            raise DataFormatError(str(self._cache), 0, "a cache of vectors", found) from None


def cosine_scores(encoder: TextEncoder, requests: Sequence[Request]) -> list[list[float]]:
    """Cosine of query and listing, ``query vector . listing vector`` (both of length 1), -1 to 1.

    Args:
        encoder: The encoder.
        requests: ``[b]``.

    Returns:
        One score per candidate, in each request's order.
    """
    listings = [candidate.listing for request in requests for candidate in request.candidates]
    if not listings:
        return [[] for _ in requests]
    query_vectors = encoder.encode([request.query.text for request in requests], queries=True)
    listing_vectors = encoder.encode([encoded_text(listing) for listing in listings])
    scores: list[list[float]] = []
    start = 0
    for request, query in zip(requests, query_vectors, strict=True):
        stop = start + len(request.candidates)
        scores.append([float(cosine) for cosine in listing_vectors[start:stop] @ query])
        start = stop
    return scores


def _key(text: str) -> bytes:
    return hashlib.sha256(b"document\0" + clean(text).encode("utf-8")).digest()


def _look_up(connection: sqlite3.Connection, keys: Sequence[bytes]) -> dict[bytes, bytes]:
    found: dict[bytes, bytes] = {}
    for i in range(0, len(keys), _ASK_AT_ONCE):
        part = keys[i : i + _ASK_AT_ONCE]
        marks = ",".join("?" * len(part))
        found.update(connection.execute(f"SELECT key, vector FROM vectors WHERE key IN ({marks})", part))
    return found
