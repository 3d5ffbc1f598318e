"""What genrank does, on the sample shop: ``make demo``, or ``python -m examples.demo``.

For four queries in English and Chinese, chosen to show what a model can do, it shows the first stage's order beside the
model's, with reasons; then the nDCG@10 of both over all test queries; then how long the same queries take again, when
their listings have been read.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence

from rich.console import Console
from rich.table import Table
from rich.text import Text

from genrank import Dataset, GenrankError, Ranking, Request, Reranker, sample_shop
from genrank.adapters import demo_adapter
from genrank.cli.display import caption, moved
from genrank.data.trec import Run
from genrank.experiment.metrics import Candidates, measure, random_floor
from genrank.models.registry import DEFAULT_MODEL, KNOWN_MODELS

SHOWN = ("q-en-22", "q-zh-26", "q-en-19", "q-zh-23")
TOP = 6
REASONS = 3


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default=DEFAULT_MODEL, help="known name, local folder or hub name (%(default)s)")
    parser.add_argument("--bare", action="store_true", help="leave out the adapter that was trained on the sample shop")
    arguments = parser.parse_args()
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")  # the spinner below shows what is going on
    console = Console()
    shop = sample_shop()
    model = arguments.model
    try:
        adapter = None if arguments.bare else demo_adapter(model)
        with console.status(f"loading {model}"):
            reranker = Reranker(model, adapter=str(adapter) if adapter else None)
            reranker.rerank("desk", ["Oak desk", "Red dress"])  # the first batch of a process takes longer
        requests = {query.query.query_id: shop.request(query) for query in shop.split("test")}
        shown = [requests.pop(query_id) for query_id in SHOWN]
        first = []
        for request in shown:
            with console.status(f"{model} ranks “{request.query.text}” and writes {REASONS} reasons"):
                first += reranker.rerank_batch([request])
                (explained,) = reranker.rerank_batch([request], reasons=REASONS)
            console.print(before_and_after(shop, request, explained))
            console.print()
        with console.status(f"{model} ranks the other {len(requests)} test queries"):
            others = reranker.rerank_batch(requests.values())
        console.print(summary(shop, first + others))
        console.print()
        with console.status(f"{model} ranks the first {len(shown)} again"):
            again = [reranker.rerank_batch([request])[0] for request in shown]
        console.print(timings(shown, first, again))
    except GenrankError as error:
        print(f"demo: {error}", file=sys.stderr)
        return 1
    if model in KNOWN_MODELS and "zh" not in KNOWN_MODELS[model].languages:
        console.print(f"{model} knows English only; {DEFAULT_MODEL} reads Chinese too.", style="yellow")
    if adapter:
        console.print("With an adapter that was trained on the sample shop's other queries (--bare leaves it out).")
    else:
        console.print("Without an adapter: nothing was trained for this shop.")
    return 0


def before_and_after(shop: Dataset, request: Request, ranking: Ranking) -> Table:
    """Both orders of one query side by side, each listing with its true grade."""
    query = request.query
    grades = shop.qrels[query.query_id]
    past = ", ".join(interaction.listing.title for interaction in request.history)
    table = Table(title=Text(query.text + (f"   (bought or seen: {past})" if past else ""), style="bold"))
    table.title_justify = "left"
    for heading in ("", "first stage", "grade", "genrank", "grade", "moved", "reason"):
        table.add_column(heading, overflow="fold")
    for place, item in enumerate(ranking[:TOP]):
        before = request.candidates[place].listing
        table.add_row(
            str(item.rank),
            Text(before.title),
            str(grades[before.listing_id]),
            Text(item.listing.title),
            str(grades[item.listing_id]),
            Text(*moved(item.source_rank - item.rank)),
            Text(item.reason or ""),
        )
    table.caption = Text("\n").join(Text(*cell) for cell in caption(ranking))
    return table


def summary(shop: Dataset, rankings: Sequence[Ranking]) -> Table:
    """nDCG@10 of both orders, by language."""
    table = Table(title="nDCG@10 over the test queries (gain 2^grade - 1)", title_justify="left")
    for heading in ("language", "queries", "random", "first stage", "genrank"):
        table.add_column(heading)
    for language, prefix in (("English", "q-en"), ("Chinese", "q-zh")):
        after: Run = {}
        for ranking in rankings:
            if ranking.query_id.startswith(prefix):
                after |= ranking.to_run()
        before = {query_id: shop.candidates[query_id] for query_id in after}
        candidates: Candidates = {query_id: list(run) for query_id, run in after.items()}
        values = [random_floor(candidates, shop.qrels, shop.grades)["nDCG@10"].mean]
        values += [measure(run, candidates, shop.qrels, shop.grades).means["nDCG@10"] for run in (before, after)]
        table.add_row(language, str(len(after)), *(f"{value:.3f}" for value in values))
    table.caption = "all of them; the ones above were chosen to show what a model can do"
    table.caption_justify = "left"
    return table


def timings(requests: Sequence[Request], first: Sequence[Ranking], again: Sequence[Ranking]) -> Table:
    """What the same queries cost the first time and the second, without reasons."""
    table = Table(title="the same queries again: what was read of a listing is kept", title_justify="left")
    for heading in ("query", "listings", "kept", "first time", "again"):
        table.add_column(heading, justify="left" if heading == "query" else "right")
    for request, cold, warm in zip(requests, first, again, strict=True):
        seconds = (cold.provenance.seconds, warm.provenance.seconds)
        kept = f"{cold.provenance.kept}, then {warm.provenance.kept}"
        times = (f"{1000 * time:,.0f} ms" for time in seconds)
        table.add_row(Text(request.query.text), str(len(request.candidates)), kept, *times)
    return table


if __name__ == "__main__":
    sys.exit(main())
