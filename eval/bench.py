"""How fast genrank is, side by side with the bare model and with its peers: ``python -m eval.bench [--only PART]``.

Thirteen parts, as JSON on stdout:

- ``overhead``: milliseconds of processor time that `Reranker` adds to a request of 20 candidates, ``pointwise`` and
  ``inline``, with an engine double that answers at once.
- ``rendering``: milliseconds of processor time that rendering all windows and passes of one large request takes, with
  the model's own tokenizer: a history of 10,000 events, 100 candidates, 100,000 attributes, a description of 100,000
  characters.
- ``throughput``: prompt tokens per second of `Reranker` on the transformers engine and of the bare model reading the
  same padded batch, in turn, and their ratio pair by pair: a machine's speed drifts, a ratio less so.
- ``evaluation``: seconds that measuring one run of 10,000 queries with 100 candidates takes, once everything is
  compiled, and memory.
- ``peers``, with ``--dataset``: genrank on transformers and on vLLM, rank_llm, and the bare engines; see `eval.peers`.
- ``int8``: a request, and its reasons, with weights of 8 bits beside the machine's own number format, and the memory of
  both; see `eval.int8`.
- ``kept``: a request read whole and with its listings kept, beside ``inline`` in two orders and a cross-encoder;
  memory, int8, a restart. ``stream``, with ``--dataset``: a stream of queries by the memory for kept listings; see
  `eval.kept`.
- ``strategies``, with ``--dataset``: the top 10 of 100 candidates by ``tournament`` and by ``sliding``.
- ``serving``: what the gateway costs by itself and over vLLM's endpoint, what batches gain, and answers from the cache;
  see `eval.serving`. ``--serving`` chooses among these.

- ``index``: a catalogue's index of ``--listings`` listings: building, searching, updates that another process sees. The
  listings are the sample shop's, or a dataset's, repeated with changes; vectors are random, or ``--dense``'s; the model
  ``--ranked-by`` ranks what is found. See `eval.index`.
- ``completion``: suggestions while a shopper types, for such a catalogue and ``--logged`` queries; see
  `eval.completion`.
- ``batch``: rows per second of a ``genrank batch`` job and of `Reranker.rerank_batch` over the same requests, and their
  ratio; what a job holds that is killed ``--kills`` times; ``--ray-workers`` beside one; see `eval.batch`.

``peers``, ``stream`` and ``strategies`` run where a dataset is named, ``serving``, ``index``, ``completion`` and
``batch`` only with ``--only``.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import random
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, get_args

from eval.peers import HOSTS, Ran, Texts, flat_scores, load_transformers, measure_peers, pairwise, peak_mib, titles_only
from eval.serving import PARTS, measure_serving
from eval.summary import Setting, measure_system
from eval.systems import SystemResult
from genrank import Candidate, Request, Reranker, sample_shop
from genrank.data.dataset import Dataset, Grade
from genrank.engines.base import Engine
from genrank.engines.tokenizer import HubTokenizer
from genrank.errors import InputError
from genrank.experiment.datasets import load_dataset
from genrank.experiment.metrics import listing_ids, measure, ndcg_of
from genrank.experiment.program import exit_status, say
from genrank.models.registry import DEFAULT_MODEL
from genrank.models.store import resolve
from genrank.prompting.renderer import Renderer
from genrank.prompting.template import load_template
from genrank.search.bm25 import Bm25
from genrank.testing import ScriptedEngine, WordTokenizer
from genrank.types import Decoding, Interaction, Listing, Provenance, Query

WINDOW = 20


def main(argv: Sequence[str] | None = None) -> int:
    """Run the program; see the module's text.

    Returns:
        The exit status.
    """
    parser = argparse.ArgumentParser("python -m eval.bench", description=__doc__.split("\n")[0] if __doc__ else None)
    parser.add_argument("--model", default=DEFAULT_MODEL, help="known name, local folder or hub name (%(default)s)")
    parser.add_argument(
        "--rounds",
        type=int,
        help="measurements of each (throughput 9, peers 1, strategies, kept, int8 and batch 3, serving 5)",
    )
    parser.add_argument(
        "--batch",
        type=int,
        help="queries in a batch (throughput, kept and int8 8, batch 16, peers 20, strategies all, stream 150)",
    )
    parser.add_argument(
        "--dataset",
        help="dataset folder, for peers, stream and strategies; for kept, int8, serving, index, completion and batch "
        "too",
    )
    parser.add_argument("--split", default="test", help="split that the queries come from (%(default)s)")
    parser.add_argument(
        "--queries",
        type=int,
        help="maximum number of queries (60, index and completion 300), in a round of serving (200)",
    )
    parser.add_argument("--candidates", type=int, help="candidates of each query (peers and batch 20, strategies 100)")
    parser.add_argument("--texts", choices=get_args(Texts), default="titles", help="what peers read (%(default)s)")
    parser.add_argument("--hosts", nargs="+", choices=HOSTS, help="engines that peers loads (all)")
    parser.add_argument("--contenders", default="", metavar="REGEX", help="peers that take part, by name")
    parser.add_argument("--serving", nargs="+", choices=PARTS, help="what serving measures (all)")
    parser.add_argument("--engine", metavar="URL", help="vLLM's server, for serving (genrank vllm is started)")
    parser.add_argument("--listings", type=int, default=100_000, help="listings of index and completion (%(default)s)")
    parser.add_argument("--logged", type=int, default=100_000, help="queries of completion (%(default)s)")
    parser.add_argument("--dense", metavar="MODEL", help="encoder of index (random vectors)")
    parser.add_argument(
        "--ranked-by", metavar="MODEL", help="model that also ranks what index finds, by pointwise-lean (none)"
    )
    parser.add_argument("--kills", type=int, default=3, help="of the job of batch (%(default)s)")
    parser.add_argument("--ray-workers", type=int, default=0, help="of batch, a core each; compared with one (none)")
    parser.add_argument("--out", type=Path, help="folder for peers.json, peers.md and the logs of engines and servers")

    def given(number: int | None, default: int) -> int:
        return default if number is None else number

    parts: dict[str, Callable[[], dict[str, Any]]] = {
        "overhead": measure_overhead,
        "rendering": lambda: measure_rendering(arguments.model, given(arguments.rounds, 9)),
        "throughput": lambda: measure_throughput(
            arguments.model, given(arguments.batch, 8), given(arguments.rounds, 9)
        ),
        "evaluation": measure_evaluation,
        "int8": lambda: _int8(
            arguments.dataset, arguments.model, given(arguments.batch, 8), given(arguments.rounds, 3)
        ),
        "kept": lambda: _kept(
            arguments.dataset, arguments.model, given(arguments.batch, 8), given(arguments.rounds, 3)
        ),
    }
    with_dataset: dict[str, Callable[[], dict[str, Any]]] = {
        "peers": lambda: measure_peers(
            arguments.dataset,
            arguments.model,
            split=arguments.split,
            queries=given(arguments.queries, 60),
            candidates=given(arguments.candidates, WINDOW),
            batch=given(arguments.batch, 20),
            rounds=given(arguments.rounds, 1),
            texts=arguments.texts,
            hosts=arguments.hosts,
            only=arguments.contenders,
            out=arguments.out,
        ),
        "strategies": lambda: _strategies(
            arguments.dataset,
            arguments.model,
            split=arguments.split,
            queries=given(arguments.queries, 60),
            candidates=given(arguments.candidates, 100),
            rounds=given(arguments.rounds, 3),
        ),
        "stream": lambda: _stream(arguments.dataset, arguments.model, given(arguments.batch, 150)),
    }
    asked_for: dict[str, Callable[[], dict[str, Any]]] = {
        "serving": lambda: measure_serving(
            arguments.model,
            described(arguments.dataset, 10),
            rounds=given(arguments.rounds, 5),
            queries=given(arguments.queries, 200),
            parts=arguments.serving,
            engine=arguments.engine,
            out=arguments.out,
        ),
        "index": lambda: _index(
            arguments.dataset, arguments.listings, given(arguments.queries, 300), arguments.dense, arguments.ranked_by
        ),
        "completion": lambda: _completion(
            arguments.dataset, arguments.listings, arguments.logged, given(arguments.queries, 300)
        ),
        "batch": lambda: _batch(
            arguments.dataset,
            arguments.model,
            queries=given(arguments.queries, 60),
            candidates=given(arguments.candidates, WINDOW),
            batch=given(arguments.batch, 16),
            rounds=given(arguments.rounds, 3),
            kills=arguments.kills,
            workers=arguments.ray_workers,
        ),
    }
    parser.add_argument("--only", choices=[*parts, *with_dataset, *asked_for], help="run one part only")
    arguments = parser.parse_args(argv)

    def body() -> None:
        if arguments.dataset:
            parts.update(with_dataset)
        elif arguments.only in with_dataset:
            raise InputError(f"{arguments.only} needs a dataset folder", field="dataset")
        chosen = [arguments.only] if arguments.only else list(parts)
        print(json.dumps({name: (parts | asked_for)[name]() for name in chosen}))

    return exit_status(body)


def described(folder: str | None, count: int) -> list[Request]:
    """Requests of `WINDOW` candidates with all their fields, without histories: the sample shop's, or a dataset's."""
    if folder is None:
        return [dataclasses.replace(request, history=()) for request in windows(count)]
    dataset = load_dataset(folder)
    asked = [dataset.request(query) for query in dataset.split("test")]
    full = [request for request in asked if len(request.candidates) >= WINDOW][:count]
    return [Request(request.query, request.candidates[:WINDOW]) for request in full]


def _kept(folder: str | None, model: str, queries: int, rounds: int) -> dict[str, Any]:
    from eval.kept import measure_kept

    return measure_kept(model, described(folder, queries), rounds)


def _int8(folder: str | None, model: str, queries: int, rounds: int) -> dict[str, Any]:
    from eval.int8 import measure_int8

    return measure_int8(model, described(folder, queries), rounds)


def _index(folder: str | None, listings: int, queries: int, dense: str | None, model: str | None) -> dict[str, Any]:
    from eval.index import measure_index

    if listings < 1:
        raise InputError(f"must be at least 1, got {listings}", field="listings")
    dataset = load_dataset(folder) if folder else sample_shop()
    reranker = Reranker(model, decoding="pointwise", prompt="pointwise-lean") if model else None
    return measure_index(dataset, listings, queries=queries, dense=dense, reranker=reranker)


def _completion(folder: str | None, listings: int, logged: int, queries: int) -> dict[str, Any]:
    from eval.completion import measure_completion

    for name, number in (("listings", listings), ("logged", logged), ("queries", queries)):
        if number < 1:
            raise InputError(f"must be at least 1, got {number}", field=name)
    dataset = load_dataset(folder) if folder else sample_shop()
    return measure_completion(dataset, listings, logged=logged, queries=queries)


def _batch(folder: str | None, model: str, *, queries: int, candidates: int, **options: int) -> dict[str, Any]:
    from eval.batch import measure_batch, repeated
    from genrank.batch.settings import Settings

    for name, number in (("queries", queries), ("candidates", candidates), *options.items()):
        least = 0 if name in ("kills", "workers") else 1
        if number < least:
            raise InputError(f"must be at least {least}, got {number}", field=name)
    full = described(folder, queries)
    cut = [dataclasses.replace(one, candidates=one.candidates[:candidates]) for one in full]
    return {"model": model} | measure_batch(Settings(model=model), repeated(cut, queries), **options)


def _stream(folder: str, model: str, length: int) -> dict[str, Any]:
    from eval.kept import measure_stream

    dataset = load_dataset(folder)
    listings = list(dataset.listings.values())
    index = Bm25(listings, ["title"], stem=True)
    queries = [query.query for query in dataset.queries]
    random.Random(0).shuffle(queries)
    budgets = [1 << 26, 1 << 28, 1 << 30, 1 << 32]
    return measure_stream(model, listings, queries, index.search, budgets=budgets, length=length)


def windows(count: int) -> list[Request]:
    """Requests of exactly `WINDOW` candidates each, from the sample shop."""
    shop = sample_shop()
    listings = list(shop.listings.values())
    return [
        dataclasses.replace(
            shop.request(query),
            candidates=tuple(Candidate(listing) for listing in listings[i * WINDOW : (i + 1) * WINDOW]),
        )
        for i, query in enumerate(shop.queries[: min(count, len(listings) // WINDOW)])
    ]


def measure_overhead(rounds: int = 300) -> dict[str, float]:
    """Median milliseconds of processor time that `Reranker` itself takes for a request of `WINDOW` candidates.

    Its listings are known from earlier requests, and an engine double answers at once.

    Returns:
        ``pointwise_ms`` and ``inline_ms``, one pass; and, to compare machines by, ``tokenizer_ms``, which the double's
        tokenizer of plain Python takes to read the listings' texts.
    """
    requests = windows(1)
    tokenizer = WordTokenizer()
    texts = [text for c in requests[0].candidates for text in (c.listing.title, c.listing.description)]
    found = {f"{decoding}_ms": _overhead(decoding, requests, rounds) for decoding in ("pointwise", "inline")}
    return found | {"tokenizer_ms": _median_ms(lambda: tokenizer.encode(texts), rounds)}


def _overhead(decoding: Decoding, requests: Sequence[Request], rounds: int) -> float:
    engine = ScriptedEngine(flat_scores)
    reranker = Reranker(engine=engine, decoding=decoding, passes=1)

    def rank() -> None:
        engine.requests.clear()
        reranker.rerank_batch(requests)

    return _median_ms(rank, rounds)


def _median_ms(work: Callable[[], object], rounds: int) -> float:
    """Median milliseconds of this thread's processor time, after a first round that only warms up."""
    work()
    seconds = []
    for _ in range(rounds):
        started = time.thread_time()
        work()
        seconds.append(time.thread_time() - started)
    return statistics.median(seconds) * 1e3


