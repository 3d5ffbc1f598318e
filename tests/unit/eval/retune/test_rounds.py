from __future__ import annotations

import contextlib
import fcntl
import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from eval.compare import Compared, Pair
from eval.retune import rounds
from eval.retune.__main__ import main
from eval.retune.config import GateSettings
from eval.retune.rounds import checks, finished
from eval.retune.trial import train_here
from eval.significance import Comparison
from genrank.data.dataset import Dataset
from genrank.errors import ConfigError, GenrankError
from genrank.experiment.splits import query_identity
from tests.retuning import Shop


def test_a_good_round_is_promoted_and_a_poisoned_one_refused(market: Shop) -> None:
    market.shop(1)
    outcome, report = market.round(1)
    assert outcome == "promoted"
    assert market.served() == 2
    version = market.versions.find("2")
    assert version.parent == market.versions.find("1").name
    assert version.comparison["pairs"][0]["comparison"]["difference"] > 0.05
    assert version.training["queries"]["feedback"] > 20
    page = Path("rounds/round-0001/report.md").read_text()
    assert page.startswith("# round-0001: promoted\n")
    assert f"{version.name} is served now" in page

    market.shop(2, inverted=True)
    outcome, report = market.round(2)
    assert (outcome, market.served()) == ("refused", 2)
    failed = [check["name"] for check in report["checks"] if not check["passed"]]
    assert "no worse than the current version" in failed
    assert report["since"] == finished(Path("rounds"))[0]["until"]
    assert report["queries"]["rounds"] == 0  # the same queries were asked again

    # what was refused is in no later round; what led to the version that is served is
    market.shop(3)
    _, report = market.round(3)
    assert len(finished(Path("rounds"))) == 3
    if report["outcome"] == "promoted":
        assert market.versions.rollback().number == 2
    assert market.versions.rollback().number == 1


def test_what_decides_is_never_learned(market: Shop) -> None:
    whole = Dataset.load("data")
    held_out = {query_identity(query) for query in whole.split("test")}
    # shoppers ask those queries too, in other words
    queries = [
        query
        if query.split == "train"
        else type(query)(
            type(query.query)(" ".join(reversed(query.query.text.upper().split())), query.query.query_id), "train"
        )
        for query in whole.queries
    ]
    asked = Shop(market.folder, Dataset(**{**vars(whole), "queries": queries}), market.config)
    asked.shop(1)
    market.round(1)
    for name in ("new", "data"):
        learned = Dataset.load(f"rounds/round-0001/{name}")
        assert not held_out & {query_identity(query) for query in learned.queries}
        assert len(learned.queries) > 20


def test_a_round_that_is_killed_goes_on_with_its_data(market: Shop) -> None:
    def killed(*_: object) -> int:
        raise KeyboardInterrupt

    market.shop(1)
    with pytest.raises(KeyboardInterrupt):
        market.round(1, killed)
    begun = json.loads(Path("rounds/round-0001/round.json").read_text())
    market.shop(2)
    assert market.round(2)[0] == "promoted"
    (report,) = finished(Path("rounds"))
    assert (report["until"], report["data"]) == (begun["until"], begun["data"])
    # what came meanwhile is the next round's
    _, report = market.round(2)
    assert report["since"] == begun["until"]
    assert report["round"] == "round-0002"


