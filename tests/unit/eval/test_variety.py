from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from eval.variety import brands_from_titles, main
from genrank.data.dataset import Dataset
from genrank.data.jsonl import write_rankings
from genrank.experiment.metrics import measure
from genrank.types import Listing, Provenance, RankedItem, Ranking


@pytest.fixture
def settings(bazaar: Dataset, tmp_path: Path) -> dict[str, Any]:
    bazaar.save(tmp_path / "bazaar")
    return {
        "dataset": str(tmp_path / "bazaar"),
        "split": "test",
        "k": 5,
        "coverage": "brand",
        "aspects": ["brand"],
        "methods": ["mmr"],
        "varieties": [0.5, 1.0],
        "loss": 1.0,
        "rules": {"at_most": [{"by": "brand", "most": 1, "top": 5}], "pinned": {"l0": 1}},
        "systems": [{"type": "bm25"}],
    }


def run(settings: dict[str, Any], folder: Path) -> tuple[int, Path]:
    file = folder / "some.yaml"
    file.write_text(yaml.safe_dump(settings))
    out = folder / "out"
    return main(["--config", str(file), "--out", str(out)]), out


def test_the_knob_and_the_rules_are_measured(
    settings: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    status, out = run(settings, tmp_path)
    assert status == 0
    found = json.loads((out / "variety.json").read_text())
    assert found["queries"] == 12
    knob = found["systems"]["bm25"]["knob"]["mmr"]
    assert [row["variety"] for row in knob["settings"]] == [0, 0.5, 1]
    before, _, varied = knob["settings"]
    assert varied["coverage"] == 1.0, "two brands and five places"
    assert varied["coverage"] > before["coverage"]
    assert knob["chosen"]["before"] == {key: pytest.approx(before[key]) for key in ("ndcg", "alpha_ndcg", "coverage")}
    assert knob["chosen"]["after"]["coverage"] == 1.0, "any loss was allowed"
    rules = found["systems"]["bm25"]["rules"]
    assert rules["before"] == pytest.approx(before["ndcg"])
    assert rules["alone"].keys() == {"pinned", "at_most[0]"}
    assert rules["alone"]["at_most[0]"] > 0
    assert 0 < rules["queries_with_conflict"]["at_most[0]"] <= 12, "two brands cannot fill five places"
    shown = capsys.readouterr().out
    assert "brand coverage@5" in shown
    assert "at_most[0]" in shown
    page = (out / "variety.html").read_text(encoding="utf-8")
    assert "alpha-nDCG@5" in page
    assert "variety 0.5" in page


def test_ranking_lines_are_measured(
    settings: dict[str, Any], bazaar: Dataset, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rankings = []
    for query in bazaar.split("test"):
        candidates = bazaar.request(query, 20).candidates
        items = tuple(RankedItem(one.listing, i + 1, 0.9 - i / 40, i + 1) for i, one in enumerate(reversed(candidates)))
        rankings.append(Ranking(query.query.query_id, items, Provenance(decoding="pointwise")))
    write_rankings(tmp_path / "lines.jsonl", rankings)
    run_of = {key: scores for ranking in rankings for key, scores in ranking.to_run().items()}
    expected = measure(run_of, run_of, bazaar.qrels, bazaar.grades, k=5).means["nDCG@5"]
    settings["systems"] = [{"type": "rankings", "name": "mine", "path": str(tmp_path / "lines.jsonl")}]
    status, out = run(settings, tmp_path)
    assert status == 0
    found = json.loads((out / "variety.json").read_text())["systems"]["mine"]
    assert found["knob"]["mmr"]["settings"][0]["ndcg"] == pytest.approx(expected)
    write_rankings(tmp_path / "lines.jsonl", rankings[1:])
    assert run(settings, tmp_path)[0] == 2
    assert f"query {rankings[0].query_id}: must rank its 15 candidates, ranks 0" in capsys.readouterr().err
    (tmp_path / "lines.jsonl").write_text("[1]")
    assert run(settings, tmp_path)[0] == 1
    assert "expected a ranking line" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"rules": {"at_most": [{"by": "brand", "most": 1}]}}, "rules.at_most[0].top: this field is required"),
        ({"coverage": "category"}, "coverage: no listing of bazaar has a category"),
        ({"varieties": [0.0]}, "varieties[0]"),
        ({"systems": [{"type": "bm25"}, {"type": "bm25"}]}, "two systems have the name"),
    ],
)
def test_wrong_settings_are_named(
    change: dict[str, Any], says: str, settings: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    status, _ = run(settings | change, tmp_path)
    assert status == 2
    assert says in capsys.readouterr().err


def test_brands_from_titles() -> None:
    titles = [
        "Acme lamp",
        "Acme red desk",
        "ACME chair",
        "Lamp of Acme",
        "Red lamp",
        "Red desk",
        "Red rug, blue",
        "7 rugs",
    ]
    titles += ["a red one", "a red two", "a red thing", "7 lamps", "7 desks", ""]
    listings = [Listing(str(i), title or "!") for i, title in enumerate(titles)]
    assert brands_from_titles(listings) == {
        "0": "acme",
        "1": "acme",
        "2": "acme",
        **dict.fromkeys(("8", "9", "10"), "a"),
    }
