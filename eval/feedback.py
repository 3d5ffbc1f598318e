"""How much of what position bias costs does the correction win back? Simulated shoppers, real judgements.

::

    python -m eval.feedback --config eval/configs/feedback/NAME.yaml [--out FILE.json] [--data FOLDER] [--jobs N]

Simulated shoppers see a first stage's lists, look at rank ``k`` with the chance ``(1 / k)^eta``, and click what they
look at with a chance that rises with its true gain, and sometimes by mistake. What they do goes through a
`FeedbackLog`. Rankers then learn from the clicks as they are (``naive``), from clicks corrected by propensities that
are estimated from the log (``corrected``) or known (``known``), and from the true grades of the same listings
(``true``). Each query is ranked by a ranker that did not learn from it (cross-validation). The share recovered is
``(corrected - naive) / (true - naive)`` of mean nDCG. Results go to stdout as JSON.

``--data`` also writes the first seed's datasets as folders ``naive``, ``corrected`` and ``true``, without a split into
folds, so that `finetune.sft` can learn from them.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import multiprocessing
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from pydantic import Field

from eval.baseline.config import BaselineConfig, Count
from eval.baseline.training import Table, train_boosters
from eval.first_stage import first_stage
from genrank.data.dataset import Dataset, DatasetQuery
from genrank.experiment.config import Strict, load_config
from genrank.experiment.datasets import has_gain, load_dataset
from genrank.experiment.metrics import candidate_ids, measure, run_of
from genrank.experiment.program import exit_status, say
from genrank.experiment.record import circumstances
from genrank.experiment.splits import digest, with_dev
from genrank.files import write_atomically
from genrank.rankers.features import Featuriser, Floats, NoEncoder, fit
from genrank.rankers.gbdt import columns, predict
from genrank.search.bm25 import Bm25
from genrank.search.feedback.bias import attractions, estimate
from genrank.search.feedback.log import FeedbackEvent, FeedbackLog, Shown
from genrank.search.feedback.training import training_set
from genrank.types import Request

Trainer = Callable[[Dataset, Sequence[Request], int], list[list[float]]]
"""Learns from a dataset's split train and scores the candidates of requests, ``[b][n]``; the number is a seed."""

ARMS = ("naive", "corrected", "known", "true")
"""What rankers learn from."""

_AT_ONCE = 20  # queries whose lists are written as one part


class FeedbackConfig(Strict):
    """What is simulated, and how rankers learn from it.

    Attributes:
        dataset: A dataset folder, relative to the current directory (``~`` is the home directory), or
            ``sample-shop`` for the one that ships with genrank.
        lists: How often each query is asked.
        size: Listings of each list, the first stage's best; also the candidates of the queries that are measured.
        eta: How steeply attention falls: rank ``k`` is looked at with the chance ``(1 / k)^eta``; 0 or more.
        noise: Chance that a shopper who looks at a listing without a gain clicks it. One with the highest gain is
            clicked for certain, others in proportion to their gain.
        explore: Share of the lists in which two listings, drawn at random, change places.
        prior: See `genrank.search.feedback.bias.attractions`.
        least_examined: See `genrank.search.feedback.training.training_set`.
        folds: Parts of the cross-validation, 2 or more.
        seeds: Repetitions, each with other shoppers, folds and rankers.
        k: Depth of nDCG.
    """

    dataset: str
    lists: Count = 50
    size: Annotated[int, Field(ge=2)] = 20
    eta: Annotated[float, Field(ge=0)] = 1.0
    noise: Annotated[float, Field(ge=0, lt=1)] = 0.1
    explore: Annotated[float, Field(ge=0, le=1)] = 0.2
    prior: Annotated[float, Field(ge=0)] = 1.0
    least_examined: Annotated[float, Field(ge=0)] = 1.0
    folds: Annotated[int, Field(ge=2)] = 5
    seeds: Count = 3
    k: Count = 10


def shop(dataset: Dataset, size: int) -> tuple[Dataset, dict[str, Request]]:
    """The dataset with BM25's order of the judged listings as its first stage, and its queries' requests.

    Args:
        dataset: Any.
        size: The most candidates of a request.

    Returns:
        The dataset, and the requests by query text in lower case. Queries without a gain among their candidates, and
        all but the first of those that differ only in case, are left out.
    """
    judged = [query for query in dataset.queries if len(dataset.qrels.get(query.query.query_id, {})) > 1]
    dataset = dataclasses.replace(dataset, queries=judged)
    run = first_stage(dataset, Bm25(dataset.listings.values()), None)
    # of the BM25 scores only the order is used, as the log's datasets have it
    run = {key: {one: float(len(found) - i) for i, one in enumerate(found)} for key, found in run.items()}
    dataset = dataclasses.replace(dataset, candidates=run, first_stage="bm25")
    requests: dict[str, Request] = {}
    for query in dataset.queries:
        request = dataset.request(dataclasses.replace(query, history=()), size)
        if has_gain(request, dataset):
            requests.setdefault(query.query.text.lower(), request)
    return dataset, requests


