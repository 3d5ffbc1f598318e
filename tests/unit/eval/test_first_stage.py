import json
from pathlib import Path

import pytest

from eval.first_stage import first_stage, main
from genrank.data.dataset import Dataset, DatasetQuery
from genrank.data.trec import read_run
from genrank.errors import InputError
from genrank.experiment.datasets import load_dataset
from genrank.search.bm25 import Bm25
from genrank.types import Query
from tests.collections_rig import write_beir


def test_over_the_catalogue(shop: Dataset, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shop.save(tmp_path / "shop")
    assert main([str(tmp_path / "shop"), "--top", "2"]) == 0
    run = read_run(tmp_path / "shop" / "candidates.trec")
    assert {query: list(scores) for query, scores in run.items()} == {
        "q1": ["l1", "l3"],
        "q2": ["l3", "l4"],
        "q3": ["l5", "l1"],
    }
    summary = json.loads(capsys.readouterr().out)
    assert (summary["queries"], summary["candidates"], summary["judged"]) == (3, 6, 5)
    assert Dataset.load(tmp_path / "shop").candidates == run


def test_judged_only(shop: Dataset) -> None:
    run = first_stage(shop, Bm25(shop.listings.values()), None)
    assert {query: set(scores) for query, scores in run.items()} == {q: set(ids) for q, ids in shop.qrels.items()}
    assert next(iter(run["q1"])) == "l1"
    for scores in run.values():
        assert sorted(set(scores.values()), reverse=True) == list(scores.values())


def test_judged_only_needs_judgements(shop: Dataset) -> None:
    shop.qrels.pop("q2")
    with pytest.raises(InputError, match="q2"):
        first_stage(shop, Bm25(shop.listings.values()), None)


def test_a_query_that_matches_nothing_still_has_candidates(shop: Dataset) -> None:
    odd = Dataset(
        shop.name, shop.source, shop.grades, shop.listings, [DatasetQuery(Query("台灯", "q"), "test")], {"q": {"l1": 1}}
    )
    assert list(first_stage(odd, Bm25(shop.listings.values()), 2)["q"]) == ["l1", "l2"]


@pytest.mark.parametrize("options", [["--top", "0"], ["--top", "2", "--judged-only"], []])
def test_wrong_calls(options: list[str], tmp_path: Path) -> None:
    arguments = [str(tmp_path), *options] if options else []
    with pytest.raises(SystemExit) as caught:
        main(arguments)
    assert caught.value.code == 2


def test_wrong_folder_and_field(shop: Dataset, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(tmp_path / "none")]) == 1
    shop.save(tmp_path / "shop")
    assert main([str(tmp_path / "shop"), "--fields", "title,prize"]) == 2
    assert "prize" in capsys.readouterr().err
    assert not (tmp_path / "shop" / "candidates.trec").exists()


def test_a_run_over_a_beir_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder, out = str(write_beir(tmp_path / "lamps")), tmp_path / "runs" / "bm25.trec"
    assert main([folder]) == 2
    assert "dataset: " in capsys.readouterr().err
    assert not out.exists()
    assert main([folder, "--top", "2", "--out", str(out)]) == 0
    run = read_run(out)
    assert list(run["q1"]) == ["d1", "d2"]
    assert run == load_dataset(folder, depth=2).candidates == load_dataset(folder, first_stage=str(out)).candidates
    assert json.loads(capsys.readouterr().out)["candidates"] == 8
