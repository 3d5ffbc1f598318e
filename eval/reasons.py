"""How far reasons keep to the facts.

::

    python -m eval.reasons --dataset FOLDER [--model M] [--queries N] [--per-query K] [--out FOLDER] [--seed N]

Ranks some queries of a dataset, lets the model write reasons for the first of each, and counts the claims that the
listing or the history supports: in what the model wrote, and in what came out. A summary goes to stdout as one line of
JSON. With ``--out``, ``reasons.csv`` holds every reason with its claims, for people to read: a checker that counts its
own hits proves little.
"""

from __future__ import annotations

import argparse
import csv
import json
import random
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from genrank import Query, Request, Reranker
from genrank.data.dataset import Dataset
from genrank.engines.base import Engine, Stop, TextRequest, TextResult, never
from genrank.errors import InputError
from genrank.experiment.program import exit_status, say
from genrank.progress import track
from genrank.reasons.grounding import Claim, Facts, find_claims
from genrank.reasons.write import tidy
from genrank.types import Listing

_BATCH = 8


@dataclass(frozen=True, slots=True)
class CheckedReason:
    """One reason, before and after the check.

    Attributes:
        query: What was searched.
        listing: What the reason is for.
        written: The first sentence of what the model wrote.
        claims: Of `written`.
        text: What came out.
        left: Claims of `text`.
        evidence: The fields that `text` rests on.
    """

    query: Query
    listing: Listing
    written: str
    claims: Sequence[Claim]
    text: str
    left: Sequence[Claim]
    evidence: Sequence[str]

    @property
    def kept(self) -> bool:
        """Whether the model's sentence came out as it was."""
        return self.text == self.written


class RecordingEngine:
    """Passes everything on to an engine, and keeps what it wrote and how long that took.

    Args:
        engine: Runs the model.

    Attributes:
        texts: What it wrote, in the order of the requests; what was stopped is left out.
        seconds: Wall time of its `write` calls.
    """

    def __init__(self, engine: Engine) -> None:
        self.texts: list[str] = []
        self.seconds = 0.0
        self._engine = engine

    def __getattr__(self, name: str) -> Any:
        """Everything that is not recorded."""
        return getattr(self._engine, name)

    def write(self, requests: Sequence[TextRequest], *, stop: Stop = never) -> list[TextResult | None]:
        """See `genrank.engines.base.Engine`."""
        started = time.perf_counter()
        results = self._engine.write(requests, stop=stop)
        self.seconds += time.perf_counter() - started
        self.texts += [result.text for result in results if result is not None]
        return results


def write_and_check(
    requests: Sequence[Request], reranker: Callable[[Engine], Reranker], engine: Engine, per_query: int
) -> tuple[list[CheckedReason], float]:
    """Rank, write reasons, and look up the claims of each before and after the check.

    Args:
        requests: ``[b]``.
        reranker: Makes a reranker of an engine.
        engine: Runs the model.
        per_query: Reasons for each query.

    Returns:
        The reasons, and the seconds that the engine took to write them.
    """
    recorder = RecordingEngine(engine)
    ranker = reranker(cast(Engine, recorder))
    checked = []
    for start in track(range(0, len(requests), _BATCH), "reasons"):
        batch = requests[start : start + _BATCH]
        recorder.texts.clear()
        rankings = ranker.rerank_batch(batch, reasons=per_query)
        reasoned = [
            (request, item.listing_id, item.reason, item.evidence)
            for request, ranking in zip(batch, rankings, strict=True)
            for item in ranking.items
            if item.reason is not None
        ]
        for (request, listing_id, text, evidence), raw in zip(reasoned, recorder.texts, strict=True):
            listings = {candidate.listing.listing_id: candidate.listing for candidate in request.candidates}
            listing = listings.pop(listing_id)
            facts = Facts(request.query, listing, request.history, tuple(listings.values()))
            written = tidy(raw)
            claims, left = find_claims(written, facts), find_claims(text, facts)
            checked.append(CheckedReason(request.query, listing, written, claims, text, left, evidence))
    return checked, recorder.seconds


