import json
from pathlib import Path
from typing import Any

import pytest

from eval.baseline.__main__ import main
from genrank.data.dataset import Dataset
from genrank.data.trec import read_run
from genrank.search.dense import TextEncoder

pytest.importorskip("lightgbm")
pytest.importorskip("ranx")

SETTINGS = "rounds: 30\npatience: 10\nleaves: 5\nleaf_candidates: 5\n"


@pytest.fixture
def config(bazaar: Dataset, encoder: TextEncoder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for module in ("eval.baseline.training", "eval.baseline.ablation", "genrank.rankers.gbdt"):
        monkeypatch.setattr(f"{module}.Encoder", lambda name: encoder)
    monkeypatch.chdir(tmp_path)
    bazaar.save("data")
    path = tmp_path / "tiny.yaml"
    path.write_text(f"dataset: data\n{SETTINGS}")
    return path


def call(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    status = main(list(arguments))
    out, err = capsys.readouterr()
    return status, out, err


def test_train_and_rank(config: Path, bazaar: Dataset, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("matplotlib")
    status, out, _ = call(capsys, "train", "--config", str(config))
    (line,) = out.splitlines()
    summary = json.loads(line)
    assert (status, summary["folder"]) == (0, "runs/baseline/tiny")
    assert summary["dev"]["nDCG@10"] > 0.8
    picture = Path("runs/baseline/tiny/importance.svg").read_text()
    assert picture.startswith("<?xml")
    assert "cosine" in picture

    status, out, _ = call(capsys, "rank", "--config", str(config))
    assert status == 0
    assert json.loads(out)["run"] == "runs/baseline/tiny.test.trec"
    run = read_run("runs/baseline/tiny.test.trec")
    assert run.keys() == {query.query.query_id for query in bazaar.split("test")}
    assert all(run[query].keys() == bazaar.qrels[query].keys() for query in run)
    status, _, _ = call(capsys, "rank", "--config", str(config), "--split", "dev", "-o", "elsewhere/dev.trec")
    assert status == 0
    assert len(read_run("elsewhere/dev.trec")) == 12

    # a second training writes over the first, picture and all
    assert call(capsys, "train", "--config", str(config))[0] == 0
    assert Path("runs/baseline/tiny/importance.svg").read_text() == picture


def test_as_first_stage(config: Path, bazaar: Dataset, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("matplotlib")
    call(capsys, "train", "--config", str(config))
    status, out, _ = call(capsys, "rank", "--config", str(config), "--as-first-stage")
    assert (status, json.loads(out)["queries"]) == (0, 60)
    dataset = Dataset.load("data")
    assert dataset.first_stage == "baseline"
    assert dataset.candidates.keys() == bazaar.qrels.keys()
    assert dataset.listings == bazaar.listings
    assert not list(Path("data").glob(".*"))


def test_ablate(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    status, out, _ = call(capsys, "ablate", "--config", str(config), "--seeds", "1")
    assert status == 0
    assert "without lexical" in out
    result: dict[str, Any] = json.loads(out.splitlines()[-1])
    assert json.loads(Path("runs/baseline/tiny.ablation.json").read_text()) == result
    assert result["absent"] == ["first_stage", "aspects"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("train", "--config", "none.yaml"), "none.yaml"),
        (("rank", "--config", "tiny.yaml"), "holds no BERT"),
        (("ablate", "--config", "tiny.yaml", "--seeds", "0"), "--seeds: at least 1"),
        (("train", "--config", "lost.yaml"), "no folder 'nowhere'"),
        (("rank", "--config", "shop.yaml", "--as-first-stage"), "copy its folder"),
    ],
)
def test_wrong_calls(
    config: Path, capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...], message: str
) -> None:
    Path("lost.yaml").write_text("dataset: nowhere\n")
    Path("shop.yaml").write_text("dataset: sample-shop\n")
    status, out, err = call(capsys, *arguments)
    assert status in (1, 2)
    assert out == ""
    assert message in err
