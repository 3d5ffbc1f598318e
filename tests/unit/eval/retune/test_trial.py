from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest

from eval.retune.trial import main, summary
from genrank.data.dataset import Dataset
from genrank.experiment.splits import digest

RANKER = "dataset: data\ngroups: [lexical, exact]\nrounds: 20\nleaves: 5\nleaf_candidates: 5\n"
CONFIG = """\
dataset: data
ranker: ranker.yaml
rounds: 2
original: 5
held_out: 20
audit: 20
lists: 20
size: 10
poisons: [inverted]
poisoned: 2
seeds: 1
"""


def test_a_trial(
    bazaar: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    queries = [
        dataclasses.replace(one, query=dataclasses.replace(one.query, text=f"{one.query.text} {digest(str(i))[:6]}"))
        for i, one in enumerate(bazaar.queries)
    ]
    dataclasses.replace(bazaar, queries=queries).save("data")
    Path("ranker.yaml").write_text(RANKER)
    Path("c.yaml").write_text(CONFIG)
    assert main(["--config", "c.yaml", "--out", "out"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found == json.loads(Path("out/trial.json").read_text())
    (trial,) = found["trials"]
    assert [one["poisoned"] for one in trial["rounds"]] == [False, True]
    assert trial["rounds"][1]["outcome"] == "refused"
    assert trial["rounds"][1]["audit"]["candidate"] < trial["rounds"][0]["audit"]["served"]
    assert trial["end"] == trial["rounds"][1]["audit"]["served"] == trial["rounds"][0]["audit"]["served"]
    folders = [Path("out/inverted-0") / name for name in ("original", "held-out", "rounds/round-0001/new")]
    parts = [{one.query.text for one in Dataset.load(folder).queries} for folder in folders]
    assert not parts[0] & parts[1]
    assert not parts[2] & (parts[0] | parts[1])
    assert main(["--config", "c.yaml", "--out", "out"]) == 2
    assert "exists; delete it" in capsys.readouterr().err


def test_summary() -> None:
    def one(outcome: str, poisoned: bool) -> dict[str, object]:
        return {"outcome": outcome, "poisoned": poisoned, "audit": {"difference": -0.2}}

    trials = [
        {"start": 0.5, "end": 0.6, "change": {"high": 0.2}, "rounds": [one("promoted", False), one("refused", True)]},
        {"start": 0.7, "end": 0.6, "change": {"high": -0.1}, "rounds": [one("refused", False), one("promoted", True)]},
    ]
    found = summary(trials)
    assert (found["start"], found["end"]) == (pytest.approx(0.6), pytest.approx(0.6))
    assert (found["ended_lower"], found["ended_significantly_lower"]) == (1, 1)
    assert (found["promoted"], found["rounds"], found["poisoned_promoted"], found["poisoned_rounds"]) == (1, 2, 1, 2)
    assert found["poisoned_candidate"] == pytest.approx(-0.2)
