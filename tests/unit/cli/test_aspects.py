from __future__ import annotations

import json
from pathlib import Path

import pytest

from genrank.cli.main import main

LISTINGS = [
    {"listing_id": "a", "title": "Linen dress", "reviews": ["Runs small.", "Lovely colour."]},
    {"listing_id": "b", "title": "Mug"},
    {"listing_id": "c", "title": "连衣裙", "reviews": ["料子很好。"]},
]


@pytest.fixture
def catalogue(tmp_path: Path) -> str:
    path = tmp_path / "listings.jsonl"
    path.write_text("".join(json.dumps(one) + "\n" for one in LISTINGS), encoding="utf-8")
    return str(path)


def test_listings_come_back_with_their_aspects(
    catalogue: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "enriched.jsonl"
    assert main(["aspects", catalogue, "--out", str(out), "--literal"]) == 0
    first, second, third = map(json.loads, out.read_text(encoding="utf-8").splitlines())
    assert [(one["name"], one["positive"], one["negative"]) for one in first["aspects"]] == [
        ("colour", 1, 0),
        ("fit", 0, 1),
    ]
    assert second == LISTINGS[1]
    assert third["aspects"][0]["quote"] == "料子很好。"
    counts = json.loads(capsys.readouterr().out)
    assert counts == {"listings": 3, "resumed": 0, "with_aspects": 2, "opinions": 3, "literal": 3}


def test_a_run_that_broke_off_goes_on_where_it_ended(
    catalogue: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "enriched.jsonl"
    options = ["aspects", catalogue, "--out", str(out), "--literal", "--batch", "1"]
    assert main(options) == 0
    whole = out.read_bytes()
    out.write_bytes(whole[: len(whole) * 2 // 3])
    capsys.readouterr()
    assert main([*options, "--resume"]) == 0
    assert out.read_bytes() == whole
    assert json.loads(capsys.readouterr().out)["resumed"] in (1, 2)
    assert main([*options, "--resume"]) == 0
    assert out.read_bytes() == whole


def test_another_file_is_not_gone_on_with(catalogue: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "enriched.jsonl"
    options = ["aspects", catalogue, "--out", str(out), "--literal", "--resume"]
    for text, says in (('{"listing_id": "z"}\n', "without --resume"), ("notes\n", "a listing that genrank aspects")):
        out.write_text(text + "half a line", encoding="utf-8")
        assert main(options) == 1
        assert says in capsys.readouterr().err
        assert out.read_text(encoding="utf-8") == text + "half a line"


def test_wrong_calls_are_named(catalogue: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for options, says in (
        (["--out", catalogue], "is also the input"),
        (["--out", str(tmp_path / "no" / "out.jsonl")], "make it first"),
        (["--out", str(tmp_path / "out.jsonl"), "--batch", "0"], "at least 1"),
        (["--out", str(tmp_path / "out.jsonl"), "--prompt", "poem"], "no prompt 'poem'"),
    ):
        assert main(["aspects", catalogue, "--literal", *options]) == 2
        assert says in capsys.readouterr().err
