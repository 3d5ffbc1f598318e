"""The README's code does what it says."""

from __future__ import annotations

import doctest
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from genrank import Reranker, reranker, sample_shop
from genrank.experiment.metrics import listing_ids, ndcg_of

pytestmark = pytest.mark.model
ROOT = Path(__file__).resolve().parent.parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")


def test_the_python_example(default_model: str, capsys: pytest.CaptureFixture[str]) -> None:
    (code,) = re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL)
    exec(compile(code, "README.md", "exec"), {"__name__": "__main__"})
    first, second, provenance = capsys.readouterr().out.splitlines()
    assert first.startswith("1 p2 ")
    assert not first.endswith("None")
    assert second.startswith("2 p1 ")
    assert second.endswith("None")
    assert provenance.startswith("model Tokens(prompt=")


def test_the_shell_example(default_model: str) -> None:
    (command,) = re.findall(r"```sh\n(echo .*?)```", README, flags=re.DOTALL)
    command = command.replace("genrank rerank", f"{sys.executable} -m genrank rerank")
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, timeout=240, check=True)
    assert [item["listing_id"] for item in json.loads(done.stdout)["items"]] == ["b", "a"]


def test_the_search_example(default_model: str, tmp_path: Path) -> None:
    (commands,) = re.findall(r"```sh\npip [^\n]*\n(genrank index .*?)```", README, flags=re.DOTALL)
    commands = commands.replace("genrank index", f"{sys.executable} -m genrank index")
    commands = commands.replace("genrank search", f"{sys.executable} -m genrank search")
    commands = commands.replace("shop.index", str(tmp_path / "shop.index"))
    done = subprocess.run(["bash", "-ec", commands], capture_output=True, text=True, timeout=280, check=True, cwd=ROOT)
    indexed, answer = map(json.loads, done.stdout.splitlines())
    assert indexed["new"] == len(sample_shop().listings)
    assert answer["intent"]["corrected"] == "winter coat for women"
    assert answer["intent"]["categories"][0]["path"] == ["Women", "Clothing", "Coats"]
    assert answer["items"][0]["listing"]["category"] == ["Women", "Clothing", "Coats"]
    assert answer["provenance"]["outcome"] == "model"


def test_the_docstring_of_reranker(default_model: str) -> None:
    failed, tried = doctest.testmod(reranker)
    assert tried > 0
    assert failed == 0


def test_the_default_model_reads_listings_without_training(default_model: str) -> None:
    shop = sample_shop()
    (query,) = [query for query in shop.split("test") if query.query.query_id == "q-en-22"]
    request = shop.request(query)
    ranking = Reranker().rerank_batch([request])[0]
    assert (ranking.provenance.model, ranking.provenance.decoding) == (default_model, "pointwise")
    before = [candidate.listing.listing_id for candidate in request.candidates]
    # 0.994 and 0.354: the first stage knows the words alone
    assert ndcg_of(shop, [request], [listing_ids(ranking)]) > ndcg_of(shop, [request], [before]) + 0.3