def simulate(
    log: FeedbackLog,
    dataset: Dataset,
    requests: Sequence[Request],
    config: FeedbackConfig,
    seed: int,
    *,
    day: str = "",
    time: datetime | None = None,
    inverted: bool = False,
) -> int:
    """Let shoppers search, and log what they see and click.

    Args:
        log: The log to write to.
        dataset: Gives the true gains.
        requests: ``[b]``; each query is asked `config.lists` times, and its candidates are shown in this order.
        config: How shoppers behave.
        seed: Seed of lists and clicks.
        day: Another one brings other shoppers, and lists with other ids.
        time: When they search; None is now.
        inverted: Shoppers like best what has the lowest gain.

    Returns:
        The number of clicks.
    """
    most = max(meaning.gain for meaning in dataset.grades.values())
    now = time or datetime.now(UTC)
    clicks = 0
    for start in range(0, len(requests), _AT_ONCE):
        lists: list[Shown] = []
        events: list[FeedbackEvent] = []
        for request in requests[start : start + _AT_ONCE]:
            query_id = request.query.query_id
            chance = random.Random(f"shoppers {seed} {query_id}{day}")
            grades = dataset.qrels.get(query_id, {})
            for number in range(config.lists):
                ids = [candidate.listing.listing_id for candidate in request.candidates]
                if len(ids) > 1 and chance.random() < config.explore:
                    one, other = chance.sample(range(len(ids)), 2)
                    ids[one], ids[other] = ids[other], ids[one]
                request_id = f"{query_id}-{day}{number}"
                lists.append(Shown(request_id, ids, request.query.text, time=now))
                for rank, key in enumerate(ids, start=1):
                    gain = dataset.grades[grades[key]].gain if key in grades else 0.0
                    liked = max(gain, 0.0) / most
                    attraction = config.noise + (1 - config.noise) * (1 - liked if inverted else liked)
                    if chance.random() < attraction * rank**-config.eta:
                        events.append(FeedbackEvent(request_id, key, "click", now))
        log.write(lists, events)
        clicks += len(events)
    return clicks


def datasets(
    log: FeedbackLog, dataset: Dataset, requests: Mapping[str, Request], config: FeedbackConfig
) -> tuple[dict[str, Dataset], tuple[float, ...]]:
    """What each ranker learns from, all queries in the split train.

    Args:
        log: What `simulate` wrote.
        dataset: Gives listings and true grades.
        requests: By query text, from `shop`.
        config: How clicks are corrected.

    Returns:
        The datasets by the names in `ARMS`, and the estimated propensities.
    """
    known = [float(rank**-config.eta) for rank in range(1, config.size + 1)]
    found = estimate(log, ranks=config.size).values
    made = {}
    for arm, propensities in (("naive", [1.0]), ("corrected", found), ("known", known)):
        seen = attractions(log, propensities, prior=config.prior)
        made[arm] = training_set(seen, dataset.listings, least_examined=config.least_examined, name=arm).dataset
    queries = [DatasetQuery(request.query, "train") for request in requests.values()]
    shown = {key: {one: dataset.candidates[key][one] for one in ids} for key, ids in _ids(requests).items()}
    qrels = {key: {one: dataset.qrels[key][one] for one in ids} for key, ids in shown.items()}
    made["true"] = dataclasses.replace(dataset, name="true", queries=queries, qrels=qrels, candidates=shown)
    return made, found


def _ids(requests: Mapping[str, Request]) -> dict[str, list[str]]:
    return candidate_ids(list(requests.values()))


