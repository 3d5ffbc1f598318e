"""What an engine keeps of listings changes no score, whatever happened before."""

from __future__ import annotations

import dataclasses
import tempfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from genrank.engines.heads import KeptHeads
from genrank.inputs import parse_request
from genrank.types import Interaction, Listing
from tests.kept_rig import make_engine, make_reranker, save_bytes_model

pytest.importorskip("torch", reason="torch is not installed: pip install 'genrank[transformers]'")

QUERIES = ("red mug", "hat", "a much longer query for a mug")
STEPS = st.one_of(
    st.tuples(st.just("rerank"), st.integers(0, 2), st.lists(st.integers(0, 5), min_size=1, max_size=4, unique=True)),
    st.tuples(st.just("batch"), st.integers(0, 2), st.lists(st.integers(0, 5), min_size=1, max_size=3, unique=True)),
    st.tuples(st.just("change"), st.integers(0, 5), st.sampled_from(["title", "brand"])),
    st.tuples(st.just("warm"), st.lists(st.integers(0, 5), max_size=6, unique=True), st.booleans()),
    st.tuples(st.just("evict"), st.integers(1, 4), st.none()),
    st.tuples(st.just("restart"), st.booleans(), st.none()),
)


@pytest.fixture(scope="module")
def engines(tmp_path_factory: pytest.TempPathFactory) -> list[tuple[Any, Any]]:
    """For full attention, then for sliding windows: an engine that keeps listings, and one that does not."""
    folders = [save_bytes_model(tmp_path_factory.mktemp("bytes"), sliding=sliding) for sliding in (False, True)]
    return [(make_engine(folder), make_engine(folder, kept_bytes=0)) for folder in folders]


class Shop:
    """Listings that change, an engine that keeps them, and one that does not."""

    def __init__(self, engine: Any, fresh: Any, work: Path) -> None:
        self.engine = engine
        self.snapshot = work / "shop.heads"
        self.listings = [Listing(f"l{i}", f"mug {i}", brand="Acme") for i in range(6)]
        self.kept, self.fresh = make_reranker(engine), make_reranker(fresh)
        self.changes = 0
        self.restart(False)

    def restart(self, with_snapshot: bool) -> None:
        self.engine._kept = KeptHeads(1 << 20, self.engine._kept.packing)
        if with_snapshot and self.snapshot.exists():
            self.kept.open_snapshot(self.snapshot)

    def warm(self, places: list[int], with_snapshot: bool) -> None:
        listings = [self.listings[place] for place in places]
        warmed = self.kept.warm(listings, snapshot=self.snapshot if with_snapshot else None)
        assert warmed.new + warmed.known == len(listings)

    def change(self, place: int, field: str) -> None:
        self.changes += 1
        change: dict[str, Any] = {field: f"v{self.changes}"}
        self.listings[place] = dataclasses.replace(self.listings[place], **change)

    def evict(self, heads: int) -> None:
        """Leave room for a few heads only."""
        store = self.engine._kept
        store.room = heads * 20 * self.engine._layout.width * 4
        while store.taken > store.room:
            _, head = store._heads.popitem(last=False)
            store.taken -= head.rest.nbytes

    def rerank(self, query: int, places: list[int]) -> None:
        listings = [self.listings[place] for place in places]
        history = [Interaction("view", self.listings[0])] * (query == 1)
        ask = (QUERIES[query], listings, history)
        self.compare([self.kept.rerank(*ask)], [self.fresh.rerank(*ask)])

    def batch(self, query: int, places: list[int]) -> None:
        """The same listings for several queries in one call."""
        fields = [{"listing_id": self.listings[i].listing_id, "title": self.listings[i].title} for i in places]
        requests = [parse_request({"query": asked, "candidates": fields}) for asked in QUERIES[: query + 1]]
        self.compare(self.kept.rerank_batch(requests), self.fresh.rerank_batch(requests))

    def compare(self, kept: list[Any], fresh: list[Any]) -> None:
        for one, other in zip(kept, fresh, strict=True):
            assert one.provenance.outcome == other.provenance.outcome == "model"
            scores = {item.listing_id: item.score for item in other}
            assert {item.listing_id: item.score for item in one} == pytest.approx(scores, abs=1e-4)


@settings(max_examples=40)
@given(st.booleans(), st.lists(STEPS, min_size=3, max_size=8))
def test_scores_are_those_of_an_engine_that_keeps_nothing(
    engines: list[tuple[Any, Any]], sliding: bool, steps: list[Any]
) -> None:
    with tempfile.TemporaryDirectory() as work:
        shop = Shop(*engines[sliding], Path(work))
        for name, *options in steps:
            getattr(shop, name)(*(option for option in options if option is not None))
        shop.rerank(0, list(range(6)))
