"""The adapters that ship with genrank: whole, small, served, and made again by their recipe."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("peft", reason="peft is not installed: pip install 'genrank[transformers]'")

from genrank.adapters import Manifest, demo_adapter, load_manifest
from genrank.data.dataset import sample_shop
from genrank.errors import ModelNotFoundError
from genrank.experiment.metrics import ndcg
from genrank.models.store import resolve
from genrank.reranker import Reranker

MODELS = ("smollm2-135m", "gemma3-270m")
MOST_BYTES = 5_000_000
ROOT = Path(__file__).resolve().parents[2]


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
    assert set(manifest.data["datasets"]) == {"sample-shop", "runs/distill/distill-sample-shop"}
    assert json.loads((adapter / "adapter_config.json").read_text())["base_model_name_or_path"] == model


def test_there_is_none_for_other_models() -> None:
    assert demo_adapter("bert-minilm") is None
    assert demo_adapter("../sample_shop") is None


@pytest.mark.parametrize("candidates", [10, pytest.param(20, marks=pytest.mark.slow)])
@pytest.mark.parametrize("model", ["smollm2-135m", pytest.param("gemma3-270m", marks=pytest.mark.slow)])
def test_it_ranks_the_english_test_queries_better_than_the_first_stage(
    model: str, candidates: int, smollm2: str
) -> None:
    del smollm2  # fetches it
    adapter, _ = adapter_of(fetched(model))
    shop = sample_shop()
    english = [query for query in shop.split("test") if query.query.query_id.startswith("q-en")]
    requests = [shop.request(query, candidates) for query in english]
    orders = Reranker(model, adapter=str(adapter), passes=1).rerank_batch(requests)
    assert {ranking.provenance.outcome for ranking in orders} == {"model"}
    scores = []
    for request, ranking in zip(requests, orders, strict=True):
        by_id = {item.listing_id: item.score for item in ranking.items}
        scores.append([by_id[candidate.listing.listing_id] for candidate in request.candidates])
    places = [[-float(i) for i in range(len(request.candidates))] for request in requests]
    assert ndcg(shop, requests, scores, 10) > ndcg(shop, requests, places, 10) + 0.05


@pytest.mark.slow
@pytest.mark.timeout(3 * 3600)
@pytest.mark.parametrize("model", MODELS)
def test_its_recipe_makes_it_again(model: str, smollm2: str, tmp_path: Path) -> None:
    """The commands at the head of the recipe, in an empty folder."""
    pytest.importorskip("trl", reason="trl is not installed: pip install 'genrank[train]'")
    pytest.importorskip("lightgbm", reason="lightgbm is not installed: pip install 'genrank[baseline]'")
    del smollm2
    fetched("bert-minilm")
    _, shipped = adapter_of(fetched(model))
    recipe = (ROOT / "finetune" / "configs" / "demo.yaml").read_text(encoding="utf-8")
    commands = [line.strip("# ").split() for line in recipe.splitlines() if line.lstrip("# ").startswith("python -m ")]
    assert len(commands) == 4
    environment = os.environ | {"PYTHONPATH": str(ROOT)}  # the programs are run from the checkout, not installed
    for _, *command in sorted(commands, key=lambda words: "finetune.sft" in words):
        if "finetune.sft" not in command or model in command:
            options = [str(ROOT / word) if word.endswith(".yaml") else word for word in command]
            subprocess.run([sys.executable, *options], cwd=tmp_path, env=environment, check=True)
    made = load_manifest(tmp_path / "runs" / "sft" / f"demo-{model}" / "adapter")
    assert made is not None
    for name, value in shipped.metrics.items():
        assert made.metrics[name] == pytest.approx(value, abs=0.05)
