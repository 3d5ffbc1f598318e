"""The reranker: a query, a history and candidates in; a complete ranking with its provenance out."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import functools
import itertools
import random
import threading
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from genrank.adapters import load_manifest
from genrank.calibration import Calibration, load_calibration, stored_calibration
from genrank.decoding import DECODINGS
from genrank.engines.base import Engine
from genrank.errors import BudgetError, EngineError, InputError, OutputError
from genrank.fallback import Fallback, ask_fallback
from genrank.inputs import at, make_candidates, make_history, make_query
from genrank.permutation import Permutation, mean_tau
from genrank.prompting.renderer import Prompt, Renderer
from genrank.prompting.template import Template, load_template
from genrank.reasons.write import ReasonRequest, write_reasons
from genrank.scheduling import BatchClock, QueryState
from genrank.types import (
    Candidate,
    Interaction,
    Listing,
    Provenance,
    Query,
    RankedItem,
    Ranking,
    Request,
)
from genrank.windows import (
    Window,
    check_window,
    single,
    sliding,
    tournament,
    tournament_sizes,
)

DEFAULT_PROMPTS = {"inline": "inline", "first-token": "listwise", "listwise": "listwise"}
"""The prompt template of each decoding, where none is named."""

DEFAULT_PASSES = {"inline": 2, "first-token": 2, "listwise": 1}
"""The passes of each decoding, where none are named: two opposite orders take most of the position bias away."""

MAX_PROMPT_TOKENS = 8192
"""The most tokens of one prompt, where neither the caller nor the model says less."""

TOURNAMENT_TOP = 10
"""How many of the best a tournament looks for, where the call does not say `top_k`."""


class Reranker:
    """Re-orders candidates with a generative language model.

    Examples:
        >>> reranker = Reranker("smollm2-135m", passes=2)
        >>> ranking = reranker.rerank("red summer dress", ["Blue wool coat", "Red cotton dress"])
        >>> [item.listing_id for item in ranking.items]
        ['1', '0']

    Args:
        model: A known name (`genrank.models`), a local folder or a hub name. Not used when `engine` is an `Engine`.
        adapter: Folder or hub name of a LoRA adapter.
        engine: ``transformers``, ``vllm``, or an `Engine`.
        prompt: Name of a prompt template, path of a ``.toml`` file, or a `Template`; by default the one that the
            adapter was trained with, or else the decoding's own.
        decoding: ``inline``, ``first-token`` or ``listwise``; see `genrank.decoding`.
        strategy: ``sliding`` ranks lists longer than `window` in overlapping windows (arXiv 2304.09542);
            ``tournament`` finds their top in fewer windows, most of them at once (after arXiv 2406.11678); ``single``
            puts all candidates into one.
        window: Candidates in a window, at least 2.
        stride: Candidates by which the window of ``sliding`` moves, 1 to ``window - 1``.
        passes: How often each window is ranked, over differently ordered candidates: as they come, reversed, then
            shuffled by `seed`. Scores are averaged (after permutation self-consistency, arXiv 2310.07712). By default
            2, but 1 for ``listwise``.
        seed: Of the shuffles.
        max_prompt_tokens: The token budget of one prompt; by default what the model takes, at most 8,192.
        max_reason_tokens: The most tokens of one reason.
        fallback: Orders what the model could not, when the engine fails, the model misbehaves or the deadline passes;
            see `Fallback`. Without one, or where it fails, that stands in the first stage's order.
        calibration: Turns scores into probabilities, see `genrank.calibration`: one, or where it is stored; by default
            the adapter's own, if it has one for this decoding, prompt and model.
        neutralise: Whether texts are made harmless that could be taken for instructions or for the model's own words.
            Off only to measure what that is worth.
        check_adapter: Whether to refuse an adapter whose manifest (`genrank.adapters`) says that it was trained with
            another prompt or on another model, or not for this decoding.
        trust_remote_code: Whether to run code that lies in the model's folder; read it first.

    Raises:
        InputError: When an argument is wrong.
        ConfigError: When the prompt template is not valid, or does not fit the decoding or the tokenizer; when the
            calibration or the adapter does not fit.
        MissingExtraError: When the engine's packages are not installed.
        ModelError: When the model cannot be had or read.
    """

    def __init__(
        self,
        model: str = "smollm2-135m",
        *,
        adapter: str | None = None,
        engine: Literal["transformers", "vllm"] | Engine = "transformers",
        prompt: str | Path | Template | None = None,
        decoding: Literal["inline", "first-token", "listwise"] = "inline",
        strategy: Literal["single", "sliding", "tournament"] = "sliding",
        window: int = 20,
        stride: int = 10,
        passes: int | None = None,
        seed: int = 0,
        max_prompt_tokens: int | None = None,
        max_reason_tokens: int = 40,
        fallback: Fallback | None = None,
        calibration: Calibration | str | Path | None = None,
        neutralise: bool = True,
        check_adapter: bool = True,
        trust_remote_code: bool = False,
    ) -> None:
        if decoding not in DECODINGS:
            raise InputError(f"must be one of {list(DECODINGS)}, got {decoding!r}", field="decoding")
        if strategy not in ("single", "sliding", "tournament"):
            raise InputError(f"must be single, sliding or tournament, got {strategy!r}", field="strategy")
        _check_whole("window", window)
        _check_whole("stride", stride)
        check_window(window, stride if strategy == "sliding" else 1)
        passes = DEFAULT_PASSES[decoding] if passes is None else passes
        for name, number in (("passes", passes), ("max_reason_tokens", max_reason_tokens)):
            _check_whole(name, number, at_least=1)
        if fallback is not None and not callable(fallback):
            raise InputError(
                f"must be a function of requests that gives scores, got {type(fallback).__name__}", field="fallback"
            )
        self.decoding = decoding
        self.strategy = strategy
        self.window = window
        self.stride = stride
        self.passes = passes
        self.seed = seed
        self.max_reason_tokens = max_reason_tokens
        self.fallback = fallback
        used = adapter if engine is None or isinstance(engine, str) else engine.adapter
        template = _find_template(prompt, decoding, used, check_adapter)
        self.engine = _load_engine(engine, model, adapter, check_adapter, trust_remote_code)
        self._renderer = Renderer(template, self.engine.tokenizer, neutralise=neutralise)
        self._answer = self._renderer.answer
        template.check(inline=decoding == "inline")
        if decoding != "inline" and strategy != "single" and window > len(self._answer.identifiers):
            most = len(self._answer.identifiers)
            raise InputError(f"this tokenizer has {most} one-token identifiers, got {window}", field="window")
        longest = self._longest(window if strategy != "single" else 1)
        self.max_prompt_tokens = min(longest, MAX_PROMPT_TOKENS) if max_prompt_tokens is None else max_prompt_tokens
        if not 1 <= self.max_prompt_tokens <= longest:
            raise InputError(
                f"must be within 1..{longest} (the model takes {self.engine.context} tokens, answer included), "
                f"got {self.max_prompt_tokens}",
                field="max_prompt_tokens",
            )
        use = {"decoding": decoding, "prompt_hash": template.digest, "model": self.engine.model}
        self._calibration = _find_calibration(calibration, self.engine.adapter, use)
        self._provenance = Provenance(
            model=self.engine.model,
            adapter=self.engine.adapter,
            prompt=f"{template.name}@{template.version}",
            prompt_hash=template.digest,
            engine=self.engine.name,
            decoding=decoding,
            passes=passes,
            calibration=self._calibration.fitted_on if self._calibration else None,
        )

    def rerank(
        self,
        query: Query | str,
        candidates: Sequence[Candidate | Listing | Mapping[str, Any] | str],
        history: Sequence[Interaction | Mapping[str, Any]] = (),
        *,
        top_k: int | None = None,
        reasons: int = 0,
        deadline: float | None = None,
    ) -> Ranking:
        """Rank candidates for a query.

        Args:
            query: What the shopper typed.
            candidates: ``[n]`` in the first stage's order. A plain text is a title; its id is its place, 0-based.
            history: The shopper's past, oldest first.
            top_k: Return only so many items; by default all. A ``tournament`` looks for so many of the best; by default
                10.
            reasons: Write a reason for so many of the first items.
            deadline: Seconds after which nothing further is started. What has been ranked counts, the rest stands
                in the order of `fallback`, or else of the first stage. An engine that hangs is left behind `GRACE`
                seconds later.

        Returns:
            Every candidate exactly once (the first `top_k` of them). When the engine fails or the deadline passes,
            what no window ranked stands in the order of `fallback`, or else of the first stage, with
            ``provenance.outcome == "fallback"`` and why.

        Raises:
            InputError: When an argument is wrong; its `field` names it.
            BudgetError: When `max_prompt_tokens` cannot hold a window.
        """
        request = Request(make_query(query), make_candidates(candidates), make_history(history))
        return self.rerank_batch([request], top_k=top_k, reasons=reasons, deadline=deadline)[0]

    async def arerank(
        self,
        query: Query | str,
        candidates: Sequence[Candidate | Listing | Mapping[str, Any] | str],
        history: Sequence[Interaction | Mapping[str, Any]] = (),
        *,
        top_k: int | None = None,
        reasons: int = 0,
        deadline: float | None = None,
    ) -> Ranking:
        """`rerank` for asyncio: the same, in a worker thread, so that the event loop goes on.

        When the task is cancelled, the engine stops before its next forward pass.
        """
        request = Request(make_query(query), make_candidates(candidates), make_history(history))
        started = time.monotonic()
        cancelled = threading.Event()
        try:
            rankings = await asyncio.to_thread(self._run, [request], top_k, reasons, deadline, started, cancelled)
        except asyncio.CancelledError:
            cancelled.set()
            raise
        return rankings[0]

    def rerank_batch(
        self,
        requests: Iterable[Request],
        *,
        top_k: int | None = None,
        reasons: int = 0,
        deadline: float | None = None,
    ) -> list[Ranking]:
        """Rank several queries' candidates; all windows that are ready run as one batch of the engine.

        Args:
            requests: ``[b]``; make one of a JSON object with `genrank.parse_request`.
            top_k: See `rerank`.
            reasons: See `rerank`.
            deadline: See `rerank`; for the batch as a whole.

        Returns:
            ``[b]`` rankings, in the requests' order.

        Raises:
            InputError: When an argument is wrong; its `field` names it.
            BudgetError: When `max_prompt_tokens` cannot hold a window.
        """
        return self._run(requests, top_k, reasons, deadline, time.monotonic(), threading.Event())

    def check_options(self, *, top_k: int | None = None, reasons: int = 0, deadline: float | None = None) -> None:
        """Refuse options of a call that are wrong whatever the request.

        Raises:
            InputError: When one is wrong; its `field` names it.
        """
        if top_k is not None:
            _check_whole("top_k", top_k, at_least=1)
        _check_whole("reasons", reasons)
        if reasons < 0:
            raise InputError(f"must not be negative, got {reasons}", field="reasons")
        if reasons and not self._renderer.template.reason:
            raise InputError(f"prompt template {self._renderer.template.name} has no reason prompt", field="reasons")
        if deadline is not None and not (isinstance(deadline, (int, float)) and deadline > 0):
            raise InputError(f"must be a positive number of seconds, got {deadline!r}", field="deadline")
        if self.strategy == "tournament" and top_k is not None:
            tournament_sizes(1, self.window, top_k)

    def _run(
        self,
        requests: Iterable[Request],
        top_k: int | None,
        reasons: int,
        deadline: float | None,
        started: float,
        cancelled: threading.Event,
    ) -> list[Ranking]:
        """`rerank_batch`, begun at `started`; nothing further is computed once `cancelled` is set."""
        self.check_options(top_k=top_k, reasons=reasons, deadline=deadline)
        run = BatchClock(deadline, started, cancelled, keep=reasons > 0)
        calls = [self._start(i, request, top_k) for i, request in enumerate(requests)]
        while ready := [call for call in calls if call.windows]:
            if run.stop():
                for call in ready:
                    call.interrupt(run.why())
            else:
                self._advance(ready, run)
        if interrupted := [call for call in calls if call.why]:
            self._order_unranked(interrupted)
        if reasons:
            self._write_reasons(calls, reasons, run)
        seconds = time.monotonic() - started
        return [self._ranking(call, top_k, seconds) for call in calls]

    def _start(self, i: int, request: Request, top_k: int | None) -> QueryState:
        if not isinstance(request, Request):
            raise InputError(f"must be a Request, got {type(request).__name__}", field=f"requests[{i}]")
        with at(f"requests[{i}]"):
            make_candidates(request.candidates)  # at least one, and no id twice
        prepared = self._renderer.prepare(request.query, request.candidates, request.history)
        places = range(len(request.candidates))
        match self.strategy:
            case "single":
                return QueryState(request, single(places), prepared)
            case "tournament":
                return QueryState(request, tournament(places, self.window, self._top(top_k)), prepared)
        return QueryState(request, sliding(places, self.window, self.stride), prepared)

    def _top(self, top_k: int | None) -> int:
        """How many of the best a tournament looks for."""
        return top_k or min(TOURNAMENT_TOP, self.window)

    def _advance(self, calls: Sequence[QueryState], run: BatchClock) -> None:
        """Rank all windows that are ready, over all passes, as one batch, and hand the scores to the strategies."""
        jobs = [(call, order) for call in calls for window in call.windows for order in self._presentations(window)]
        prompts = [self._render(call, order) for call, order in jobs]
        decode = DECODINGS[self.decoding]
        try:
            scored = run.in_time(lambda: decode(self.engine, prompts, self._answer, keep=run.keep, stop=run.stop))
        except EngineError as error:
            for call in calls:
                call.interrupt(f"the engine failed: {error}")
            return
        except OutputError as error:
            if len(calls) == 1:
                calls[0].interrupt(f"the model misbehaved: {error}")
            else:  # one query's bad answer is no other's
                for call in calls:
                    self._advance([call], run)
            return
        answers = iter(zip(jobs, prompts, scored, strict=True))
        for call in calls:
            finished = {}
            for i, window in enumerate(call.windows):
                shown = [
                    (order, prompt, *answer)
                    for (_, order), prompt, answer in itertools.islice(answers, self.passes)
                    if answer is not None
                ]
                if not shown:
                    continue
                orders = [Permutation.from_scores(scores).apply(order) for order, _, scores, _ in shown]
                totals = dict.fromkeys(window, 0.0)
                for order, prompt, scores, tokens in shown:
                    call.tokens += tokens
                    call.cuts.update(prompt.cuts)
                    call.neutralised += prompt.neutralised
                    for place, score in zip(order, scores, strict=True):
                        totals[place] += score / len(shown)
                if (tau := mean_tau(orders)) is not None:
                    call.taus.append(tau)
                call.ranked += len(shown)
                call.shown |= dict.fromkeys(window, shown[0][:2])
                finished[i] = self._calibrated([min(1.0, totals[place]) for place in window])
            if len(finished) < len(call.windows):
                call.interrupt(run.why(), finished)
            else:
                call.advance(list(finished.values()))

    def _calibrated(self, scores: list[float]) -> list[float]:
        return self._calibration.apply(scores) if self._calibration else scores

    def _order_unranked(self, calls: Sequence[QueryState]) -> None:
        """Order what no window ranked by `fallback`, where there is something to order, and say whose order it is."""
        asked = [call for call in calls if len(call.unranked) > 1] if self.fallback else []
        answers = ask_fallback(self.fallback, [call.request for call in asked]) if self.fallback and asked else []
        whose = dict.fromkeys(calls, "first stage's")
        for call, answer in zip(asked, answers, strict=True):
            if isinstance(answer, str):
                call.why += f"; the fallback failed: {answer}"
            else:
                call.order_unranked(answer)
                whose[call] = "fallback's"
        for call in calls:
            call.why += f"; what no window ranked stands in the {whose[call]} order"

    def _longest(self, candidates: int) -> int:
        """The most prompt tokens that leave room for the answer."""
        answer = 0 if self.decoding == "inline" else candidates * (1 + len(self._answer.between))
        return self.engine.context - answer

    def _presentations(self, window: Window) -> list[Window]:
        """The window's places in the order in which each pass shows them."""
        orders = [window, window[::-1]][: self.passes]
        for number in range(2, self.passes):
            shuffled = list(window)
            random.Random(f"{self.seed}:{number}").shuffle(shuffled)
            orders.append(tuple(shuffled))
        return orders

    def _render(self, call: QueryState, order: Window) -> Prompt:
        return call.prepared.window(
            order,
            max_tokens=min(self.max_prompt_tokens, self._longest(len(order))),
            inline=self.decoding == "inline",
        )

    def _write_reasons(self, calls: Sequence[QueryState], count: int, run: BatchClock) -> None:
        """Write reasons for the first `count` items of every call, as one batch."""
        wanted = []
        requests = []
        for call in calls:
            for place in call.order[:count]:
                try:
                    requests.append(self._reason_request(call, place))
                    wanted.append((call, place))
                except BudgetError as error:
                    call.no_reason(place, f"no room: {error}")
        write = functools.partial(
            write_reasons,
            self.engine,
            requests,
            max_tokens=self.max_reason_tokens,
            ends=self._renderer.reason_ends,
            stop=run.stop,
        )
        try:
            written = run.in_time(write) if requests and not run.stop() else [None] * len(requests)
        except (EngineError, OutputError) as error:
            blame = "the engine failed" if isinstance(error, EngineError) else "the model misbehaved"
            for call, place in wanted:
                call.no_reason(place, f"{blame}: {error}")
            return
        for (call, place), reason in zip(wanted, written, strict=True):
            if reason is None:
                call.no_reason(place, run.why())
            else:
                call.tokens += reason.tokens
                call.claims += reason.claims
                call.reasons[place] = reason

    def _reason_request(self, call: QueryState, place: int) -> ReasonRequest:
        """The conversation in which the candidate was ranked last, carried on to its reason.

        Where no window ranked it, or that conversation has no room left, a conversation about it alone.
        """
        request = call.request
        listings = [candidate.listing for candidate in request.candidates]
        others = (*listings[:place], *listings[place + 1 :])

        def carried_on(order: Window, prompt: Prompt) -> ReasonRequest:
            spots = {shown: spot for spot, shown in enumerate(order)}
            ids = call.prepared.follow_up(
                prompt,
                [spots[ranked] for ranked in call.order if ranked in spots],
                place,
                max_tokens=self.engine.context - self.max_reason_tokens,
            )
            return ReasonRequest(ids, request.query, listings[place], request.history, others)

        if place in call.shown:
            with contextlib.suppress(BudgetError):
                return carried_on(*call.shown[place])
        return carried_on((place,), self._render(call, (place,)))

    def _ranking(self, call: QueryState, top_k: int | None, seconds: float) -> Ranking:
        items = []
        candidates = call.request.candidates
        for rank, (place, score) in enumerate(zip(call.order, call.falling_scores(), strict=True), start=1):
            candidate = candidates[place]
            reason = call.reasons.get(place)
            source_rank = candidate.rank if candidate.rank is not None else place + 1
            item = RankedItem(candidate.listing.listing_id, rank, score, source_rank)
            items.append(dataclasses.replace(item, reason=reason.text, evidence=reason.evidence) if reason else item)
        provenance = dataclasses.replace(
            self._provenance,
            strategy=self._strategy(top_k),
            outcome="fallback" if call.why else "repaired" if call.repairs else "model",
            why=call.why,
            repairs=tuple(call.repairs),
            windows=call.ranked,
            agreement=sum(call.taus) / len(call.taus) if call.taus else None,
            tokens=call.tokens,
            cuts=dict(call.cuts),
            neutralised=call.neutralised,
            claims=call.claims,
            seconds=seconds,
        )
        return Ranking(call.request.query.query_id, tuple(items[:top_k]), provenance)

    def _strategy(self, top_k: int | None) -> str:
        sizes = {
            "single": "",
            "sliding": f"({self.window},{self.stride})",
            "tournament": f"({self.window},top {self._top(top_k)})",
        }
        return self.strategy + sizes[self.strategy]


