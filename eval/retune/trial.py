"""Does re-tuning round after round do any harm? Simulated shoppers, real judgements, the real rounds.

::

    python -m eval.retune.trial --config eval/configs/retune-trial/NAME.yaml [--out runs/retune-trial/NAME]

The judged queries of a dataset are dealt into four parts: some that the first version learns from, those that shoppers
ask, the held-out ones that decide (`eval.retune`), and an audit that no round ever sees. In each round, shoppers see
the order of the version that is served, look at rank ``k`` with the chance ``(1 / k)^eta`` and click what they like;
then `eval.retune.rounds.retune` does a round, with LightGBM as the ranker. In one round the feedback may be poisoned:

- ``inverted``: shoppers click what fits least;
- ``spam``: beside the others, a few users ask every query many times, and click the worst listing in every list.

For every round the audit says how good the version that is served then is, and how good the refused or promoted
candidate would be. Results go to ``trial.json`` in the output folder and to stdout as JSON.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import json
import statistics
import sys
import time
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field

from eval.baseline.__main__ import main as baseline
from eval.baseline.config import Count
from eval.crossval import BaselineTraining, options_of, program_of
from eval.feedback import FeedbackConfig, query_values, shop, simulate
from eval.retune.config import FeedbackSettings, GateSettings, HeldOutSettings, ReplaySettings, RetuneConfig
from eval.retune.rounds import retune
from eval.significance import compare
from genrank.data.dataset import Dataset
from genrank.errors import ConfigError, GenrankError
from genrank.experiment.config import Strict, load_config
from genrank.experiment.datasets import load_dataset
from genrank.experiment.program import exit_status, say
from genrank.experiment.record import circumstances
from genrank.experiment.splits import digest
from genrank.files import write_atomically
from genrank.models.versions import AdapterVersions
from genrank.rankers.gbdt import GbdtRanker
from genrank.search.feedback.log import FeedbackEvent, FeedbackLog, Shown
from genrank.types import Request

Poison = Literal["none", "inverted", "spam"]

_FIRST_DAY = datetime(2026, 1, 1)


class TrialConfig(Strict):
    """What is simulated.

    Attributes:
        dataset: A dataset folder with judgements; queries of all splits are used.
        ranker: Configuration of `eval.baseline`; its dataset is replaced.
        rounds: Rounds of feedback.
        original: Queries that the first version learns from, and that may be replayed.
        held_out: Queries that decide.
        audit: Queries of the audit; the rest is what shoppers ask.
        lists: How often each query is asked in a round.
        size: Listings of each list.
        eta: See `eval.feedback.FeedbackConfig`, as for `noise` and `explore`.
        noise: See there.
        explore: See there.
        poisons: What goes wrong, each a trial of its own.
        poisoned: The round in which it does, 1 or more.
        spammers: Users who spam.
        spam_lists: How often each of them asks every query.
        replay: Shares of older queries.
        gate: When a version is promoted.
        seeds: Repetitions, with other parts, shoppers and rankers.
        k: Depth of nDCG.
    """

    dataset: str
    ranker: str
    rounds: Count = 5
    original: Count = 20
    held_out: Count = 100
    audit: Count = 80
    lists: Count = 20
    size: Annotated[int, Field(ge=2)] = 20
    eta: Annotated[float, Field(ge=0)] = 1.0
    noise: Annotated[float, Field(ge=0, lt=1)] = 0.1
    explore: Annotated[float, Field(ge=0, le=1)] = 0.2
    poisons: tuple[Poison, ...] = ("none", "inverted", "spam")
    poisoned: Count = 3
    spammers: Count = 3
    spam_lists: Count = 20
    replay: ReplaySettings = ReplaySettings(original_share=0.25, round_share=0.5)
    gate: GateSettings = GateSettings()
    seeds: Count = 3
    k: Count = 10

    def shoppers(self) -> FeedbackConfig:
        """How shoppers behave."""
        return FeedbackConfig(
            dataset=self.dataset,
            lists=self.lists,
            size=self.size,
            eta=self.eta,
            noise=self.noise,
            explore=self.explore,
            k=self.k,
        )


class Trial:
    """One shop, from its first version through all rounds.

    Args:
        config: What is simulated.
        dataset: From `eval.feedback.shop`.
        requests: From there too.
        poison: What goes wrong.
        seed: Seed of parts, shoppers and rankers.
        out: Folder for everything; must not exist.
    """

    def __init__(
        self,
        config: TrialConfig,
        dataset: Dataset,
        requests: Mapping[str, Request],
        poison: Poison,
        seed: int,
        out: Path,
    ) -> None:
        self._config, self._dataset, self._poison, self._seed, self._out = config, dataset, poison, seed, out
        order = sorted(requests.values(), key=lambda one: digest(f"trial {seed}", one.query.text.lower()))
        sizes = (config.original, config.held_out, config.audit)
        if sum(sizes) >= len(order):
            raise ConfigError(
                f"original, held_out, audit: {len(order)} queries can be dealt, and these take {sum(sizes)}; take fewer"
            )
        ends = [sum(sizes[:i]) for i in range(4)]
        original, held_out, self._audit = (order[ends[i] : ends[i + 1]] for i in range(3))
        self._asked = order[ends[3] :]
        self._save("original", original, "train")
        self._save("held-out", held_out, "test")
        dataset.save(out / "catalogue")
        self._log = FeedbackLog(out / "log")
        self._versions = AdapterVersions(out / "adapters")
        train = BaselineTraining(type="baseline", config=config.ranker, options={"seed": seed})
        self._retune = RetuneConfig(
            adapters=str(out / "adapters"),
            feedback=FeedbackSettings(
                log=str(out / "log"),
                listings=str(out / "catalogue"),
                ranks=config.size,
                least_queries=10,
                settle_minutes=0,
            ),
            replay=config.replay.model_copy(update={"originals": (str(out / "original"),)}),
            train=train,
            held_out=HeldOutSettings(dataset=str(out / "held-out"), max_candidates=config.size, k=config.k),
            gate=config.gate,
            seed=seed,
        )
        values = options_of(train) | {"dataset": str(out / "original")}
        if train_here(program_of(train, values, out / "first.yaml", out / "first"), out / "first.log", ()):
            raise GenrankError(f"the first version could not be trained; see {out / 'first.log'}")
        self._versions.promote(self._versions.add(out / "first").name)

    def run(self) -> dict[str, Any]:
        """All rounds; figures as JSON types."""
        start = served = self._audited(self._served())
        rounds = []
        for number in range(1, self._config.rounds + 1):
            before = served
            clicks = self._shop(number)
            now = _FIRST_DAY + timedelta(days=number, hours=12)
            outcome, report = retune(self._retune, self._out / "rounds", now=now, program=train_here)
            trained = self._out / "rounds" / f"round-{number:04d}" / "trained"
            candidate = self._audited(trained)
            served = self._audited(self._served())
            one = compare(list(candidate.values()), list(before.values()))
            pair = report["pairs"][0]["comparison"]
            rounds.append(
                {
                    "round": number,
                    "poisoned": self._poison != "none" and number == self._config.poisoned,
                    "clicks": clicks,
                    "outcome": outcome,
                    "queries": report["queries"],
                    "held_out": {key: pair[key] for key in ("difference", "low", "high")},
                    "failed": [check["name"] for check in report["checks"] if not check["passed"]],
                    "audit": {
                        "served": statistics.fmean(served.values()),
                        "candidate": statistics.fmean(candidate.values()),
                        "difference": one.difference,
                        "low": one.low,
                        "high": one.high,
                    },
                }
            )
            say(
                f"{self._poison}, seed {self._seed}, round {number}: {outcome}, {pair['difference']:+.4f} held out, "
                f"{one.difference:+.4f} in the audit"
            )
        change = compare(list(served.values()), list(start.values()))
        return {
            "poison": self._poison,
            "seed": self._seed,
            "asked": len(self._asked),
            "start": statistics.fmean(start.values()),
            "end": statistics.fmean(served.values()),
            "change": {"difference": change.difference, "low": change.low, "high": change.high},
            "rounds": rounds,
        }

    def _save(self, name: str, requests: Sequence[Request], split: str) -> None:
        ids = {request.query.query_id: request for request in requests}
        queries = [
            dataclasses.replace(query, split=split, history=())
            for query in self._dataset.queries
            if query.query.query_id in ids
        ]
        shown = {key: [c.listing.listing_id for c in one.candidates] for key, one in ids.items()}
        qrels = {key: {i: self._dataset.qrels[key][i] for i in own} for key, own in shown.items()}
        candidates = {key: {i: self._dataset.candidates[key][i] for i in own} for key, own in shown.items()}
        listings = {i: self._dataset.listings[i] for own in shown.values() for i in own}
        part = dataclasses.replace(
            self._dataset, queries=queries, qrels=qrels, candidates=candidates, listings=listings
        )
        part.save(self._out / name)

    def _served(self) -> Path:
        return self._versions.folder / "current"

    def _audited(self, folder: Path) -> dict[str, float]:
        scores = GbdtRanker.load(folder).score(self._audit)
        return query_values(self._dataset, self._audit, scores, self._config.k)

    def _shop(self, number: int) -> int:
        """A day of shoppers; returns the number of clicks."""
        ranker = GbdtRanker.load(self._served())
        shown = []
        for request, scores in zip(self._asked, ranker.score(self._asked), strict=True):
            order = sorted(range(len(scores)), key=lambda place: -scores[place])
            shown.append(dataclasses.replace(request, candidates=tuple(request.candidates[i] for i in order)))
        poison = self._poison if number == self._config.poisoned else "none"
        day = _FIRST_DAY + timedelta(days=number)
        clicks = simulate(
            self._log,
            self._dataset,
            shown,
            self._config.shoppers(),
            self._seed,
            day=f"day {number} ",
            time=day,
            inverted=poison == "inverted",
        )
        return clicks + (self._spam(shown, day) if poison == "spam" else 0)

    def _spam(self, shown: Sequence[Request], day: datetime) -> int:
        lists, events = [], []
        for request in shown:
            query_id = request.query.query_id
            ids = [candidate.listing.listing_id for candidate in request.candidates]
            judged = self._dataset.qrels[query_id]
            worst = min(ids, key=lambda key: self._dataset.grades[judged[key]].gain)
            for user in range(self._config.spammers):
                for number in range(self._config.spam_lists):
                    request_id = f"spam-{query_id}-{user}-{number}"
                    lists.append(Shown(request_id, ids, request.query.text, user_id=f"spammer {user}", time=day))
                    events.append(FeedbackEvent(request_id, worst, "click", day))
        self._log.write(lists, events)
        return len(events)


def train_here(arguments: Sequence[str], log: Path, _: Sequence[int]) -> int:
    """Train in this process: LightGBM takes a second, a new process several."""
    with log.open("w", encoding="utf-8") as file, contextlib.redirect_stdout(file):
        return baseline(arguments[1:])


def measure_trials(config: TrialConfig, out: Path) -> dict[str, Any]:
    """All trials.

    Args:
        config: What is simulated.
        out: Folder for them; each trial's folder in it must not exist.

    Returns:
        Figures, as JSON types.
    """
    started = time.monotonic()
    dataset, requests = shop(load_dataset(config.dataset), config.size)
    found = []
    for poison in config.poisons:
        for seed in range(config.seeds):
            folder = out / f"{poison}-{seed}"
            if folder.exists():
                raise ConfigError(f"--out: {folder} exists; delete it, or name another folder")
            found.append(Trial(config, dataset, requests, poison, seed, folder).run())
    return {
        **circumstances(),
        "settings": config.model_dump(mode="json"),
        "dataset": dataset.name,
        "queries": len(requests),
        "metric": f"nDCG@{config.k}",
        "summary": {poison: summary([one for one in found if one["poison"] == poison]) for poison in config.poisons},
        "trials": found,
        "seconds": round(time.monotonic() - started, 1),
    }


def summary(trials: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """What the trials of one kind have in common: means over them, and counts of rounds."""
    rounds = [one for trial in trials for one in trial["rounds"]]
    poisoned = [one for one in rounds if one["poisoned"]]
    return {
        "start": statistics.fmean(trial["start"] for trial in trials),
        "end": statistics.fmean(trial["end"] for trial in trials),
        "ended_lower": sum(trial["end"] < trial["start"] for trial in trials),
        "ended_significantly_lower": sum(trial["change"]["high"] < 0 for trial in trials),
        "promoted": sum(one["outcome"] == "promoted" for one in rounds if not one["poisoned"]),
        "rounds": len(rounds) - len(poisoned),
        "poisoned_promoted": sum(one["outcome"] == "promoted" for one in poisoned),
        "poisoned_rounds": len(poisoned),
        "poisoned_candidate": statistics.fmean(one["audit"]["difference"] for one in poisoned) if poisoned else None,
    }


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the program.

    Args:
        arguments: Command line without the program's name; None takes the process's own.

    Returns:
        Exit status: 0, 1 for a failed run, 2 for a usage or configuration error.
    """
    parser = argparse.ArgumentParser(prog="python -m eval.retune.trial", description="Try re-tuning with shoppers.")
    parser.add_argument("--config", type=Path, required=True, help="a file of eval/configs/retune-trial")
    parser.add_argument("--out", type=Path, help="folder for the trials (runs/retune-trial/NAME)")
    options = parser.parse_args(arguments)
    return exit_status(lambda: _run(options))


def _run(options: argparse.Namespace) -> None:
    out = options.out or Path("runs") / "retune-trial" / options.config.stem
    text = json.dumps(measure_trials(load_config(options.config, TrialConfig), out), indent=2) + "\n"
    with write_atomically(out / "trial.json") as part:
        part.write_text(text, encoding="utf-8")
    print(text, end="")


if __name__ == "__main__":
    sys.exit(main())
