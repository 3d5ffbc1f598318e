from __future__ import annotations

import json
from pathlib import Path

import pytest

from eval.bench import main
from eval.index import catalogue, measure_index
from genrank import sample_shop
from tests.kept_rig import make_engine, make_reranker, save_bytes_model

SHOP = sample_shop()


def test_a_catalogue_grows_by_changed_copies() -> None:
    listings = list(SHOP.listings.values())
    grown = catalogue(listings, 2 * len(listings) + 5)
    assert len({listing.listing_id for listing in grown}) == len(grown) == 2 * len(listings) + 5
    assert all(listing.price and listing.category and listing.in_stock is not None for listing in grown)
    pairs = list(zip(listings, grown[len(listings) :], strict=False))
    assert sum(one.title != copy.title for one, copy in pairs) > len(pairs) / 2
    assert catalogue(listings, 3) == grown[:3]


def test_another_process_sees_each_update_at_its_first_look() -> None:
    found = measure_index(SHOP, 200, queries=5, seconds=0.1)
    assert [one["size"] for one in found["updates"]] == [1, 100]
    for one in found["updates"]:
        assert one["seen"] == one["looked"] >= 1
    for part in ("search", "search_after_updates"):
        assert list(found[part]) == [
            f"{mode}{end}" for mode in ("text", "dense", "fused") for end in ("", ", filtered")
        ]
        for times in found[part].values():
            assert 0 < times["ms"][0] <= times["ms"][1]


def test_what_is_found_is_ranked_with_its_listings_kept(tmp_path: Path) -> None:
    pytest.importorskip("torch", reason="torch is not installed: pip install 'genrank[transformers]'")
    with make_reranker(make_engine(save_bytes_model(tmp_path / "bytes"), kept_bytes=1)) as reranker:
        found = measure_index(SHOP, 200, queries=5, reranker=reranker, seconds=0.1)["ranked"]
    assert (found["candidates"], found["kept"]) == (20, 1.0)
    assert 0 < found["ms"][0] <= found["ms"][1]


def test_the_part_is_asked_for_by_name(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--only", "index", "--listings", "0"]) == 2
    assert "listings: must be at least 1, got 0" in capsys.readouterr().err


def test_the_part_prints_json(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    asked = {}
    monkeypatch.setattr("eval.index.measure_index", lambda *given, **options: asked.update(options) or {"listings": 7})
    assert main(["--only", "index", "--listings", "7", "--queries", "3", "--dense", "bert"]) == 0
    assert json.loads(capsys.readouterr().out) == {"index": {"listings": 7}}
    assert asked == {"queries": 3, "dense": "bert", "reranker": None}
