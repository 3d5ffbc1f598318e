"""genrank compared with rank_llm and with the bare engines: same model, same queries, same titles, in one run.

A contender ranks windows of one size: titles only, or all fields as one text. Each engine is loaded in its own process,
since two in one compete for threads and memory, and vLLM pins cores; all sleep but the one whose turn it is. Contenders
take turns batch by batch (A B C A B C), so that a change of the machine's speed affects all of them, and ratios are
taken pair by pair. Each process times only the call itself. Before each timed call vLLM's prefix cache is emptied, so
that it holds no prompt of an earlier round, and a window of two candidates is ranked, so that it holds the fixed head
of the prompt, as in a service. A "warm" contender has also just ranked the same listings for another query.

``rank_llm`` (github.com/castorini/rank_llm, listwise after arXiv 2312.02724) is set up at its fastest: one window,
letters as names (78 answer tokens for 20 candidates, against 89 with numbers), and with ``use_logits`` for FIRST
(arXiv 2406.15657).
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import gc
import importlib
import json
import multiprocessing
import os
import re
import statistics
import string
import sys
import threading
import time
import types
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any, Literal, cast

import numpy as np

from genrank import Candidate, Listing, Query, Request, Reranker
from genrank.data.dataset import Dataset
from genrank.engines.base import Engine, ScoreRequest, never
from genrank.engines.tokenizer import Tokenizer
from genrank.errors import EngineError, InputError, MissingExtraError
from genrank.experiment.datasets import load_dataset
from genrank.experiment.metrics import listing_ids, ndcg_of
from genrank.experiment.program import say
from genrank.experiment.record import circumstances
from genrank.models.store import resolve
from genrank.prompting.renderer import Renderer
from genrank.prompting.template import load_template
from genrank.testing import AnyRequest, ScriptedEngine
from genrank.types import Decoding, Ranking, Tokens

SINGLES = 5
"""Queries that are also ranked one at a time, for their latency."""

GENERATING, LOGITS = "rank_llm generating", "rank_llm logits"
HOSTS = ("transformers", "vllm", "bare vllm", "rank_llm")
WARM = " warm"
"""Ends the name of a contender that has read the listings before."""

Texts = Literal["titles", "all-fields"]
"""What contenders read of a listing."""

_REST = 1.2  # seconds; vLLM's worker keeps a core busy for one, waiting for more work, before it sleeps
_SCORED: tuple[Decoding, ...] = ("inline", "first-token")
_CONTEXT = 4096
_ANOTHER = Query("?")
_TWO = Request(Query("red lamp"), tuple(Candidate(Listing(f"l{i}", title)) for i, title in enumerate(("Lamp", "Desk"))))


@dataclass(frozen=True, slots=True)
class Ran:
    """A contender's result on a batch.

    Attributes:
        seconds: Wall time of the call.
        tokens: Token counts of the whole batch.
        orders: ``[b]`` listing ids, best first; empty from a bare engine.
        valid: ``[b]`` whether the model's own answer was a full permutation; empty from a bare engine.
    """

    seconds: float
    tokens: Tokens
    orders: Sequence[Sequence[str]] = ()
    valid: Sequence[bool] = ()


Contender = Callable[[Sequence[Request]], Ran]


@dataclass(frozen=True, slots=True)
class Host:
    """A loaded engine and its contenders.

    Attributes:
        contenders: By name.
        forget: Empties the engine's cache of earlier prompts.
    """

    contenders: Mapping[str, Contender]
    forget: Callable[[], object] = lambda: None


Load = Callable[[str], Host]
"""Loads a host for a model. A function of a module, since another process imports it by name. If it raises, its
contenders do not take part."""


def genrank_contenders(engine: Engine) -> dict[str, Contender]:
    """`Reranker` on an engine: every decoding with its own prompt and its lean one; passes over opposite orders."""
    ways: tuple[tuple[Decoding, str, int, str], ...] = (
        ("inline", "inline", 1, ""),
        ("first-token", "listwise", 1, ""),
        ("listwise", "listwise", 1, ""),
        ("inline", "inline-lean", 1, " lean"),
        ("inline", "inline-lean", 2, " lean passes=2"),
        ("first-token", "listwise-lean", 1, " lean"),
        ("listwise", "listwise-lean", 1, " lean"),
    )
    return {
        f"genrank {engine.name} {decoding}{more}": _genrank(
            Reranker(engine=engine, decoding=decoding, prompt=prompt, strategy="single", passes=passes)
        )
        for decoding, prompt, passes, more in ways
    }


def pointwise_contenders(engine: Engine) -> dict[str, Contender]:
    """`Reranker` by ``pointwise`` on an engine that keeps listings, cold and warm."""
    reranker = Reranker(engine=engine, decoding="pointwise", prompt="pointwise-lean")
    name = f"genrank {engine.name} pointwise lean"
    return {name: _genrank(reranker), name + WARM: _genrank(reranker, warm=True)}


def _genrank(reranker: Reranker, *, warm: bool = False) -> Contender:
    def run(requests: Sequence[Request]) -> Ran:
        if warm:
            reranker.rerank_batch([dataclasses.replace(request, query=_ANOTHER) for request in requests])
        started = time.perf_counter()
        rankings = reranker.rerank_batch(requests)
        seconds = time.perf_counter() - started
        return Ran(
            seconds,
            sum((ranking.provenance.tokens for ranking in rankings), Tokens()),
            [listing_ids(ranking) for ranking in rankings],
            [_own_permutation(ranking, request) for ranking, request in zip(rankings, requests, strict=True)],
        )

    return run


def _own_permutation(ranking: Ranking, request: Request) -> bool:
    ids = [candidate.listing.listing_id for candidate in request.candidates]
    return ranking.provenance.outcome == "model" and sorted(listing_ids(ranking)) == sorted(ids)


def bare_contenders(
    name: str, tokenizer: Tokenizer, context: int, read: Callable[[list[list[int]]], int]
) -> dict[str, Contender]:
    """A bare engine reading exactly the tokens of genrank's prompts in its own way.

    Args:
        name: Name of the engine.
        tokenizer: The model's.
        context: Maximum number of tokens that the model takes.
        read: Reads ``[b][tokens]`` and says how many of them it found in a cache.
    """
    return {f"bare {name} {decoding}": _bare(tokenizer, context, decoding, read) for decoding in _SCORED}


def _bare(tokenizer: Tokenizer, context: int, decoding: Decoding, read: Callable[[list[list[int]]], int]) -> Contender:
    recorder = ScriptedEngine(flat_scores, tokenizer=tokenizer, context=context)
    reranker = Reranker(engine=recorder, decoding=decoding, strategy="single", passes=1)

    def run(requests: Sequence[Request]) -> Ran:
        recorder.requests.clear()
        reranker.rerank_batch(requests)
        prompts = [list(request.ids) for request in recorder.requests]
        started = time.perf_counter()
        cached = read(prompts)
        return Ran(time.perf_counter() - started, Tokens(sum(map(len, prompts)), cached))

    return run


def flat_scores(request: AnyRequest) -> list[list[float]]:
    """The answer of a `ScriptedEngine` that only records prompts: every score 0."""
    asked = cast(ScoreRequest, request)
    return [[0.0] * len(asked.targets)] * len(asked.reads)


def load_transformers(model: str) -> Host:
    """Genrank on transformers, and transformers' own model reading all prompts as one padded batch."""
    import torch

    from genrank.engines.loading import load_model
    from genrank.engines.transformers import TransformersEngine

    engine = TransformersEngine(model)
    bare = load_model(resolve(model), dtype=engine.dtype)
    bare = bare.to(engine.device).eval()

    def read(prompts: list[list[int]]) -> int:
        width = max(map(len, prompts))
        ids = torch.tensor([[*prompt, *[0] * (width - len(prompt))] for prompt in prompts], device=engine.device)
        with torch.inference_mode():
            bare(input_ids=ids, use_cache=False, logits_to_keep=1).logits.sum().item()
        return 0

    return Host(genrank_contenders(engine) | bare_contenders(engine.name, engine.tokenizer, engine.context, read))


