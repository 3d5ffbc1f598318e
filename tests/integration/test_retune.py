"""A round of re-tuning with LoRA: `finetune.sft` goes on from the adapter that is served."""

from __future__ import annotations

from datetime import datetime, timedelta
from pathlib import Path

import pytest

pytest.importorskip("trl", reason="trl is not installed: pip install 'genrank[train]'")
pytest.importorskip("duckdb", reason="duckdb is not installed: pip install 'genrank[feedback]'")

from eval.feedback import FeedbackConfig, simulate
from eval.retune.config import RetuneConfig
from eval.retune.rounds import retune
from finetune.arguments import parse
from finetune.sft import train
from genrank.adapters import FILE, load_manifest, read_values
from genrank.blending import Blend, save_blend
from genrank.data.dataset import sample_shop
from genrank.models.versions import AdapterVersions
from genrank.reranker import Reranker
from genrank.search.feedback.log import FeedbackLog
from tests.trainings import sft_options

OPTIONS = """\
model_name_or_path: {model}
forms: [pointwise]
max_steps: 1
most_candidates: 6
dev_queries: 2
learning_rate: 0.01
bf16: false
use_cpu: true
eval_strategy: "no"
save_strategy: "no"
load_best_model_at_end: false
"""
DAY = datetime(2026, 1, 1)


def test_an_adapter_learns_from_feedback_and_is_served(tiny: Path, tmp_path: Path) -> None:
    short = {"forms": "pointwise", "max_steps": "1", "reasons": "0", "eval_strategy": "no", "save_strategy": "no"}
    more = [word for name, value in short.items() for word in (f"--{name}", value)]
    train(*parse(sft_options(tiny, tmp_path / "first", *more, "--load_best_model_at_end", "false"), "sft"))
    versions = AdapterVersions(tmp_path / "adapters")
    first = versions.promote(versions.add(tmp_path / "first" / "adapter").name)
    save_blend(Blend("pointwise", 0.5), versions.path(first.name))  # fitted after it was trained
    shop = sample_shop()
    asked = [shop.request(query, 10) for query in shop.split("train")[:8]]
    behaviour = FeedbackConfig(dataset="sample-shop", lists=20, eta=0.5)
    simulate(FeedbackLog(tmp_path / "log"), shop, asked, behaviour, 0, time=DAY)
    (tmp_path / "sft.yaml").write_text(OPTIONS.format(model=tiny))
    config = RetuneConfig.model_validate(
        {
            "adapters": str(versions.folder),
            "feedback": {"log": str(tmp_path / "log"), "listings": "sample-shop", "least_queries": 3},
            "replay": {"originals": ["sample-shop"], "original_share": 0.25},
            "train": {"type": "sft", "name": "genrank", "config": str(tmp_path / "sft.yaml")},
            "held_out": {"dataset": "sample-shop", "limit": 4, "max_candidates": 6},
            "gate": {"margin": 1.0, "alpha": 0.0001},
        }
    )
    outcome, report = retune(config, tmp_path / "rounds", now=DAY + timedelta(hours=3))
    assert outcome == "promoted", report
    current = versions.current()
    assert current is not None
    assert (current.number, current.parent) == (2, first.name)
    folder = versions.folder / "current"
    manifest, before = load_manifest(folder), load_manifest(versions.path(first.name))
    assert manifest is not None
    assert before is not None
    assert manifest.data["adapter"]["fingerprint"] == before.data["fingerprint"]
    assert manifest.data["datasets"] == [str(tmp_path / "rounds" / "round-0001" / "data")]
    assert read_values(folder / FILE)["blend"]["pointwise"]["weight"] == 0.5
    reranker = Reranker(str(tiny), adapter=str(folder))
    (ranking,) = reranker.rerank_batch([asked[0]])
    assert ranking.provenance.adapter == str(versions.path(current.name))
    assert ranking.provenance.outcome == "model"
    assert versions.rollback().name == first.name