class GbdtTrainer:
    """LightGBM's lambdarank over features of the words, without BERT: seconds a training, and no torch."""

    def __init__(self, dataset: Dataset, requests: Mapping[str, Request]) -> None:
        """Compute the features of all candidates.

        Args:
            dataset: From `shop`.
            requests: From `shop`.

        Raises:
            MissingExtraError: When LightGBM is not installed.
        """
        self._config = BaselineConfig(
            dataset=dataset.name,
            groups=("lexical", "exact", "price"),
            bags=1,
            rounds=200,
            learning_rate=0.1,
            leaves=7,
            leaf_candidates=50,
            l2=10,
            features_share=0.5,
            rows_share=0.7,
        )
        shown = {c.listing.listing_id: c.listing for request in requests.values() for c in request.candidates}
        featuriser = Featuriser(NoEncoder(), fit(shown.values(), []))
        self._values = featuriser.matrix(list(requests.values()))
        pairs = [(text, c.listing.listing_id) for text, request in requests.items() for c in request.candidates]
        self._rows = {pair: row for row, pair in enumerate(pairs)}

    def __call__(self, taught: Dataset, requests: Sequence[Request], seed: int) -> list[list[float]]:
        """Learn from a dataset made of the same queries and listings, and score requests; see `Trainer`."""
        config = self._config.model_copy(update={"seed": seed})
        divided = with_dev(taught, config.dev_share, seed)
        tables = [self._table(divided, split) for split in ("train", "dev")]
        boosters = train_boosters(tables[0], tables[1], config)
        used = columns(config.groups)
        return [predict(boosters, self._features(one)[:, used], config.threads).tolist() for one in requests]

    def _features(self, request: Request) -> Floats:
        text = request.query.text.lower()
        return self._values[[self._rows[text, c.listing.listing_id] for c in request.candidates]]

    def _table(self, taught: Dataset, split: str) -> Table:
        requests = [taught.request(query) for query in taught.split(split)]
        gains = [
            taught.grades[taught.qrels[r.query.query_id][c.listing.listing_id]].gain
            for r in requests
            for c in r.candidates
        ]
        values = np.concatenate([self._features(request) for request in requests])
        return Table(requests, values, np.array(gains), np.zeros(len(gains)))


def cross_validated(
    made: Mapping[str, Dataset],
    dataset: Dataset,
    requests: Mapping[str, Request],
    trainer: Trainer,
    config: FeedbackConfig,
    seed: int,
) -> dict[str, dict[str, float]]:
    """The nDCG of each query, by a ranker that did not learn from it.

    Args:
        made: From `datasets`.
        dataset: Gives the true grades.
        requests: From `shop`.
        trainer: Trains the rankers.
        config: Folds and depth.
        seed: Seed of folds and rankers.

    Returns:
        ``{arm: {query_id: nDCG}}``.
    """
    order = sorted(requests, key=lambda text: digest(f"fold {seed}", text))
    fold_of = {text: place % config.folds for place, text in enumerate(order)}
    found = {}
    for arm, taught in made.items():
        scores: dict[str, list[float]] = {}
        for fold in range(config.folds):
            learned = [query for query in taught.queries if fold_of[query.query.text.lower()] != fold]
            held = [text for text in requests if fold_of[text] == fold]
            one = dataclasses.replace(taught, queries=learned)
            scores |= zip(held, trainer(one, [requests[text] for text in held], seed), strict=True)
        found[arm] = query_values(dataset, list(requests.values()), [scores[text] for text in requests], config.k)
    return found


def query_values(
    dataset: Dataset, requests: Sequence[Request], scores: Sequence[Sequence[float]], k: int
) -> dict[str, float]:
    """nDCG@k of each query, ``{query_id: nDCG}``, for scores ``[b][n]`` of the candidates of requests."""
    measured = measure(run_of(requests, scores), candidate_ids(requests), dataset.qrels, dataset.grades, k=k)
    return measured.per_query[f"nDCG@{k}"]


def recovered(values: Mapping[str, Sequence[float]], arm: str = "corrected") -> float | None:
    """``(arm - naive) / (true - naive)`` of the means; None where naive training loses nothing.

    Args:
        values: By arm, ``[queries]``.
        arm: Which arm.
    """
    naive, own, true = (statistics.fmean(values[name]) for name in ("naive", arm, "true"))
    return (own - naive) / (true - naive) if true > naive else None


def share_interval(
    values: Mapping[str, Sequence[float]], arm: str = "corrected", *, seed: int = 0, resamples: int = 5000
) -> tuple[float, float]:
    """The 95 % percentile bootstrap interval of `recovered` over queries.

    Args:
        values: By arm, ``[queries]``, the same queries in the same order.
        arm: Which arm.
        seed: Seed of the resampling.
        resamples: Number of resamples.
    """
    naive, own, true = (np.array(values[name]) for name in ("naive", arm, "true"))
    chosen = np.random.default_rng(seed).integers(len(naive), size=(resamples, len(naive)))
    lost, won = ((other - naive)[chosen].mean(axis=1) for other in (true, own))
    shares = np.divide(won, lost, out=np.full(resamples, np.nan), where=lost > 0)
    low, high = np.nanpercentile(shares, [2.5, 97.5])
    return float(low), float(high)


