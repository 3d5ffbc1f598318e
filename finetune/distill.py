"""Make training data from a teacher's judgements: ``python -m finetune.distill --config finetune/configs/NAME.yaml``.

::

    python -m finetune.distill --config X.yaml [--out FOLDER]

A teacher orders the candidates, judged or not, of a dataset's train queries and of queries drawn from the catalogue.
Its orders become a dataset folder (``runs/distill/NAME``) that `finetune.sft` reads like any other: its scores, in
hundredths, are the grades, and ``reasons.jsonl`` holds those of its reasons that keep to the facts. Every answer is in
the folder's ``answers.jsonl`` as soon as it arrives: an interrupted run continues with what it has, and nothing is
asked or paid for twice. Counts and costs go to stdout as one line of JSON.

Queries of a split dev or test are never labelled. Whether a teacher's answers may train a model depends on its terms.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import random
import shutil
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

from filelock import FileLock, Timeout
from pydantic import Field, model_validator

from finetune.pseudo_queries import draw_queries
from finetune.reasons import FILE as REASONS
from finetune.reasons import check_reason
from finetune.teachers import MOST_CANDIDATES, Failure, Label, Tally, Teacher, make_teacher
from finetune.windows import TAUGHT, drop_leaks
from genrank.data.dataset import Dataset, DatasetQuery, Grade
from genrank.data.jsonl import write_jsonl
from genrank.data.trec import Qrels, Run
from genrank.errors import ConfigError, EngineError
from genrank.experiment.config import Strict, load_config
from genrank.experiment.datasets import load_dataset
from genrank.experiment.journal import Journal
from genrank.experiment.program import exit_status, say
from genrank.experiment.systems import BaselineSystem, CrossEncoderSystem, GenrankSystem
from genrank.remote.chat import OpenAISettings
from genrank.search.bm25 import Bm25
from genrank.types import Candidate, Listing, Request

ANSWERS = "answers.jsonl"
LEVELS = 100
"""Number of steps to which scores are rounded."""

_HELD_OUT = ("dev", "test")


class DistillConfig(Strict):
    """What is labelled, and by which teacher.

    Attributes:
        dataset: A dataset folder, relative to the current directory (``~`` is the home directory), or
            ``sample-shop`` for the one that ships with genrank.
        split: Split whose queries are labelled; never dev or test. In the new dataset their split is train.
        queries: Maximum number of them, the first ones; None takes all, 0 none.
        pseudo_queries: Queries drawn from the words of the catalogue.
        histories: The chance that such a query gets a history (`finetune.pseudo_queries.draw_queries`).
        candidates: Candidates of each query, the first stage's best, or BM25's for a query without a first stage.
        retrieved: Further listings of each query, BM25's best of the whole catalogue, judged or not.
        random: Further listings of each query, drawn from the whole catalogue.
        held_out: More datasets whose dev and test queries must not be among those labelled.
        seed: Seed of all random choices.
        teacher: The teacher.
    """

    dataset: str
    split: str = "train"
    queries: Annotated[int, Field(ge=0)] | None = None
    pseudo_queries: Annotated[int, Field(ge=0)] = 0
    histories: Annotated[float, Field(ge=0, le=1)] = 0.0
    candidates: Annotated[int, Field(ge=1)] = 20
    retrieved: Annotated[int, Field(ge=0)] = 0
    random: Annotated[int, Field(ge=0)] = 0
    held_out: tuple[str, ...] = ()
    seed: int = 0
    teacher: Annotated[
        OpenAISettings | GenrankSystem | BaselineSystem | CrossEncoderSystem, Field(discriminator="type")
    ]

    @model_validator(mode="after")
    def _fits(self) -> DistillConfig:
        if self.split in _HELD_OUT:
            raise ValueError(f"split: queries of {self.split} are there to measure with; label others, such as train")
        if self.queries == 0 and not self.pseudo_queries:
            raise ValueError("queries: must not be 0 where pseudo_queries is: nothing would be labelled")
        if isinstance(self.teacher, GenrankSystem) and self.teacher.history != "own":
            raise ValueError(f"teacher.history: must be own, got {self.teacher.history}")
        size = self.candidates + self.retrieved + self.random
        if size < 2:
            raise ValueError("candidates: with retrieved and random at least 2, got 1: it takes two to be ordered")
        if isinstance(self.teacher, OpenAISettings) and size > MOST_CANDIDATES:
            raise ValueError(f"candidates: with retrieved and random at most {MOST_CANDIDATES} for openai, got {size}")
        return self


def chosen_queries(
    dataset: Dataset, config: DistillConfig, others: Sequence[Dataset] = ()
) -> tuple[list[DatasetQuery], int]:
    """The queries that are labelled, all of the split train: those of the dataset, then those of the catalogue.

    Args:
        dataset: Where the queries come from.
        config: Which queries, and how many.
        others: More datasets whose dev and test queries are left out.

    Returns:
        The queries, and how many were left out because they are dev or test queries too.

    Raises:
        InputError: When the split has no query.
    """
    found = [] if config.queries == 0 else dataset.split(config.split)[: config.queries]
    found = [dataclasses.replace(query, split="train") for query in found]
    known = [query.query.text for one in (dataset, *others) for query in one.queries]
    found += draw_queries(dataset, config.pseudo_queries, known, config.seed, histories=config.histories)
    kept, left_out = drop_leaks(dataclasses.replace(dataset, queries=found), (dataset, *others), "train", _HELD_OUT)
    return list(kept.queries), left_out


def make_requests(dataset: Dataset, queries: Sequence[DatasetQuery], config: DistillConfig) -> list[Request]:
    """What the teacher is asked: each query with its candidates; a query with fewer than two is left out.

    Listings beyond the first stage's have a score only if the first stage is BM25: scores are then recomputed for all
    of the query's candidates, and order them.

    Args:
        dataset: Gives first stage and catalogue.
        queries: The queries to ask about.
        config: How many candidates of which kind.

    Raises:
        MissingExtraError: When BM25 is needed and its package is missing.
    """
    index = None
    bm25 = dataset.first_stage == "bm25"
    complete = all(query.query.query_id in dataset.candidates for query in queries)
    if config.retrieved or (config.random and bm25) or not complete:
        say(f"{dataset.name}: indexing {len(dataset.listings)} listings")
        index = Bm25(dataset.listings.values())
    catalogue = list(dataset.listings)
    requests = []
    for query in queries:
        run = dict(list(dataset.candidates.get(query.query.query_id, {}).items())[: config.candidates])
        chosen = list(run)
        more = config.retrieved + (0 if run else config.candidates)
        if index is not None and more:
            near = index.search(query.query.text, len(run) + more)
            chosen += [key for key in near if key not in run][:more]
        chance = random.Random(f"distill {config.seed} {query.query.query_id}")
        any_others = chance.sample(catalogue, min(len(catalogue), config.random + len(chosen)))
        chosen += [key for key in any_others if key not in chosen][: config.random]
        scores: Mapping[str, float] = {} if dataset.first_stage == "random" else run
        if bm25 and index is not None and len(chosen) > len(run):
            scores = index.rank(query.query.text, chosen)
            chosen = list(scores)
        candidates = tuple(
            Candidate(dataset.listings[key], score=scores.get(key), rank=rank if key in scores else None)
            for rank, key in enumerate(chosen, start=1)
        )
        if len(candidates) > 1:
            requests.append(Request(query.query, candidates, query.history))
    return requests


def taught(
    dataset: Dataset, queries: Sequence[DatasetQuery], requests: Sequence[Request], labels: Mapping[str, Label], by: str
) -> Dataset:
    """The dataset that a teacher made: the listings and queries that it labelled, with its scores as grades.

    Args:
        dataset: Where the queries come from.
        queries: The queries that the teacher was asked about.
        requests: The requests as they were asked.
        labels: By query id; a query without one is left out.
        by: The teacher's name.
    """
    asked = [request for request in requests if request.query.query_id in labels]
    qrels: Qrels = {}
    run: Run = {}
    listings: dict[str, Listing] = {}
    for request in asked:
        query_id = request.query.query_id
        ids = [candidate.listing.listing_id for candidate in request.candidates]
        scored = zip(ids, labels[query_id].scores, strict=True)
        qrels[query_id] = {key: round(score * LEVELS) for key, score in scored if score is not None}
        run[query_id] = {key: float(len(ids) - place) for place, key in enumerate(ids)}
        listings |= {candidate.listing.listing_id: candidate.listing for candidate in request.candidates}
    return Dataset(
        name=f"{dataset.name}-distilled",
        source=(
            f"{dataset.source} Listings of {dataset.name}, and its queries or others of its catalogue's words; all "
            f"grades and reasons are by {by} (python -m finetune.distill), none by a human judge."
        ),
        grades={
            grade: Grade(f"the teacher's score, {grade / LEVELS:.2f}", grade / LEVELS) for grade in range(LEVELS + 1)
        },
        listings=listings,
        queries=[query for query in queries if query.query.query_id in labels],
        qrels=qrels,
        candidates=run,
        first_stage=TAUGHT,
    )


def kept_reasons(
    requests: Sequence[Request], labels: Mapping[str, Label], dropped: Counter[str]
) -> Iterator[dict[str, str]]:
    """The lines of ``reasons.jsonl``.

    Args:
        requests: The requests as they were asked.
        labels: By query id.
        dropped: Counts the reasons that are left out, by cause.

    Yields:
        ``query_id``, ``listing_id`` and ``reason``.
    """
    for request in requests:
        label = labels.get(request.query.query_id)
        listings = [candidate.listing for candidate in request.candidates]
        for place, text in label.reasons.items() if label else ():
            others = [*listings[:place], *listings[place + 1 :]]
            reason, why = check_reason(text, request.query, listings[place], request.history, others)
            if reason:
                names = {"query_id": request.query.query_id, "listing_id": listings[place].listing_id}
                yield {**names, "reason": reason}
            else:
                dropped[why] += 1


def distill(config: DistillConfig, out: Path, teacher: Teacher | None = None) -> dict[str, Any]:
    """Label, and write the dataset folder.

    Args:
        config: What is labelled.
        out: The folder; created, or continued.
        teacher: The teacher; None takes the configuration's.

    Returns:
        Counts, as JSON types.

    Raises:
        ConfigError: When the folder holds something else, or another run is writing to it.
        EngineError: When the teacher fails on every request, or labelled nothing.
        GenrankError: Whatever the dataset or the teacher raises.
    """
    started = time.monotonic()
    dataset = load_dataset(config.dataset, config.seed)
    try:
        others = [load_dataset(name, config.seed) for name in config.held_out]
    except ConfigError as error:
        raise ConfigError(f"held_out: {str(error).removeprefix('dataset: ')}") from None
    queries, held_out = chosen_queries(dataset, config, others)
    requests = make_requests(dataset, queries, config)
    if not (out / ANSWERS).is_file() and (out.is_file() or any(out.glob("[!.]*"))):
        raise ConfigError(f"--out: {out} holds files that finetune.distill did not write; name another folder")
    teacher = teacher or make_teacher(config.teacher, config.seed)
    out.mkdir(parents=True, exist_ok=True)
    tally = Tally()
    dropped: Counter[str] = Counter()
    try:
        with FileLock(out / ".lock", timeout=0):
            journal = Journal(out / ANSWERS)
            journal.add([])  # marks the folder as this program's from now on
            spent = journal.total("cost")
            found = teacher.label(requests, journal, tally)
            labels = {key: label for key, label in found.items() if isinstance(label, Label)}
            failed = [label for label in found.values() if isinstance(label, Failure)]
            if not labels:
                last = f"{failed[-1].kind} ({failed[-1].words})" if failed else "no query has two candidates"
                raise EngineError(f"{teacher.name} labelled nothing: {last}")
            made = taught(dataset, queries, requests, labels, teacher.name)
            reasons = list(kept_reasons(requests, labels, dropped))
            _write(made, reasons, Path(config.dataset).expanduser() / "NOTICE", out)
            total = journal.total("cost")
    except Timeout:
        raise ConfigError(f"--out: another run writes {out}; wait for it, or name another folder") from None
    own = {query.query.query_id for query in dataset.queries}
    return {
        "folder": str(out),
        "teacher": teacher.name,
        "queries": len(made.queries),
        "pseudo_queries": sum(query.query.query_id not in own for query in made.queries),
        "pairs": sum(map(len, made.qrels.values())),
        "without_preference": sum(len(set(grades.values())) < 2 for grades in made.qrels.values()),
        "held_out": held_out,
        "too_few_candidates": len(queries) - len(requests),
        "unlabelled": dict(Counter(failure.kind for failure in failed)),
        "reasons": len(reasons),
        "reasons_dropped": dict(dropped),
        "failures": dict(tally.failures),
        **{name: tally.counts[name] for name in _COUNTED},
        "cost": round(total - spent, 6),
        "cost_of_all_sittings": round(total, 6),
        "seconds": round(time.monotonic() - started, 1),
    }


_COUNTED = (
    "answered_before",
    "requests",
    "retries",
    "prompt_tokens",
    "completion_tokens",
    "estimated",
    "missing",
    "repeated",
)


def _write(made: Dataset, reasons: Sequence[Mapping[str, str]], notice: Path, out: Path) -> None:
    """Write the files into the folder, each whole or not at all."""
    with tempfile.TemporaryDirectory(prefix=".", dir=out) as work:
        made.save(work)
        if reasons:
            write_jsonl(Path(work) / REASONS, reasons)
        else:
            (out / REASONS).unlink(missing_ok=True)
        if notice.is_file():
            shutil.copyfile(notice, Path(work) / notice.name)
        for path in sorted(Path(work).iterdir()):
            path.replace(out / path.name)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the program; see the module's text.

    Args:
        arguments: Command line without the program's name; None takes the process's own.

    Returns:
        The exit status: 0, 1 for a failed run, 2 for a usage or configuration error.
    """
    parser = argparse.ArgumentParser(prog="python -m finetune.distill", description="Let a teacher label.")
    parser.add_argument("--config", type=Path, required=True, help="a file of finetune/configs")
    parser.add_argument("--out", type=Path, help="folder of the new dataset (runs/distill/NAME)")
    options = parser.parse_args(arguments)
    out = options.out or Path("runs") / "distill" / options.config.stem
    return exit_status(lambda: print(json.dumps(distill(load_config(options.config, DistillConfig), out))))


if __name__ == "__main__":
    sys.exit(main())