def load_vllm(model: str) -> Host:
    """Genrank on vLLM."""
    from genrank.engines.vllm import VLLMEngine

    engine = VLLMEngine(model)
    running = engine._running
    contenders = genrank_contenders(engine) | pointwise_contenders(engine)
    return Host(contenders, lambda: running.wait(running._llm.reset_prefix_cache(), never))


def load_bare_vllm(model: str) -> Host:
    """`vllm.LLM` reading each prompt for one token.

    Raises:
        MissingExtraError: When vLLM is not installed.
    """
    try:
        from vllm import LLM, SamplingParams, TokensPrompt
    except ImportError:
        raise MissingExtraError("vllm", "vllm") from None

    llm = LLM(str(resolve(model)), max_model_len=_CONTEXT)
    one = SamplingParams(max_tokens=1, temperature=0.0, detokenize=False)

    def read(prompts: list[list[int]]) -> int:
        asked = [TokensPrompt(prompt_token_ids=prompt) for prompt in prompts]
        return sum(output.num_cached_tokens or 0 for output in llm.generate(asked, one, use_tqdm=False))

    return Host(bare_contenders("vllm", _tokenizer(model), _CONTEXT, read), llm.reset_prefix_cache)


def _tokenizer(model: str) -> Tokenizer:
    from genrank.engines.tokenizer import HubTokenizer, load_tokenizer

    return HubTokenizer(load_tokenizer(resolve(model)))


