"""Cross-validation of genrank itself, with a model of real architecture, two layers deep."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

pytest.importorskip("trl", reason="trl is not installed: pip install 'genrank[train]'")
pytest.importorskip("ranx", reason="ranx is not installed: pip install 'genrank[eval]'")

from eval.crossval import main
from genrank.adapters import load_manifest
from genrank.data.dataset import Dataset
from genrank.data.trec import read_run
from tests.trainings import sft_options

pytestmark = pytest.mark.model


def test_each_fold_trains_an_adapter_that_ranks_the_queries_it_did_not_see(tiny: Path, tmp_path: Path) -> None:
    options = sft_options(tiny, tmp_path)
    given = zip(options[::2], options[1::2], strict=True)
    training: dict[str, Any] = {name.removeprefix("--"): yaml.safe_load(value) for name, value in given}
    training |= {"datasets": ["sample-shop"], "learning_rate": 0.01, "max_steps": 2}
    training |= {"eval_strategy": "no", "save_strategy": "no", "load_best_model_at_end": False}
    (tmp_path / "sft.yaml").write_text(yaml.safe_dump(training), encoding="utf-8")
    system = {"type": "sft", "name": "tiny", "config": str(tmp_path / "sft.yaml"), "decoding": "inline", "passes": 1}
    blend = {"type": "blend", "name": "both", "systems": ["tiny", "bm25"]}
    config = {"dataset": "sample-shop", "folds": 2, "max_candidates": 4, "systems": [{"type": "bm25"}, system, blend]}
    (tmp_path / "c.yaml").write_text(yaml.safe_dump(config), encoding="utf-8")
    call = ["--config", str(tmp_path / "c.yaml"), "--out", str(tmp_path / "out"), "--cache", str(tmp_path / "cache")]
    assert main(call) == 0
    results = json.loads((tmp_path / "out" / "results.json").read_text(encoding="utf-8"))
    assert results["systems"]["tiny"]["counts"]["model"] == results["counts"]["queries"]
    assert results["systems"]["tiny"]["provenance"]["decoding"] == "inline"
    assert len(read_run(tmp_path / "out" / "both.trec")) == results["counts"]["queries"]
    adapters = sorted(tmp_path.glob("out/fold-*/tiny-*/adapter"))
    assert len(adapters) == 2
    for adapter in adapters:
        manifest = load_manifest(adapter)
        assert manifest is not None
        assert manifest.serve is not None
        (folder,) = manifest.data["datasets"]
        fold = Dataset.load(folder)
        ranked = {query.query.text for query in fold.split("test")}
        assert not ranked & {query.query.text for query in fold.split("train")}
