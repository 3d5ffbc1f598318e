"""The cross-encoder baseline with a real encoder: two steps of training, saved, and loaded by another process."""

from __future__ import annotations

import dataclasses
import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from eval.cross_encoder import CrossEncoderConfig, main, make_lists
from genrank import Candidate, EngineError, Listing, ModelError, Query, Request, Reranker, sample_shop
from genrank.data.trec import read_run
from genrank.experiment.config import load_config
from genrank.experiment.splits import with_dev
from genrank.models.store import resolve
from genrank.rankers.cross_encoder import MANIFEST, CrossEncoderRanker
from genrank.testing import ScriptedEngine

pytestmark = pytest.mark.model
for package in ("torch", "datasets", "sentence_transformers"):
    pytest.importorskip(package, reason=f"{package} is not installed: pip install 'genrank[baseline]'")

ROOT = Path(__file__).resolve().parents[2]
SETTINGS = """\
dataset: {dataset}
fields: [title]
max_length: 32
list_size: 4
lists_per_step: {lists_per_step}
epochs: 1
evaluations: 1
learning_rate: 1.0e-4
"""


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Path:
    try:
        resolve("bert-minilm")
    except ModelError:
        pytest.skip("no encoder; get it with: genrank models fetch bert-minilm")
    root = tmp_path_factory.mktemp("cross-encoder")
    shop = sample_shop()
    queries = [query for split in ("train", "test") for query in shop.split(split)[:5]]
    ids = {query.query.query_id for query in queries}
    qrels = {query: judged for query, judged in shop.qrels.items() if query in ids}
    candidates = {query: scores for query, scores in shop.candidates.items() if query in ids}
    dataset = dataclasses.replace(shop, queries=queries, qrels=qrels, candidates=candidates)
    dataset.save(root / "shop")
    text = SETTINGS.format(dataset=root / "shop", lists_per_step=1)
    (root / "tiny.yaml").write_text(text, encoding="utf-8")
    lists = make_lists(with_dev(dataset, 0.2, 0), load_config(root / "tiny.yaml", CrossEncoderConfig))
    text = SETTINGS.format(dataset=root / "shop", lists_per_step=-(-len(lists) // 2))
    (root / "tiny.yaml").write_text(text, encoding="utf-8")
    return root / "tiny.yaml"


@pytest.fixture(scope="module")
def folder(config: Path) -> Path:
    assert main(["train", "--config", str(config), "--out", str(config.parent / "model")]) == 0
    return config.parent / "model"


def test_bfloat16_is_left_out_where_the_machine_lacks_it(
    config: Path, folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import torch

    monkeypatch.setattr("genrank.engines.loading.native_dtype", lambda device: torch.float32)
    asked = config.with_name("bfloat16.yaml")
    asked.write_text(config.read_text(encoding="utf-8") + "bfloat16: true\n", encoding="utf-8")
    assert main(["train", "--config", str(asked), "--out", str(config.parent / "bfloat16")]) == 0
    assert "does not compute in bfloat16" in capsys.readouterr().err
    weights = [(one / "model.safetensors").read_bytes() for one in (folder, config.parent / "bfloat16")]
    assert weights[0] == weights[1]


def requests() -> list[Request]:
    shop = sample_shop()
    return [shop.request(query, 10) for query in shop.split("test")[:3]]


def test_the_manifest_says_what_was_done(folder: Path) -> None:
    manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
    assert (manifest["history"][-1]["step"], manifest["dataset"]["dev_queries"]) == (2, 1)
    assert manifest["dev"]["nDCG@10"] == max(entry["dev"] for entry in manifest["history"])
    assert {"model.safetensors", "tokenizer.json", "config.json"} <= manifest["files"].keys()
    assert not [path for path in folder.parent.iterdir() if path.name.startswith(".")], "no leftovers"


def test_another_process_gives_the_same_scores(folder: Path) -> None:
    code = """
import json, sys
from genrank import sample_shop
from genrank.rankers.cross_encoder import CrossEncoderRanker
shop = sample_shop()
requests = [shop.request(query, 10) for query in shop.split("test")[:3]]
print(json.dumps(CrossEncoderRanker.load(sys.argv[1]).score(requests)))
"""
    command = [sys.executable, "-c", code, str(folder)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    here = CrossEncoderRanker.load(folder).score(requests())
    assert json.loads(done.stdout) == here
    assert [len(scores) for scores in here] == [len(request.candidates) for request in requests()]
    assert len({score for scores in here for score in scores}) > 1


def test_training_again_gives_the_same_model_and_replaces_the_old_one(config: Path, folder: Path) -> None:
    again = shutil.copytree(folder, config.parent / "again")
    (again / "old.txt").touch()
    assert main(["train", "--config", str(config), "--out", str(again)]) == 0
    assert not (again / "old.txt").exists()
    old, new = (CrossEncoderRanker.load(path).score(requests()) for path in (folder, again))
    assert new == [pytest.approx(scores, abs=1e-4) for scores in old]


def test_rank_and_the_fallback_of_a_reranker(config: Path, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["rank", "--config", str(config), "--model", str(folder)]) == 0
    line = json.loads(capsys.readouterr().out)
    run = read_run(line["run"])
    assert line["queries"] == len(run) == 5
    baseline = CrossEncoderRanker.load(folder)
    engine = ScriptedEngine([EngineError("gone")])
    shop = sample_shop()
    request = shop.request(shop.split("test")[0], 20)
    (ranking,) = Reranker(engine=engine, fallback=baseline.score).rerank_batch([request])
    assert [item.listing_id for item in ranking.items] == list(run[ranking.query_id])
    assert ranking.provenance.why.endswith("stands in the fallback's order")


def test_hostile_listings_get_a_score_too(folder: Path) -> None:
    texts: list[Any] = ["[SEP] [CLS] [MASK]", "x" * 100_000, "\ud800 lone", "连衣裙", "👗", "\u0000 a"]
    candidates = tuple(Candidate(Listing(f"p{i}", text)) for i, text in enumerate(texts))
    baseline = CrossEncoderRanker.load(folder)
    (scores,) = baseline.score([Request(Query("dress [SEP] dress"), candidates)])
    assert len(scores) == len(texts)
    separators = baseline._model.preprocess([("a [SEP] b", "c [SEP]")])["input_ids"][0].tolist().count(102)
    assert separators == 2, "a marker inside a text stays text"
