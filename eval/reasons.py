"""How far reasons keep to the facts, and how many name a wish of the shopper.

::

    python -m eval.reasons --dataset FOLDER [--model M] [--order ORDER] [--queries N] [--per-query K]
        [--together B] [--out FOLDER]

Lets the model write reasons for the first listings of some queries of a dataset (``sample-shop`` is the one that comes
with genrank). Counts the claims that the listing or the history supports, and the reasons that name a word of the query
or an interaction of the history: in what the model wrote, and in what came out. ``--order`` says whose first listings:
the ``model``'s own ranking, the ``first-stage``'s, or the best ``judged``, since a wrong listing has no good reason. A
summary goes to stdout as one line of JSON; its ``seconds_per_call``, a median, is with ``--together 1`` what the
reasons of one query cost. With ``--out``, ``reasons.csv`` holds every reason with its claims, for people to read: a
checker that counts its own hits proves little.
"""

from __future__ import annotations

import argparse
import csv
import json
import random
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, cast

from genrank import Query, Request, Reranker
from genrank.data.dataset import Dataset, sample_shop
from genrank.decoding import DECODINGS
from genrank.engines.base import Engine, ScoreRequest, ScoreResult, Stop, TextRequest, TextResult, never
from genrank.errors import EngineError, InputError
from genrank.experiment.program import exit_status, say
from genrank.models.registry import DEFAULT_MODEL
from genrank.progress import track
from genrank.reasons.grounding import Claim, Facts, find_claims, named_wishes
from genrank.reasons.write import tidy
from genrank.text.language import language
from genrank.types import Listing, Tokens


@dataclass(frozen=True, slots=True)
class CheckedReason:
    """One reason, before and after the check.

    Attributes:
        query: What was searched.
        listing: What the reason is for.
        written: The first sentence of what the model wrote.
        claims: Of `written`.
        text: What came out; empty if nothing did.
        left: Claims of `text`.
        evidence: The fields that `text` rests on.
        wished: The words of the query and of the past that `written` names.
        wishes: Those that `text` names.
        past: The titles of the history.
        grade: The listing's grade for the query; None where it has none.
    """

    query: Query
    listing: Listing
    written: str
    claims: Sequence[Claim]
    text: str
    left: Sequence[Claim]
    evidence: Sequence[str]
    wished: Sequence[str] = ()
    wishes: Sequence[str] = ()
    past: Sequence[str] = ()
    grade: int | None = None

    @property
    def shortened(self) -> bool:
        """Whether the model's sentence came out without its last clauses."""
        return bool(self.text) and not self.kept and self.written.startswith(self.text.rstrip(".。"))

    @property
    def kept(self) -> bool:
        """Whether the model's sentence came out as it was."""
        return self.text == self.written


class RecordingEngine:
    """Passes everything on to an engine, and keeps what it wrote and how long that took.

    Args:
        engine: Runs the model.
        ranks: Whether it may rank; if not, each ranking is the fallback's, or else the first stage's.

    Attributes:
        texts: What it wrote, in the order of the requests; what was stopped is left out.
        seconds: Wall time of each of its `write` calls.
        tokens: Token counts of these.
    """

    def __init__(self, engine: Engine, *, ranks: bool = True) -> None:
        self.texts: list[str] = []
        self.seconds: list[float] = []
        self.tokens = Tokens()
        self._engine = engine
        self._ranks = ranks

    def __getattr__(self, name: str) -> Any:
        """Everything that is not recorded."""
        return getattr(self._engine, name)

    def score(self, requests: Sequence[ScoreRequest], *, stop: Stop = never) -> list[ScoreResult | None]:
        """See `genrank.engines.base.Engine`.

        Raises:
            EngineError: When the engine may not rank.
        """
        if not self._ranks:
            raise EngineError("another order is given")
        return self._engine.score(requests, stop=stop)

    def write(self, requests: Sequence[TextRequest], *, stop: Stop = never) -> list[TextResult | None]:
        """See `genrank.engines.base.Engine`."""
        started = time.perf_counter()
        results = self._engine.write(requests, stop=stop)
        self.seconds.append(time.perf_counter() - started)
        for result in results:
            if result is not None:
                self.texts.append(result.text)
                self.tokens += result.tokens
        return results