def summarise(reasons: Sequence[CheckedReason], seconds: float) -> dict[str, Any]:
    """The program's summary of the reasons; a share of nothing is None.

    Raises:
        InputError: When there are none.
    """
    if not reasons:
        raise InputError("no reason was written; look at the rankings' provenance", field="per_query")
    before = [claim for reason in reasons for claim in reason.claims]
    after = [claim for reason in reasons for claim in reason.left]
    kept = sum(reason.kept for reason in reasons)
    return {
        "reasons": len(reasons),
        "claims_before": len(before),
        "grounded_before": _share(before),
        "claims_after": len(after),
        "grounded_after": _share(after),
        "kept": kept,
        "rewritten": len(reasons) - kept,
        "mean_characters": round(statistics.mean(len(reason.text) for reason in reasons), 1),
        "seconds_per_reason": round(seconds / len(reasons), 3),
    }


def _share(claims: Sequence[Claim]) -> float | None:
    return round(sum(bool(claim.fields) for claim in claims) / len(claims), 4) if claims else None


def save(reasons: Sequence[CheckedReason], summary: dict[str, Any], folder: Path) -> None:
    """Write ``reasons.csv`` and ``summary.json`` into a folder, created if missing."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "reasons.csv").open("w", encoding="utf-8", errors="replace", newline="") as out:
        table = csv.writer(out)
        table.writerow(("query", "listing_id", "title", "written", "grounded", "not_grounded", "text", "evidence"))
        for reason in reasons:
            stands = [f"{claim.kind}: {claim.text}" for claim in reason.claims if claim.fields]
            fails = [f"{claim.kind}: {claim.text}" for claim in reason.claims if not claim.fields]
            table.writerow(
                (
                    reason.query.text,
                    reason.listing.listing_id,
                    reason.listing.title,
                    reason.written,
                    "; ".join(stands),
                    "; ".join(fails),
                    reason.text,
                    "; ".join(reason.evidence),
                )
            )
    (folder / "summary.json").write_text(json.dumps(summary) + "\n", encoding="utf-8")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the program.

    Args:
        arguments: Command line without the program's name; None takes the process's own.

    Returns:
        Exit status: 0, 1 for a failed run, 2 for a usage error.
    """
    parser = argparse.ArgumentParser(prog="python -m eval.reasons", description="Measure how grounded reasons are.")
    parser.add_argument("--dataset", type=Path, required=True, help="a dataset folder")
    parser.add_argument("--model", default="smollm2-135m", help="known name, local folder or hub name (%(default)s)")
    parser.add_argument("--adapter", help="folder or hub name of a LoRA adapter")
    parser.add_argument("--split", default="test", help="split that the queries come from (%(default)s)")
    parser.add_argument(
        "--queries", type=_positive, default=100, help="number of queries, drawn at random (%(default)s)"
    )
    parser.add_argument("--per-query", type=_positive, default=2, help="reasons for each query (%(default)s)")
    parser.add_argument(
        "--candidates",
        type=_positive,
        default=20,
        help="candidates of each query, the first stage's best (%(default)s)",
    )
    parser.add_argument("--out", type=Path, help="folder for reasons.csv and summary.json")
    parser.add_argument("--seed", type=int, default=0, help="seed of the choice of queries (%(default)s)")
    options = parser.parse_args(arguments)
    return exit_status(lambda: _run(options))


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise ValueError
    return number


def _run(options: argparse.Namespace) -> None:
    dataset = Dataset.load(options.dataset)
    queries = dataset.split(options.split)
    chosen = random.Random(options.seed).sample(queries, min(options.queries, len(queries)))
    requests = [dataset.request(query, options.candidates) for query in chosen]
    from genrank.engines.transformers import TransformersEngine  # slow to import: only once the rest is right

    engine = TransformersEngine(options.model, adapter=options.adapter)
    say(f"{dataset.name}: {options.per_query} reasons for each of {len(requests)} queries by {engine.model}")
    reasons, seconds = write_and_check(requests, lambda engine: Reranker(engine=engine), engine, options.per_query)
    setting = {"dataset": dataset.name, "model": engine.model, "queries": len(requests), "seed": options.seed}
    summary = setting | summarise(reasons, seconds)
    if options.out:
        save(reasons, summary, options.out)
    json.dump(summary, sys.stdout)
    print()


if __name__ == "__main__":
    sys.exit(main())
