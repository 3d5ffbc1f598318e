"""The adapters that ship with genrank: whole, small, served, and made again by their recipe."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("peft", reason="peft is not installed: pip install 'genrank[transformers]'")

from genrank.adapters import FILE, Manifest, demo_adapter, load_manifest
from genrank.data.dataset import sample_shop
from genrank.errors import ModelNotFoundError
from genrank.experiment.metrics import listing_ids, ndcg_of
from genrank.models.registry import KNOWN_MODELS
from genrank.models.store import resolve
from genrank.reranker import Reranker
from genrank.text.language import language

ROOT = Path(__file__).resolve().parents[2]
MODELS = sorted(file.parent.name for file in (ROOT / "genrank" / "data" / "adapters").glob(f"*/{FILE}"))
MOST_BYTES = 5_000_000


def adapter_of(model: str) -> tuple[Path, Manifest]:
    adapter = demo_adapter(model)
    assert adapter is not None
    manifest = load_manifest(adapter)
    assert manifest is not None
    return adapter, manifest


def fetched(model: str) -> str:
    try:
        resolve(model)
    except ModelNotFoundError:
        pytest.skip(f"{model} is not fetched")
    return model


@pytest.mark.parametrize("model", MODELS)
def test_an_adapter_is_small_and_names_no_path(model: str) -> None:
    adapter, manifest = adapter_of(model)
    files = {"adapter_config.json", "adapter_model.safetensors", "genrank.json"}
    assert {path.name for path in adapter.iterdir()} - {"NOTICE"} == files
    assert sum(path.stat().st_size for path in adapter.iterdir()) <= MOST_BYTES
    assert manifest.base_model == model
    shop, *labelled = manifest.data["datasets"]
    assert shop == "sample-shop"
    assert all(name.startswith("runs/distill/distill-sample-shop") for name in labelled)
    assert json.loads((adapter / "adapter_config.json").read_text())["base_model_name_or_path"] == model


@pytest.mark.parametrize("candidates", [10, pytest.param(20, marks=pytest.mark.slow)])
@pytest.mark.parametrize("model", MODELS)
def test_it_ranks_the_test_queries_better_than_the_first_stage(model: str, candidates: int) -> None:
    adapter, _ = adapter_of(fetched(model))
    shop = sample_shop()
    queries = [query for query in shop.split("test") if language(query.query.text) in KNOWN_MODELS[model].languages]
    requests = [shop.request(query, candidates) for query in queries]
    rankings = Reranker(model, adapter=str(adapter)).rerank_batch(requests)
    assert {ranking.provenance.outcome for ranking in rankings} == {"model"}
    before = [[candidate.listing.listing_id for candidate in request.candidates] for request in requests]
    after = [listing_ids(ranking) for ranking in rankings]
    assert ndcg_of(shop, requests, after) > ndcg_of(shop, requests, before) + 0.05


@pytest.mark.slow
@pytest.mark.timeout(3 * 3600)
@pytest.mark.parametrize("model", MODELS)
def test_its_recipe_makes_it_again(model: str, tmp_path: Path) -> None:
    """The commands at the head of the recipe, in an empty folder."""
    pytest.importorskip("trl", reason="trl is not installed: pip install 'genrank[train]'")
    fetched("qwen2.5-coder-1.5b")
    _, shipped = adapter_of(fetched(model))
    recipe = (ROOT / "finetune" / "configs" / "demo.yaml").read_text(encoding="utf-8")
    commands = [line.strip("# ").split() for line in recipe.splitlines() if line.lstrip("# ").startswith("python -m ")]
    assert sum("finetune.sft" in words and model in words for words in commands) == 1
    environment = os.environ | {"PYTHONPATH": str(ROOT)}  # the programs are run from the checkout, not installed
    for _, *command in sorted(commands, key=lambda words: "finetune.sft" in words):
        if "finetune.sft" not in command or model in command:
            options = [str(ROOT / word) if word.endswith(".yaml") else word for word in command]
            subprocess.run([sys.executable, *options], cwd=tmp_path, env=environment, check=True)
    made = load_manifest(tmp_path / "runs" / "sft" / f"demo-{model}" / "adapter")
    assert made is not None
    for name, value in shipped.metrics.items():
        assert made.metrics[name] == pytest.approx(value, abs=0.05)
