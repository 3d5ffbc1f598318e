from __future__ import annotations

import dataclasses
import time
from pathlib import Path
from typing import Any

import pytest

from genrank.engines.base import ScoreRequest, ScoreResult
from genrank.errors import ConfigError, DataFormatError, EngineError, InputError
from genrank.reranker import Reranker
from genrank.testing import OracleEngine
from genrank.types import Listing, Tokens
from tests.kept_rig import make_engine, make_reranker, save_bytes_model

LISTINGS = [Listing(f"l{i}", f"Mug number {i * i}", brand="Acme" if i % 2 else "") for i in range(7)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> str:
    pytest.importorskip("torch", reason="torch is not installed: pip install 'genrank[transformers]'")
    return save_bytes_model(tmp_path_factory.mktemp("bytes"))


def scores(reranker: Reranker, listings: list[Listing] = LISTINGS) -> dict[str, float]:
    ranking = reranker.rerank("red mug", listings)
    assert ranking.provenance.outcome == "model"
    return {item.listing_id: item.score for item in ranking}


def test_warm_listings_cost_only_the_query(folder: str) -> None:
    reranker = make_reranker(make_engine(folder))
    told: list[int] = []
    warmed = reranker.warm([*LISTINGS, LISTINGS[0]], report=told.append)
    assert (warmed.new, warmed.known, warmed.left, warmed.dropped, warmed.rebuilt) == (8, 0, 0, 0, ())
    assert sum(told) == 8
    assert warmed.held_bytes == reranker.engine.held_bytes > 0  # type: ignore[attr-defined]
    assert reranker.warm(LISTINGS).known == 7
    ranking = reranker.rerank("red mug", LISTINGS)
    assert ranking.provenance.kept == 7
    read = ranking.provenance.tokens.prompt - ranking.provenance.tokens.cached
    assert read == 7 * len("red mug\n?"), "the opening is kept too"
    assert {item.listing_id: item.score for item in ranking} == pytest.approx(
        scores(make_reranker(make_engine(folder, kept_bytes=0))), abs=1e-5
    )


def test_titles_and_objects_are_listings_too(folder: str) -> None:
    reranker = make_reranker(make_engine(folder))
    assert reranker.warm(["Red mug", {"listing_id": "a", "title": "Hat"}]).new == 2
    assert reranker.rerank("mug", ["Hat", "Red mug"]).provenance.kept == 2
    with pytest.raises(InputError, match=r"listings\[1\]: must be a Listing, dict or title, got int"):
        reranker.warm(["Hat", 3])  # type: ignore[list-item]
    with pytest.raises(InputError, match="listings: must be a list"):
        reranker.warm("Hat")


@pytest.mark.parametrize("kept_dtype", ["auto", "int8"])
def test_a_snapshot_is_warm_after_a_restart(folder: str, tmp_path: Path, kept_dtype: str) -> None:
    path = tmp_path / "shop.heads"
    engine = make_engine(folder, kept_dtype=kept_dtype)
    first = make_reranker(engine)
    warmed = first.warm(LISTINGS, snapshot=path)
    assert (warmed.new, warmed.known, warmed.snapshot_bytes) == (7, 0, path.stat().st_size)
    expected = scores(first)
    written = path.stat().st_mtime_ns
    again = make_reranker(make_engine(folder, kept_dtype=kept_dtype, kept_bytes=0))
    warmed = again.warm(LISTINGS, snapshot=path)
    assert (warmed.new, warmed.known, warmed.held_bytes) == (0, 7, 0), "only the file holds them"
    assert path.stat().st_mtime_ns == written
    assert again.rerank("red mug", LISTINGS).provenance.kept == 7
    assert scores(again) == pytest.approx(expected, abs=1e-6)
    served = make_reranker(make_engine(folder, kept_dtype=kept_dtype))
    assert served.open_snapshot(path) == 7
    assert scores(served) == pytest.approx(expected, abs=1e-6)


def test_a_changed_catalogue_changes_the_snapshot(folder: str, tmp_path: Path) -> None:
    path = tmp_path / "shop.heads"
    reranker = make_reranker(make_engine(folder))
    reranker.warm(LISTINGS, snapshot=path)
    changed = [*LISTINGS[:4], dataclasses.replace(LISTINGS[4], brand="Zeta"), Listing("new", "A new mug")]
    warmed = make_reranker(make_engine(folder)).warm(changed, snapshot=path)
    assert (warmed.new, warmed.known, warmed.dropped) == (2, 4, 3)
    served = make_reranker(make_engine(folder))
    assert served.open_snapshot(path) == 6
    assert scores(served, changed) == pytest.approx(scores(make_reranker(make_engine(folder)), changed), abs=1e-5)
    assert served.rerank("red mug", changed).provenance.kept == 6


def test_a_snapshot_of_another_model_or_prompt_is_rebuilt_by_warm_and_refused_by_open(
    folder: str, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path / "shop.heads"
    make_reranker(make_engine(folder)).warm(LISTINGS, snapshot=path)
    other = make_engine(save_bytes_model(tmp_path_factory.mktemp("other"), seed=2))
    for reranker, words in (
        (make_reranker(other), "another model,"),
        (make_reranker(make_engine(folder, kept_dtype="int8")), "another kept_dtype,"),
        (make_reranker(make_engine(folder), candidate="Listing: {listing}"), "another prompt,"),
    ):
        with pytest.raises(ConfigError, match=words):
            reranker.open_snapshot(path)
        before = path.read_bytes()
        warmed = reranker.warm(LISTINGS, snapshot=path)
        assert (warmed.rebuilt, warmed.new) == ((words.split()[1].rstrip(","),), 7)
        assert reranker.open_snapshot(path) == 7
        path.write_bytes(before)


def test_a_damaged_snapshot_gives_an_error_and_no_wrong_score(folder: str, tmp_path: Path) -> None:
    path = tmp_path / "shop.heads"
    make_reranker(make_engine(folder)).warm(LISTINGS, snapshot=path)
    whole = path.read_bytes()
    path.write_bytes(whole[:-9])
    for ask in (Reranker.open_snapshot, lambda reranker, path: reranker.warm(LISTINGS, snapshot=path)):
        with pytest.raises(DataFormatError, match="delete it, and warm again"):
            ask(make_reranker(make_engine(folder)), path)
    path.write_bytes(whole[:4200] + bytes([whole[4200] ^ 1]) + whole[4201:])
    reranker = make_reranker(make_engine(folder))
    reranker.open_snapshot(path)
    ranking = reranker.rerank("red mug", LISTINGS)
    assert ranking.provenance.outcome == "fallback"
    assert "is damaged; delete it, and warm again" in ranking.provenance.why
    with pytest.raises(EngineError, match="is damaged"):
        reranker.warm([*LISTINGS, Listing("new", "new")], snapshot=path)


def test_what_is_done_at_the_deadline_is_kept(folder: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("genrank.warming.READ_TOGETHER", 2)
    path = tmp_path / "shop.heads"
    make_reranker(make_engine(folder)).warm(LISTINGS[4:], snapshot=path)
    reranker = make_reranker(make_engine(folder))

    def slow(_: int) -> None:
        time.sleep(1.5)

    warmed = reranker.warm(LISTINGS, snapshot=path, deadline=1.4, report=slow)
    assert (warmed.new, warmed.known, warmed.left, warmed.dropped) == (2, 0, 5, 0)
    assert make_reranker(make_engine(folder)).open_snapshot(path) == 5, "what was there and not reached stays"
    assert reranker.warm(LISTINGS, deadline=1e-9).left == 7


class _PrefixCache(OracleEngine):
    """An engine that keeps what it read by itself, as vLLM does."""

    def __init__(self) -> None:
        super().__init__({})
        self.seen = set[tuple[int, ...]]()

    def score(self, requests: Any, **options: Any) -> list[Any]:
        results = []
        for request in requests:
            found = tuple(request.ids[: request.head]) in self.seen
            self.seen.add(tuple(request.ids[: request.head]))
            results.append(ScoreResult([[0.0] * len(request.targets)] * len(request.reads), Tokens(), found))
        self.requests += requests
        return results


def test_any_other_engine_is_asked_for_scores_at_the_listings_ends(tmp_path: Path) -> None:
    engine = _PrefixCache()
    reranker = Reranker(engine=engine, decoding="pointwise")
    assert reranker.warm(LISTINGS).new == 7
    assert all(
        isinstance(request, ScoreRequest) and request.reads == (len(request.ids) - 1,) and request.targets
        for request in engine.requests
    )
    assert reranker.warm(LISTINGS).known == 7
    assert reranker.rerank("mug", LISTINGS).provenance.kept == 7
    for ask in (
        lambda: reranker.warm(LISTINGS, snapshot=tmp_path / "s"),
        lambda: reranker.open_snapshot(tmp_path / "s"),
    ):
        with pytest.raises(InputError, match="snapshot: the engine oracle has no snapshots; leave it out"):
            ask()


def test_what_cannot_be_kept_is_said(folder: str) -> None:
    engine = OracleEngine({})
    with pytest.raises(ConfigError, match="does not begin with the listing"):
        Reranker(engine=engine, decoding="pointwise", prompt="pointwise-query-first").warm(LISTINGS)
    with pytest.raises(ConfigError, match="decoding inline reads whole lists; listings are kept for pointwise only"):
        Reranker(engine=engine, decoding="inline").warm(LISTINGS)
    with pytest.raises(InputError, match="kept_bytes: is 0, so nothing is kept"):
        make_reranker(make_engine(folder, kept_bytes=0)).warm(LISTINGS)
    closed = make_reranker(make_engine(folder))
    closed.close()
    with pytest.raises(EngineError, match="closed"):
        closed.warm(LISTINGS)
