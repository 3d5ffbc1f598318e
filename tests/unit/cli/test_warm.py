from __future__ import annotations

import json
from pathlib import Path

import pytest

from genrank.cli.main import main
from tests.kept_rig import save_bytes_model, write_prompt

LISTINGS = [{"listing_id": f"l{i}", "title": f"Mug {i}"} for i in range(5)]


def write(path: Path, *lines: object) -> str:
    path.write_text("\n".join(map(json.dumps, lines)), encoding="utf-8")
    return str(path)


@pytest.fixture
def options(tmp_path: Path) -> list[str]:
    """A tiny model, and a prompt that its tokenizer can answer."""
    pytest.importorskip("torch", reason="torch is not installed: pip install 'genrank[transformers]'")
    (tmp_path / "model").mkdir()
    return ["--model", save_bytes_model(tmp_path / "model"), "--prompt", write_prompt(tmp_path / "bytes.toml")]


def test_a_catalogue_is_read_once_and_used_after_a_restart(
    options: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    snapshot = ["--snapshot", str(tmp_path / "shop.heads")]
    listings = write(tmp_path / "listings.jsonl", *LISTINGS)
    for new, known in ((5, 0), (0, 5)):
        assert main(["warm", listings, *snapshot, *options]) == 0
        out, err = capsys.readouterr()
        warmed = json.loads(out)
        assert (warmed["new"], warmed["known"], warmed["left"]) == (new, known, 0)
        assert err.rstrip().endswith("5 of 5 listings")
    request = write(tmp_path / "in.jsonl", {"query": "red mug", "candidates": LISTINGS})
    assert main(["rerank", request, *snapshot, *options, "--decoding", "pointwise"]) == 0
    out, err = capsys.readouterr()
    assert json.loads(out)["provenance"]["kept"] == 5
    assert "5 listings in" in err


def test_what_is_wrong_is_named(options: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    snapshot = ["--snapshot", str(tmp_path / "shop.heads")]
    wrong = write(tmp_path / "wrong.jsonl", LISTINGS[0], {"listing_id": "x"})
    assert main(["warm", wrong, *snapshot, *options]) == 1
    assert f"{wrong}:2: expected a listing, found title" in capsys.readouterr().err
    listings = write(tmp_path / "listings.jsonl", *LISTINGS)
    assert main(["warm", listings, "--snapshot", str(tmp_path / "none" / "s"), *options]) == 2
    assert "--snapshot: cannot write" in capsys.readouterr().err
    assert main(["warm", listings, *snapshot, *options, "--deadline", "0"]) == 2
    assert "deadline: must be a positive number of seconds, got 0.0" in capsys.readouterr().err
    assert (
        main(["rerank", write(tmp_path / "in.jsonl", {"query": "a", "candidates": LISTINGS}), *snapshot, *options]) == 2
    )