def load_rank_llm(model: str, candidates: int) -> Host:
    """rank_llm on vLLM, generating and reading logits.

    Raises:
        MissingExtraError: When vLLM is not installed.
        InputError: When rank_llm is not installed.
    """
    try:
        import vllm  # noqa: F401 - to name what is missing
    except ImportError:
        raise MissingExtraError("vllm", "vllm") from None
    # its T5 rerankers need classes that transformers 5 no longer has; nothing here uses them
    stand_in = types.ModuleType("rank_llm.rerank.listwise.lit5.model")
    vars(stand_in).update(FiD=object, FiDCrossAttentionScore=object)
    sys.modules.setdefault(stand_in.__name__, stand_in)
    try:
        data = importlib.import_module("rank_llm.data")
        listwise = importlib.import_module("rank_llm.rerank.listwise")
    except ImportError as error:
        raise InputError(
            f"{error.name or error} is missing; run pip install --no-deps rank-llm==0.25.7 dacite ftfy wcwidth"
        ) from None
    loaded = listwise.RankListwiseOSLLM(
        model=str(resolve(model)), context_size=_CONTEXT, window_size=candidates, stride=candidates, use_alpha=True
    )
    handler = loaded._vllm_handler
    letters = string.ascii_uppercase[:candidates]
    outputs: list[Any] = []
    generate = handler.generate_output

    def recorded(**options: Any) -> list[Any]:
        outputs[:] = generate(**options)
        return list(outputs)

    handler.generate_output = recorded

    def ranking(use_logits: bool) -> Contender:
        def run(requests: Sequence[Request]) -> Ran:
            asked = [
                data.Request(
                    data.Query(request.query.text, request.query.query_id),
                    [
                        data.Candidate(c.listing.listing_id, -float(i), {"text": c.listing.title})
                        for i, c in enumerate(request.candidates)
                    ],
                )
                for request in requests
            ]
            loaded._use_logits = use_logits
            started = time.perf_counter()
            results = loaded.rerank_batch(asked, rank_end=candidates, populate_invocations_history=True)
            seconds = time.perf_counter() - started
            tokens = Tokens(
                sum(len(output.prompt_token_ids) for output in outputs),
                sum(output.num_cached_tokens or 0 for output in outputs),
                sum(len(output.outputs[0].token_ids) for output in outputs),
            )
            return Ran(
                seconds,
                tokens,
                [[candidate.docid for candidate in result.candidates] for result in results],
                [is_permutation(result.invocations_history[0].response, letters) for result in results],
            )

        return run

    return Host({GENERATING: ranking(False), LOGITS: ranking(True)}, handler._vllm.reset_prefix_cache)


def is_permutation(answer: str, names: Sequence[str]) -> bool:
    """Whether the names in brackets of a text such as ``[B] > [A]`` are each of `names` exactly once."""
    return sorted(re.findall(r"\[\s*(\w+)\s*\]", answer)) == sorted(names)


_host: Host | None = None  # of a process that runs contenders


def _load(load: Load, model: str, log: Path) -> list[str] | str:
    """In a process of its own: load the host; the names of its contenders, or why there are none."""
    global _host
    with log.open("w", encoding="utf-8") as file:
        os.dup2(file.fileno(), 1)  # the engines write to both, and stdout is the program's
        os.dup2(file.fileno(), 2)
    os.environ.update(vllm_settings() | os.environ)
    threading.Thread(target=_follow, daemon=True).start()
    try:
        _host = load(model)
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return list(_host.contenders)


def vllm_settings() -> dict[str, str]:
    """Environment variables for vLLM's CPU build."""
    settings = {"VLLM_CPU_KVCACHE_SPACE": "2"}  # GiB; a batch of 20 needs a quarter
    if hasattr(os, "sched_getaffinity"):  # Linux
        # by default vLLM computes on all cores but one, which on few cores costs more than it gains
        settings["VLLM_CPU_OMP_THREADS_BIND"] = ",".join(map(str, sorted(os.sched_getaffinity(0))))
    return settings