def large_requests() -> dict[str, Request]:
    """Requests that are large in one way each."""
    query = Query("red dress")
    dresses = [Listing(f"c{i}", f"red dress number {i}", brand=f"B{i % 7}") for i in range(100)]
    events = [Listing(f"h{i}", f"blue shoe model {i} with laces", brand=f"B{i % 50}") for i in range(10_000)]
    chinese = [Listing(f"h{i}", f"夏季新款韩版连衣裙女装修身显瘦第{i}款") for i in range(10_000)]
    attributes = {f"key {i}": f"value {i}" for i in range(100_000)}
    described = [dataclasses.replace(one, description="a light and airy one " * 4_762) for one in dresses[:WINDOW]]
    few = tuple(Candidate(listing) for listing in dresses[:WINDOW])
    return {
        "10,000 events": Request(query, few, tuple(Interaction("view", one) for one in events)),
        "10,000 Chinese events": Request(
            Query("连衣裙 夏季 韩版"), few, tuple(Interaction("view", one) for one in chinese)
        ),
        "100 candidates": Request(query, tuple(Candidate(listing) for listing in dresses)),
        "100,000 attributes": Request(
            query, (Candidate(dataclasses.replace(dresses[0], attributes=attributes)), *few[1:])
        ),
        "100,000 characters of description, each": Request(query, tuple(Candidate(one) for one in described)),
    }