def _check_whole(name: str, number: object, at_least: int | None = None) -> None:
    if not isinstance(number, int) or isinstance(number, bool):
        raise InputError(f"must be a whole number, got {number!r}", field=name)
    if at_least is not None and number < at_least:
        raise InputError(f"must be at least {at_least}, got {number}", field=name)


def _load_engine(
    engine: Literal["transformers", "vllm"] | Engine,
    model: str,
    adapter: str | None,
    check_adapter: bool,
    trust_remote_code: bool,
) -> Engine:
    options: Any = {"adapter": adapter, "check_adapter": check_adapter, "trust_remote_code": trust_remote_code}
    if engine == "transformers":
        from genrank.engines.transformers import TransformersEngine

        return TransformersEngine(model, **options)
    if engine == "vllm":
        from genrank.engines.vllm import VLLMEngine

        return VLLMEngine(model, **options)
    if engine is None or isinstance(engine, str):
        raise InputError(f"must be transformers, vllm or an Engine, got {engine!r}", field="engine")
    return engine


def _find_template(prompt: str | Path | Template | None, decoding: str, adapter: str | None, check: bool) -> Template:
    """The prompt that was asked for, or else the one that the adapter learned; it must be that where it is checked."""
    manifest = load_manifest(adapter) if adapter is not None else None
    if prompt is None:
        learned = manifest.prompts.get(decoding) if manifest else None
        prompt = learned.name if learned else DEFAULT_PROMPTS[decoding]
    template = prompt if isinstance(prompt, Template) else load_template(prompt)
    if manifest and check:
        manifest.check(str(adapter), decoding, template.name, template.digest)
    return template


def _find_calibration(
    calibration: Calibration | str | Path | None, adapter: str | None, use: Mapping[str, str]
) -> Calibration | None:
    """The calibration that was asked for, which must fit, or else the adapter's own, if it has one that does."""
    if calibration is None:
        return stored_calibration(adapter, **use) if adapter is not None else None
    if not isinstance(calibration, Calibration):
        calibration = load_calibration(calibration, use["decoding"])
    calibration.check(**use)
    return calibration
