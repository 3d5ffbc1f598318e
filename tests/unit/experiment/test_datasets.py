from pathlib import Path

import pytest

from genrank.data.dataset import Dataset
from genrank.data.trec import write_run
from genrank.errors import ConfigError, InputError
from genrank.experiment.datasets import load_dataset
from tests.collections_rig import register, write_beir


def test_names(shop: Dataset, tmp_path: Path) -> None:
    shop.save(tmp_path / "shop")
    assert load_dataset("sample-shop").first_stage == "bm25"
    assert load_dataset(str(tmp_path / "shop")).listings == shop.listings
    for name in ("~/no/such/folder", ""):
        with pytest.raises(ConfigError, match="dataset: no folder"):
            load_dataset(name)


def test_candidates_without_a_first_stage_do_not_follow_the_qrels(shop: Dataset, tmp_path: Path) -> None:
    shop.save(tmp_path / "shop")
    many = {seed: load_dataset(str(tmp_path / "shop"), seed) for seed in range(8)}
    assert len({tuple(dataset.candidates["q1"]) for dataset in many.values()}) > 2
    assert {dataset.first_stage for dataset in many.values()} == {"random"}


def test_beir_folders_get_bm25(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    dataset = load_dataset(str(write_beir(tmp_path / "lamps")), depth=2)
    assert dataset.first_stage == "bm25"
    assert "q1" in dataset.candidates
    assert "indexing" not in capsys.readouterr().err  # only when the first query is ranked
    request = dataset.request(dataset.split("test")[0])
    assert [candidate.listing.title for candidate in request.candidates] == ["Red lamp", "Blue lamp"]
    assert list(dataset.candidates) == ["q1", "q2", "q3", "q4"]
    assert next(iter(dataset.candidates["q2"])) == "d3"
    assert capsys.readouterr().err.count("indexing 5 listings") == 1


def test_ir_datasets(tmp_path: Path) -> None:
    pytest.importorskip("ir_datasets")
    plain = load_dataset(f"ir_datasets:{register(tmp_path / 'plain', 'test')}")
    assert plain.first_stage == "bm25"
    assert list(plain.candidates["q1"])[:2] == ["d1", "d2"]
    name = register(tmp_path / "scored", "test", scored=True)
    scored = load_dataset(f"ir_datasets:{name}")
    assert scored.first_stage == "scoreddocs"
    assert list(scored.candidates["q1"]) == ["d2", "d1", "d4"]
    assert list(load_dataset(f"ir_datasets:{name}", first_stage="bm25", depth=1).candidates["q1"]) == ["d1"]


def test_a_run_as_first_stage(shop: Dataset, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = tmp_path / "dense.trec"
    write_run(run, {"q1": {"d4": 2.0, "d1": 1.0}, "q77": {"d1": 1.0}})
    folder = str(write_beir(tmp_path / "lamps"))
    dataset = load_dataset(folder, first_stage=str(run))
    assert (dataset.first_stage, dict(dataset.candidates)) == ("dense", {"q1": {"d4": 2.0, "d1": 1.0}})
    assert "1 queries are not among those of lamps" in capsys.readouterr().err
    write_run(run, {"q1": {"l3": 2.0, "d1": 1.0}})
    dataset = load_dataset(folder, first_stage=str(run))
    with pytest.raises(InputError, match="candidates: query q1: 'l3' is not a listing of lamps"):
        dataset.request(dataset.split("test")[0])
    shop.save(tmp_path / "shop")
    assert next(iter(load_dataset(str(tmp_path / "shop"), first_stage="bm25").candidates["q1"])) == "l1"


@pytest.mark.parametrize(
    ("first_stage", "message"),
    [
        ("no-such.trec", "first_stage: there is no file 'no-such.trec'; name a TREC run, bm25 or scoreddocs"),
        ("scoreddocs", "first_stage: only datasets of ir_datasets: have scoreddocs; name bm25 or a TREC run"),
    ],
)
def test_a_first_stage_that_is_not_there(first_stage: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=message):
        load_dataset(str(write_beir(tmp_path / "lamps")), first_stage=first_stage)


def test_a_run_of_other_queries(tmp_path: Path) -> None:
    write_run(tmp_path / "run.trec", {"x": {"d1": 1.0}})
    with pytest.raises(ConfigError, match="has no query of lamps; its queries are such as 'x'"):
        load_dataset(str(write_beir(tmp_path / "lamps")), first_stage=str(tmp_path / "run.trec"))