def _follow() -> None:
    """End with the program, however that ends."""
    cast(BaseProcess, multiprocessing.parent_process()).join()
    os._exit(1)


def _run(name: str, requests: Sequence[Request]) -> Ran:
    host = cast(Host, _host)
    host.forget()
    host.contenders[name]([_TWO])
    return host.contenders[name](requests)


def _unload() -> None:
    """End what the host started: a process waits for its children when it exits, and vLLM's children wait for it."""
    global _host
    _host = None
    gc.collect()
    started = multiprocessing.active_children()
    for process in started:
        process.terminate()
    for process in started:
        process.join(10)
        process.kill()


def _end(pool: ProcessPoolExecutor) -> None:
    with contextlib.suppress(BrokenProcessPool):
        pool.submit(_unload).result()


def peer_requests(dataset: Dataset, split: str, queries: int, candidates: int) -> list[Request]:
    """The first queries of a split that have enough candidates, cut to that many, without history.

    Args:
        dataset: Where they come from.
        split: Split that the queries come from.
        queries: Maximum number of queries.
        candidates: Candidates of each query.

    Raises:
        InputError: When the split has no query with that many candidates.
    """
    requests: list[Request] = []
    for query in dataset.split(split):
        request = dataset.request(query, candidates)
        if len(request.candidates) == candidates and len(requests) < queries:
            requests.append(dataclasses.replace(request, history=()))
    if not requests:
        raise InputError(
            f"no query of {dataset.name}'s split {split} has {candidates} candidates; ask for fewer", field="candidates"
        )
    return requests


def titles_only(request: Request) -> Request:
    """The request without history, and of each listing only id and title."""
    listings = (candidate.listing for candidate in request.candidates)
    return Request(request.query, tuple(Candidate(Listing(x.listing_id, x.title)) for x in listings))


def one_text(request: Request, tokenizer: Tokenizer) -> Request:
    """The request with all fields of each listing as its title, as ``pointwise-lean`` shows and cuts them."""
    listings = [candidate.listing for candidate in request.candidates]
    heads = Renderer(load_template("pointwise-lean"), tokenizer).heads(listings, max_tokens=_CONTEXT)
    texts = [tokenizer.decode(head.ids[head.lead : head.head]).strip() for head in heads]
    shown = (Listing(one.listing_id, text) for one, text in zip(listings, texts, strict=True))
    return Request(request.query, tuple(map(Candidate, shown)))


def pairwise(figures: Sequence[float], others: Sequence[float]) -> list[float]:
    """Ratios pair by pair: the median, the least and the greatest."""
    ratios = [figure / other for figure, other in zip(figures, others, strict=True)]
    return [round(f(ratios), 3) for f in (statistics.median, min, max)]


def percentiles_ms(seconds: Sequence[float]) -> list[float]:
    """p50 and p95, in milliseconds."""
    return [round(float(ms), 1) for ms in np.percentile(np.asarray(seconds) * 1e3, (50, 95))]


def peak_mib() -> int | None:
    """Most memory that this process has used so far; None on Windows, which does not say."""
    try:
        import resource
    except ImportError:
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return int(peak >> (20 if sys.platform == "darwin" else 10))  # bytes on macOS, KiB elsewhere