def write_and_check(
    requests: Sequence[Request],
    reranker: Callable[[Engine], Reranker],
    engine: RecordingEngine,
    per_query: int,
    grades: Mapping[str, Mapping[str, int]] = MappingProxyType({}),
    *,
    together: int = 8,
) -> list[CheckedReason]:
    """Rank, write reasons, and look up the claims of each before and after the check.

    Args:
        requests: ``[b]``.
        reranker: Makes a reranker of an engine.
        engine: Runs the model.
        per_query: Reasons for each query.
        grades: By query and listing id.
        together: Requests in one call.
    """
    ranker = reranker(cast(Engine, engine))
    checked = []
    for start in track(range(0, len(requests), together), "reasons"):
        batch = requests[start : start + together]
        engine.texts.clear()
        rankings = ranker.rerank_batch(batch, reasons=per_query)
        pairs = zip(batch, rankings, strict=True)
        reasoned = [(request, item) for request, ranking in pairs for item in ranking.items[:per_query]]
        for (request, item), raw in zip(reasoned, engine.texts, strict=True):
            others = [one.listing for one in request.candidates if one.listing.listing_id != item.listing_id]
            facts = Facts(request.query, item.listing, request.history, others)
            written, text = tidy(raw), item.reason or ""
            checked.append(
                CheckedReason(
                    request.query,
                    item.listing,
                    written,
                    find_claims(written, facts),
                    text,
                    find_claims(text, facts),
                    item.evidence,
                    named_wishes(written, facts),
                    named_wishes(text, facts),
                    [event.listing.title for event in request.history],
                    grades.get(request.query.query_id, {}).get(item.listing_id),
                )
            )
    return checked


def summarise(reasons: Sequence[CheckedReason], seconds: Sequence[float], tokens: Tokens) -> dict[str, Any]:
    """The program's summary of the reasons; a share of nothing is None.

    Args:
        reasons: ``[n]``, those that did not come out included.
        seconds: The engine's, call by call.
        tokens: Of all of them.

    Raises:
        InputError: When there are none.
    """
    if not reasons:
        raise InputError("no reason was written; look at the rankings' provenance", field="per_query")
    before = [claim for reason in reasons for claim in reason.claims]
    after = [claim for reason in reasons for claim in reason.left]
    kept = sum(reason.kept for reason in reasons)
    out = [reason for reason in reasons if reason.text]
    return {
        "reasons": len(reasons),
        "claims_before": len(before),
        "grounded_before": _share(before),
        "claims_after": len(after),
        "grounded_after": _share(after),
        "kept": kept,
        "shortened": (shortened := sum(reason.shortened for reason in out)),
        "rewritten": len(out) - kept - shortened,
        "dropped": len(reasons) - len(out),
        "name_a_wish_before": round(sum(bool(reason.wished) for reason in reasons) / len(reasons), 4),
        "name_a_wish": round(sum(bool(reason.wishes) for reason in out) / len(out), 4) if out else None,
        "mean_characters": round(statistics.mean(len(reason.text) for reason in reasons), 1),
        "prompt_tokens": round(tokens.prompt / len(reasons), 1),
        "written_tokens": round(tokens.completion / len(reasons), 1),
        "seconds_per_reason": round(sum(seconds) / len(reasons), 3),
        "seconds_per_call": round(statistics.median(seconds), 3),
    }


def _share(claims: Sequence[Claim]) -> float | None:
    return round(sum(bool(claim.fields) for claim in claims) / len(claims), 4) if claims else None