def test_a_round_that_is_killed_after_its_promotion(market: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    def killed(*_: object) -> str:
        raise KeyboardInterrupt

    market.shop(1)
    with monkeypatch.context() as patch:
        patch.setattr(rounds, "page", killed)
        with pytest.raises(KeyboardInterrupt):
            market.round(1)
    assert market.served() == 2
    assert finished(Path("rounds")) == []
    outcome, report = market.round(1)
    assert (outcome, report["version"]) == ("promoted", market.versions.find("2").name)
    assert len(market.versions.all()) == 2
    assert [line.action for line in market.versions.history()] == ["promote", "promote"]


def test_a_failed_training_is_tried_again(market: Shop) -> None:
    market.shop(1)
    with pytest.raises(GenrankError, match=r"the training of .*round-0001 ended with status 7; start it again"):
        market.round(1, lambda *_: 7)
    assert market.round(1)[0] == "promoted"


def test_another_version_is_served_by_now(market: Shop) -> None:
    market.shop(1)

    def meanwhile(arguments: Sequence[str], log: Path, keep: Sequence[int]) -> int:
        Path("other").mkdir()
        Path("other/model.txt").write_text("x")
        market.versions.promote(market.versions.add("other").name)
        return train_here(arguments, log, keep)

    outcome, report = market.round(1, meanwhile)
    assert outcome == "refused"
    assert "the version that was compared is still served" in [
        check["name"] for check in report["checks"] if not check["passed"]
    ]
    assert market.served() == 2


def test_another_configuration_does_not_finish_a_round(market: Shop) -> None:
    market.shop(1)
    with contextlib.suppress(GenrankError):
        market.round(1, lambda *_: 1)
    market.config = market.config.model_copy(update={"seed": 1})
    with pytest.raises(ConfigError, match="was begun with another configuration"):
        market.round(1)


def test_too_little_feedback_waits(market: Shop) -> None:
    assert market.round(1)[0] == "waiting"
    market.shop(1)
    short = market.config.feedback.model_copy(update={"least_queries": 500})
    market.config, config = market.config.model_copy(update={"feedback": short}), market.config
    assert market.round(1)[0] == "waiting"
    assert not Path("rounds/round-0001").exists()
    market.config = config
    assert market.round(1)[0] == "promoted"


def test_two_rounds_never_run_at_once_and_a_training_counts(market: Shop) -> None:
    market.shop(1)
    left: list[subprocess.Popen[bytes]] = []

    def killed(arguments: Sequence[str], log: Path, keep: Sequence[int]) -> int:
        left.append(subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE, pass_fds=keep))
        raise KeyboardInterrupt  # the round dies, its training does not

    with pytest.raises(KeyboardInterrupt):
        market.round(1, killed)
    assert market.round(1)[0] == "busy"
    for process in left:
        process.communicate(b"\n")
    assert market.round(1)[0] == "promoted"


def test_the_program_says_what_became_of_it(
    market: Shop, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[4]))
    Path("c.yaml").write_text(json.dumps(market.config.model_dump(mode="json", exclude_none=True)))
    command = ["--config", "c.yaml", "--no-cache"]
    assert main(command) == 4
    assert "too little feedback yet" in capsys.readouterr().err
    with (market.versions.folder / ".round.lock").open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        assert main(command) == 4
    assert "another round is running on adapters" in capsys.readouterr().err
    market.shop(1)
    assert main(command) == 0  # with a training in a process of its own
    out, err = capsys.readouterr()
    assert json.loads(out)["outcome"] == "promoted"
    assert "0002-" in err
    market.versions.rollback()
    (market.versions.folder / "current").unlink()
    assert main(command) == 2
    assert "begin with genrank adapters add" in capsys.readouterr().err


def compared(low: float, verdict: str = "noise") -> Compared:
    one = Comparison(low + 0.01, low, low + 0.02, 0.5, 0.5, 1, 1, 1)
    pair = Pair("current", "candidate", "nDCG@10", 9, 0.5, 0.5 + low + 0.01, one, 0.5, verdict, False)  # type: ignore[arg-type]
    return Compared("nDCG@10", 0.05, {}, (), (), (), (), (pair,))


@pytest.mark.parametrize(
    ("low", "verdict", "was", "now", "invalid", "failed"),
    [
        (-0.009, "noise", 0, 0, 0.0, ""),
        (-0.010, "noise", 0, 0, 0.0, "current"),
        (-0.009, "worse", 0, 0, 0.0, "current"),
        (0.1, "better", 1, 1, 0.0, ""),
        (0.1, "better", 1, 2, 0.0, "fallback"),
        (0.1, "better", 1, 2, 0.2, ""),
    ],
)
def test_checks(low: float, verdict: str, was: int, now: int, invalid: float, failed: str) -> None:
    counts = [{"model": 9 - fallback, "repaired": 0, "fallback": fallback} for fallback in (was, now)]
    systems: dict[str, Any] = {
        name: {"counts": one} for name, one in zip(("current", "candidate"), counts, strict=True)
    }
    results = {"systems": systems, "counts": {"queries": 9}}
    found = checks(compared(low, verdict), results, GateSettings(invalid=invalid))
    assert [check.name for check in found if not check.passed] == (
        [] if not failed else [next(check.name for check in found if failed in check.name)]
    )