def measure_peers(
    folder: str,
    model: str,
    *,
    split: str,
    queries: int,
    candidates: int,
    batch: int,
    rounds: int,
    texts: Texts = "titles",
    hosts: Sequence[str] | None = None,
    only: str = "",
    out: Path | None = None,
    loaders: Mapping[str, Load] | None = None,
) -> dict[str, Any]:
    """Let all contenders rank the same windows in turn.

    Args:
        folder: The dataset's folder.
        model: Known name, local folder or hub name.
        split: Split that the queries come from.
        queries: Maximum number of queries.
        candidates: In each window, 2 to 26.
        batch: Queries in a batch.
        rounds: How often each contender ranks all queries.
        texts: What contenders read of a listing.
        hosts: Names of the hosts that are loaded; None loads all.
        only: A regular expression; a contender takes part if it is found in its name.
        out: Folder for ``peers.json``, ``peers.md`` and the logs of the engines; created if missing.
        loaders: Who takes part, by host; None takes all.

    Returns:
        What ``peers.json`` holds: ``rows``, one for each contender (see `row`), ``skipped``, and what was run where.

    Raises:
        InputError: When there is nothing to rank, or a number is out of range.
        EngineError: When no contender can take part, or one fails on the way.
    """
    for field, number, least, most in (
        ("candidates", candidates, 2, 26),
        ("queries", queries, 1, 10**6),
        ("batch", batch, 1, 10**6),
        ("rounds", rounds, 1, 10**6),
    ):
        if not least <= number <= most:
            raise InputError(f"must be within {least}..{most}, got {number}", field=field)
    try:
        chosen = re.compile(only)
    except re.error as error:
        raise InputError(f"{only!r} is not a regular expression: {error}", field="contenders") from None
    dataset = load_dataset(folder)
    requests = peer_requests(dataset, split, queries, candidates)
    if texts == "titles":
        requests = [titles_only(request) for request in requests]
    else:
        tokenizer = _tokenizer(model)
        requests = [one_text(request, tokenizer) for request in requests]
    batches = [requests[i : i + batch] for i in range(0, len(requests), batch)]
    if out:
        out.mkdir(parents=True, exist_ok=True)
    if loaders is None:
        rank_llm = functools.partial(load_rank_llm, candidates=candidates)
        everyone: tuple[Load, ...] = (load_transformers, load_vllm, load_bare_vllm, rank_llm)
        loaders = {name: load for name, load in zip(HOSTS, everyone, strict=True) if hosts is None or name in hosts}
    with contextlib.ExitStack() as stack:
        at, skipped = _load_all(loaders, model, out, stack)
        if not (at := {name: pool for name, pool in at.items() if chosen.search(name)}):
            raise InputError(f"no contender's name has {only!r}", field="contenders")
        _in_turn(at, [requests[:2]], "warming up")
        batched = _in_turn(at, batches * rounds, "batches")
        alone = _in_turn(at, [[request] for request in requests[:SINGLES]], "single queries")
    sizes = [len(asked) for asked in batches] * rounds
    rows = []
    for name, found in batched.items():
        orders = [order for ran in found[: len(batches)] for order in ran.orders]
        gained = round(ndcg_of(dataset, requests, orders), 4) if orders else None
        rows.append(row(name, batched, alone[name], sizes) | {"ndcg@10": gained})
    result = {
        "dataset": dataset.name,
        "split": split,
        "model": model,
        "queries": len(requests),
        "candidates": candidates,
        "batch": batch,
        "rounds": rounds,
        "texts": texts,
        "environment": {name: os.environ.get(name, default) for name, default in vllm_settings().items()},
        "rows": rows,
        "skipped": skipped,
        **circumstances(),
    }
    if out:
        (out / "peers.json").write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
        (out / "peers.md").write_text(table(result), encoding="utf-8")
    return result