def save(reasons: Sequence[CheckedReason], summary: dict[str, Any], folder: Path) -> None:
    """Write ``reasons.csv`` and ``summary.json`` into a folder, created if missing."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "reasons.csv").open("w", encoding="utf-8", errors="replace", newline="") as out:
        table = csv.writer(out)
        columns = "query past listing_id title grade written grounded not_grounded text evidence wishes kept"
        table.writerow(columns.split())
        for reason in reasons:
            stands = [f"{claim.kind}: {claim.text}" for claim in reason.claims if claim.fields]
            fails = [f"{claim.kind}: {claim.text}" for claim in reason.claims if not claim.fields]
            table.writerow(
                (
                    reason.query.text,
                    "; ".join(reason.past),
                    reason.listing.listing_id,
                    reason.listing.title,
                    reason.grade,
                    reason.written,
                    "; ".join(stands),
                    "; ".join(fails),
                    reason.text,
                    "; ".join(reason.evidence),
                    "; ".join(reason.wishes),
                    int(reason.kept),
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
    parser.add_argument("--dataset", type=Path, required=True, help="a dataset folder, or sample-shop")
    parser.add_argument("--model", default=DEFAULT_MODEL, help="known name, local folder or hub name (%(default)s)")
    parser.add_argument("--adapter", help="folder or hub name of a LoRA adapter")
    parser.add_argument(
        "--order", choices=("model", "first-stage", "judged"), default="model", help="whose ranking (%(default)s)"
    )
    parser.add_argument(
        "--decoding", choices=DECODINGS, help="of the model's ranking (the adapter's best, or pointwise)"
    )
    parser.add_argument("--language", choices=("en", "zh"), help="only queries in this language")
    parser.add_argument("--split", default="test", help="split that the queries come from, or all (%(default)s)")
    parser.add_argument(
        "--queries", type=_positive, default=100, help="number of queries, drawn at random (%(default)s)"
    )
    parser.add_argument("--per-query", type=_positive, default=2, help="reasons for each query (%(default)s)")
    parser.add_argument("--together", type=_positive, default=8, help="queries in one call (%(default)s)")
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
    dataset = sample_shop() if str(options.dataset) == "sample-shop" else Dataset.load(options.dataset)
    queries = dataset.queries if options.split == "all" else dataset.split(options.split)
    queries = [one for one in queries if not options.language or language(one.query.text) == options.language]
    chosen = random.Random(options.seed).sample(queries, min(options.queries, len(queries)))
    requests = [dataset.request(query, options.candidates) for query in chosen]
    from genrank.engines.transformers import TransformersEngine  # slow to import: only once the rest is right

    engine = TransformersEngine(options.model, adapter=options.adapter)
    say(f"{dataset.name}: {options.per_query} reasons for each of {len(requests)} queries by {engine.model}")
    recorder = RecordingEngine(engine, ranks=options.order == "model")

    def judged(asked: Sequence[Request]) -> list[list[float]]:
        grades = [dataset.qrels.get(request.query.query_id, {}) for request in asked]
        return [
            [float(known.get(candidate.listing.listing_id, 0)) for candidate in request.candidates]
            for request, known in zip(asked, grades, strict=True)
        ]

    def reranker(engine: Engine) -> Reranker:
        fallback = judged if options.order == "judged" else None
        return Reranker(engine=engine, decoding=options.decoding, fallback=fallback)

    reasons = write_and_check(requests, reranker, recorder, options.per_query, dataset.qrels, together=options.together)
    setting = {"dataset": dataset.name, "model": engine.model, "queries": len(requests), "seed": options.seed}
    setting |= {"order": options.order}
    summary = setting | summarise(reasons, recorder.seconds, recorder.tokens)
    if options.out:
        save(reasons, summary, options.out)
    json.dump(summary, sys.stdout)
    print()


if __name__ == "__main__":
    sys.exit(main())
