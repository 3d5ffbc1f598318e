"""How fast a catalogue's index is: building, searching, ranking, and updates that another process sees."""

from __future__ import annotations

import dataclasses
import functools
import multiprocessing
import random
import tempfile
import time
import zlib
from collections.abc import Callable, Sequence
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np

from eval.peers import percentiles_ms
from genrank import Reranker
from genrank.data.dataset import Dataset
from genrank.experiment.program import say
from genrank.search.dense import Encoder, TextEncoder, Vectors
from genrank.search.filters import Filters
from genrank.search.index import Index, Mode
from genrank.types import Listing, Price

SIZE = 384
UPDATES = (1, 100)
"""Listings in one call of `Index.add`."""
CANDIDATES = 20
"""Listings that are found and ranked."""
_AT_ONCE = 1000
_CATEGORIES = 20
_FILTERS = Filters(price_min=10, price_max=30, in_stock=True)


class RandomEncoder:
    """Random vectors in place of a model's: they cost a search as much. A query has the same one each time."""

    name = "random"
    fingerprint = f"random-{SIZE}"

    def __init__(self) -> None:
        self._rng = np.random.default_rng(0)

    def encode(self, texts: Sequence[str], *, queries: bool = False) -> Vectors:
        """Vectors of length 1, ``[n, SIZE]``."""
        rng = np.random.default_rng([zlib.crc32(text.encode()) for text in texts]) if queries else self._rng
        vectors = rng.standard_normal((len(texts), SIZE), dtype=np.float32)
        unit: Vectors = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
        return unit


def catalogue(listings: Sequence[Listing], count: int, seed: int = 0) -> list[Listing]:
    """`count` listings drawn from a catalogue, each with a price, a category and a stock.

    Once all have been taken, they come again with new ids, and with a quarter of the title's words replaced by others
    of the catalogue.
    """
    rng = random.Random(seed)
    vocabulary = [word for listing in listings for word in listing.title.split()]
    found = []
    for i in range(count):
        listing, copy = listings[i % len(listings)], i // len(listings)
        title = listing.title
        if copy:
            title = " ".join(rng.choice(vocabulary) if rng.random() < 0.25 else word for word in title.split())
        found.append(
            dataclasses.replace(
                listing,
                listing_id=f"{listing.listing_id}-{copy}" if copy else listing.listing_id,
                title=title,
                price=listing.price or Price(round(rng.lognormvariate(3, 1), 2), "USD"),
                category=listing.category or (f"category {rng.randrange(_CATEGORIES)}",),
                in_stock=rng.random() < 0.9 if listing.in_stock is None else listing.in_stock,
            )
        )
    return found


def measure_index(
    dataset: Dataset,
    count: int,
    *,
    queries: int = 300,
    dense: str | None = None,
    reranker: Reranker | None = None,
    seconds: float = 5.0,
) -> dict[str, Any]:
    """Build an index, search it with the dataset's queries, and change listings while another process looks.

    Args:
        dataset: Where listings and queries come from.
        count: Listings of the index.
        queries: Queries to search with, at most.
        dense: Name of the encoder; None takes random vectors.
        reranker: Also ranks what is found, by ``pointwise``; the listings are kept beforehand, in a snapshot.
        seconds: How long to update, for each size of a call.

    Returns:
        Seconds of building; milliseconds of searching, 50th and 95th percentile, as time passed and as this process's
        processor time; updates a second, and the share of them that another process found at its first look.
    """
    encoder: TextEncoder = RandomEncoder() if dense is None else Encoder(dense)
    listings = catalogue(list(dataset.listings.values()), count)
    texts = [query.query.text for query in dataset.queries]
    random.Random(0).shuffle(texts)
    result: dict[str, Any] = {"listings": count, "encoder": encoder.name}
    with tempfile.TemporaryDirectory() as folder, Index.create(Path(folder) / "index", encoder=encoder) as index:
        started = time.perf_counter(), time.process_time()
        for i in range(0, count, _AT_ONCE):
            index.add(listings[i : i + _AT_ONCE])
        index.compact()
        result["build_s"] = round(time.perf_counter() - started[0], 1)
        result["build_processor_s"] = round(time.process_time() - started[1], 1)
        say(f"built in {result['build_s']} s")
        result["mib"] = round(sum(file.stat().st_size for file in index.path.iterdir()) / 2**20, 1)
        result["search"] = _searches(index, texts[:queries])
        if reranker is not None:
            result["ranked"] = _ranked(index, reranker, texts[:queries], Path(folder) / "kept")
        result["updates"] = [_updates(index, listings, size, seconds) for size in UPDATES]
        result["search_after_updates"] = _searches(index, texts[:queries])
    return result


def _searches(index: Index, queries: Sequence[str]) -> dict[str, Any]:
    modes: tuple[Mode, ...] = ("text", "dense", "fused")
    found = {}
    for mode in modes:
        for name, filters in ((mode, None), (f"{mode}, filtered", _FILTERS)):
            found[name] = _timed(functools.partial(index.search, filters=filters, mode=mode), queries)
    say("searched")
    return found


def _ranked(index: Index, reranker: Reranker, queries: Sequence[str], snapshot: Path) -> dict[str, Any]:
    """Search and rank, with all that is found read beforehand, into a file, since memory might not hold it."""
    found = {hit.listing.listing_id: hit.listing for query in queries for hit in index.search(query, k=CANDIDATES)}
    reranker.warm(found.values(), snapshot=snapshot)
    say(f"read {len(found)} listings")
    kept = []

    def search_and_rank(query: str) -> None:
        if hits := index.search(query, k=CANDIDATES):
            kept.append(reranker.rerank(query, hits).provenance.kept / len(hits))

    times = _timed(search_and_rank, queries)
    return {"candidates": CANDIDATES, "kept": round(sum(kept) / len(kept), 3), **times}


def _timed(search: Callable[[str], object], queries: Sequence[str]) -> dict[str, list[float]]:
    for query in queries[:5]:
        search(query)
    passed, used = [], []
    for query in queries:
        started = time.perf_counter(), time.process_time()
        search(query)
        passed.append(time.perf_counter() - started[0])
        used.append(time.process_time() - started[1])
    return {name: percentiles_ms(times) for name, times in (("ms", passed), ("processor_ms", used))}


def _updates(index: Index, listings: Sequence[Listing], size: int, seconds: float) -> dict[str, Any]:
    """Change listings, `size` in a call, and have another process look for one of each call once it returned."""
    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe()
    reader = context.Process(target=_look, args=(index.path, there))
    reader.start()
    here.recv()  # it has opened the index
    done = 0
    started = time.perf_counter(), time.process_time()
    while time.perf_counter() - started[0] < seconds:
        changed = [listings[(done + i) * 37 % len(listings)] for i in range(size)]
        word = f"update{size}x{done}"
        index.add([dataclasses.replace(listing, title=f"{listing.title} {word}") for listing in changed])
        done += size
        here.send(word)
    passed, used = time.perf_counter() - started[0], time.process_time() - started[1]
    here.send(None)
    looked, seen = here.recv()
    reader.join()
    say(f"{done} updates")
    return {
        "size": size,
        "per_s": round(done / passed, 1),
        "per_processor_s": round(done / used, 1),
        "looked": looked,
        "seen": seen,
    }


def _look(path: Path, connection: Connection) -> None:
    looked = seen = 0
    with Index.open(path) as index:
        connection.send(None)
        while (word := connection.recv()) is not None:
            looked += 1
            seen += bool(index.search(word, k=1, mode="text"))
    connection.send((looked, seen))
