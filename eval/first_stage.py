"""Give a dataset folder a first stage: write its ``candidates.trec`` with BM25.

::

    python -m eval.first_stage FOLDER [--top 20 | --judged-only] [--fields title,brand,...] [--stem]
    python -m eval.first_stage BEIR-FOLDER|ir_datasets:ID --out RUN.trec ..

By default the candidates are the best of the whole catalogue, judged or not. With ``--judged-only`` they are each
query's judged listings, all of them, in BM25's order. An existing candidates.trec is replaced; `eval.convert` restores
the seeded random one. With ``--out`` the run goes to a file, which ``first_stage`` in a configuration of `eval.run` may
name: so a large collection is indexed once. A summary goes to stdout as one line of JSON.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from genrank.data.dataset import Dataset
from genrank.data.trec import Run, write_run
from genrank.errors import InputError
from genrank.experiment.beir import is_beir
from genrank.experiment.datasets import BM25, COLLECTION_FIELDS, load_dataset
from genrank.experiment.ir_datasets import PREFIX
from genrank.experiment.program import exit_status, say
from genrank.files import write_atomically
from genrank.progress import track
from genrank.search.bm25 import FIELDS, Bm25


def first_stage(dataset: Dataset, index: Bm25, top: int | None) -> Run:
    """BM25 candidates for all queries of a dataset.

    Args:
        dataset: The dataset.
        index: Over the dataset's listings.
        top: Candidates for each query out of the whole catalogue; None takes the judged listings instead.

    Raises:
        InputError: When a query has no judged listing and `top` is None.
    """
    run: Run = {}
    for query in track(dataset.queries, "BM25", total=len(dataset.queries)):
        query_id, text = query.query.query_id, query.query.text
        if top is not None:
            run[query_id] = index.search(text, top)
            continue
        judged = list(dataset.qrels.get(query_id, {}))
        if not judged:
            raise InputError(f"query {query_id} has no judged listing; leave --judged-only out", field="judged_only")
        run[query_id] = index.rank(text, judged)
    return run


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the program.

    Args:
        arguments: Command line without the program's name; None takes the process's own.

    Returns:
        Exit status: 0, 1 for a failed run, 2 for a usage error.
    """
    parser = argparse.ArgumentParser(prog="python -m eval.first_stage", description="Write candidates.trec by BM25.")
    parser.add_argument("dataset", help="a dataset folder; with --out also a BEIR folder or ir_datasets:ID")
    parser.add_argument("--out", type=Path, help="file for the run (candidates.trec of the dataset folder)")
    which = parser.add_mutually_exclusive_group()
    which.add_argument("--top", type=_positive, default=20, help="candidates for each query (20)")
    which.add_argument("--judged-only", action="store_true", help="order each query's judged listings instead")
    parser.add_argument("--fields", help=f"fields to read ({','.join(FIELDS)}; of collections title,description)")
    parser.add_argument("--stem", action="store_true", help="remove English plural endings")
    options = parser.parse_args(arguments)
    return exit_status(lambda: _write(options))


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise ValueError
    return number


def _write(options: argparse.Namespace) -> None:
    started = time.monotonic()
    collection = options.dataset.startswith(PREFIX) or is_beir(Path(options.dataset).expanduser())
    if collection and options.out is None:
        raise InputError(f"{options.dataset} is no dataset folder; name a file for the run with --out", field="dataset")
    dataset = load_dataset(options.dataset, first_stage=BM25) if collection else Dataset.load(options.dataset)
    say(f"{dataset.name}: indexing {len(dataset.listings)} listings")
    fields = options.fields.split(",") if options.fields else COLLECTION_FIELDS if collection else FIELDS
    index = Bm25(dataset.listings.values(), fields, stem=options.stem)
    run = first_stage(dataset, index, None if options.judged_only else options.top)
    if options.out is None:
        dataclasses.replace(dataset, candidates=run, first_stage=BM25).save_first_stage(options.dataset)
    else:
        options.out.parent.mkdir(parents=True, exist_ok=True)
        with write_atomically(options.out) as part:
            write_run(part, run, tag=BM25)
    judged = sum(key in dataset.qrels.get(query, {}) for query, ranked in run.items() for key in ranked)
    line = {
        "dataset": options.dataset,
        "queries": len(run),
        "candidates": sum(len(ranked) for ranked in run.values()),
        "judged": judged,
        "seconds": round(time.monotonic() - started, 1),
    }
    json.dump(line, sys.stdout)
    print()


if __name__ == "__main__":
    sys.exit(main())
