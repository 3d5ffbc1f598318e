"""The baseline with the real BERT, on the sample shop."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from eval.baseline.config import BaselineConfig
from eval.baseline.encoder import Encoder
from eval.baseline.ranker import Baseline
from eval.config import load_config
from genrank.dataset import sample_shop
from genrank.errors import ModelError
from genrank.models import resolve

for package in ("lightgbm", "ranx", "sentence_transformers"):
    pytest.importorskip(package)

pytestmark = pytest.mark.model
ROOT = Path(__file__).resolve().parent.parent.parent

FRESH = """
import json, sys
from eval.baseline.encoder import Encoder
from eval.baseline.ranker import Baseline
from genrank.dataset import sample_shop
shop = sample_shop()
baseline = Baseline.load(sys.argv[1], Encoder("bert-minilm", sys.argv[2]))
print(json.dumps(baseline.score([shop.request(query) for query in shop.split("test")])))
"""


def test_a_fresh_process_scores_the_same(tmp_path: Path) -> None:
    try:
        resolve("bert-minilm")
    except ModelError as error:
        pytest.skip(f"no bert-minilm: {error}")
    shop = sample_shop()
    config = load_config(ROOT / "eval/configs/baseline/sample-shop.yaml", BaselineConfig)
    baseline = Baseline.train(shop, config, Encoder("bert-minilm", tmp_path / "encodings"))
    baseline.save(tmp_path / "ranker")
    expected = baseline.score([shop.request(query) for query in shop.split("test")])
    for cache in ("encodings", "other"):  # with the vectors that are there, and computed anew
        command = [sys.executable, "-c", FRESH, str(tmp_path / "ranker"), str(tmp_path / cache)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=240, check=True, cwd=ROOT)
        assert done.stderr == ""
        assert json.loads(done.stdout) == expected