@dataclass(frozen=True)
class SeedResult:
    """What one repetition found.

    Attributes:
        dataset: The dataset's name.
        first_stage: The nDCG of each query in the first stage's order, ``{query_id: nDCG}``.
        values: The nDCG of each query, ``{arm: {query_id: nDCG}}``.
        run: Figures, as JSON types.
    """

    dataset: str
    first_stage: dict[str, float]
    values: dict[str, dict[str, float]]
    run: dict[str, Any]


def measure_seed(config: FeedbackConfig, seed: int, data: Path | None = None) -> SeedResult:
    """Simulate, train and measure once.

    Args:
        config: What to simulate.
        seed: Seed of shoppers, folds and rankers.
        data: Where the datasets are written; None for nowhere.
    """
    dataset, requests = shop(load_dataset(config.dataset), config.size)
    say(f"seed {seed}: features of {len(requests)} queries")
    trainer = GbdtTrainer(dataset, requests)
    ordered = list(requests.values())
    bm25 = query_values(
        dataset, ordered, [[-float(i) for i in range(len(one.candidates))] for one in ordered], config.k
    )
    with tempfile.TemporaryDirectory() as folder:
        log = FeedbackLog(folder)
        say(f"seed {seed}: shoppers")
        clicks = simulate(log, dataset, ordered, config, seed)
        made, propensities = datasets(log, dataset, requests, config)
    if data is not None:
        for arm, one in made.items():
            one.save(data / arm)
    say(f"seed {seed}: rankers")
    found = cross_validated(made, dataset, requests, trainer, config, seed)
    errors = [abs(value * rank**config.eta - 1) for rank, value in enumerate(propensities, start=1)]
    rows = {arm: list(values.values()) for arm, values in found.items()}
    run = {
        "seed": seed,
        "clicks": clicks,
        "means": {arm: statistics.fmean(values) for arm, values in rows.items()},
        "recovered": recovered(rows),
        "propensities": propensities,
        "propensity_error": {"mean": statistics.fmean(errors), "most": max(errors)},
    }
    return SeedResult(dataset.name, bm25, found, run)


def measure_feedback(config: FeedbackConfig, data: Path | None = None, jobs: int = 1) -> dict[str, Any]:
    """Simulate, train and measure with every seed.

    Args:
        config: What to simulate.
        data: Where the first seed's datasets are written; None for nowhere.
        jobs: Seeds that run at once, each in a process of its own if more than 1.

    Returns:
        Figures, as JSON types.
    """
    started = time.monotonic()
    seeds = range(config.seeds)
    folders = [data if seed == 0 else None for seed in seeds]
    if jobs > 1:
        with ProcessPoolExecutor(jobs, mp_context=multiprocessing.get_context("spawn")) as pool:
            results = list(pool.map(measure_seed, [config] * len(seeds), seeds, folders))
    else:
        results = [measure_seed(config, seed, folder) for seed, folder in zip(seeds, folders, strict=True)]
    first = results[0].first_stage
    rows = {arm: [statistics.fmean(one.values[arm][query] for one in results) for query in first] for arm in ARMS}
    return {
        **circumstances(),
        "settings": config.model_dump(),
        "dataset": results[0].dataset,
        "queries": len(first),
        "metric": f"nDCG@{config.k}",
        "means": {"first_stage": statistics.fmean(first.values())}
        | {arm: statistics.fmean(values) for arm, values in rows.items()},
        "recovered": {
            arm: {"share": recovered(rows, arm), "interval": share_interval(rows, arm)}
            for arm in ("corrected", "known")
        },
        "runs": [one.run for one in results],
        "seconds": round(time.monotonic() - started, 1),
    }


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the program.

    Args:
        arguments: Command line without the program's name; None takes the process's own.

    Returns:
        Exit status: 0, 1 for a failed run, 2 for a usage or configuration error.
    """
    parser = argparse.ArgumentParser(prog="python -m eval.feedback", description="Measure learning from clicks.")
    parser.add_argument("--config", type=Path, required=True, help="a file of eval/configs/feedback")
    parser.add_argument("--out", type=Path, help="a .json file for the results, besides stdout")
    parser.add_argument("--data", type=Path, help="a folder for the first seed's datasets")
    parser.add_argument("--jobs", type=int, default=1, help="seeds that run at once (%(default)s)")
    options = parser.parse_args(arguments)
    return exit_status(lambda: _run(options))


def _run(options: argparse.Namespace) -> None:
    found = measure_feedback(load_config(options.config, FeedbackConfig), options.data, options.jobs)
    text = json.dumps(found, indent=2) + "\n"
    if options.out is not None:
        options.out.parent.mkdir(parents=True, exist_ok=True)
        with write_atomically(options.out) as part:
            part.write_text(text, encoding="utf-8")
    print(text, end="")


if __name__ == "__main__":
    sys.exit(main())