def measure_rendering(model: str, rounds: int) -> dict[str, float]:
    """Median milliseconds of processor time to render all windows of a large request, in two orders each.

    Args:
        model: Known name, local folder or hub name; only its tokenizer is loaded.
        rounds: Measurements of each request, each with a fresh renderer.
    """
    from transformers import AutoTokenizer

    tokenizer = HubTokenizer(AutoTokenizer.from_pretrained(resolve(model)))
    found = {}
    for name, request in large_requests().items():
        n = len(request.candidates)
        seconds = []
        for _ in range(rounds):
            renderer = Renderer(load_template("inline"), tokenizer)
            renderer.render(Query("hat"), [Candidate(Listing("warm", "up"))], max_tokens=8192, decoding="inline")
            started = time.process_time()
            prepared = renderer.prepare(request.query, request.candidates, request.history)
            for start in range(0, max(1, n - WINDOW // 2), WINDOW // 2):
                window = range(n)[start : start + WINDOW]
                for order in (window, window[::-1]):
                    prepared.window(order, max_tokens=8192, decoding="inline")
            seconds.append(time.process_time() - started)
        found[name] = round(statistics.median(seconds) * 1e3, 1)
    return found


def measure_throughput(model: str, batch: int, rounds: int) -> dict[str, Any]:
    """Prompt tokens per second of `Reranker` and of the bare model over the same batch.

    Args:
        model: Known name, local folder or hub name.
        batch: Queries; all of their windows run as one batch.
        rounds: Pairs of measurements.

    Returns:
        Median tokens per second of both, and ``ratio``, genrank / bare: the median pair, the least and the greatest.
    """
    contenders = load_transformers(model).contenders
    requests = windows(batch)
    found: dict[str, list[Ran]] = {"genrank": [], "bare": []}
    for round_ in range(rounds + 1):  # the first one only warms up
        for name, ran in found.items():
            ran.append(contenders[f"{name} transformers inline"](requests))
        say(f"round {round_} of {rounds}")
    rates = {name: [one.tokens.prompt / one.seconds for one in ran[1:]] for name, ran in found.items()}
    return {
        "model": model,
        "prompts": len(requests),
        "prompt_tokens": found["bare"][0].tokens.prompt,
        "genrank_tokens_per_s": round(statistics.median(rates["genrank"]), 1),
        "bare_tokens_per_s": round(statistics.median(rates["bare"]), 1),
        "ratio": pairwise(rates["genrank"], rates["bare"]),
    }


def measure_evaluation(queries: int = 10_000, candidates: int = 100) -> dict[str, Any]:
    """Time the measures of one made-up run, after a small run that compiles what needs compiling.

    Args:
        queries: Number of queries.
        candidates: Candidates of each query.

    Returns:
        ``metrics_s``, ranx's metrics alone; ``all_s``, everything that `eval.run` reports about a system: those,
        intervals, slices, diversity, exposure; ``data_mib`` and ``peak_mib``, the process's memory before and at its
        most (None on Windows).
    """
    small, answer = _made_up(10, 20)
    measure_system(answer, small)
    setting, answer = _made_up(queries, candidates)
    data = peak_mib()
    started = time.perf_counter()
    measure(answer.run, setting.candidates, setting.qrels, setting.grades)
    metrics = time.perf_counter() - started
    measure_system(answer, setting)
    whole = time.perf_counter() - started - metrics
    return {
        "queries": queries,
        "candidates": candidates,
        "metrics_s": round(metrics, 2),
        "all_s": round(whole, 2),
        "data_mib": data,
        "peak_mib": peak_mib(),
    }


def measure_strategies(dataset: Dataset, requests: Sequence[Request], engine: Engine, rounds: int) -> dict[str, Any]:
    """The top 10 of long lists by ``tournament`` and by ``sliding(20,10)``, ``inline``, in turn on one engine.

    Args:
        dataset: Gives judgements and gains.
        requests: ``[b]``; all run as one batch.
        engine: Runs the model.
        rounds: Pairs of measurements.

    Returns:
        By strategy: median ``seconds`` of the batch, ``windows`` and ``prompt_tokens`` a query, ``ndcg@10``; and
        ``times_faster``, sliding's seconds over the tournament's: the median pair, the least and the greatest.
    """
    result: dict[str, Any] = {"model": engine.model, "engine": engine.name, "queries": len(requests)}
    rerankers = {
        "sliding": Reranker(engine=engine, decoding="inline", strategy="sliding", passes=1),
        "tournament": Reranker(engine=engine, decoding="inline", strategy="tournament", passes=1),
    }
    seconds: dict[str, list[float]] = {name: [] for name in rerankers}
    for round_ in range(rounds + 1):  # the first one only warms up
        for name, reranker in rerankers.items():
            started = time.perf_counter()
            rankings = reranker.rerank_batch(requests if round_ else requests[:1])
            if round_:
                seconds[name].append(time.perf_counter() - started)
                costs = [ranking.provenance for ranking in rankings]
                result[name] = {
                    "strategy": _layout(costs[0]),
                    "seconds": round(statistics.median(seconds[name]), 2),
                    "windows": sum(cost.windows for cost in costs) / len(requests),
                    "prompt_tokens": round(sum(cost.tokens.prompt for cost in costs) / len(requests), 1),
                    "ndcg@10": round(ndcg_of(dataset, requests, [listing_ids(ranking) for ranking in rankings]), 4),
                }
        say(f"round {round_} of {rounds}")
    return result | {"times_faster": pairwise(seconds["sliding"], seconds["tournament"])}


def _layout(provenance: Provenance) -> str:
    """A strategy with its sizes, such as ``sliding(20,10)``."""
    sizes = [str(size) for size in (provenance.window, provenance.stride) if size is not None]
    sizes += [f"top {provenance.top}"] if provenance.top is not None else []
    return f"{provenance.strategy}({','.join(sizes)})"


def _strategies(folder: str, model: str, *, split: str, queries: int, candidates: int, rounds: int) -> dict[str, Any]:
    from genrank.engines.transformers import TransformersEngine

    dataset = load_dataset(folder)
    requests = long_requests(dataset, split, queries, candidates)
    return measure_strategies(dataset, requests, TransformersEngine(model), rounds) | {"candidates": candidates}


def long_requests(dataset: Dataset, split: str, queries: int, candidates: int) -> list[Request]:
    """The first queries of a split with BM25's best of the whole catalogue, judged or not, titles only.

    Raises:
        InputError: When the split has no query.
    """
    asked = dataset.split(split)[:queries]
    index = Bm25(dataset.listings.values(), ["title"], stem=True)
    found = {query.query.query_id: index.search(query.query.text, candidates) for query in asked}
    searched = dataclasses.replace(dataset, candidates=found, first_stage="bm25")
    return [titles_only(searched.request(query)) for query in asked]


def _made_up(queries: int, size: int) -> tuple[Setting, SystemResult]:
    chance = random.Random(0)
    listings = {
        f"l{i}": Listing(
            f"l{i}",
            f"thing {i % 499} model {i % 307}",
            brand=f"brand {i % 211}",
            category=("things", f"kind {i % 53}"),
            seller_id=f"seller-{i % 31}",
        )
        for i in range(200 * size)
    }
    grades = {grade: Grade(str(grade), 2.0**grade - 1) for grade in range(3)}
    ids = list(listings)
    shown = {f"q{i}": chance.sample(ids, size) for i in range(queries)}
    return (
        Setting(
            candidates=shown,
            listings=listings,
            qrels={query: {key: chance.choice((0, 0, 0, 1, 2)) for key in keys} for query, keys in shown.items()},
            grades=grades,
            slices={"history": {"without": list(shown)}},
            k=10,
            cutoffs=(5, 10, 20),
            relevant=1,
            seed=0,
            clicks=None,
        ),
        SystemResult(
            {
                query: {key: float(size - i) for i, key in enumerate(chance.sample(keys, size))}
                for query, keys in shown.items()
            },
            seconds=1.0,
            load_seconds=0.0,
        ),
    )


if __name__ == "__main__":
    sys.exit(main())
