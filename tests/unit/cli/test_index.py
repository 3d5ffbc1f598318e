from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from genrank.cli.main import main
from genrank.search.dense import Vectors
from genrank.search.index import Index

LISTINGS: list[dict[str, Any]] = [{"listing_id": f"l{i}", "title": f"Mug {i}"} for i in range(5)]


def encode(texts: Sequence[str]) -> Vectors:
    return np.array([[len(text), 1] for text in texts], dtype=np.float32)


@pytest.fixture
def run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Any:
    def call(listings: Sequence[object] | None, *options: str) -> dict[str, Any]:
        path = tmp_path / "listings.jsonl"
        if listings is not None:
            path.write_text("\n".join(map(json.dumps, listings)), encoding="utf-8")
        named = [str(path)] if listings is not None else []
        status = main(["index", *named, "--out", str(tmp_path / "index"), *options])
        out, err = capsys.readouterr()
        return {"status": status, "err": err} | (json.loads(out) if out else {})

    return call


def counts(found: dict[str, Any]) -> tuple[int, ...]:
    assert found["status"] == 0
    return tuple(found[name] for name in ("listings", "new", "changed", "unchanged", "removed"))


def test_only_what_is_new_or_changed_is_written(run: Any, tmp_path: Path) -> None:
    assert counts(run(LISTINGS[:3])) == (3, 3, 0, 0, 0)
    changed = {"listing_id": "l1", "title": "Zeppelin"}
    assert counts(run([LISTINGS[0], changed, *LISTINGS[2:]])) == (5, 2, 1, 2, 0)
    assert counts(run([LISTINGS[0], changed, *LISTINGS[2:]])) == (5, 0, 0, 5, 0)
    with Index.open(tmp_path / "index") as index:
        assert [one.listing.listing_id for one in index.search("zeppelin")] == ["l1"]


def test_listings_are_removed(run: Any, tmp_path: Path) -> None:
    run(LISTINGS)
    ids = tmp_path / "ids.txt"
    ids.write_text("l1\n\n nowhere \nl2", encoding="utf-8")
    assert counts(run(None, "--remove", str(ids))) == (3, 0, 0, 0, 2)
    assert counts(run([LISTINGS[0], LISTINGS[1]], "--prune")) == (2, 1, 0, 1, 2)
    with Index.open(tmp_path / "index") as index:
        assert {listing.listing_id for listing in index} == {"l0", "l1"}


def test_dense_keeps_vectors(run: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def load(model: str) -> Any:
        asked.append(model)
        return encode

    monkeypatch.setattr("genrank.cli.index._encoder", load)
    assert run(LISTINGS, "--dense", "--encoder", "my-bert")["encoder"] == f"{__name__}.encode"
    assert asked == ["my-bert"]
    with Index.open(tmp_path / "index", encoder=encode) as index:
        assert len(index.search("mug", mode="dense")) == 5
    without = run(LISTINGS)
    assert without["status"] == 2
    assert "open it with that encoder to add to it" in without["err"]


@pytest.mark.parametrize(
    ("listings", "options", "status", "said"),
    [
        (None, (), 2, "LISTINGS.jsonl: name a catalogue"),
        (None, ("--remove", "ids.txt", "--prune"), 2, "--prune: needs LISTINGS.jsonl"),
        (None, ("--remove", "/nowhere/ids.txt"), 1, "/nowhere/ids.txt: expected a readable file"),
        ([LISTINGS[0], {"listing_id": "x"}], (), 1, "listings.jsonl:2: expected a listing, found title"),
        ([LISTINGS[0]], ("--fields", "titel"), 2, "fields: no such text field"),
    ],
)
def test_what_is_wrong_is_named(run: Any, listings: Any, options: Any, status: int, said: str) -> None:
    found = run(listings, *options)
    assert found["status"] == status
    assert said in found["err"]


def test_an_index_of_other_fields_is_named(run: Any) -> None:
    run(LISTINGS, "--fields", "title", "brand")
    assert run(LISTINGS, "--fields", "brand", "title")["status"] == 0
    found = run(LISTINGS, "--fields", "title")
    assert found["status"] == 2
    assert "--fields: " in found["err"]
    assert "is an index of title, brand; delete it to choose others" in found["err"]


def test_there_is_nothing_to_remove_from(run: Any, tmp_path: Path) -> None:
    ids = tmp_path / "ids.txt"
    ids.write_text("l1")
    found = run(None, "--remove", str(ids))
    assert found["status"] == 2
    assert "--out: no index in" in found["err"]