def _load_all(
    loaders: Mapping[str, Load], model: str, out: Path | None, stack: contextlib.ExitStack
) -> tuple[dict[str, ProcessPoolExecutor], dict[str, str]]:
    """Where each contender runs, and why whole hosts are left out."""
    at: dict[str, ProcessPoolExecutor] = {}
    skipped: dict[str, str] = {}
    for host, load in loaders.items():
        say(f"loading {host}")
        pool = stack.enter_context(ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")))
        stack.callback(_end, pool)
        log = out / f"{host}.log" if out else Path(os.devnull)
        try:
            answer = pool.submit(_load, load, model, log).result()
        except BrokenProcessPool:
            answer = f"its process died; see {log}"
        if isinstance(answer, str):
            say(f"without {host}: {answer}")
            skipped[host] = answer
        else:
            at |= dict.fromkeys(answer, pool)
    if not at:
        raise EngineError(f"no contender can take part: {skipped}")
    return at, skipped


def _in_turn(
    at: Mapping[str, ProcessPoolExecutor], batches: Sequence[Sequence[Request]], words: str
) -> dict[str, list[Ran]]:
    """Each batch by each contender in turn; ``[batches]`` by contender."""
    found: dict[str, list[Ran]] = {name: [] for name in at}
    before = list(at.values())[-1]
    for number, batch in enumerate(batches, start=1):
        say(f"{words}: {number} of {len(batches)}")
        for name, pool in at.items():
            if pool is not before:
                time.sleep(_REST)
                before = pool
            try:
                found[name].append(pool.submit(_run, name, batch).result())
            except Exception as error:
                raise EngineError(f"{name} failed: {type(error).__name__}: {error}") from None
    return found


def row(name: str, batched: Mapping[str, Sequence[Ran]], alone: Sequence[Ran], sizes: Sequence[int]) -> dict[str, Any]:
    """The figures of one contender.

    Args:
        name: Name of the contender.
        batched: ``[batches]`` by contender, its rivals too.
        alone: ``[singles]`` queries ranked one at a time.
        sizes: ``[batches]`` queries in each.

    Returns:
        ``queries_per_s``: median over the batches. ``times_generating`` and ``times_logits``: queries/s as multiples of
        rank_llm's; ``times_cold``: queries/s of a warm contender as multiples of the cold one's; ``of_bare``: prompt
        tokens/s as a share of the bare engine's on the same prompts; each the median over pairs of the same batch with
        the least and the greatest, None without that rival. ``single_ms`` and ``batch_ms``: p50 and p95.
        ``prompt_tokens`` (``cached_tokens`` of them found in a cache) and ``completion_tokens``: a query. ``valid``:
        share of the model's answers that were full permutations.
    """
    own = batched[name]
    queries = sum(sizes)
    bare = " ".join(["bare", *name.split()[1:3]])
    valid = [one for ran in own for one in ran.valid]

    def times(rival: str, figure: Callable[[Ran], float]) -> list[float] | None:
        if rival not in batched or rival == name:
            return None
        return pairwise([figure(ran) for ran in own], [figure(ran) for ran in batched[rival]])

    return {
        "contender": name,
        "queries_per_s": round(statistics.median(n / ran.seconds for n, ran in zip(sizes, own, strict=True)), 3),
        "times_generating": times(GENERATING, lambda ran: 1 / ran.seconds),
        "times_logits": times(LOGITS, lambda ran: 1 / ran.seconds),
        "times_cold": times(name.removesuffix(WARM), lambda ran: 1 / ran.seconds),
        "of_bare": times(bare, lambda ran: ran.tokens.prompt / ran.seconds) if name.startswith("genrank") else None,
        "prompt_tokens_per_s": round(statistics.median(ran.tokens.prompt / ran.seconds for ran in own), 1),
        "single_ms": _percentiles(alone),
        "batch_ms": _percentiles(own),
        "prompt_tokens": round(sum(ran.tokens.prompt for ran in own) / queries, 1),
        "cached_tokens": round(sum(ran.tokens.cached for ran in own) / queries, 1),
        "completion_tokens": round(sum(ran.tokens.completion for ran in own) / queries, 1),
        "valid": sum(valid) / len(valid) if valid else None,
    }


def _percentiles(found: Sequence[Ran]) -> list[float]:
    return percentiles_ms([ran.seconds for ran in found])


_COLUMNS: Mapping[str, str] = {
    "contender": "contender",
    "queries_per_s": "queries/s",
    "times_generating": "x rank_llm generating",
    "times_logits": "x rank_llm logits",
    "times_cold": "x cold",
    "single_ms": "one query, ms (p50, p95)",
    "batch_ms": "batch, ms (p50, p95)",
    "prompt_tokens": "prompt tokens",
    "cached_tokens": "cached",
    "completion_tokens": "completion",
    "valid": "valid",
    "ndcg@10": "nDCG@10",
    "of_bare": "of bare tokens/s",
}


def table(result: Mapping[str, Any]) -> str:
    """The result of `measure_peers` in markdown; ratios are medians."""
    run = (
        f"{result['model']}, {result['dataset']} ({result['split']}), {result['queries']} queries of "
        f"{result['candidates']} candidates ({result['texts']}), batches of {result['batch']}, "
        f"{result['rounds']} rounds; {result['hardware']}; commit {result['commit']}. Tokens are of a query."
    )
    lines = [
        run,
        "",
        f"| {' | '.join(_COLUMNS.values())} |",
        f"|{'---|' * len(_COLUMNS)}",
    ]
    lines += [f"| {' | '.join(_cell(key, entry[key]) for key in _COLUMNS)} |" for entry in result["rows"]]
    lines += [f"\nWithout {host}: {why}" for host, why in result["skipped"].items()]
    return "\n".join(lines) + "\n"


def _cell(key: str, value: Any) -> str:
    match value:
        case None:
            return "-"
        case [p50, p95]:
            return f"{p50:.0f}, {p95:.0f}"
        case [median, _, _]:
            return f"{median:.2f}"
        case str():
            return value
    return f"{value:.0%}" if key == "valid" else f"{value:.4f}" if key == "ndcg@10" else f"{value:.4g}"
